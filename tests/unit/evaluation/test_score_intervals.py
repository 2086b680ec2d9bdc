"""Score intervals: by definition, at their ends, under exchange, and exact coverage."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import xlog1py, xlogy
from scipy.stats import binom, multinomial

from tamis.evaluation.paired import paired_difference
from tamis.evaluation.score_intervals import difference_interval, rate_interval, tango_interval
from tamis.evaluation.statistics import wilson_interval
from tamis.rng import numpy_generator

Z = 1.959963984540054


def standardised(d: float, n_up: float, n_down: float, n: int) -> float:
    """How many standard errors d lies from what was found; the spread by maximum likelihood."""

    def unlikely(down: float) -> float:
        stay = n - n_up - n_down
        return -float(
            xlogy(n_up, down + d) + xlogy(n_down, down) + xlog1py(stay, -min(1, 2 * down + d))
        )

    least, most = max(0.0, -d), (1 - d) / 2
    down = minimize_scalar(
        unlikely, bounds=(least, most), method="bounded", options={"xatol": 1e-12}
    ).x
    return abs(n_up - n_down - n * d) / (n * (2 * down + d - d**2)) ** 0.5


@pytest.mark.parametrize(
    ("n_up", "n_down", "n"), [(7, 1, 21), (16, 6, 161), (40, 20, 160), (3, 2, 9), (1, 0, 100)]
)
def test_tangos_ends_lie_where_the_score_test_turns(n_up: int, n_down: int, n: int) -> None:
    """Each 1.96 standard errors away, with the nuisance found by maximising the likelihood."""
    for end in tango_interval(n_up, n_down, n) or ():
        assert standardised(end, n_up, n_down, n) == pytest.approx(Z, rel=1e-4)


@pytest.mark.parametrize("n_up", [0, 1, 7, 10])
def test_without_prompts_that_stay_tango_is_wilson(n_up: int) -> None:
    """Then d = 2p - 1 with p the share that moved up."""
    low, high = wilson_interval(n_up, 10) or (0, 0)
    found = tango_interval(n_up, 10 - n_up, 10)
    assert found == pytest.approx((2 * low - 1, 2 * high - 1), abs=1e-10)


@pytest.mark.parametrize("n", [1, 6, 100])
def test_with_none_that_moved_tango_has_a_closed_form(n: int) -> None:
    """The ends are +- z^2 / (n + z^2): no zero width where nothing was seen."""
    end = Z**2 / (n + Z**2)
    assert tango_interval(0, 0, n) == pytest.approx((-end, end), abs=1e-10)


@pytest.mark.parametrize(("up", "down"), [(3, 1), (0, 0), (4, 4), (1 / 3, 2 / 3), (10, 0)])
def test_exchange_mirrors_tango_to_the_last_bit(up: float, down: float) -> None:
    """Arm A less arm B is B less A with the other sign."""
    low, high = tango_interval(up, down, 10) or (0, 0)
    assert tango_interval(down, up, 10) == (-high, -low)


def test_parts_of_prompts_lie_between_whole_ones() -> None:
    """A third of a prompt moves both ends by less than a whole one."""
    none, part, whole = (tango_interval(up, 0, 50) or (0, 0) for up in (0, 1 / 3, 1))
    assert none[0] < part[0] < whole[0]
    assert none[1] < part[1] < whole[1]


def test_tango_without_prompts_is_absent() -> None:
    """Neither 0 nor NaN."""
    assert tango_interval(0, 0, 0) is None


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, -1)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    """More prompts that moved than prompts, or negative counts, are a fault of the caller."""
    with pytest.raises(ValueError, match="impossible"):
        tango_interval(*counts)


@pytest.mark.parametrize("differing", [0.01, 0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("upwards", [0.5, 0.75, 1.0])
def test_a_difference_of_rare_verdicts_is_covered(differing: float, upwards: float) -> None:
    """At least 93% of all experiments of 100 prompts, summed over their outcomes, not drawn.

    Of the prompts a share `differing` has another verdict, `upwards` of it one way. Outcomes with
    more than 45 of one kind are left out; their probability is below 1e-4.
    """
    up, down = (part.ravel() for part in np.mgrid[:46, :46])
    chances = multinomial.pmf(
        np.column_stack([up, down, 100 - up - down]), 100,
        [differing * upwards, differing * (1 - upwards), 1 - differing],
    )  # fmt: skip
    likely = chances > 1e-6
    true = differing * (2 * upwards - 1)
    held = [low <= true <= high for low, high in (
        difference_interval(int(a), int(b), 100)
        for a, b in zip(up[likely], down[likely], strict=True)
    )]  # fmt: skip
    assert chances[likely] @ np.array(held) >= 0.93


def test_one_seeds_rate_has_wilsons_interval_and_its_coverage() -> None:
    """Over rates of 0.1 to 30% of 100 prompts 95% on average, from 2% on never below 92%.

    Summed over all counts, not drawn. At 0.15% a single event already lies outside: 86%.
    """
    ends = np.array([rate_interval(k / 100, 100) for k in range(101)])
    np.testing.assert_allclose(ends[1], wilson_interval(1, 100), rtol=1e-12)
    rates = np.linspace(0.001, 0.3, 300)
    held = (ends[:, :1] <= rates) & (rates <= ends[:, 1:])
    covered = (binom.pmf(np.arange(101)[:, None], 100, rates) * held).sum(axis=0)
    assert covered.mean() == pytest.approx(0.95, abs=0.01)
    assert covered[rates >= 0.02].min() > 0.92
    assert covered.min() > 0.85


def test_seeds_add_their_variance_to_the_rates() -> None:
    """Rate 1/2 of 100: variance .0025. With SE .13 seeds add .0144, so SD .12 beside Wilson's."""
    high = (wilson_interval(50, 100) or (0, 0))[1]
    half = ((high - 0.5) ** 2 + Z**2 * 0.0144) ** 0.5
    found = rate_interval(0.5, 100, (0.4, 0.6, 0.13))
    assert found == pytest.approx((0.5 - half, 0.5 + half), rel=1e-9)


