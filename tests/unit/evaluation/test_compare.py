"""Comparing rankings: measures, averages, agreement and what a cue alone would reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from tamis.evaluation.compare import (
    MEASURES,
    Cell,
    agreement,
    averaged,
    cell_measures,
    cue_statements,
    without,
)
from tamis.evaluation.labels import Label
from tamis.evaluation.statistics import normal_quantile
from tamis.methods.scores import Scores
from tamis.rng import numpy_generator

N = 40
IDS = [f"{i:016x}-0" for i in range(N)]
TRUTH = [Label(row, harmful=i < 10, kind="harmful" if i < 10 else "benign")
         for i, row in enumerate(IDS)]  # fmt: skip


def scores(values: Any, **columns: Any) -> Scores:
    """Scores of forty rows, the first ten of them harmful."""
    values = np.asarray(values, dtype=np.float64)
    outcome = ["ok" if not np.isnan(value) else "too_long" for value in values]
    return Scores("toy", IDS, [None] * N, values, outcome, None, columns)


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
    assert found["flagged"] == {
        "share_of_harmful": 0.8, "share_of_others": 3 / 29, "n_harmful": 10, "n_others": 29,
    }  # fmt: skip


def test_a_slice_is_measured_within_itself() -> None:
    """Ids of rows that are not in the ranking change nothing; an empty side is None, not absent."""
    further = {"first": frozenset([*IDS[5:15], "elsewhere"]), "harmless": frozenset(IDS[30:]),
               "none": frozenset[str]()}  # fmt: skip
    values = np.where(np.arange(N) < 12, 0.0, 1.0)
    found = cell_measures(Cell("all", "m", 0, scores(values)), TRUTH, 0, further)
    slices = found["readouts"]["score"]["slices"]
    first = slices["first"]
    # Five harmful rows; of five others two are tied with them: 1 - (2 / 5) / 2.
    assert (first["n"], first["n_harmful"], first["auroc"]["value"]) == (10, 5, 0.8)
    assert (slices["harmless"]["n"], slices["harmless"]["auroc"]["value"]) == (10, None)
    assert (slices["none"]["n"], slices["none"]["recall_at_rate"]["low"]) == (0, None)


def report(value: float | None, low: float | None = None, high: float | None = None) -> Any:
    """One readout's measures."""
    measure = {"value": value, "low": low, "high": high}
    return {**dict.fromkeys(MEASURES, measure), "n": 40, "n_harmful": 10}


def test_an_average_keeps_the_spread() -> None:
    """Both ends by hand: w = .1 / 1.96, s^2 / K = .001, df = (1 + w^2 / .001)^2 = 13.0."""
    found = averaged([report(0.8, 0.7, 0.9), report(0.8 - 0.002**0.5 * 2**0.5, 0.64, 0.84)])
    second = 0.8 - 0.002**0.5 * 2**0.5
    below, above = (0.1**2 + (second - 0.64) ** 2) / 2, (0.1**2 + (0.84 - second) ** 2) / 2
    for end, own, sign in (("low", below, -1), ("high", above, 1)):
        within = own / normal_quantile(0.95) ** 2
        freedom = (1 + within / 0.001) ** 2
        width = stats.t.ppf(0.975, freedom) * (within + 0.001) ** 0.5
        assert found["auroc"][end] == pytest.approx((0.8 + second) / 2 + sign * width)
    assert found["auroc"]["value"] == pytest.approx((0.8 + second) / 2)
    assert [found["auroc"][end] for end in ("smallest", "largest")] == [second, 0.8]
    assert found["n_cells"] == 2
    assert found["recall_at_rate"] == found["auroc"]  # every measure is averaged alike


def test_cells_that_contradict_each_other_leave_nothing_sure() -> None:
    """Each is sure of itself, one of 0 and one of 1: the interval is everything."""
    found = averaged([report(0.0, 0.0, 0.0), report(1.0, 1.0, 1.0)])["auroc"]
    assert (found["low"], found["value"], found["high"]) == (0.0, 0.5, 1.0)


def test_equal_cells_have_the_interval_of_one() -> None:
    """They share rows: ten times the same figure is no more certain."""
    found = averaged([report(0.8, 0.7, 0.85)] * 10)["auroc"]
    assert [found[end] for end in ("low", "value", "high")] == pytest.approx([0.7, 0.8, 0.85])


