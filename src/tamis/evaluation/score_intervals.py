"""Intervals of verdicts: whether something happened, which may be rare.

A bootstrap resamples what was seen. Of 100 prompts with one harmful answer it says 0 to 3%, and of
two models whose verdicts differ on one prompt the same; a rate of 1% lies outside in a third of all
such experiments. A score interval holds every value that its own test would not reject, and that
test takes its spread from the value that is tested, not from what was seen.

For rates that is Wilson's (`statistics.wilson_interval`), for the difference of two verdicts on the
same prompts Tango's. With several models (seeds) an arm, what they vary beyond the prompts is added
and the bootstrap's interval is a floor of the width:

    low = min(value - sqrt((value - score_low)^2 + z^2 extra), bootstrap_low)
    extra = max(0, SE^2 - variance)                          high likewise

with SE of the bootstrap over prompts and seeds, wider for few of them (`few_seeds.py`), and
`variance` what the prompts alone account for if all models of an arm had answered alike, which is
the most that they can.

What a 95% interval then holds:

- with one seed, summed over all outcomes of 50 to 300 prompts: a rate 95% on average, 91% and more
  from 2% on, and down to 84% where every sixth experiment has an event at all, for the rate then
  lies below the interval of one; a difference 93% and more;
- with three seeds that differ little (simulated), 94% and more, mostly 97 to 100%: counting a
  prompt once however its seeds agree is too careful where each errs by chance;
- where the spread between three seeds is most of it, a difference 95% and more, since Student's t
  is in the bootstrap that comes in (`few_seeds.py`); a rate 94% and more at 50%, but 97, 90 and 81%
  where models lie one logit apart around 18%, two around 24% and two around 8%: near an end of the
  scale rates of seeds lie askew. One seed says nothing about their spread.

Sources: Tango 1998, "Equivalence test and confidence interval for the difference in proportions
for the paired-sample design"; the sum of squares, Newcombe 1998, "Interval estimation for the
difference between independent proportions", and Zou and Donner 2008, "Construction of confidence
limits about effect measures". Differs: counts may be fractions.
"""

from __future__ import annotations

import math

from tamis.evaluation.statistics import CONFIDENCE, normal_quantile, wilson_interval

Interval = tuple[float, float]
Resampled = tuple[float, float, float]
"""Of a bootstrap over prompts and seeds: both ends of its interval, and its standard error times
`Difference.reach`, which is above 1 with few seeds."""

_GAP = 1e-12  # far below the smallest distance of an end from the value, about z^2 / n


def tango_interval(
    n_up: float, n_down: float, n: int, confidence: float = CONFIDENCE
) -> Interval | None:
    """Return Tango's score interval of (n_up - n_down) / n, None for n = 0.

    Of n prompts, `n_up` moved one way, `n_down` the other, and the rest not at all: verdicts of two
    models, or wins, losses and ties. The interval holds every difference d with

        |n_up - n_down - n d| <= z sqrt(n (2 q + d (1 - d)))

    where q is the likeliest chance of moving down if d is true. For d = 0 that is McNemar's test.
    Without prompts that stay, it is Wilson's interval; with none that move, +- z^2 / (n + z^2).

    Args:
        n_up: 0 to n. A fraction counts a prompt in part: a mean over seeds, half a verdict. Such
            values vary less than whole ones, so the interval is too wide rather than too narrow.
        n_down: 0 to n - n_up.
        n: Prompts.
        confidence: Two-sided, in (0, 1).

    Returns:
        (low, high) within [-1, 1]. Exchanging `n_up` and `n_down` gives (-high, -low) exactly.

    Raises:
        ValueError: Counts that no experiment can give.
    """
    if min(n_up, n_down, n) < 0 or n_up + n_down > n * (1 + 1e-12):
        raise ValueError(f"{n_up} and {n_down} of {n} prompts that moved is impossible")
    if n == 0:
        return None
    # Always solved for the same side and mirrored, so that exchanging the sides is exact.
    low, high = _tango(max(n_up, n_down), min(n_up, n_down), n, confidence)
    if n_up == n_down:
        return -high, high
    return (low, high) if n_up > n_down else (-high, -low)


def rate_interval(rate: float, n: int, resampled: Resampled | None = None) -> Interval:
    """Return the 95% interval of an arm's rate: Wilson's, with what its seeds vary added.

    Args:
        rate: Mean over prompts and seeds, in [0, 1].
        n: Prompts, at least 1.
        resampled: What the bootstrap gave; None with one seed.

    Returns:
        (low, high) within [0, 1].
    """
    interval = wilson_interval(min(rate * n, n), n)
    assert interval is not None  # n > 0
    if resampled is None:
        return interval
    low, high = _widened(rate, interval, rate * (1 - rate) / n, resampled)
    return max(0.0, low), min(1.0, high)


def difference_interval(
    n_up: float, n_down: float, n: int, resampled: Resampled | None = None
) -> Interval:  # fmt: skip
    """Return the 95% interval of a paired difference of verdicts: Tango's, seeds added.

    Args:
        n_up: Sum of the prompts' differences above 0; see `tango_interval`.
        n_down: Sum of those below 0, as a positive number.
        n: Prompts, at least 1.
        resampled: What the bootstrap gave; None with one seed in both arms.

    Returns:
        (low, high) within [-1, 1].
    """
    interval = tango_interval(n_up, n_down, n)
    assert interval is not None  # n > 0
    if resampled is None:
        return interval
    value = (n_up - n_down) / n
    variance = max(0.0, (n_up + n_down) / n - value**2) / n
    low, high = _widened(value, interval, variance, resampled)
    return max(-1.0, low), min(1.0, high)


def _tango(n_up: float, n_down: float, n: int, confidence: float) -> Interval:
    """Solve for both ends, n_up >= n_down."""
    from scipy.optimize import brentq

    z = normal_quantile(confidence)
    value = (n_up - n_down) / n

    def beyond(d: float) -> float:
        """How far d lies beyond z standard errors of what was found, in prompts."""
        half = n_up + n_down - (2 * n - n_up + n_down) * d
        root = math.sqrt(max(0.0, half**2 + 8 * n * n_down * d * (1 - d)))
        chance = (root + half) / (4 * n)
        variance = max(0.0, n * (2 * chance + d * (1 - d)))
        return abs(n_up - n_down - n * d) - z * math.sqrt(variance)

    # At -1 and 1 there is no spread left, so that `beyond` is above 0 there unless that is the
    # value. The value itself is no end, though 0 of n prompts that moved solve the equation at 0.
    low = float(brentq(beyond, -1.0, value - _GAP, xtol=_GAP))
    near = value + _GAP
    high = 1.0 if near >= 1 else float(brentq(beyond, near, 1.0, xtol=_GAP))
    return low, high


def _widened(value: float, score: Interval, variance: float, resampled: Resampled) -> Interval:
    least, most, standard_error = resampled
    extra = normal_quantile(CONFIDENCE) ** 2 * max(0.0, standard_error**2 - variance)
    low = value - math.sqrt((value - score[0]) ** 2 + extra)
    high = value + math.sqrt((score[1] - value) ** 2 + extra)
    return min(low, least), max(high, most)