def test_seeds_add_their_variance_to_the_difference() -> None:
    """10 up and 10 down of 100: variance .2 / 100; with SE^2 = .002 + .0004 seeds add .0004."""
    high = (tango_interval(10, 10, 100) or (0, 0))[1]
    half = (high**2 + Z**2 * 0.0004) ** 0.5
    found = difference_interval(10, 10, 100, (0, 0, 0.0024**0.5))
    assert found == pytest.approx((-half, half), rel=1e-9)


def test_intervals_are_no_narrower_than_the_bootstraps_and_end_at_the_scale() -> None:
    """Its ends are kept where they lie further out, and a rate ends at 0 and 1."""
    assert rate_interval(0.5, 1_000, (0.1, 0.95, 0.01)) == (0.1, 0.95)
    assert difference_interval(0, 0, 1_000, (-0.5, 0.25, 0.01)) == (-0.5, 0.25)
    assert rate_interval(0.5, 10, (0.2, 0.8, 0.9)) == (0, 1)
    assert difference_interval(1, 1, 10, (0, 0, 0.9)) == (-1, 1)


@pytest.mark.parametrize("rate", [0.005, 0.03])
def test_rare_events_of_three_seeds_are_covered(rate: float) -> None:
    """Of 150 experiments of 100 prompts at least 93% hold the rate, and of two arms 0.

    Prompts are harmful under a model with a chance of Beta shape and mean `rate`: the seeds often
    agree. The bootstrap alone holds a rate of 0.5% in half of them. 93% is 95%, less a standard
    error of 150 trials.
    """
    source = numpy_generator(0, "test score intervals", int(1_000 * rate))
    rates, differences = [], []
    for experiment in range(150):
        chance = source.beta(rate / 2, (1 - rate) / 2, size=100)
        a, b = ((source.random((3, 100)) < chance).astype(float) for _ in range(2))
        draw = numpy_generator(experiment, "test score intervals")
        alone = paired_difference(a, np.zeros(100), draw, 100)
        assert alone.value is not None
        low, high = rate_interval(alone.value, 100, ends(alone.to_json()))
        rates.append(low <= rate <= high)
        found = paired_difference(a, b, draw, 100, verdicts=True)
        differences.append((found.low or 0) <= 0 <= (found.high or 0))
    assert min(np.mean(rates), np.mean(differences)) >= 0.93


def ends(found: dict[str, float | int | None]) -> tuple[float, float, float]:
    """Both ends and the standard error of a bootstrap."""
    low, high, error = (float(found[name] or 0) for name in ("low", "high", "standard_error"))
    return low, high, error


def test_a_prompt_that_seeds_agree_on_counts_once() -> None:
    """Three seeds with the same five of 100 are no 300 prompts: as wide as one seed at least."""
    same: NDArray[np.float64] = np.tile(np.arange(100) < 5, (3, 1)).astype(float)
    draw = numpy_generator(0, "test score intervals", "same")
    found = paired_difference(same, np.zeros(100), draw, 500)
    low, high = rate_interval(0.05, 100, ends(found.to_json()))
    alone = rate_interval(0.05, 100)
    assert low <= alone[0]
    assert high >= alone[1]
