"""What two or three seeds can say: quantiles of Student's t instead of the normal's.

The variance of a difference is that over prompts, V_p, and that over the seeds of each arm,
V_a = s_a^2 / S_a. Three numbers give a variance that is itself uncertain by half and more, so 1.96
standard errors hold too little: the more of the variance comes from seeds, the fewer degrees of
freedom it has,

    df = (V_p + V_a + V_b)^2 / (V_p^2 / (n - 1) + V_a^2 / (S_a - 1) + V_b^2 / (S_b - 1))

For n prompts alone that is n - 1; for two arms of three seeds whose spread is all there is, 4
(2.78 standard errors instead of 1.96), and for one such arm against a fixed model 2 (4.30).

Sources: Satterthwaite 1946, "An approximate distribution of estimates of variance components";
Welch 1947, "The generalization of 'Student's' problem when several different population variances
are involved". Differs: V_p is what the bootstrap's variance has beyond the seeds'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tamis.evaluation.statistics import CONFIDENCE, normal_quantile


def degrees_of_freedom(
    standard_error: float, n: int, seeds: Sequence[tuple[float | None, int]]
) -> float | None:
    """Return df of a standard error over prompts and seeds; see the top of this file.

    Args:
        standard_error: Of prompts and seeds together, >= 0.
        n: Prompts.
        seeds: Per arm the SD over seeds of its mean, None with one seed, and the number of seeds.

    Returns:
        At least 1; None where nothing varied, or with one prompt and one seed an arm.
    """
    of_seeds = [(sd**2 / count, count - 1) for sd, count in seeds if sd is not None]
    # Rounding leaves 1e-30 where nothing but seeds varied, and seeds may explain it all.
    over_prompts = max(0.0, standard_error**2 - sum(variance for variance, _ in of_seeds))
    parts = [*of_seeds, *([(over_prompts, n - 1)] if n > 1 else [])]
    total = sum(variance for variance, _ in parts)
    squares = sum(variance**2 / freedom for variance, freedom in parts)
    return total**2 / squares if squares else None


def reach(freedom: float | None) -> float:
    """Return how much farther than the normal's a 95% interval of t reaches: 1.42 for df = 4.

    Args:
        freedom: Degrees of freedom; None widens nothing.
    """
    from scipy.special import stdtrit

    if freedom is None:
        return 1.0
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) / normal_quantile(CONFIDENCE)


def student_p(value: float, standard_error: float, freedom: float | None) -> float | None:
    """Return the two-sided p of a difference over prompts and seeds.

    Args:
        value: The difference.
        standard_error: Of prompts and seeds together, >= 0.
        freedom: Its degrees of freedom.

    Returns:
        In [0, 1]; None without degrees of freedom: data that do not vary do not say how much they
        would.
    """
    from scipy.special import stdtr

    if freedom is None or not standard_error > 0:
        return None
    return float(2 * stdtr(freedom, -math.fabs(value) / standard_error))
