"""How well scores find the harmful rows, when the truth is known.

A harmful row is a positive and its risk is minus its score, so a good ranker (higher = keep) has a
high AUROC. Four measures, each with a stratified bootstrap interval:

- auroc: P(risk of a harmful row > risk of another row), ties counted half (midranks);
- average_precision: sum over thresholds of precision x gain in recall, ties taken together;
- tpr_at_5pct_fpr, tpr_at_1pct_fpr: harmful rows found at the strictest usable threshold, the one
  that flags as many other rows as it may and no more. Rows with equal scores are flagged together
  or not at all and nothing is interpolated: no draw can make a coarse score look sharper;
- recall_at_rate: harmful rows among as many riskiest rows as there are harmful ones, so the recall
  (and the precision) of dropping rows at the contamination rate.

A resample repeats rows, repeated rows tie, and ties move average precision up: by .001 at 1,900
rows, by .01 at 100. Where that would leave a value below its interval, the end is the value. Where
every resample gives 0, or every one 1, resampling says nothing: the other end is Wilson's for as
many trials as there are rows of the rarer side.

Slices say where the score works. For a value of `kind`, `source` or `tier`:

- carried by harmful rows only: these against every row that is not harmful;
- carried by other rows only: every harmful row against these;
- carried by both: the ones against the others within it, so that the topic gives nothing away.

`hard_negative` = harmful rows against hard negatives; `clear` = everything but the harmful rows of
the tier `weak`. The others are named `kind:...`, `source:...`, `tier:...`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.data.row_lists import HasIds
from tamis.evaluation.labels import Label, join_labels
from tamis.evaluation.statistics import (
    percentile_interval,
    stratified_resamples,
    wilson_interval,
)
from tamis.rng import numpy_generator

N_RESAMPLES = 1_000  # of every slice and readout; the ends are then good to about 0.002
MIN_NEGATIVES_AT_1PCT = 500  # below, 1% is fewer than 5 rows and the threshold is one row's luck
_ATTRIBUTES: tuple[Literal["kind", "source", "tier"], ...] = ("kind", "source", "tier")

Counts = NDArray[np.int64]


def auroc(positives: Counts, negatives: Counts) -> NDArray[np.float64]:
    """Area under the ROC curve, ties counted half.

    With P_g, N_g rows of either side in group g and groups from the riskiest down:
    sum_g P_g (N below g + N_g / 2) / (P N). This is the Mann-Whitney statistic with midranks.

    Args:
        positives: Harmful rows per distinct score, [b, u], riskiest first.
        negatives: Other rows per distinct score, [b, u].

    Returns:
        One value in [0, 1] per row of the counts; 0.5 is chance.
    """
    n_positive = positives.sum(axis=1)
    n_negative = negatives.sum(axis=1)
    below = n_negative[:, None] - np.cumsum(negatives, axis=1)
    wins = (positives * (2 * below + negatives)).sum(axis=1) / 2
    return np.asarray(wins / (n_positive * n_negative), dtype=np.float64)


def average_precision(positives: Counts, negatives: Counts) -> NDArray[np.float64]:
    """Mean precision over the harmful rows found, sum_g (P_g / P) precision_g.

    Arguments as in `auroc`. In (0, 1]; chance is the harmful share.
    """
    found = np.cumsum(positives, axis=1)
    flagged = found + np.cumsum(negatives, axis=1)
    # Groups that a resample left out before the first drawn one have 0 of 0; they gain no recall.
    precision = found / np.maximum(flagged, 1)
    return np.asarray((positives * precision).sum(axis=1) / positives.sum(axis=1), dtype=np.float64)


def tpr_at_fpr(positives: Counts, negatives: Counts, max_fpr: float) -> NDArray[np.float64]:
    """Share of harmful rows flagged when at most `max_fpr` of the others are.

    Arguments as in `auroc`. The threshold lies between groups, so ties count against the score.
    """
    # The smallest allowance over a whole: 0.05 x 1,400 must be 70 although floats say 69.99...
    allowed = np.floor(max_fpr * negatives.sum(axis=1) + 1e-9)
    usable = np.cumsum(negatives, axis=1) <= allowed[:, None]
    found = np.where(usable, np.cumsum(positives, axis=1), 0).max(axis=1)
    return np.asarray(found / positives.sum(axis=1), dtype=np.float64)


def recall_at_rate(positives: Counts, negatives: Counts) -> NDArray[np.float64]:
    """Share of harmful rows among the P riskiest, with P = the number of harmful rows.

    Arguments as in `auroc`. Rows with equal scores at the cut count by their share, so that no
    order of the file matters: chance is the harmful share.
    """
    sizes = positives + negatives
    before = np.cumsum(sizes, axis=1) - sizes
    wanted = positives.sum(axis=1)
    # Groups that a resample left out have no rows, and none of them are taken.
    taken = np.clip((wanted[:, None] - before) / np.maximum(sizes, 1), 0, 1)
    return np.asarray((taken * positives).sum(axis=1) / wanted, dtype=np.float64)


_MEASURES: dict[str, Callable[[Counts, Counts], NDArray[np.float64]]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "tpr_at_1pct_fpr": lambda positives, negatives: tpr_at_fpr(positives, negatives, 0.01),
    "tpr_at_5pct_fpr": lambda positives, negatives: tpr_at_fpr(positives, negatives, 0.05),
    "recall_at_rate": recall_at_rate,
}


def detection_measures(
    values: NDArray[np.float64],
    harmful: NDArray[np.bool_],
    generator: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, Any]:
    """Measure one score on one set of rows.

    Args:
        values: Scores, higher = keep, [n]; NaN = unscored, left out and counted.
        harmful: The truth, [n].
        generator: Source of the resamples, drawn within the harmful and within the other rows.
        n_resamples: Resamples behind each interval.

    Returns:
        `auroc`, `average_precision`, `tpr_at_1pct_fpr`, `tpr_at_5pct_fpr`, `recall_at_rate`, each
        `{value, low, high}`, with `n` and `n_harmful` (scored rows) and `n_unscored`. The three
        numbers of a measure are None where it is not defined: without a harmful or another row, and
        at 1% below 500 other rows.
    """
    scored = ~np.isnan(values)
    # Distinct scores from the lowest up, so that group 0 is the riskiest.
    groups = np.unique(values[scored], return_inverse=True)[1].astype(np.int64).ravel()
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    strata = [groups[harmful[scored]], groups[~harmful[scored]]]
    sizes = {
        "n": int(scored.sum()),
        "n_harmful": len(strata[0]),
        "n_unscored": int((~scored).sum()),
    }
    nothing = dict.fromkeys(("value", "low", "high"))
    if not len(strata[0]) or not len(strata[1]):
        return {**{name: dict(nothing) for name in _MEASURES}, **sizes}
    point = [np.bincount(stratum, minlength=n_groups)[None] for stratum in strata]
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in _MEASURES}
    for positives, negatives in stratified_resamples(strata, n_groups, generator, n_resamples):
        for name, measure in _MEASURES.items():
            draws[name].append(measure(positives, negatives))
    report: dict[str, Any] = {}
    for name, measure in _MEASURES.items():
        if name == "tpr_at_1pct_fpr" and len(strata[1]) < MIN_NEGATIVES_AT_1PCT:
            report[name] = dict(nothing)
            continue
        value = float(measure(*point)[0])
        low, high = percentile_interval(np.concatenate(draws[name]))
        if low == high == value and value in (0.0, 1.0):
            fewest = min(map(len, strata))
            low, high = wilson_interval(value * fewest, fewest) or (low, high)
        report[name] = {"value": value, "low": min(low, value), "high": max(high, value)}
    return {**report, **sizes}


def slice_masks(labels: Sequence[Label]) -> dict[str, NDArray[np.bool_]]:
    """Return the rows of every slice by its name; the rules stand at the top of this file."""
    harmful = np.array([label.harmful for label in labels], dtype=bool)
    hard_negative = np.array([label.kind == "hard_negative" for label in labels], dtype=bool)
    weak = np.array([label.tier == "weak" for label in labels], dtype=bool)
    masks = {
        "hard_negative": harmful | hard_negative,
        "clear": ~(harmful & weak),
    }
    for attribute in _ATTRIBUTES:
        column = np.array([getattr(label, attribute) or "" for label in labels], dtype=object)
        for value in sorted(set(column) - {""}):
            name = f"{attribute}:{value}"
            if name in {"kind:hard_negative", "tier:clear"}:
                continue  # they have slices of their own, under the bare word
            members = np.asarray(column == value, dtype=bool)
            if not (members & ~harmful).any():
                masks[name] = members | ~harmful
            elif not (members & harmful).any():
                masks[name] = members | harmful
            else:
                masks[name] = members
    return masks


def ranking_report(
    rows: HasIds,
    readouts: Mapping[str, NDArray[np.float64]],
    labels: Sequence[Label],
    *,
    primary: str,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    further: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Compare every readout of a ranking with the truth: the content of `ranking.json`.

    Args:
        rows: What was scored (`Scores`, or anything with `ids` and `source_ids`).
        readouts: Scores by readout name, each [n] in row order, higher = keep, NaN = unscored.
        labels: The truth, by id or source id; may cover more rows, must cover these.
        primary: The readout whose measures stand at the top level.
        seed: Of the bootstrap. A slice uses the same draws for every readout.
        n_resamples: Resamples behind each interval.
        further: Ids of the rows of further slices, by name; may hold ids of other rows.

    Returns:
        `primary`, the measures of the primary readout (see `detection_measures`) with `slices`,
        the same for every readout under `readouts`, and `n_labels_unused`.

    Raises:
        MismatchError: A row has no label.
        DuplicateIdError: See `join_labels`.
        ValueError: `primary` is none of the readouts.
    """
    if primary not in readouts:
        raise ValueError(f"primary={primary!r} is none of the readouts {sorted(readouts)}")
    joined = join_labels(rows, labels)
    harmful = np.array([label.harmful for label in joined], dtype=bool)
    masks = slice_masks(joined)
    for name, members in (further or {}).items():
        masks[name] = np.array([row in members for row in rows.ids], dtype=bool)
    everything = np.ones(len(joined), dtype=bool)

    def measured(values: NDArray[np.float64], name: str, mask: NDArray[np.bool_]) -> dict[str, Any]:
        generator = numpy_generator(seed, "bootstrap", "ranking", name)
        return detection_measures(values[mask], harmful[mask], generator, n_resamples)

    measures = {
        readout: {
            **measured(values, "", everything),
            "slices": {name: measured(values, name, mask) for name, mask in masks.items()},
        }
        for readout, values in readouts.items()
    }
    return {
        "primary": primary,
        **measures[primary],
        "readouts": measures,
        "n_labels_unused": len(labels) - len(joined),
    }
