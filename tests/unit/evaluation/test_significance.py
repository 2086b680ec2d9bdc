"""P-values of paired comparisons: exact values by hand, identities, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from tamis.evaluation.significance import (
    McNemar,
    holm,
    mcnemar,
    sign_flip_p,
    smallest_sign_flip_p,
    wilcoxon_p,
)
from tamis.rng import numpy_generator


def generator(*purpose: str | int) -> np.random.Generator:
    """Make a generator of its own for each purpose."""
    return numpy_generator(0, "test significance", *purpose)


def test_mcnemar_counts_the_prompts_that_differ() -> None:
    """One against five of six coins: p = 2 (1 + 6) / 2^6 = 14/64; agreement adds nothing."""
    a = [1, 0, 0, 0, 0, 0, 1, 1, 0]
    b = [0, 1, 1, 1, 1, 1, 1, 1, 0]
    assert mcnemar(a, b) == McNemar(p=14 / 64, n=9, n_only_a=1, n_only_b=5, n_unpaired=0)


@pytest.mark.parametrize(("n_only_a", "n_only_b"), [(0, 4), (3, 9), (40, 61), (7, 7)])
def test_mcnemar_is_twice_the_smaller_tail(n_only_a: int, n_only_b: int) -> None:
    """It is 2 P(X <= min) under Binomial(n, 1/2), at most 1."""
    a = [1] * n_only_a + [0] * n_only_b
    tail = binom.cdf(min(n_only_a, n_only_b), n_only_a + n_only_b, 0.5)
    assert mcnemar(a, [1 - v for v in a]).p == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_mcnemar_is_symmetric() -> None:
    """Which arm is called A changes the counts' names and not p."""
    a, b = generator("a").random(50) < 0.3, generator("b").random(50) < 0.6
    one, other = mcnemar(list(a), list(b)), mcnemar(list(b), list(a))
    assert (one.p, one.n_only_a, one.n_only_b) == (other.p, other.n_only_b, other.n_only_a)


def test_mcnemar_leaves_out_and_counts_what_is_unscored() -> None:
    """None and NaN on either side."""
    found = mcnemar([True, None, 0, 1], [False, 1, float("nan"), 1])
    assert (found.n, found.n_only_a, found.n_unpaired) == (2, 1, 2)


def test_mcnemar_without_a_differing_prompt_is_certain_of_nothing() -> None:
    """All agree: p = 1. Nothing was compared: none."""
    assert mcnemar([1, 0], [1, 0]).p == 1.0
    assert mcnemar([None], [1]).p is None


def test_mcnemar_refuses_means_over_seeds() -> None:
    """2/3 is no verdict."""
    with pytest.raises(ValueError, match="is no verdict"):
        mcnemar([2 / 3], [1])


def test_mcnemar_refuses_other_prompts() -> None:
    """Two verdicts against three are no pairs."""
    with pytest.raises(ValueError, match="no pairs"):
        mcnemar([1, 0], [1, 0, 1])


def test_sign_flips_of_three_differences() -> None:
    """Of the 8 sign patterns of 1, 2, 3 only all plus and all minus reach a mean of 2: p = 1/4."""
    assert sign_flip_p([3, 1, 2], generator()) == 0.25


def test_sign_flips_equal_all_patterns() -> None:
    """Ten differences: the share of 1,024 patterns at least as far from 0, counted one by one."""
    d = np.round(generator("ten").normal(0.4, 1, size=10), 1)
    signs = 1 - 2 * ((np.arange(1024)[:, None] >> np.arange(10)) & 1)
    expected = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-9)
    assert sign_flip_p(d, generator()) == pytest.approx(expected, rel=1e-12)


def test_drawn_sign_flips_are_never_zero() -> None:
    """30 equal differences: no draw reaches them, and the one found counts on both sides."""
    assert sign_flip_p(np.ones(30), generator()) == pytest.approx(2 / 10_001)


def test_drawn_sign_flips_approach_the_normal_test() -> None:
    """At n = 400 the p-value is that of z = mean / sqrt(mean d^2 / n), up to 4 SE of the draws."""
    d = generator("large").normal(0.08, 1, size=400)
    expected = 2 * norm.sf(abs(d.sum()) / np.sqrt((d**2).sum()))
    tolerance = 4 * 2 * np.sqrt(expected / 2 * (1 - expected / 2) / 10_000) + 0.002
    assert sign_flip_p(d, generator()) == pytest.approx(expected, abs=tolerance)


def test_sign_flips_keep_their_level() -> None:
    """Of 1,000 experiments without a difference at most 5% fall under .05, with 3 SE to spare."""
    source = generator("level")
    p_values = [
        sign_flip_p(source.exponential(size=8) * source.choice([-1, 1], size=8), generator(k))
        for k in range(1_000)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1_000)


def test_sign_flips_ignore_the_order() -> None:
    """The same differences in another order, drawn from the same generator."""
    d = generator("order").normal(size=40)
    assert sign_flip_p(d, generator("x")) == sign_flip_p(d[::-1], generator("x"))


@pytest.mark.parametrize(
    "test", [lambda d: sign_flip_p(d, generator()), wilcoxon_p], ids=["sign_flip_p", "wilcoxon_p"]
)
class TestBothTestsOfDifferences:
    """What the two share."""

    def test_equal_arms(self, test: object) -> None:
        """Differences of 0 say nothing: p = 1."""
        assert test([0.0] * 5) == 1.0  # type: ignore[operator]

    def test_no_data(self, test: object) -> None:
        """None, not 1."""
        assert test([]) is None  # type: ignore[operator]

    def test_unscored(self, test: object) -> None:
        """NaN is the caller's to leave out and count."""
        with pytest.raises(ValueError, match="leave unscored prompts out"):
            test([1.0, float("nan")])  # type: ignore[operator]


def test_wilcoxon_of_five_differences_of_one_sign() -> None:
    """Exact: two of the 2^5 patterns of signs are as extreme."""
    assert wilcoxon_p([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)


def test_wilcoxon_takes_grades_with_ties_and_zeros() -> None:
    """Judges' steps of 1 to 5 on forty prompts, most of them equal, raise no warning."""
    steps = [0] * 25 + [1] * 10 + [-1] * 3 + [2] * 2
    assert 0.01 < (wilcoxon_p(steps) or 0) < 0.1


def test_holm_steps_down() -> None:
    """Of .01, .04, .03: 3 x .01, then 2 x .03, then .04 raised to the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_does_not_count_what_was_not_tested() -> None:
    """None stays where it is; two p-values are left."""
    assert holm([None, 0.02, None, 0.5]) == [None, 0.04, None, 0.5]


def test_holm_stops_at_one() -> None:
    """Adjusted p-values are p-values."""
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("p_values", [[], [None], [0.3]])
def test_holm_leaves_one_or_none_alone(p_values: list[float | None]) -> None:
    """There is nothing to correct for."""
    assert holm(p_values) == p_values


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(p: float) -> None:
    """A test statistic in its place would pass unnoticed."""
    with pytest.raises(ValueError, match="no p-value"):
        holm([0.1, p])


def test_one_prompt_shows_nothing() -> None:
    """Both signs of one difference are equally far from 0."""
    assert sign_flip_p([0.7], numpy_generator(0, "test")) == 1.0


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9])
def test_the_smallest_sign_flip_p_is_that_of_equal_signs(n: int) -> None:
    """Differences that all point one way have it."""
    assert sign_flip_p(np.arange(1.0, n + 1), generator("smallest", n)) == smallest_sign_flip_p(n)
