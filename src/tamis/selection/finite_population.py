"""What labels of a few rows, drawn uniformly without replacement, say about all of them, exactly.

Of `n_kept` rows `n_labelled` have a label and `n_harmful` of those are harmful. Were H of all of
them harmful, the labels would hold X ~ Hypergeometric(n_kept rows, H harmful, n_labelled drawn).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_POWER = 0.8  # of luck that `labels_needed` plans for, in either count


def p_values(
    n_kept: ArrayLike, n_labelled: ArrayLike, n_harmful: ArrayLike, alpha: float
) -> NDArray[np.float64]:
    """P(at most `n_harmful` harmful labels) if just more than alpha of the kept rows were harmful.

    Args:
        n_kept: N_t, rows kept.
        n_labelled: m_t, labelled rows among them.
        n_harmful: k_t, harmful ones among those.
        alpha: In (0, 1).

    Returns:
        Exact hypergeometric probabilities, of the shape the counts have together.
    """
    from scipy.stats import hypergeom

    # 0.29 * 100 is 28.999... in floating point; the tiny term restores the share the user wrote.
    # alpha N may round up to N, and no more than all rows can be harmful.
    too_many = np.minimum(np.floor(alpha * np.asarray(n_kept) + 1e-9) + 1, n_kept)
    return np.asarray(hypergeom.cdf(n_harmful, n_kept, too_many, n_labelled), dtype=np.float64)


def upper_bound(
    n_kept: ArrayLike, n_labelled: ArrayLike, n_harmful: ArrayLike, delta: float
) -> NDArray[np.float64]:
    """Largest harmful share of the kept rows that the labels do not rule out at level delta.

    max {H : P(X <= n_harmful; n_kept, H, n_labelled) > delta} / n_kept, the finite population's
    Clopper-Pearson bound (one-sided). Counts as in `p_values`.
    """
    from scipy.stats import hypergeom

    kept, seen, bad = (np.asarray(n, dtype=np.int64) for n in (n_kept, n_labelled, n_harmful))
    low, high = bad, kept - seen + bad  # what is still possible
    while (low < high).any():  # halving; where the ends have met it stays
        middle = (low + high + 1) // 2
        possible = hypergeom.cdf(bad, kept, middle, seen) > delta
        low, high = np.where(possible, middle, low), np.where(possible, high, middle - 1)
        high = np.maximum(low, high)
    return np.asarray(low / kept, dtype=np.float64)


def labels_needed(
    n_kept: int, n_scored: int, share: float, alpha: float, delta: float
) -> int | None:
    """About how many labels certify a kept set of a given harmful share in most draws.

    The fewest for which the labels that fall into the kept set (their 20% quantile) and the harmful
    ones among those (their 80% quantile) still pass. Rounded up to the next of 400 sizes. Simulated
    for alpha 0.1, delta 0.1, 0.05 and 0.025, shares of 0 to 8% and 500 to a million rows, 61 to 94%
    of draws then pass the first threshold (at delta 0.05: 73 to 94%).

    Args:
        n_kept: Size of the kept set.
        n_scored: Rows the labels are drawn from.
        share: Harmful share of the kept set, supposed.
        alpha: Largest harmful share.
        delta: Largest probability of a wrong certificate.

    Returns:
        Labels in all, those outside the kept set included; None where all rows are not enough.
    """
    from scipy.stats import hypergeom

    sizes = np.unique(np.geomspace(1, n_scored, 400).round().astype(np.int64))
    inside = hypergeom.ppf(1 - _POWER, n_scored, n_kept, sizes)
    harmful = hypergeom.ppf(_POWER, n_kept, round(share * n_kept), inside)
    enough = sizes[p_values(n_kept, inside, harmful, alpha) <= delta]
    return int(enough[0]) if len(enough) else None
