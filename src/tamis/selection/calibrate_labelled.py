"""Thresholds from labels: the best F-beta with a margin, or a bounded share of harmless rows lost.

- f_beta: at a threshold t the rows below are flagged; with the labelled harmful rows as positives
  F_beta = (1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP). The best t of a hundred labels is
  one draw's luck, so the one-standard-error rule takes the highest t (most rows removed) whose F is
  within one bootstrap standard error of the best. Refused where the labels do not show that the
  score finds harm at all, or where t keeps too little or too much.
- false_positive_rate: t is the k-th lowest score of m rows known to be harmless. Without a
  confidence k - 1 = floor(rate m): at most `rate` of these m rows are below. With one, k is the
  largest with P(Binomial(m, rate) >= k) >= confidence: whatever the distribution, a further
  harmless row is then below with a probability of at most `rate`, in that share of draws.

Neither promises anything about the harmful rows kept: that is certificate.py.

Sources: Breiman, Friedman, Olshen, Stone 1984, "Classification and Regression Trees" (the rule of
one standard error); Wilks 1941, "Determination of sample sizes for setting tolerance limits" (order
statistics as bounds). Differs: Breiman's rule picks the simplest model, ours the strictest cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import ConfigError
from tamis.selection.calibrate import KEPT_SHARES, FoundThreshold
from tamis.selection.labelled_rows import labelled_rows

LabelRule = Literal["f_beta", "false_positive_rate"]
LABEL_RULES: tuple[str, ...] = get_args(LabelRule)
MIN_PER_CLASS = 5  # labelled rows of either kind below which a bootstrap often has none of it
N_RESAMPLES = 1_000


def find_labelled_threshold(
    rule: LabelRule, values: NDArray[np.float64], ids: Sequence[str],
    generator: np.random.Generator, *, labels: Mapping[str, bool] | None = None,
    harmless: NDArray[np.float64] | None = None, beta: float = 1.0, rate: float = 0.05,
    confidence: float | None = None,
) -> FoundThreshold:  # fmt: skip
    """Find a threshold by what is known of some rows.

    Args:
        rule: "f_beta" or "false_positive_rate"; see their functions for the settings.
        values: Scores of the set to select from, higher = keep, [N]; NaN = unscored, counted.
        ids: Its rows, [N].
        generator: Source of the resamples of `f_beta`.
        labels: Whether rows of the set are harmful, by id.
        harmless: Scores of harmless rows, by the same ranking, for `false_positive_rate`; None
            takes the harmless ones of `labels`.
        beta: For `f_beta`.
        rate: For `false_positive_rate`.
        confidence: Likewise.

    Raises:
        ConfigError: What the rule needs is not given, a label is no bool, or it finds no threshold.
    """
    known = labels or {}
    labelled = [i for i, row_id in enumerate(ids) if row_id in known]
    positions, harmful = labelled_rows(labelled, [known[ids[i]] for i in labelled], len(ids))
    if rule == "f_beta":
        if not labelled:
            raise ConfigError(
                "rule=f_beta needs labels of rows of the set, drawn uniformly: give --labels (some "
                "100; `tamis certify` draws rows to label)."
            )
        return f_beta_threshold(values, labelled, harmful, generator, beta=beta)
    if harmless is None:
        if not labelled:
            raise ConfigError(
                "rule=false_positive_rate needs rows known to be harmless: give --labels with some "
                "of the set, or --trusted-scores of other rows by the same ranking."
            )
        harmless = values[positions[~harmful]]
    return false_positive_rate_threshold(values, harmless, rate=rate, confidence=confidence)


def f_beta_threshold(
    values: NDArray[np.float64], labelled: ArrayLike, harmful: ArrayLike,
    generator: np.random.Generator, *, beta: float = 1.0,
) -> FoundThreshold:  # fmt: skip
    """Cut where flagging the rows below finds harm best, give or take one standard error.

    Args:
        values: Scores of the set to select from, higher = keep, [N]; NaN = unscored, counted.
        labelled: Positions of the labelled rows, [n]: a uniform draw, else F is of other shares.
            Labels of unscored rows are passed over and counted.
        harmful: Whether each of them is harmful, bool [n].
        generator: Source of the resamples of labelled rows.
        beta: Weight of recall against precision, > 0; 2 counts a missed harmful row more.

    Returns:
        One of the labelled rows' scores as threshold. details: `f` there, `f_best` and
        `threshold_best`, the `standard_error` of the best, `auroc` with its 95% interval, counts.

    Raises:
        ConfigError: A label is no bool, a position repeats or is none, there are fewer than 5
            labelled rows of either kind, the interval of the AUROC does not lie above 0.5, or the
            kept share is outside 0.2 to 0.99.
    """
    values = np.asarray(values, dtype=np.float64)
    positions, harm = labelled_rows(labelled, harmful, len(values))
    seen = values[positions]
    usable = ~np.isnan(seen)
    n_passed_over = int((~usable).sum())
    order = np.lexsort((harm[usable], seen[usable]))  # the input's order does not enter the draw
    seen, harm = seen[usable][order], harm[usable][order]
    if min(harm.sum(), (~harm).sum()) < MIN_PER_CLASS:
        raise ConfigError(
            f"f_beta has {harm.sum():,} harmful and {(~harm).sum():,} harmless labelled rows with "
            f"a score and needs {MIN_PER_CLASS} of either. Label more rows."
        )
    levels, group = np.unique(seen, return_inverse=True)
    f, auroc = _measures(group, harm, len(levels), beta)
    sums, squares = np.zeros(len(levels)), np.zeros(len(levels))
    aurocs: list[float] = []
    while len(aurocs) < N_RESAMPLES:
        rows = generator.integers(0, len(seen), len(seen))
        if harm[rows].any() and not harm[rows].all():
            drawn_f, drawn_auroc = _measures(group[rows], harm[rows], len(levels), beta)
            sums, squares = sums + drawn_f, squares + drawn_f**2
            aurocs.append(drawn_auroc)
    low, high = np.quantile(aurocs, [0.025, 0.975]).tolist()
    if low <= 0.5:
        against = "it is higher for harmful rows: its sign is wrong" if high < 0.5 else (
            "the labels do not show that it finds harm")  # fmt: skip
        raise ConfigError(
            f"f_beta finds no threshold: the score's AUROC on {len(seen):,} labelled rows is "
            f"{auroc:.2f} ({low:.2f} to {high:.2f}); {against}. Rank with another method, or label "
            "more rows."
        )
    best = int(np.argmax(f))
    variance = squares[best] / N_RESAMPLES - (sums[best] / N_RESAMPLES) ** 2
    error = math.sqrt(max(variance, 0.0) * N_RESAMPLES / (N_RESAMPLES - 1))
    chosen = int(np.flatnonzero(f >= f[best] - error).max())
    threshold = float(levels[chosen])
    n_scored = int((~np.isnan(values)).sum())
    kept_share = float((values >= threshold).sum() / n_scored)
    least, most = KEPT_SHARES
    if not least <= kept_share <= most:
        raise ConfigError(
            f"f_beta finds no threshold: {threshold:g} (the best is {levels[best]:g}, within a "
            f"standard error of {error:.2f}) would keep {kept_share:.1%} of the scored rows, which "
            f"is outside {least:.0%} to {most:.0%}. Label more rows, or set a ratio."
        )
    return FoundThreshold(threshold, "f_beta", {
        "n_scored": n_scored, "n_unscored": len(values) - n_scored, "kept_share": kept_share,
        "beta": beta, "f": float(f[chosen]), "f_best": float(f[best]),
        "threshold_best": float(levels[best]), "standard_error": error,
        "auroc": {"value": auroc, "low": low, "high": high}, "n_labelled": len(seen),
        "n_harmful": int(harm.sum()), "n_labelled_unscored": n_passed_over,
    })  # fmt: skip


def false_positive_rate_threshold(
    values: NDArray[np.float64], harmless: NDArray[np.float64], *, rate: float = 0.05,
    confidence: float | None = None,
) -> FoundThreshold:  # fmt: skip
    """Cut so that few harmless rows are removed.

    Args:
        values: Scores of the set to select from, higher = keep, [N]; NaN = unscored, counted.
        harmless: Scores, by the same ranking, of rows known to be harmless (of a trusted set, or
            the safe set's), [m]; NaN left out and counted. Rows unlike those of the set say nothing
            about it, and rows that the method learned from score too well.
        rate: Largest share of harmless rows below the threshold, in (0, 1).
        confidence: In (0, 1): the rate is to hold for further harmless rows like these, with this
            probability over their draw. None: it holds for these m rows.

    Returns:
        One of the harmless rows' scores as threshold. details: `n_harmless`, how many of them are
        below (`n_harmless_below`), `rate`, `confidence`, counts.

    Raises:
        ConfigError: A setting is out of range, or there are too few rows for the rate.
    """
    from scipy.stats import binom

    for name, given in (("rate", rate), ("confidence", 0.5 if confidence is None else confidence)):
        if not 0 < given < 1:
            raise ConfigError(f"{name}={given:g} is not between 0 and 1.")
    known = np.sort(harmless[~np.isnan(harmless)])
    m = len(known)
    if confidence is None:
        # 0.05 * 140 must be 7 although a product of floats may fall short of it.
        position = math.floor(rate * m + 1e-9) + 1
        needed = math.ceil(1 / rate - 1e-9)
    else:
        # P(Bin >= k) falls with k: the number of k that hold is the largest of them.
        position = int((binom.sf(np.arange(m), m, rate) >= confidence - 1e-12).sum())
        needed = math.ceil(math.log(1 - confidence) / math.log(1 - rate) - 1e-9)
    if m < needed or position < 1:
        sure = "" if confidence is None else f" with confidence {confidence:g}"
        raise ConfigError(
            f"{m:,} harmless rows with a score are too few for a false-positive rate of "
            f"{rate:g}{sure}: {needed:,} are needed. Give more rows, or a larger rate."
        )
    threshold = float(known[position - 1])
    n_scored = int((~np.isnan(values)).sum())
    kept_share = float((values >= threshold).sum() / n_scored) if n_scored else None
    return FoundThreshold(threshold, "false_positive_rate", {
        "n_scored": n_scored, "n_unscored": len(values) - n_scored, "kept_share": kept_share,
        "rate": rate, "confidence": confidence, "n_harmless": m,
        "n_harmless_below": int((known < threshold).sum()),
        "n_harmless_unscored": len(harmless) - m,
    })  # fmt: skip


def _measures(
    group: NDArray[np.int64], harm: NDArray[np.bool_], n_levels: int, beta: float
) -> tuple[NDArray[np.float64], float]:
    """F-beta with the rows below each level flagged, [levels], and the AUROC, ties half."""
    bad = np.bincount(group[harm], minlength=n_levels)
    fine = np.bincount(group[~harm], minlength=n_levels)
    found, lost = np.cumsum(bad) - bad, np.cumsum(fine) - fine
    n_bad, n_fine = bad.sum(), fine.sum()
    f = (1 + beta**2) * found / (found + lost + beta**2 * n_bad)
    wins = (bad * (n_fine - lost - fine / 2)).sum()  # harmless rows above, ties counted half
    return f, float(wins / (n_bad * n_fine))
