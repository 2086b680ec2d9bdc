"""Intervals have their coverage, and numbers without data stay absent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tamis.evaluation.statistics import (
    Estimate,
    bootstrap_mean_interval,
    mean_estimate,
    percentile_interval,
    rate_estimate,
    stratified_resamples,
    wilson_interval,
)
from tamis.rng import numpy_generator


def generator(*purpose: str | int) -> np.random.Generator:
    """Make a generator of its own for each purpose."""
    return numpy_generator(0, "test", *purpose)


def test_wilson_at_zero_of_n_is_closed_form() -> None:
    """At p = 0 the ends are 0 and z^2 / (n + z^2); z = 1.959964 for 95%."""
    low, high = wilson_interval(0, 10) or (None, None)
    assert low == 0.0
    assert high == pytest.approx(1.959963984540054**2 / (10 + 1.959963984540054**2), rel=1e-12)


def test_wilson_is_symmetric_under_swapping_success_and_failure() -> None:
    """The interval of n - k mirrors that of k about 1/2."""
    low, high = wilson_interval(7, 30) or (0, 0)
    mirrored = wilson_interval(23, 30)
    assert mirrored == pytest.approx((1 - high, 1 - low), rel=1e-12)


def test_wilson_without_trials_is_absent() -> None:
    """Zero trials have no interval: neither 0 nor NaN."""
    assert wilson_interval(0, 0) is None


def test_wilson_takes_half_counts() -> None:
    """Ties counted as half lie between their neighbours."""
    below, half, above = (wilson_interval(k, 20) or (0, 0) for k in (4, 4.5, 5))
    assert below[0] < half[0] < above[0]
    assert below[1] < half[1] < above[1]


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 5), (0, -1)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    """More successes than trials, or negative counts, are a fault of the caller."""
    with pytest.raises(ValueError, match="impossible"):
        wilson_interval(k, n)


def test_confidence_must_be_a_probability() -> None:
    """95 for 95% is refused rather than giving NaN."""
    with pytest.raises(ValueError, match="confidence=95"):
        wilson_interval(1, 2, confidence=95)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5])
def test_wilson_covers_bernoulli_rates(rate: float) -> None:
    """Of 4,000 experiments of 40 draws, 95% +- 2% of the intervals hold the true rate.

    Exact coverage at n = 40 swings between 0.93 and 0.97 because counts are whole numbers.
    """
    draws = generator("wilson", int(100 * rate)).binomial(40, rate, size=4_000)
    hits = [low <= rate <= high for low, high in map(lambda k: wilson_interval(int(k), 40), draws)]  # type: ignore[misc]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.025)


def test_bootstrap_covers_bernoulli_means() -> None:
    """Of 400 experiments of 100 draws, about 95% of the bootstrap intervals hold the true mean.

    The tolerance is three standard errors of 400 trials (0.033) plus the percentile bootstrap's own
    shortfall of about 0.01 at n = 100.
    """
    source = generator("coverage")
    hits = []
    for experiment in range(400):
        sample = source.random(100) < 0.3
        low, high = bootstrap_mean_interval(sample, generator(experiment), 1_000) or (0, 0)
        hits.append(low <= 0.3 <= high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.04)


def test_bootstrap_of_normal_values_matches_theory() -> None:
    """The half width of a mean's interval is 1.96 sd / sqrt(n), up to resampling noise (2%)."""
    sample = generator("normal").normal(size=400)
    low, high = bootstrap_mean_interval(sample, generator("draws")) or (0, 0)
    assert (high - low) / 2 == pytest.approx(1.96 * sample.std() / 20, rel=0.04)


def test_bootstrap_ignores_the_order_of_the_values() -> None:
    """The same units in another order give the same interval, bit for bit."""
    sample = generator("order").normal(size=50)
    forward = bootstrap_mean_interval(sample, generator("same"))
    assert bootstrap_mean_interval(sample[::-1], generator("same")) == forward


def test_bootstrap_without_values_is_absent() -> None:
    """No data, no interval."""
    assert bootstrap_mean_interval([], generator()) is None


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.1, 0.1]])
def test_bootstrap_of_one_distinct_value_is_that_value(values: list[float]) -> None:
    """Without variation both ends equal the value exactly, rounding included."""
    assert bootstrap_mean_interval(values, generator()) == (0.1, 0.1)


def test_bootstrap_refuses_nan() -> None:
    """Unscored units must be counted by the caller, not averaged."""
    with pytest.raises(ValueError, match="leave unscored values out"):
        bootstrap_mean_interval([1.0, float("nan")], generator())


def test_mean_estimate_counts_the_unscored() -> None:
    """None and NaN leave the mean and enter n_unscored."""
    estimate = mean_estimate([1.0, None, 3.0, float("nan")], generator())
    assert (estimate.value, estimate.n, estimate.n_unscored) == (2.0, 2, 2)


def test_mean_estimate_of_equal_values_contains_itself() -> None:
    """Rounding of 0.1 + 0.1 + 0.1 does not put the value outside its interval."""
    estimate = mean_estimate([0.1] * 3, generator())
    assert (estimate.value, estimate.low, estimate.high) == (0.1, 0.1, 0.1)


def test_rate_estimate_without_judged_units_is_null_in_json() -> None:
    """A rate that was never measured is null, not a perfect 0."""
    assert json.loads(json.dumps(rate_estimate(0, 0, n_unscored=5).to_json())) == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "n_unscored": 5,
    }


def test_rate_estimate_joins_rate_and_interval() -> None:
    """Value = k / n, with the Wilson ends around it."""
    estimate = rate_estimate(3, 12, 1)
    low, high = wilson_interval(3, 12) or (0, 0)
    assert estimate == Estimate(0.25, low, high, 12, 1)


def test_percentile_interval_cuts_equal_tails() -> None:
    """Of 0..1000, the central 95% runs from 25 to 975."""
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_stratified_resamples_keep_the_size_of_each_stratum() -> None:
    """Every resample draws as many rows from a stratum as it has, from its own groups only."""
    strata = [np.array([0, 0, 2]), np.array([1, 2, 2, 2])]
    chunks = list(stratified_resamples(strata, 4, generator(), 50))
    first = np.concatenate([chunk[0] for chunk in chunks])
    second = np.concatenate([chunk[1] for chunk in chunks])
    assert first.shape == second.shape == (50, 4)
    assert (first.sum(axis=1) == 3).all()
    assert (second.sum(axis=1) == 4).all()
    assert not first[:, [1, 3]].any()
    assert not second[:, [0, 3]].any()


def test_stratified_resamples_draw_rows_uniformly() -> None:
    """A group's mean count is its share of the stratum, here 2 and 1 of 3 rows."""
    counts = next(iter(stratified_resamples([np.array([0, 0, 1])], 2, generator(), 20_000)))[0]
    # Standard error of a mean of 20,000 counts with variance 2/3.
    assert counts.mean(axis=0) == pytest.approx([2.0, 1.0], abs=4 * (2 / 3 / 20_000) ** 0.5)
