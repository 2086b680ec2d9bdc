"""The difference between two arms on the same prompts, with an interval over prompts and seeds.

With a[s, j] the outcome of prompt j under the model of seed s of arm A, and b likewise of arm B,

    d_j = mean_s a[s, j] - mean_s b[s, j],     difference = mean_j d_j

over the prompts that both arms have. Pairing takes out what makes a prompt hard for every model.

What is resampled. Prompts and models (one a seed) are both samples: the next run has other seeds
and the next user other prompts. Each of the 10,000 resamples draws

- the n prompts with replacement, the same ones for both arms, so that pairs stay together;
- the seeds of each arm with replacement, for all prompts at once, because one model answered them
  all. The arms' seeds are drawn apart: seed 1 here has nothing in common with seed 1 there.

Of S seeds S - 1 are drawn: the mean of S draws would vary by (S - 1)/S too little, a third of the
variance at three seeds. An arm with one seed keeps it and counts as a model without variation,
which is right for "no fine-tuning" and too good for anything else.

Three seeds say little about a spread, so with several seeds both ends are moved out by the ratio
of Student's t to the normal quantile (`few_seeds.py`).

What a 95% interval then holds (simulated, 100 prompts): 95% without seeds to draw; 95% and more
with two or more seeds, against one fixed model too, however much of the spread is theirs; up to
100% where the models of an arm differ by chance on each prompt alone, which is counted twice. The
price is width: where seeds are all there is, three reach 1.4 to 2.2 times as far as many would. The
spread between seeds and the standard error over prompts stand beside it.

Verdicts may be rare, and then a bootstrap is too narrow: theirs is a score interval, widened by
what seeds vary (`score_intervals.py`). `power.py` says which difference would have been found.

Source: Owen 2007, "The pigeonhole bootstrap", for resampling both sides of a table; McCarthy and
Snowden 1985, "The bootstrap and finite population sampling", for S - 1 draws.

Letters in shapes: n prompts, s seeds, b resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.evaluation.few_seeds import reach, student_p, variance_parts
from tamis.evaluation.power import detectable_shift, detectable_verdicts
from tamis.evaluation.score_intervals import difference_interval
from tamis.evaluation.statistics import N_RESAMPLES, percentile_interval, resample_chunks


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference, arm A minus arm B, with its interval and what it rests on.

    Attributes:
        value: Mean difference; None where no prompt was scored in both arms, like all that follows
            from it.
        low: Lower end of the interval over prompts and seeds.
        high: Upper end.
        n: Prompts with a score in both arms.
        n_unpaired: Prompts left out because an arm has no score for them.
        n_unscored: Missing scores among the n prompts, over seeds and both arms.
        n_seeds_a: Seeds of arm A with scores.
        n_seeds_b: Seeds of arm B with scores.
        standard_error: Over prompts and seeds together, the SD of the resampled differences.
        reach: How much farther the interval reaches than 1.96 of them, for few seeds; 1 with one
            seed an arm and where nothing varied.
        p_seeds: Of "no difference", prompts and seeds both drawn anew (`few_seeds.py`); None with
            one seed an arm and where nothing varied.
        prompt_standard_error: Over prompts alone, SD(d_j) / sqrt(n): what is known about exactly
            these models; None for n = 1.
        seed_sd_a: SD over seeds of arm A's mean; None with one seed.
        seed_sd_b: The same of arm B.
        detectable: Smallest true difference that would be found in 80% of such comparisons, at
            .05 / `n_compared`; None where the prompts are too few to find any, and for measures
            that are no verdicts where nothing varied: their interval then says nothing either.
        n_compared: Arms compared with the same one, this one included.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_unpaired: int
    n_unscored: int
    n_seeds_a: int
    n_seeds_b: int
    standard_error: float | None = None
    reach: float = 1.0
    p_seeds: float | None = None
    prompt_standard_error: float | None = None
    seed_sd_a: float | None = None
    seed_sd_b: float | None = None
    detectable: float | None = None
    n_compared: int = 1

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields under their own names, None where there is no data."""
        return asdict(self)


