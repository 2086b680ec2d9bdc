"""Every interval of the project, in one place: Wilson for rates, seeded bootstraps for the rest.

On top of this: differences between arms in `paired.py`, those of verdicts in `score_intervals.py`,
win rates in `win_rate.py`; p-values in `significance.py`, what they could find in `power.py`.

Rules that hold everywhere above this file:

- a number without data is None, never 0: a rate that was never measured must not read as safe;
- what could not be scored is left out of `n` and counted in `n_unscored`;
- the unit that is resampled is the prompt (or the row), the smallest thing that is independent;
- random draws come from a generator that the caller passes.

Letters in shapes: n values, b resamples, u distinct values (groups).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95  # two-sided, everywhere
N_RESAMPLES = 10_000  # of a mean; 1,000 would leave the ends uncertain by about 0.1 of the width
_CHUNK_CELLS = 2_000_000  # numbers held at once while resampling, 16 MB per array


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured number with its interval and what it rests on.

    Attributes:
        value: The point estimate; None without data.
        low: Lower end of the interval; None without data.
        high: Upper end of the interval; None without data.
        n: Units that entered the estimate.
        n_unscored: Units that were meant to enter and could not be scored.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_unscored: int = 0

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields under their own names, None where there is no data."""
        return asdict(self)


def wilson_interval(
    n_successes: float, n: int, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Return the Wilson score interval of a rate, None for n = 0.

    With z the normal quantile and p = n_successes / n:
    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Unlike the textbook p +- z SE it has
    its coverage at n = 40 and at p = 0.

    Args:
        n_successes: 0 to n. Halves are allowed (a tie counted as half): such a mean varies less
            than a binomial one, so the interval is then too wide rather than too narrow.
        n: Trials.
        confidence: Two-sided, in (0, 1).

    Returns:
        (low, high) within [0, 1].

    Raises:
        ValueError: Counts that no experiment can give.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n < 0 or not 0 <= n_successes <= n:
        raise ValueError(f"{n_successes} successes of {n} trials is impossible")
    if n == 0:
        return None
    z = normal_quantile(confidence)
    rate = n_successes / n
    centre = rate + z**2 / (2 * n)
    half_width = z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # At 0 and n of n the closed form is exactly 0 and 1; rounding would leave 1e-17 beside them.
    low = 0.0 if n_successes == 0 else (centre - half_width) / scale
    high = 1.0 if n_successes == n else (centre + half_width) / scale
    return low, high


def rate_estimate(n_successes: float, n: int, n_unscored: int = 0) -> Estimate:
    """Return a rate in [0, 1] with its Wilson interval; see `wilson_interval` for half counts."""
    interval = wilson_interval(n_successes, n)
    if interval is None:
        return Estimate(None, None, None, 0, n_unscored)
    return Estimate(n_successes / n, *interval, n, n_unscored)


def bootstrap_mean_interval(
    values: ArrayLike,
    generator: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of a mean, None without values.

    Args:
        values: One finite number per independent unit, in any order: they are sorted first, so
            that the order of the input does not enter the draw.
        generator: Source of the resamples.
        n_resamples: Resamples of all units.
        confidence: Two-sided, in (0, 1).

    Returns:
        (low, high). Of a single value, or of equal values, both ends are that value: the interval
        then says nothing about uncertainty, and `n` beside it shows why.

    Raises:
        ValueError: A value is not finite; unscored units are the caller's to leave out and count.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if not np.isfinite(sample).all():
        raise ValueError("a bootstrap over NaN or infinity: leave unscored values out first")
    n = len(sample)
    if n == 0:
        return None
    means = np.concatenate(
        [
            sample[generator.integers(0, n, size=(stop - start, n))].mean(axis=1)
            for start, stop in resample_chunks(n_resamples, n)
        ]
    )
    low, high = percentile_interval(means, confidence)
    return _within(low, sample), _within(high, sample)


def mean_estimate(
    values: Sequence[float | None] | NDArray[np.float64], generator: np.random.Generator
) -> Estimate:
    """Return the mean of the scored values with its bootstrap interval.

    Args:
        values: One number per unit; None or NaN marks a unit that could not be scored.
        generator: Source of the resamples.

    Returns:
        The estimate; `n` counts the scored units, `n_unscored` the others.
    """
    numbers = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    scored = numbers[~np.isnan(numbers)]
    interval = bootstrap_mean_interval(scored, generator)
    n_unscored = len(numbers) - len(scored)
    if interval is None:
        return Estimate(None, None, None, 0, n_unscored)
    ordered = np.sort(scored)
    return Estimate(_within(ordered.mean(), ordered), *interval, len(scored), n_unscored)


def percentile_interval(
    draws: NDArray[np.float64], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the central part of bootstrap draws, (1 - confidence) / 2 cut from either end."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def stratified_resamples(
    strata: Sequence[NDArray[np.int64]],
    n_groups: int,
    generator: np.random.Generator,
    n_resamples: int,
) -> Iterator[list[NDArray[np.int64]]]:
    """Resample every stratum within itself and count what was drawn.

    A statistic of ranks needs only how often each distinct score was drawn on either side, so
    counts over groups replace resampled rows: no sorting inside the loop.

    Args:
        strata: Per stratum the group of each of its rows, in 0..n_groups-1. Rows are sorted by
            group first, so that the order of the input does not enter the draw.
        n_groups: Number of groups (u).
        generator: Source of the resamples.
        n_resamples: Resamples in all.

    Yields:
        Chunks of resamples; per stratum an array [b, u] whose rows sum to the stratum's size. The
        chunks' b sum to `n_resamples`.
    """
    ordered = [np.sort(groups) for groups in strata]
    widest = max(n_groups, *(len(groups) for groups in ordered))
    for start, stop in resample_chunks(n_resamples, widest):
        n_rows = stop - start
        offsets = np.arange(n_rows, dtype=np.int64)[:, None] * n_groups
        chunk = []
        for groups in ordered:
            drawn = groups[generator.integers(0, len(groups), size=(n_rows, len(groups)))]
            counts = np.bincount((drawn + offsets).ravel(), minlength=n_rows * n_groups)
            chunk.append(counts.reshape(n_rows, n_groups))
        yield chunk


def normal_quantile(confidence: float) -> float:
    """Return z, 1.96 for 95%.

    Args:
        confidence: Two-sided, in (0, 1).

    Raises:
        ValueError: It is not, for example because 95 was meant to be 95%.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not between 0 and 1")
    return _normal_inverse((1 + confidence) / 2)


def resample_chunks(n_resamples: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut 0..n_resamples into pieces of at most 2 million cells, `width` of them a resample."""
    step = max(1, _CHUNK_CELLS // max(1, width))
    for start in range(0, n_resamples, step):
        yield start, min(start + step, n_resamples)


def _normal_inverse(share: float) -> float:
    from scipy.special import ndtri  # late: `--help` needs no SciPy

    return float(ndtri(share))


def _within(mean: float, ordered: NDArray[np.float64]) -> float:
    """Undo the rounding that puts a mean of equal numbers beside them by one bit."""
    return float(min(max(mean, ordered[0]), ordered[-1]))
