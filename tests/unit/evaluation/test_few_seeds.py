"""Variance over prompts and seeds, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from tamis.evaluation.few_seeds import half_width, reach, student_p, variance_parts
from tamis.rng import numpy_generator


def test_one_model_each_has_prompts_alone() -> None:
    """N - 1 degrees of freedom."""
    assert variance_parts(0.3, 100, [(None, 1), (None, 1)]) == [(pytest.approx(0.09), 99)]


@pytest.mark.parametrize(("counts", "expected"), [((3, 3), 4), ((3, 1), 2), ((5, 5), 8)])
def test_seeds_alone_have_as_many_as_a_t_test(counts: tuple[int, int], expected: float) -> None:
    """Equal spreads in both arms: S_a + S_b - 2, and of one arm S - 1."""
    seeds = [(0.1 if count > 1 else None, count) for count in counts]
    error = sum(sd**2 / count for sd, count in seeds if sd is not None) ** 0.5
    prompts, of_seeds = variance_parts(error, 50, seeds)
    assert prompts[0] == pytest.approx(0, abs=1e-15)
    assert of_seeds == pytest.approx((error**2, expected))


def test_without_prompts_in_it_p_is_welchs() -> None:
    """Means of 3 and 4 models that answered one prompt in infinitely many ways."""
    source = numpy_generator(0, "test few seeds")
    a, b = source.normal(size=3), 3 * source.normal(size=4) + 1
    error = (a.var(ddof=1) / 3 + b.var(ddof=1) / 4) ** 0.5
    parts = variance_parts(error, 10, [(a.std(ddof=1), 3), (b.std(ddof=1), 4)])
    expected = ttest_ind(a, b, equal_var=False)
    assert parts[1][1] == pytest.approx(expected.df)
    assert student_p(a.mean() - b.mean(), parts) == pytest.approx(expected.pvalue)


def test_without_seeds_in_it_p_is_that_of_a_paired_t_test() -> None:
    """One model each: n - 1."""
    d = numpy_generator(1, "test few seeds").normal(0.3, size=20)
    error = d.std(ddof=1) / 20**0.5
    parts = variance_parts(error, 20, [(None, 1), (None, 1)])
    assert student_p(d.mean(), parts) == pytest.approx(ttest_1samp(d, 0).pvalue)


def test_p_and_the_interval_agree() -> None:
    """At the end of the 95% interval p is .05, and p falls with the difference."""
    parts = variance_parts(0.1, 100, [(0.12, 3), (None, 1)])
    assert student_p(half_width(parts, 0.025), parts) == pytest.approx(0.05)
    assert student_p(-half_width(parts, 0.025), parts) == pytest.approx(0.05)
    found = [student_p(d, parts) or 0 for d in (0.0, 0.1, 0.5, 5.0, 1e9)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1] > 0) == (1, True)


@pytest.mark.parametrize(("count", "other"), [(2, 1), (3, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("ratio", [0.5, 1.5, 5.0])
def test_equal_arms_are_found_in_5_percent_at_most(count: int, other: int, ratio: float) -> None:
    """Normal values, the seeds' part 1/2 to 5 times the prompts'; of 4,000 at most 6%.

    Three standard errors are 1%. By one df for the whole sum it is 12% with two against one.
    """
    source = numpy_generator(0, "test few seeds", count, other)
    arms = [size for size in (count, other) if size > 1]
    found = []
    for _ in range(4_000):
        prompts = source.normal(size=50)
        models = [source.normal(size=size) * ratio * (size / len(arms)) ** 0.5 for size in arms]
        d = prompts.mean() * 50**0.5 + sum(one.mean() for one in models)
        spread = [(float(one.std(ddof=1)), len(one)) for one in models]
        error = (prompts.var(ddof=1) + sum(sd**2 / size for sd, size in spread)) ** 0.5
        found.append(abs(d) > half_width(variance_parts(error, 50, spread), 0.025))
    assert np.mean(found) <= 0.06


def test_rounding_is_no_variance() -> None:
    """Seeds that explain all of it, and a little more than all: no negative rest."""
    parts = variance_parts(0.0999, 50, [(0.1 * 3**0.5, 3), (None, 1)])
    assert parts == [(0, 49), (pytest.approx(0.01), pytest.approx(2))]
    assert reach(parts) == pytest.approx(4.3027 / 1.9600, rel=1e-4)


def test_what_does_not_vary_says_nothing() -> None:
    """No p: equal numbers do not say how much others would differ."""
    parts = variance_parts(0.0, 50, [(0.0, 3), (None, 1)])
    assert (student_p(1.0, parts), reach(parts)) == (None, 1)
    assert variance_parts(0.1, 1, [(None, 1), (None, 1)]) == []
    assert (student_p(1.0, []), reach([])) == (None, 1)