def test_the_interval_of_an_average_covers() -> None:
    """Normal cells that share part of their error, each with its own true interval: 95% or more."""
    source = numpy_generator(0, "cells")
    covered = 0
    for _ in range(400):
        values = 0.5 + source.normal(0, 0.02) + source.normal(0, 0.03, size=5)
        half = 1.96 * (0.02**2 + 0.01**2) ** 0.5  # a third of the cells' own error is measured
        found = averaged([report(v, v - half, v + half) for v in values])["auroc"]
        covered += found["low"] <= 0.5 <= found["high"]
    assert covered / 400 > 0.93


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


def test_a_method_that_scores_nothing_agrees_with_none() -> None:
    """Neither figure is defined; the other pairs have theirs."""
    cells = [
        Cell("all", name, 0, scores(values))
        for name, values in {
            "up": np.arange(N),
            "silent": np.full(N, np.nan),
            "same": np.arange(N),
        }.items()
    ]
    pairs = {tuple(pair["methods"]): pair for pair in agreement(cells, 0.75)}
    assert pairs["up", "silent"] == {
        "methods": ["up", "silent"], "spearman": None, "overlap": None,
    }  # fmt: skip
    assert pairs["up", "same"]["overlap"] == 1.0


def test_spared_passes_are_the_caches() -> None:
    """However many others it ran; what it finds when it goes on may be its own."""

    def cached(resumed: bool = False, **passes: float) -> bool:
        return Cell("all", "m", 0, scores(np.arange(N)), passes=passes, resumed=resumed).cached

    assert cached(forward=1.6, backward=1.0, spared=0.5)
    assert not cached(forward=0.5, backward=0.0, spared=0.0)
    assert not cached()
    assert not cached(resumed=True, forward=0.0, spared=1.0)


def test_a_cue_is_looked_at_in_every_source_and_against_hard_negatives() -> None:
    """Over all rows the method is above it; in one source and there it is not. Others: no word."""
    slices = {"hard_negative": report(0.8, 0.7, 0.9), "source:one": report(0.7, 0.6, 0.8),
              "source:two": report(0.99, 0.98, 1.0), "kind:x": report(0.5, 0.4, 0.6),
              "source:empty": report(None)}  # fmt: skip
    cue = {name: report(0.25, 0.2, 0.3) for name in slices}
    method = {**report(0.97, 0.95, 0.99), "slices": slices}
    found = cue_statements({"it": method}, {"length": {**report(0.7, 0.6, 0.8), "slices": cue}})
    assert found == [
        f"{part} (40 rows): the cue 'length' alone reaches 0.750; not shown to be better: it "
        f"{shown}."
        for part, shown in (("hard_negative", "0.800 (0.700 to 0.900)"),
                            ("source:one", "0.700 (0.600 to 0.800)"))
    ]  # fmt: skip


def test_sources_of_a_few_rows_are_counted_alone() -> None:
    """Nine harmful rows of one, nine others of another; ten of either are enough."""
    sizes = {"source:one": (40, 9), "source:two": (19, 10), "source:three": (20, 10)}
    slices = {part: {**report(0.5, 0.1, 0.9), "n": n, "n_harmful": bad}
              for part, (n, bad) in sizes.items()}  # fmt: skip
    whole = {"it": {**report(0.97, 0.95, 0.99), "slices": slices}}
    found = cue_statements(whole, {"length": {**report(0.7, 0.6, 0.8), "slices": slices}})
    assert found == [
        "source:three (20 rows): the cue 'length' alone reaches 0.500; not shown to be better: "
        "it 0.500 (0.100 to 0.900).",
        "2 sources have fewer than 10 harmful or other rows to measure: too few to say it of them.",
    ]


def test_a_cue_that_does_as_well_is_named() -> None:
    """Also one that points the other way; a method clearly above it is not spoken of."""
    measures = {"weak": report(0.84, 0.78, 0.88), "strong": report(0.97, 0.95, 0.99)}
    cues = {"length": report(0.55, 0.5, 0.6), "turns": report(0.18, 0.15, 0.22)}
    (sentence,) = cue_statements(measures, cues)
    assert sentence == (
        "weak: the cue 'turns' alone reaches an AUROC of 0.820 on all 40 rows, as much as this "
        "method's 0.840 (0.780 to 0.880) shows."
    )


def test_a_method_measured_on_fewer_rows_says_on_how_many() -> None:
    """Beside a cue on all of them."""
    fewer = {"few": {**report(0.84, 0.78, 0.88), "n": 9}}
    (sentence,) = cue_statements(fewer, {"turns": report(0.18, 0.15, 0.22)})
    assert sentence.endswith("as this method's 0.840 (0.780 to 0.880) shows on 9 of them.")
