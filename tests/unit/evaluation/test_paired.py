"""Paired differences: the value, what is resampled and counted, the interval's coverage."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.errors import MismatchError
from tamis.evaluation.arms import join_arms
from tamis.evaluation.paired import paired_difference, prompt_differences
from tamis.evaluation.power import detectable_verdicts
from tamis.evaluation.score_intervals import tango_interval
from tamis.rng import numpy_generator

NAN = float("nan")


def generator(*purpose: str | int) -> np.random.Generator:
    """Make a generator of its own for each purpose."""
    return numpy_generator(0, "test paired", *purpose)


def test_one_seed_each_is_the_mean_of_differences() -> None:
    """Per prompt 1, 0, 0, 1: the mean is 1/2."""
    found = paired_difference([1, 0, 1, 1], [0, 0, 1, 0], generator())
    assert (found.value, found.n, found.n_seeds_a, found.n_seeds_b) == (0.5, 4, 1, 1)


def test_seeds_are_averaged_within_a_prompt() -> None:
    """Prompt 1: (1 + 0)/2 - 1 = -1/2; prompt 2: 0 - 1 = -1; the mean is -3/4."""
    found = paired_difference([[1, 0], [0, 0]], [[1, 1]], generator())
    assert (found.value, found.n_seeds_a, found.n_seeds_b) == (-0.75, 2, 1)


def test_spread_of_seeds_and_of_prompts_stand_apart() -> None:
    """Arm A's seeds have means 1/2 and 0, the prompts differ by -1/2 and -1: each SD is 1/sqrt(8).

    Over two prompts the standard error is that by sqrt(2), 1/4. One seed has no SD.
    """
    found = paired_difference([[1, 0], [0, 0]], [[1, 1]], generator())
    assert found.seed_sd_a == pytest.approx(8**-0.5)
    assert found.seed_sd_b is None
    assert found.prompt_standard_error == pytest.approx(0.25)


def test_what_is_missing_is_counted() -> None:
    """Prompt 3 has no score in arm A and is left out; prompt 2 lacks one of its three scores."""
    found = paired_difference([[1, NAN, NAN], [1, 0, NAN]], [[0, 0, 1]], generator())
    assert (found.n, found.n_unpaired, found.n_unscored) == (2, 1, 1)
    assert found.value == 0.5


def test_a_seed_without_scores_is_no_seed() -> None:
    """A run that was never judged neither counts nor moves the difference."""
    found = paired_difference([[1, 0], [NAN, NAN]], [[0, 0]], generator())
    assert (found.n_seeds_a, found.n_unscored, found.value) == (1, 2, 0.5)


def test_without_common_prompts_there_is_no_difference() -> None:
    """Nothing was compared: null in JSON, not 0."""
    found = paired_difference([[1, NAN]], [[NAN, 1]], generator())
    assert (found.n, found.n_unpaired) == (0, 2)
    assert json.loads(json.dumps(found.to_json()))["value"] is None


def test_exchanging_the_arms_turns_the_sign() -> None:
    """Value and seed SDs go with their arm."""
    a, b = generator("a").normal(size=(3, 20)), generator("b").normal(size=(2, 20))
    one, other = (paired_difference(*arms, generator(), 200) for arms in ((a, b), (b, a)))
    assert one.value == -(other.value or 0)
    assert (one.seed_sd_a, one.seed_sd_b) == (other.seed_sd_b, other.seed_sd_a)


def test_one_seed_has_the_width_of_theory() -> None:
    """The half width is 1.96 SD(d) / sqrt(n) up to resampling noise (2%)."""
    a, b = generator("wide a").normal(size=400), generator("wide b").normal(size=400)
    found = paired_difference(a, b, generator())
    expected = (a - b).std(ddof=1) / 20
    assert found.prompt_standard_error == pytest.approx(expected)
    assert found.standard_error == pytest.approx(expected, rel=0.04)
    assert ((found.high or 0) - (found.low or 0)) / 2 == pytest.approx(1.96 * expected, rel=0.04)


def test_pairs_stay_together() -> None:
    """Prompts of very different difficulty: the difference of 1/10 on each is exact."""
    difficulty = 100 * generator("hard").normal(size=50)
    found = paired_difference(difficulty + 0.1, difficulty, generator())
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_seeds_are_drawn_for_all_prompts_at_once_and_without_shrinking() -> None:
    """Three models of value 0, 1 and 2 on every prompt: SE^2 = s^2 / 3 = 1/3.

    Two draws of {0, 1, 2} average with variance (2/3)/2 = 1/3. Three draws would give 2/9, draws
    for each of the 50 prompts a fiftieth. 4% is four standard errors of an SD of 10,000 draws.
    """
    a = np.array([[0.0], [1.0], [2.0]]) + np.zeros(50)
    found = paired_difference(a, np.zeros(50), generator())
    assert found.prompt_standard_error == 0
    assert found.standard_error == pytest.approx(3**-0.5, rel=0.04)


def test_three_seeds_reach_as_far_as_student_says() -> None:
    """Two degrees of freedom: 4.303 / 1.960 times the percentiles of {0, ..., 2} around 1."""
    a = np.array([[0.0], [1.0], [2.0]]) + np.zeros(50)
    found = paired_difference(a, np.zeros(50), generator())
    assert found.reach == pytest.approx(4.3027 / 1.9600, rel=1e-4)
    assert (found.low, found.high) == pytest.approx((1 - found.reach, 1 + found.reach))


def test_one_seed_each_reaches_no_farther() -> None:
    """There is nothing to learn about a spread from one."""
    found = paired_difference(generator("d").normal(size=60), np.zeros(60), generator())
    assert (found.p_seeds, found.reach) == (None, 1)


def test_the_order_of_prompts_does_not_matter() -> None:
    """The same prompts in another order give the same interval, bit for bit."""
    a = np.round(generator("order").normal(size=(2, 30)), 1)
    a[0, 3] = NAN
    b = generator("order b").normal(size=30)
    turned = generator("turn").permutation(30)
    one = paired_difference(a, b, generator("same"), 500)
    other = paired_difference(a[:, turned], b[turned], generator("same"), 500)
    assert (one.low, one.high) == (other.low, other.high)


def test_the_same_generator_gives_the_same_interval() -> None:
    """Nothing but the argument is random."""
    a, b = generator("rep").normal(size=(2, 40))
    one, other = (paired_difference(a, b, generator("x"), 300) for _ in range(2))
    assert one == other


def test_where_nothing_varied_nothing_is_detectable() -> None:
    """0.3 - 0.1 on every prompt, rounding included: no width, and no number for it either."""
    found = paired_difference([0.3] * 7, [0.1] * 7, generator())
    assert found.low == found.value == found.high
    assert (found.standard_error, found.detectable) == (0.0, None)


def test_detectable_follows_the_standard_error() -> None:
    """2.0010 + 0.8479 of the t distribution with 59 degrees of freedom, times the larger SE."""
    found = paired_difference(generator("d").normal(size=60), np.zeros(60), generator())
    error = max(found.standard_error or 0, found.prompt_standard_error or 0)
    assert found.detectable == pytest.approx(2.8489 * error, rel=1e-4)


def test_detectable_knows_how_many_arms_are_compared() -> None:
    """At .05 / 7 the first quantile is 2.788, so that the difference is larger."""
    one, seven = (
        paired_difference(generator("d").normal(size=60), np.zeros(60), generator(), n_compared=m)
        for m in (1, 7)
    )
    assert (seven.detectable or 0) / (one.detectable or 1) == pytest.approx(3.636 / 2.849, rel=1e-3)
    assert (seven.n_compared, seven.to_json()["n_compared"]) == (7, 7)


@pytest.mark.parametrize(("up", "down"), [(1, 0), (0, 3), (4, 2), (0, 0)])
def test_verdicts_of_one_seed_have_tangos_interval(up: int, down: int) -> None:
    """And what would have been found is no less than an exact sign test could find."""
    a, b = np.zeros(100), np.zeros(100)
    a[:up], b[up : up + down] = 1, 1
    found = paired_difference(a, b, generator(), 100, verdicts=True)
    assert (found.low, found.high) == tango_interval(up, down, 100)
    assert found.detectable == detectable_verdicts(up, down, 100)


def test_verdicts_of_several_seeds_are_no_narrower_than_their_bootstrap() -> None:
    """The seeds of arm A lie far apart; a verdict under one of three counts a third."""
    rates = np.array([[0.1], [0.5], [0.9]])
    a = (generator("apart").random((3, 80)) < rates).astype(float)
    b = np.zeros(80)
    plain, verdicts = (
        paired_difference(a, b, generator("x"), 1_000, verdicts=told) for told in (False, True)
    )
    assert (verdicts.low or 0) <= max(-1, plain.low or 0)
    assert (verdicts.high or 0) >= min(1, plain.high or 0)
    assert verdicts.detectable == min(1, plain.detectable or 0)  # seeds are what limits it here


@pytest.mark.parametrize("value", [-0.5, 2.0])
def test_grades_are_no_verdicts(value: float) -> None:
    """A score interval of grades from 1 to 5 would be one of nothing."""
    with pytest.raises(ValueError, match=f"{value} is no verdict"):
        paired_difference([0, 1], [1, value], generator(), verdicts=True)


def test_resamples_that_hold_nothing_together_are_left_out() -> None:
    """Each of two prompts was scored under one seed only: those drawn together lie at 1 and 3.

    From there the interval reaches on, by what two seeds can say of a spread.
    """
    found = paired_difference([[1.0, NAN], [NAN, 3.0]], [[0.0, 0.0]], generator())
    assert (found.value, found.standard_error) == (2.0, pytest.approx(1, rel=0.04))
    assert (found.low, found.high) == pytest.approx((2 - found.reach, 2 + found.reach))


def test_memory_does_not_grow_with_the_resamples() -> None:
    """20 million cells at once would be 160 MB an array; what is held stays below that in all."""
    a, b = generator("memory").normal(size=(2, 20_000))
    tracemalloc.start()
    paired_difference(a, b, generator(), 1_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


@pytest.mark.parametrize(
    ("a", "b"), [([1, 2], [1, 2, 3]), ([[[1.0]]], [[1.0]]), (np.zeros((2, 3)), np.zeros((3, 2)))]
)
def test_other_prompts_are_refused(a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
    """By position they cannot be paired."""
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference(a, b, generator())


def test_infinity_is_refused() -> None:
    """It is no missing value."""
    with pytest.raises(ValueError, match="infinite"):
        prompt_differences([1.0, float("inf")], [0.0, 0.0])


def test_prompts_join_by_id() -> None:
    """The order of the mappings does not matter; what an arm lacks is NaN and counted."""
    arms = join_arms([{"y": 1, "x": 0, "w": None}], [{"x": 1, "y": 0}, {"y": 1, "x": 1, "z": 1}])
    assert (arms.ids, arms.n_only_a, arms.n_only_b) == (("w", "x", "y", "z"), 1, 1)
    np.testing.assert_array_equal(arms.a, [[NAN, 0, 1, NAN]])
    np.testing.assert_array_equal(arms.b, [[NAN, 1, 0, NAN], [NAN, 1, 1, 1]])
    assert paired_difference(arms.a, arms.b, generator()).n_unpaired == 2


@pytest.mark.parametrize("b", [[], [{}], [{"z": 1.0}]])
def test_arms_without_a_common_prompt_are_refused(b: list[dict[str, float]]) -> None:
    """They were evaluated on different prompt sets."""
    with pytest.raises(MismatchError, match="no prompt in common"):
        join_arms([{"x": 1.0}], b)


def test_bootstrap_covers_bernoulli_pairs() -> None:
    """Of 500 experiments of 100 prompts, about 95% of the intervals hold the true difference.

    A prompt's chance under both models goes with its difficulty u, uniform: u and (u + 1)/2, so
    that the true difference is -1/4. The tolerance is three standard errors of 500 trials (0.029)
    plus the percentile bootstrap's own shortfall of about 0.01 at n = 100.
    """
    source = generator("bernoulli")
    hits = []
    for experiment in range(500):
        u = source.random(100)
        a, b = source.random(100) < u, source.random(100) < (u + 1) / 2
        found = paired_difference(a, b, generator("bernoulli", experiment), 500)
        hits.append((found.low or 0) <= -0.25 <= (found.high or 0))
    assert np.mean(hits) == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize(
    ("seed_sd", "noise", "n_seeds", "n_other"),
    [
        pytest.param(0.05, 0.3, 3, 3, id="seeds and prompts alike"),
        pytest.param(0.5, 0.3, 3, 3, id="three seeds only, nearly"),
        pytest.param(0.1, 0.3, 2, 1, id="two seeds against one model"),
        pytest.param(0.1, 0.3, 3, 1, id="three seeds against one model"),
        pytest.param(0.0, 3.0, 3, 3, id="chance on each prompt, nearly"),
    ],
)
def test_coverage_with_few_seeds(seed_sd: float, noise: float, n_seeds: int, n_other: int) -> None:
    """Of 300 experiments of 100 prompts and some seeds an arm: what the file's top promises.

    Outcomes are normal: prompt, prompt by arm (SD 1/2), seed, and chance. The true difference is
    0.2. Promised are 95% and more; less two standard errors of 300 trials that is 92.5%. One model
    in place of an arm has no seed of its own. Without Student's t three seeds hold 83 to 90% where
    their spread is nearly all there is.
    """
    source = generator("seeds", int(100 * seed_sd), n_seeds, n_other)

    def arm(shift: float, prompts: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        of_arm = prompts + 0.5 * source.normal(size=100) + shift
        if count == 1:
            return of_arm[None]
        of_seeds = seed_sd * source.normal(size=(count, 1))
        return of_arm + of_seeds + noise * source.normal(size=(count, 100))

    hits = []
    for experiment in range(300):
        prompts = source.normal(size=100)
        a, b = arm(0.2, prompts, n_seeds), arm(0.0, prompts, n_other)
        found = paired_difference(a, b, generator("seeds", experiment), 300)
        hits.append((found.low or 0) <= 0.2 <= (found.high or 0))
    assert np.mean(hits) >= 0.925


@pytest.mark.parametrize("n", [6, 8])
def test_what_could_be_found_of_verdicts_is_no_more_than_all_of_them(n: int) -> None:
    """Half up, half down on few prompts: what the exact test says, at most 1."""
    up = np.arange(n) % 2
    found = paired_difference(up, 1 - up, numpy_generator(0, "few"), verdicts=True)
    assert found.detectable == detectable_verdicts(n / 2, n / 2, n)
    assert found.detectable is not None
    assert found.detectable <= 1