def prompt_differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return d_j, arm A's mean over its scored seeds minus arm B's, per prompt.

    Args:
        a: Outcomes of arm A, [s, n] or [n], NaN where unscored. The arms may differ in s.
        b: Outcomes of arm B on the same prompts in the same order.

    Returns:
        [n]; NaN where an arm has no score.

    Raises:
        ValueError: The arms differ in prompts, or a value is infinite.
    """
    first, second = _checked(a, b)
    return _seed_means(first) - _seed_means(second)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    generator: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    *,
    verdicts: bool = False,
    n_compared: int = 1,
    largest: float = math.inf,
) -> Difference:
    """Return arm A minus arm B with its 95% interval over prompts and seeds.

    The top of this file says what is resampled and how far to trust it. Prompts may come in any
    order: they are sorted by their outcomes first. A prompt that some seeds lack is averaged over
    the others.

    Args:
        a: Outcomes of arm A, [s, n] or [n] (one seed), NaN where unscored; 0 and 1 for verdicts.
            The arms may differ in s.
        b: Outcomes of arm B on the same prompts in the same order; see `join_arms`.
        generator: Source of the resamples.
        n_resamples: Resamples of prompts and seeds.
        verdicts: Whether outcomes say that something happened, 0 to 1. Their interval is Tango's,
            with what seeds vary added, and not narrower than the bootstrap's with several seeds.
        n_compared: Arms compared with the same one; `detectable` is at .05 divided by it.
        largest: The largest difference there can be, 1 of verdicts: nothing reaches beyond it.

    Raises:
        ValueError: The arms differ in prompts, or a value is infinite or, of verdicts, outside 0
            to 1.
    """
    first, second = _checked(a, b)
    wrong = [arm[(arm < 0) | (arm > 1)] for arm in (first, second)] if verdicts else []
    for values in filter(len, wrong):
        raise ValueError(f"{values[0]} is no verdict, 0 to 1: leave verdicts=False for a scale")
    differences = prompt_differences(first, second)
    paired = ~np.isnan(differences)
    n = int(paired.sum())
    first, second, differences = first[:, paired], second[:, paired], differences[paired]
    n_unscored = int(np.isnan(first).sum() + np.isnan(second).sum())
    # A seed without any score among these prompts is no model that was measured.
    first, second = (arm[~np.isnan(arm).all(axis=1)] for arm in (first, second))
    sizes = (n, len(paired) - n, n_unscored, len(first), len(second))
    if not n:
        return Difference(None, None, None, *sizes, n_compared=n_compared)
    value = math.fsum(differences) / n  # exact: the same to the last bit in any order of prompts
    low, high, standard_error = _resampled(first, second, value, generator, n_resamples)
    over_prompts = _sd(differences, n**-0.5)
    seed_sds = [_sd(_prompt_means(arm)) for arm in (first, second)]
    several = max(len(first), len(second)) > 1
    spread = list(zip(seed_sds, (len(first), len(second)), strict=True))
    parts = variance_parts(standard_error, n, spread) if several else []
    farther = reach(parts)
    low = max(-largest, value - farther * (value - low))
    high = min(largest, value + farther * (high - value))
    wider = max(standard_error, over_prompts or 0.0)
    detectable = detectable_shift(wider, n, n_compared, parts)
    detectable = None if detectable is None else min(largest, detectable)
    if verdicts:
        up, down = math.fsum(differences.clip(min=0)), -math.fsum(differences.clip(max=0))
        resampled = (low, high, farther * standard_error) if several else None
        low, high = difference_interval(up, down, n, resampled)
        of_verdicts = detectable_verdicts(up, down, n, n_compared)
        if several and detectable is not None and of_verdicts is not None:
            detectable = min(1.0, max(detectable, of_verdicts))
        else:  # prompts alone: the test itself says
            detectable = of_verdicts
    return Difference(
        value,
        low,
        high,
        *sizes,
        standard_error=standard_error,
        reach=farther,
        p_seeds=student_p(value, parts),
        prompt_standard_error=over_prompts,
        seed_sd_a=seed_sds[0],
        seed_sd_b=seed_sds[1],
        detectable=detectable,
        n_compared=n_compared,
    )


def _resampled(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    value: float,
    generator: np.random.Generator,
    n_resamples: int,
) -> tuple[float, float, float]:
    """Return both ends of the percentile interval and the standard error."""
    order = np.lexsort((*a, *b))
    draws = np.concatenate(list(_draws(a[:, order], b[:, order], generator, n_resamples)))
    # Only where scores are missing: prompts and seeds were drawn that have none together.
    draws = draws[~np.isnan(draws)]
    scale = max(float(np.nanmax(np.abs(arm))) for arm in (a, b))
    if np.ptp(draws) <= 1e-12 * scale:  # rounding: nothing varied
        return value, value, 0.0
    return *percentile_interval(draws), float(draws.std())


def _draws(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    generator: np.random.Generator,
    n_resamples: int,
) -> Iterator[NDArray[np.float64]]:
    """Yield chunks of resampled differences, [b]; NaN where nothing drawn was scored."""
    n = a.shape[1]
    for start, stop in resample_chunks(n_resamples, n):
        size = stop - start
        differences = np.zeros((size, n))
        for arm, sign in ((a, 1), (b, -1)):
            s = len(arm)
            seeds = generator.multinomial(max(1, s - 1), np.full(s, 1 / s), size=size)
            totals = seeds @ np.nan_to_num(arm)
            n_scored = seeds @ (~np.isnan(arm)).astype(np.float64)
            differences += sign * _ratio(totals, n_scored)
        drawn = np.take_along_axis(differences, generator.integers(0, n, size=(size, n)), axis=1)
        yield _ratio(np.nan_to_num(drawn).sum(axis=1), (~np.isnan(drawn)).sum(axis=1))


def _checked(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both arms as [s, n]."""
    first, second = (np.atleast_2d(np.asarray(arm, dtype=np.float64)) for arm in (a, b))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"arms of shapes {first.shape} and {second.shape}: both need [seeds, prompts] with the "
            "same prompts; join_arms pairs them by id"
        )
    if np.isinf(first).any() or np.isinf(second).any():
        raise ValueError("a difference of infinite values: mark what was not scored as NaN")
    return first, second


def _seed_means(arm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each prompt's mean over its scored seeds, NaN without one."""
    return _ratio(np.nan_to_num(arm).sum(axis=0), (~np.isnan(arm)).sum(axis=0))


def _prompt_means(arm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each seed's mean over its scored prompts; it has one at least."""
    scored = (row[~np.isnan(row)] for row in arm)
    return np.array([math.fsum(row) / len(row) for row in scored])


def _ratio(totals: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.float64]:
    """Divide, NaN for 0 of 0."""
    shares = np.full(totals.shape, np.nan)
    np.divide(totals, counts, out=shares, where=counts > 0)
    return shares


def _sd(values: NDArray[np.float64], factor: float = 1.0) -> float | None:
    return float(values.std(ddof=1)) * factor if len(values) > 1 else None
