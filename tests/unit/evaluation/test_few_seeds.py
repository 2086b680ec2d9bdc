"""Degrees of freedom of prompts and seeds, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from tamis.evaluation.few_seeds import degrees_of_freedom, reach, student_p
from tamis.rng import numpy_generator


def test_prompts_alone_have_as_many_as_prompts_less_one() -> None:
    """Satterthwaite of one variance is its own."""
    assert degrees_of_freedom(0.3, 100, [(None, 1), (None, 1)]) == pytest.approx(99)


@pytest.mark.parametrize(("counts", "expected"), [((3, 3), 4), ((3, 1), 2), ((5, 5), 8)])
def test_seeds_alone_have_as_many_as_a_t_test(counts: tuple[int, int], expected: float) -> None:
    """Equal spreads in both arms: S_a + S_b - 2, and of one arm S - 1."""
    seeds = [(0.1 if count > 1 else None, count) for count in counts]
    # Twice 100 prompts would not matter: equal variances of the means need equal counts.
    error = sum(sd**2 / count for sd, count in seeds if sd is not None) ** 0.5
    assert degrees_of_freedom(error, 1_000_000, seeds) == pytest.approx(expected)


def test_without_prompts_in_it_p_is_welchs() -> None:
    """Means of 3 and 4 models that answered one prompt in infinitely many ways."""
    source = numpy_generator(0, "test few seeds")
    a, b = source.normal(size=3), 3 * source.normal(size=4) + 1
    error = (a.var(ddof=1) / 3 + b.var(ddof=1) / 4) ** 0.5
    freedom = degrees_of_freedom(error, 10, [(a.std(ddof=1), 3), (b.std(ddof=1), 4)])
    expected = ttest_ind(a, b, equal_var=False)
    assert freedom == pytest.approx(expected.df)
    assert student_p(a.mean() - b.mean(), error, freedom) == pytest.approx(expected.pvalue)


def test_without_seeds_in_it_p_is_that_of_a_paired_t_test() -> None:
    """One model each: n - 1."""
    d = numpy_generator(1, "test few seeds").normal(0.3, size=20)
    error = d.std(ddof=1) / 20**0.5
    freedom = degrees_of_freedom(error, 20, [(None, 1), (None, 1)])
    assert student_p(d.mean(), error, freedom) == pytest.approx(ttest_1samp(d, 0).pvalue)


def test_more_of_the_variance_from_seeds_leaves_fewer() -> None:
    """From 99 down to 4, and intervals reach farther."""
    found = [degrees_of_freedom((0.01 + 2 * sd**2 / 3) ** 0.5, 100, [(sd, 3), (sd, 3)]) or 0
             for sd in (0.0, 0.05, 0.1, 1.0)]  # fmt: skip
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(99)
    assert found[-1] == pytest.approx(4, abs=0.2)
    widths = [reach(freedom) for freedom in found]
    assert widths == sorted(widths)
    assert widths[-1] == pytest.approx(2.7764 / 1.9600, rel=0.02)


def test_rounding_is_no_variance() -> None:
    """Seeds that explain all of it, and a little more than all: no negative rest."""
    assert degrees_of_freedom(0.0999, 50, [(0.1 * 3**0.5, 3), (None, 1)]) == pytest.approx(2)


def test_what_does_not_vary_has_none() -> None:
    """And no p: equal numbers do not say how much others would differ."""
    assert degrees_of_freedom(0.0, 50, [(0.0, 3), (None, 1)]) is None
    assert degrees_of_freedom(0.1, 1, [(None, 1), (None, 1)]) is None
    assert student_p(1.0, 0.0, 3.0) is None
    assert student_p(1.0, 0.1, None) is None
    assert reach(None) == 1
    assert not np.isnan(reach(1.0))
