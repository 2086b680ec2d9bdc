"""What two or three seeds can say: quantiles of Student's t instead of the normal's.

The variance of a difference is that over prompts, V_p, and that over seeds, V_s = V_a + V_b with
V_a = s_a^2 / S_a of each arm. Three numbers give a variance that is itself uncertain by half and
more, so 1.96 standard errors hold too little. Each part has its own degrees of freedom and t,

    half width^2 = t(n - 1)^2 V_p + t(df)^2 V_s,    df = (V_a + V_b)^2
                                                         / (V_a^2 / (S_a - 1) + V_b^2 / (S_b - 1))

and p is the level at which that is the difference. With three seeds in both arms df is 2 to 4
(t = 4.30 to 2.78), against one fixed model 2.

One df for the whole sum (Satterthwaite) is not taken: seeds that lie close by luck then look both
few and unimportant. Simulated on normal values, of two equal arms 12% were found at .05 with two
seeds against one model, 8% with three; as above at most 5% with two to five seeds, 1 to 4% where
both parts matter.

Sources: Banerjee 1961, "On confidence interval for two-means problem based on separate estimates of
variances and tabulated values of t-table", for the sum of parts; Welch 1947, "The generalization of
'Student's' problem when several different population variances are involved", for df. Differs: V_p
is what the bootstrap's variance has beyond the seeds'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tamis.evaluation.statistics import CONFIDENCE, normal_quantile

LEAST_P = 1e-100  # what lies below is given as this
Part = tuple[float, float]
"""A variance and its degrees of freedom."""


def variance_parts(
    standard_error: float, n: int, seeds: Sequence[tuple[float | None, int]]
) -> list[Part]:
    """Return the parts of a difference's variance; see the top of this file.

    Args:
        standard_error: Of prompts and seeds together, >= 0.
        n: Prompts.
        seeds: Per arm the SD over seeds of its mean, None with one seed, and the number of seeds.

    Returns:
        That over prompts, if there are two or more; then that over seeds, if it is above 0.
    """
    of_seeds = [(sd**2 / count, count - 1) for sd, count in seeds if sd is not None]
    between = sum(variance for variance, _ in of_seeds)
    # Rounding leaves 1e-30 where nothing but seeds varied, and seeds may explain it all.
    parts: list[Part] = [(max(0.0, standard_error**2 - between), n - 1)] if n > 1 else []
    if between:
        squares = sum(variance**2 / freedom for variance, freedom in of_seeds)
        parts.append((between, between**2 / squares))
    return parts


def half_width(parts: Sequence[Part], tail: float) -> float:
    """Return the distance that a difference of 0 exceeds upwards with a chance of `tail`.

    Args:
        parts: Of the variance.
        tail: In (0, 1/2].
    """
    from scipy.special import stdtrit

    # In the lower tail: 1 - 1e-20 is 1.
    return math.sqrt(sum(stdtrit(df, tail) ** 2 * variance for variance, df in parts if variance))


def reach(parts: Sequence[Part]) -> float:
    """Return how much farther than the normal's a 95% interval reaches, at least 1."""
    error = math.sqrt(sum(variance for variance, _ in parts))
    if not error:
        return 1.0
    return half_width(parts, (1 - CONFIDENCE) / 2) / (normal_quantile(CONFIDENCE) * error)


def student_p(value: float, parts: Sequence[Part]) -> float | None:
    """Return the two-sided p of a difference over prompts and seeds.

    Args:
        value: The difference.
        parts: Of its variance.

    Returns:
        In [LEAST_P, 1]; None where nothing varied: such data do not say how much others would.
    """
    from scipy.optimize import brentq

    if not any(variance for variance, _ in parts):
        return None
    if not value:
        return 1.0

    def beyond(log_tail: float) -> float:
        return half_width(parts, math.exp(log_tail)) - abs(value)

    least, half = math.log(LEAST_P / 2), math.log(0.5)
    if beyond(least) <= 0:
        return LEAST_P
    return float(2 * math.exp(brentq(beyond, least, half, xtol=1e-12)))
