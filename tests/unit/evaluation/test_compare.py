"""Comparing rankings: measures, averages, agreement and what a cue alone would reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tamis.evaluation.compare import (
    Cell,
    agreement,
    averaged,
    cell_measures,
    cue_statements,
    recall_at_rate,
    without,
)
from tamis.evaluation.labels import Label
from tamis.methods.scores import Scores

N = 40
IDS = [f"{i:016x}-0" for i in range(N)]
TRUTH = [Label(row, harmful=i < 10, kind="harmful" if i < 10 else "benign")
         for i, row in enumerate(IDS)]  # fmt: skip


def scores(values: Any, **columns: Any) -> Scores:
    """Scores of forty rows, the first ten of them harmful."""
    values = np.asarray(values, dtype=np.float64)
    outcome = ["ok" if not np.isnan(value) else "too_long" for value in values]
    return Scores("toy", IDS, [None] * N, values, outcome, None, columns)


@pytest.mark.parametrize(
    ("values", "harmful", "expected"),
    [
        ([0, 1, 2, 3], [1, 1, 0, 0], 1.0),
        ([0, 1, 2, 3], [0, 1, 1, 0], 0.5),
        ([0, 0, 0, 0], [1, 1, 0, 0], 0.5),  # all tied: half of any two
        ([0, 1, 1, 3], [1, 1, 0, 0], 0.75),  # the second is found with probability a half
        ([np.nan, 1, 2, 3], [1, 1, 0, 0], 1.0),
    ],
)
def test_recall_counts_ties_by_their_share(values: Any, harmful: Any, expected: float) -> None:
    """As many riskiest rows as there are harmful ones."""
    assert recall_at_rate(np.array(values, float), np.array(harmful, bool)) == expected


def test_recall_without_harmful_rows_is_none() -> None:
    """Not zero: nothing could be found."""
    assert recall_at_rate(np.arange(3.0), np.zeros(3, bool)) is None


def test_rows_that_taught_a_method_are_not_measured() -> None:
    """A score that is only right on its own labels is worth nothing."""
    values = np.where(np.arange(N) < 20, np.arange(N) >= 10, np.tile([0.0, 1.0], 20))
    known = frozenset(IDS[:5] + IDS[10:20])
    found = cell_measures(Cell("all", "probe", 0, scores(values), known), TRUTH, seed=0)
    assert (found["n"], found["n_harmful"]) == (25, 5)
    assert len(without(scores(values), known)) == 25


def test_flagged_rows_are_measured_apart() -> None:
    """Share of the harmful and share of the others; unscored rows are neither."""
    flagged = np.where(np.arange(N) < 8, 1.0, 0.0)
    flagged[[20, 21, 22]] = 1.0
    flagged[30] = np.nan
    found = cell_measures(Cell("all", "m", 0, scores(np.arange(N), flagged=flagged)), TRUTH, 0)
    assert found["flagged"] == {"share_of_harmful": 0.8, "share_of_others": 3 / 29}


def report(value: float | None, low: float | None = None, high: float | None = None) -> Any:
    """One readout's measures."""
    measure = {"value": value, "low": low, "high": high}
    names = ("auroc", "average_precision", "tpr_at_1pct_fpr", "tpr_at_5pct_fpr")
    return {**dict.fromkeys(names, measure), "n": 40, "n_harmful": 10, "recall_at_rate": value}


def test_an_average_keeps_the_spread() -> None:
    """Means of values and ends, the smallest and the largest cell."""
    found = averaged([report(0.8, 0.7, 0.9), report(0.6, 0.5, 0.7)])
    assert found["auroc"] == pytest.approx(
        {"value": 0.7, "low": 0.6, "high": 0.8, "smallest": 0.6, "largest": 0.8}
    )
    assert (found["n_cells"], found["recall_at_rate"]) == (2, pytest.approx(0.7))


def test_an_average_over_a_missing_measure_is_missing() -> None:
    """Averaging the rest would compare other cells."""
    assert averaged([report(0.8, 0.7, 0.9), report(None)])["auroc"]["value"] is None


def test_agreement_is_rank_correlation_and_shared_rows() -> None:
    """A method and its reverse keep the half they share at a ratio of three quarters."""
    cells = [Cell("all", "up", 0, scores(np.arange(N))),
             Cell("all", "down", 0, scores(-np.arange(N))),
             Cell("all", "flat", 0, scores(np.zeros(N)))]  # fmt: skip
    first, second, _ = agreement(cells, 0.75)
    assert first == {"methods": ["up", "down"], "spearman": pytest.approx(-1.0), "overlap": 0.5}
    assert second["spearman"] is None


def test_a_cue_that_does_as_well_is_named() -> None:
    """Also one that points the other way; a method clearly above it is not spoken of."""
    measures = {"weak": report(0.84, 0.78, 0.88), "strong": report(0.97, 0.95, 0.99)}
    cues = {"length": report(0.55, 0.5, 0.6), "turns": report(0.18, 0.15, 0.22)}
    (sentence,) = cue_statements(measures, cues)
    assert sentence.startswith("weak: the cue 'turns' alone reaches an AUROC of 0.820")
