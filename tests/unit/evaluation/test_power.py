"""The smallest difference found: never below what the test can find, and with its power."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.stats import binom, binomtest, multinomial, norm

from tamis.evaluation.paired import paired_difference, prompt_differences
from tamis.evaluation.power import (
    detectable_shift,
    detectable_verdicts,
    sign_test_power,
    strictest_level,
    too_few_prompts,
)
from tamis.evaluation.significance import holm, sign_flip_p
from tamis.rng import numpy_generator


def generator(*purpose: str | int) -> np.random.Generator:
    """Make a generator of its own for each purpose."""
    return numpy_generator(0, "test power", *purpose)


def test_the_level_is_what_holm_asks_of_the_smallest_p() -> None:
    """Seven arms: p = .05 / 7 is adjusted to .05, and no other place in the order asks for less."""
    assert strictest_level(7) == pytest.approx(0.05 / 7)
    adjusted = holm([strictest_level(7), *[1.0] * 6])[0]
    assert adjusted == pytest.approx(0.05)


def test_no_arm_cannot_be_compared() -> None:
    """The arm itself counts."""
    with pytest.raises(ValueError, match="n_compared=0"):
        strictest_level(0)


@pytest.mark.parametrize(
    ("n", "n_compared", "too_few"),
    [(0, 1, False), (5, 1, True), (6, 1, False), (6, 2, True), (7, 2, False), (8, 7, True),
     (9, 7, False)],
)  # fmt: skip
def test_prompts_are_too_few_where_unanimity_is_no_finding(
    n: int, n_compared: int, too_few: bool
) -> None:
    """As the tests themselves say of prompts that all favour one side."""
    assert too_few_prompts(n, n_compared) is too_few
    if n:
        p = sign_flip_p([1.0] * n, generator())
        best = holm([p] * n_compared)[0]
        assert best is not None
        assert (best > 0.05) is too_few
        assert (detectable_verdicts(0, 0, n, n_compared) is None) is too_few
        assert (detectable_shift(1.0, n, n_compared) is None) is too_few


@pytest.mark.parametrize(("n_compared", "least"), [(1, 6), (7, 9)])
@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 2), (0.5, 1 / 3), (30, 1)])
@pytest.mark.parametrize("n", [20, 100, 400])
def test_never_below_what_the_test_can_find(
    n: int, counts: tuple[float, float], n_compared: int, least: int
) -> None:
    """Six prompts on one side (nine with seven arms) must be there in 80% even if all help."""
    if sum(counts) <= n:
        d = detectable_verdicts(*counts, n, n_compared)
        assert d is not None
        assert binom.sf(least - 1, n, d) >= 0.8 - 1e-6


def test_one_discordant_prompt_of_a_hundred() -> None:
    """8.7 points, 12.2 with seven arms: 2.80 standard errors are 2.8 points, found in 6%."""
    assert detectable_verdicts(1, 0, 100) == pytest.approx(0.0870, abs=1e-4)
    assert detectable_verdicts(1, 0, 100, 7) == pytest.approx(0.1218, abs=1e-4)
    by_errors = (norm.isf(0.025) + norm.isf(0.2)) * (0.01 * 0.99 / 100) ** 0.5
    assert by_errors == pytest.approx(0.028, abs=2e-4)
    assert binom.sf(5, 100, by_errors) < 0.07


@pytest.mark.parametrize("n_compared", [1, 7])
@pytest.mark.parametrize(("n_up", "n_down"), [(0, 0), (2, 1), (6, 9), (15, 15)])
def test_the_power_at_it_is_80_percent_outcome_by_outcome(
    n_up: int, n_down: int, n_compared: int
) -> None:
    """Summed over all pairs of counts of 30 prompts, each tested by SciPy's binomial test.

    The share of prompts that differ is what was seen, or half a prompt more than the smaller side
    on both sides and the difference on one.
    """
    d = detectable_verdicts(n_up, n_down, 30, n_compared)
    assert d is not None
    differing = min(1, max((n_up + n_down) / 30, (2 * min(n_up, n_down) + 1) / 30 + d))
    up, down = (differing + d) / 2, (differing - d) / 2
    power = sum(
        multinomial.pmf([a, b, 30 - a - b], 30, [up, down, 1 - differing])
        for a in range(31) for b in range(min(a, 31 - a))
        if binomtest(a, a + b).pvalue <= 0.05 / n_compared
    )  # fmt: skip
    assert power == pytest.approx(0.8, abs=1e-6)


def test_power_without_a_difference_is_at_most_half_the_level() -> None:
    """One side of a test at .05; every prompt differs. No prompt that differs finds nothing."""
    needed = np.array([*range(1, 7), 6, 7, 8, 8, 9], dtype=np.float64)  # of 0 to 10, at .05
    assert 0 < sign_test_power(0.0, 1.0, needed) <= 0.025
    assert sign_test_power(0.0, 0.0, needed) == 0
    assert sign_test_power(1.0, 0.5, needed) == 1


@pytest.mark.parametrize("counts", [(-1, 0, 9), (5, 5, 9), (0, -1, 9)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    """More prompts that differ than prompts, or negative counts, are a fault of the caller."""
    with pytest.raises(ValueError, match="impossible"):
        detectable_verdicts(*counts)


def test_more_arms_and_more_disagreement_need_a_larger_difference() -> None:
    """And more prompts a smaller one; the sides are exchangeable."""
    found = [detectable_verdicts(*counts, 100, m) or 0
             for counts, m in (((1, 0), 1), ((1, 0), 3), ((5, 5), 3), ((20, 20), 3))]  # fmt: skip
    assert found == sorted(set(found))
    assert (detectable_verdicts(1, 0, 200) or 1) < found[0]
    assert detectable_verdicts(0, 1, 100) == found[0]


def test_of_a_scale_it_is_two_quantiles_wide() -> None:
    """With many prompts 2.80 SE; with 10, 2.262 + 0.883 of the t distribution, and more at .05 / 7.

    Ten prompts give multiples of 1/512: 25 of them for .05 and 3 for .05 / 7.
    """
    assert detectable_shift(2.0, 100_000) == pytest.approx(2 * 2.801585, rel=1e-4)
    assert detectable_shift(1.0, 10) == pytest.approx(2.2622 + 0.8834, abs=0.02)
    assert detectable_shift(1.0, 10, 7) == pytest.approx(3.5946 + 0.8834, abs=0.15)


def test_of_a_scale_that_does_not_vary_there_is_none() -> None:
    """No number rather than 0, which would read as infinitely precise."""
    assert (detectable_shift(0.0, 50), detectable_shift(None, 50)) == (None, None)
    assert detectable_shift(1.0, 0) is None


@pytest.mark.parametrize("standard_error", [-1.0, float("nan"), float("inf")])
def test_what_is_no_standard_error_is_refused(standard_error: float) -> None:
    """A negative or missing one is a fault of the caller."""
    with pytest.raises(ValueError, match="standard_error="):
        detectable_shift(standard_error, 50)


@pytest.mark.parametrize(("n", "n_compared"), [(12, 1), (30, 1), (30, 7)])
def test_a_shift_of_that_size_is_found_by_the_sign_flip_test(n: int, n_compared: int) -> None:
    """Of 120 samples of normal values about 80%, with three standard errors (0.11) to spare."""
    source = generator("shift", n, n_compared)
    shift = detectable_shift(n**-0.5, n, n_compared)
    assert shift is not None
    p_values = [sign_flip_p(source.normal(shift, 1, size=n), source, 1_000) or 0
                for _ in range(120)]  # fmt: skip
    assert np.mean(np.array(p_values) <= 0.05 / n_compared) == pytest.approx(0.8, abs=0.11)


@pytest.mark.parametrize(("n", "n_compared"), [(50, 1), (100, 7)])
@pytest.mark.parametrize("chance", [0.005, 0.02, 0.1])
def test_what_is_printed_has_power_whatever_was_seen(
    n: int, n_compared: int, chance: float
) -> None:
    """Arms that differ by chance on `chance` of their prompts print a difference; were it true?

    Added to one side it is found in 74 to 88% of 20,000 such experiments, and taken in equal parts
    from the other and added to this one, where there is that much to take, in more. Here of 400,
    three standard errors (0.065) to either side.
    """
    source = generator("printed", n, int(1_000 * chance))
    printed = functools.cache(lambda a, b: detectable_verdicts(a, b, n, n_compared))
    tested = functools.cache(lambda a, b: binomtest(a, a + b).pvalue if a + b else 1.0)
    found = []
    for _ in range(400):
        seen = source.multinomial(n, [chance / 2, chance / 2, 1 - chance])
        d = printed(int(seen[0]), int(seen[1]))
        up, down, _ = source.multinomial(n, [chance / 2 + d, chance / 2, 1 - chance - d])
        found.append(up > down and tested(int(up), int(down)) <= 0.05 / n_compared)
    assert 0.675 <= np.mean(found) <= 0.945


@pytest.mark.parametrize("alike", [True, False])
def test_with_three_seeds_it_is_found_as_well(alike: bool) -> None:
    """Of 50 pairs of arms of 100 prompts, with 3% harmful by chance, at least 70%.

    The difference that one pair prints is added to the next: on the same prompts under all seeds,
    or on others under each, which is easier to find.
    """
    source = generator("seeds", int(alike))
    found = []
    for experiment in range(50):
        a, b = ((source.random((3, 100)) < 0.03).astype(float) for _ in range(2))
        draw = generator("seeds", experiment)
        d = paired_difference(a, b, draw, 100, verdicts=True).detectable
        assert d is not None
        harmful = source.random((1 if alike else 3, 100)) < d / 0.97
        worse = np.maximum(a, harmful)
        p = sign_flip_p(prompt_differences(worse, b), draw, 500)
        shown = paired_difference(worse, b, draw, 100, verdicts=True)
        found.append(max(p or 0, shown.p_seeds or 0) <= 0.05)
    assert np.mean(found) >= 0.7
