"""Several rankings of the same rows side by side: how well, how alike, at what cost.

A cell is one method on one set of rows with one seed. Cells of a method on one kind of set (seeds,
or plantings at one rate) are averaged; `averaged` says what the interval of an average holds.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tamis.evaluation.labels import Label, join_labels
from tamis.evaluation.ranking import ranking_report
from tamis.evaluation.statistics import CONFIDENCE, normal_quantile
from tamis.methods.scores import Scores

N_RESAMPLES = 500  # per measure, slice and readout of a cell: ends good to about 0.003
MEASURES = ("auroc", "average_precision", "tpr_at_1pct_fpr", "tpr_at_5pct_fpr",
            "recall_at_rate")  # fmt: skip
MIN_SLICE_ROWS = 10  # of either kind; with fewer, an interval holds nearly everything
SLICES = ("clear", "hard_negative")  # shown beside all rows; every slice is in the JSON


@dataclass(frozen=True)
class Cell:
    """One finished ranking.

    Attributes:
        rows: Name of the set of rows ("all", "c05", "planted 0.02").
        method: Its label in the comparison.
        seed: Seed, or number of the planting.
        scores: What it gave.
        excluded: Ids whose labels were given to it: no measure counts them.
        seconds: Wall time.
        peak_gib: Largest memory of the process while it ran; None where that is not known.
        start_gib: What the process held when it started, such as the model that cells share.
        gpu_gib: Largest memory on the GPU; None without one.
        passes: Forward and backward passes per token, and those spared; see `PassCount`.
        resumed: Whether an earlier process began it: seconds, memory and passes lack its work.
        learned: Whether labels that it was given had a say.
        notes: What a reader should know of it.
    """

    rows: str
    method: str
    seed: int
    scores: Scores
    excluded: frozenset[str] = frozenset()
    seconds: float = 0.0
    peak_gib: float | None = None
    start_gib: float | None = None
    gpu_gib: float | None = None
    passes: Mapping[str, float] = field(default_factory=dict)
    resumed: bool = False
    learned: bool = True
    notes: Sequence[str] = ()

    @property
    def cached(self) -> bool:
        """Whether features that another ranking left spared it passes.

        What a ranking that was begun before finds may be its own.
        """
        return not self.resumed and self.passes.get("spared", 0.0) > 0


def cell_measures(
    cell: Cell, truth: Sequence[Label], seed: int,
    further: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure every readout of a cell with `ranking_report`.

    Args:
        cell: The ranking.
        truth: Labels of all its rows, and perhaps of others.
        seed: Of the bootstrap; the same for all methods, so that their draws are paired.
        further: Ids of the rows of further slices, see `row_shapes`.

    Returns:
        See `ranking_report`; `flagged` besides where the method flags rows by itself.
    """
    scores = without(cell.scores, cell.excluded)
    readouts = scores.readouts()
    found = ranking_report(
        scores, readouts, truth, primary="score", seed=seed, n_resamples=N_RESAMPLES,
        further=further,
    )  # fmt: skip
    harmful = np.array([label.harmful for label in join_labels(scores, truth)], dtype=bool)
    if "flagged" in scores.columns:
        flagged = np.asarray(scores.columns["flagged"], dtype=np.float64)
        known = ~np.isnan(flagged)
        found["flagged"] = {
            "share_of_harmful": _mean(flagged[known & harmful]),
            "share_of_others": _mean(flagged[known & ~harmful]),
            "n_harmful": int((known & harmful).sum()),
            "n_others": int((known & ~harmful).sum()),
        }
    return found


def without(scores: Scores, excluded: frozenset[str]) -> Scores:
    """Return the scores of all other rows."""
    keep = np.array([row not in excluded for row in scores.ids], dtype=bool)
    if keep.all():
        return scores
    return Scores(
        scores.method,
        list(itertools.compress(scores.ids, keep)),
        list(itertools.compress(scores.source_ids, keep)),
        scores.values[keep],
        list(itertools.compress(scores.outcome, keep)),
        None if scores.n_trained_tokens is None else scores.n_trained_tokens[keep],
        {name: np.asarray(column)[keep] for name, column in scores.columns.items()},
    )


def averaged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average one readout's measures over cells.

    Cells share rows, so their own uncertainty does not shrink with their number; what differs
    between them does. With w the half-width of a cell's interval on one side over z, s the standard
    deviation of the K values, that side of the interval is t(df) sqrt(mean w^2 + s^2 / K), with
    Satterthwaite's df = (K - 1) (1 + mean w^2 / (s^2 / K))^2. Part of s is what w measures too, so
    the interval is rather too wide.

    Args:
        reports: Of one readout and slice: `{measure: {value, low, high}, ..., n, n_harmful}`.

    Returns:
        Per measure `value` (the mean), `low` and `high`, None where a cell has none, and over
        several cells the `smallest` and the `largest` value. `n` and `n_harmful` are those of the
        first cell, or of the first without an AUROC; `n_unmeasured` counts these.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    unmeasured = [report for report in reports if report["auroc"]["value"] is None]
    told = (unmeasured or reports)[0]
    found: dict[str, Any] = {"n_cells": len(reports), "n": told["n"],
                             "n_harmful": told["n_harmful"],
                             "n_unmeasured": len(unmeasured)}  # fmt: skip
    for name in MEASURES:
        each = [report[name] for report in reports]
        if len(each) == 1 or any(one["value"] is None for one in each):
            nothing = dict.fromkeys(("value", "low", "high"))
            found[name] = dict(each[0]) if len(each) == 1 else nothing
            continue
        values = [one["value"] for one in each]
        mean = statistics.fmean(values)
        below, above = (
            _half_width(values, [abs(one["value"] - one[end]) for one in each])
            for end in ("low", "high")
        )
        found[name] = {
            "value": mean, "low": max(0.0, mean - below), "high": min(1.0, mean + above),
            "smallest": min(values), "largest": max(values),
        }  # fmt: skip
    return found


def _half_width(values: Sequence[float], own: Sequence[float]) -> float:
    """Combine the cells' own half-widths with the spread between them; see `averaged`."""
    from scipy.stats import t

    within = statistics.fmean([(width / normal_quantile(CONFIDENCE)) ** 2 for width in own])
    between = statistics.variance(values) / len(values)
    if not between:
        return math.sqrt(within) * normal_quantile(CONFIDENCE)
    freedom = (len(values) - 1) * (1 + within / between) ** 2
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(within + between)


def agreement(cells: Sequence[Cell], ratio: float) -> list[dict[str, Any]]:
    """Compare every pair of methods on the same rows.

    Args:
        cells: One per method, on one set of rows with one seed.
        ratio: Selection ratio at which kept sets are compared.

    Returns:
        Per pair: `spearman` over rows scored by both, and `overlap`, the Jaccard index of the kept
        sets; None where one of the two scored nothing.
    """
    from scipy.stats import spearmanr

    from tamis.selection.select import select

    kept = {
        cell.method: set(select(cell.scores, ratio=ratio).kept_ids) for cell in cells
        if not np.isnan(cell.scores.values).all()
    }  # fmt: skip
    pairs = []
    for a, b in itertools.combinations(cells, 2):
        both = ~np.isnan(a.scores.values) & ~np.isnan(b.scores.values)
        first, second = a.scores.values[both], b.scores.values[both]
        vary = both.any() and np.ptp(first) > 0 and np.ptp(second) > 0
        one, other = kept.get(a.method), kept.get(b.method)
        pairs.append({
            "methods": [a.method, b.method],
            "spearman": float(spearmanr(first, second).statistic) if vary else None,
            "overlap": len(one & other) / len(one | other) if one and other else None,
        })  # fmt: skip
    return pairs


def cue_statements(
    measures: Mapping[str, Mapping[str, Any]], cues: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say plainly where a trivial cue does as well as a method.

    Args:
        measures: Averaged measures by method, those of their slices under `slices`.
        cues: The same by readout of `trivial`.

    Returns:
        One sentence per method whose AUROC interval over all rows reaches down to the best cue's
        value; then one for each of `hard_negative` and the sources, of all such methods; sources
        with fewer than `MIN_SLICE_ROWS` rows of either kind are counted in a last one.
    """
    cue, reach, reached = _reached(measures, cues)
    most = max((found["n"] for found in cues.values()), default=0)
    said = [
        f"{method}: the cue {cue!r} alone reaches an AUROC of {reach:.3f} on all {most:,} rows, as "
        f"much as this method's {shown} shows"
        + ("." if (n := measures[method]["n"]) == most else f" on {n:,} of them.")
        for method, shown in reached.items()
    ]
    parts = dict.fromkeys(name for found in cues.values() for name in found.get("slices", {}))
    few = 0
    for part in parts:
        if part != "hard_negative" and not part.startswith("source:"):
            continue
        by_cue = _in_slice(cues, part)
        n, n_harmful = (max(found[key] for found in by_cue.values()) for key in ("n", "n_harmful"))
        if part != "hard_negative" and min(n_harmful, n - n_harmful) < MIN_SLICE_ROWS:
            few += 1
            continue
        cue, reach, reached = _reached(_in_slice(measures, part), by_cue)
        if reached:
            named = ", ".join(f"{method} {shown}" for method, shown in reached.items())
            said.append(
                f"{part} ({n:,} rows): the cue {cue!r} alone reaches {reach:.3f}; not shown to be "
                f"better: {named}."
            )
    if few:
        said.append(
            f"{few:,} sources have fewer than {MIN_SLICE_ROWS} harmful or other rows to measure: "
            "too few to say it of them."
        )
    return said


def _in_slice(found: Mapping[str, Mapping[str, Any]], part: str) -> dict[str, Any]:
    return {name: whole["slices"][part] for name, whole in found.items()
            if part in whole.get("slices", {})}  # fmt: skip


def _reached(
    measures: Mapping[str, Mapping[str, Any]], cues: Mapping[str, Mapping[str, Any]]
) -> tuple[str, float, dict[str, str]]:
    """Return the best cue, its AUROC, and those of the methods that are not clearly above it."""
    known = {name: cue["auroc"]["value"] for name, cue in cues.items()
             if cue["auroc"]["value"] is not None}  # fmt: skip
    if not known:
        return "", 0.0, {}
    # A cue turned round is a cue too: nobody knows its direction beforehand.
    best = max(known, key=lambda name: max(known[name], 1 - known[name]))
    reach = max(known[best], 1 - known[best])
    return best, reach, {
        method: "{value:.3f} ({low:.3f} to {high:.3f})".format(**found["auroc"])
        for method, found in measures.items()
        if found["auroc"]["value"] is not None and found["auroc"]["low"] <= reach
    }  # fmt: skip


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
