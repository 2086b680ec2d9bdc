"""A finished comparison on the page: every figure with its interval, nothing from data acts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stage_folders import StageFolders
from test_render import ATTRIBUTES, HOSTILE, TAGS, Page, report

from tamis.errors import ConfigError
from tamis.evaluation.compare import Cell, agreement, averaged, cell_measures
from tamis.evaluation.labels import Label
from tamis.files import write_json
from tamis.methods.scores import Scores
from tamis.report.collect import collect
from tamis.report.comparison import comparison_view
from tamis.rng import numpy_generator

N = 60
SHOWN = (("AUROC", "auroc", 1), ("Recall at rate", "recall_at_rate", 100),
         ("Found at 5% FPR", "tpr_at_5pct_fpr", 100))  # fmt: skip


def written(folder: Path, text: str = "plain", **entry: Any) -> Path:
    """Write a comparison of three methods on all rows and on the first forty."""
    ids = [f"{i:016x}-0" for i in range(N)]
    kinds = ["harmful", "hard_negative", text]
    truth = [Label(row, i % 3 == 0, kinds[i % 3], None, "clear") for i, row in enumerate(ids)]
    noise = numpy_generator(0, "report").normal(size=N)
    values = {f"{text} good": noise - [2.0 * label.harmful for label in truth],
              f"{text} chance": noise[::-1].copy(), f"{text} taught": -noise}  # fmt: skip
    entries, agreements = [], {}
    for rows, n in (("all", N), (f"part {text}", 40)):
        cells = [Cell(rows, name, 0, Scores(name, ids[:n], [None] * n, found[:n], ["ok"] * n, None))
                 for name, found in values.items()]  # fmt: skip
        agreements[rows] = agreement(cells, 0.5)
        for cell in cells:
            found = cell_measures(cell, truth, 0, {"turns:2+": frozenset[str]()})
            score = found["readouts"]["score"]
            slices = {name: averaged([part]) for name, part in score["slices"].items()}
            readout = {**averaged([score]), "slices": slices}
            entries.append({
                "rows": rows, "method": cell.method, "config": {"option": text},
                "uses_labels": "taught" in cell.method, "seconds": [60.0, 30.0],
                "peak_gib": None, "start_gib": 1.5, "gpu_gib": None, "passes": [],
                "notes": [f"a note {text}"],
                "readouts": {"score": readout, f"other {text}": readout}, **entry,
            })  # fmt: skip
    folder.mkdir(parents=True)
    write_json(folder / "comparison.json", {
        "entries": entries, "facts": {"all": [f"a fact {text}"]},
        "cues": {"all": [f"a cue {text} does as well"]},
        "agreement": agreements, "selection_ratio": 0.5, "length_bounds": [3.0, 5.0, 9.0],
    })  # fmt: skip
    return folder


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """The page of a comparison alone."""
    return report([written(tmp_path / "compared")], tmp_path)


def test_a_comparison_alone_is_a_report(page: Page) -> None:
    """No stage is missed, and no table of stages is shown empty."""
    assert not page.open
    assert "No finished stage" not in page.text
    assert "How it was run" not in page.text


def test_every_measure_stands_with_its_interval(tmp_path: Path) -> None:
    """The numbers of the file, per method, on all rows, the clear ones and hard negatives."""
    folder = written(tmp_path / "compared")
    found = json.loads((folder / "comparison.json").read_text())
    (compared,) = collect([folder]).comparisons
    main = comparison_view(compared).rows[0].main
    assert [row[0].text for row in main.rows] == [
        "all rows", "", "", "clear: no harmful rows of tier weak", "", "",
        "against hard negatives", "", "",
    ]  # fmt: skip
    score = found["entries"][0]["readouts"]["score"]
    for row, part in ((0, score), (6, score["slices"]["hard_negative"])):
        cells = dict(zip(main.head, main.rows[row], strict=True))
        for heading, name, scale in SHOWN:
            shown = float(cells[heading].text.rstrip("%")) / scale
            assert shown == pytest.approx(part[name]["value"], abs=0.005)
            low, _, high = cells[heading].notes[0].partition(" to ")
            assert float(low.rstrip("%")) / scale == pytest.approx(part[name]["low"], abs=0.005)
            assert float(high.rstrip("%")) / scale == pytest.approx(part[name]["high"], abs=0.005)


def test_methods_with_labels_stand_apart(tmp_path: Path) -> None:
    """In a column of their own, after the others, and named before the table."""
    (compared,) = collect([written(tmp_path / "compared")]).comparisons
    view = comparison_view(compared)
    shown = [(row[1].text, row[2].text) for row in view.rows[0].main.rows[:3]]
    assert shown == [
        ("plain good", "none"), ("plain chance", "none"), ("plain taught", "learned from labels"),
    ]  # fmt: skip
    assert "Learned from labels of some of these rows: plain taught." in view.facts[0]


@pytest.mark.parametrize("rows", [0, 1])
def test_options_chosen_with_labels_have_their_place(rows: int, tmp_path: Path) -> None:
    """In the column of labels, beside what a method learned, and named before the table."""
    (compared,) = collect([written(tmp_path / "compared", chosen_with_labels=True)]).comparisons
    view = comparison_view(compared)
    assert {row[1].text: row[2].text for row in view.rows[rows].main.rows[:3]} == {
        "plain good": "options chosen with labels", "plain chance": "options chosen with labels",
        "plain taught": "learned from labels, options chosen with labels",
    }  # fmt: skip
    (fact,) = (fact for fact in view.facts if fact.startswith("Options chosen with labels"))
    assert "in sight: plain good, plain chance, plain taught." in fact


def test_rates_agreement_cues_and_costs_are_there(page: Page) -> None:
    """20 of 60 and 14 of 40 are 33.3% and 35.0% harmful; two rankings of 60 s and 30 s."""
    assert "all, 33.3% harmful part plain, 35.0% harmful" in page.text
    assert "the share that two kept sets have in common at a ratio of 50.0%" in page.text
    assert "a cue plain does as well" in page.text
    assert "a fact plain" in page.text
    assert "2 1 min 30 s not measured not measured none counted none counted" in page.text
    assert "3.00, 5.00, 9.00 characters" in page.text
    assert "all: a note plain" in page.text


def test_kept_features_and_refusals_are_told(tmp_path: Path) -> None:
    """One of two rankings read the cache; a third method was refused."""
    folder = written(tmp_path / "compared", n_cached=1, n_resumed=2,
                     passes=[{"forward": 0.2, "backward": 0.0}, {"forward": 0.3, "backward": 0.0}],
                     seeds=[0, 0], draws=[0, 1])  # fmt: skip
    path = folder / "comparison.json"
    refused = {"rows": "all", "method": "seal", "rankings": ["all/seal-0"], "of": 1,
               "reasons": ["too few rows"]}  # fmt: skip
    write_json(path, {**json.loads(path.read_text()), "refused": [refused]})
    text = report([folder], tmp_path).text
    assert "0.250 1 of 2 cached" in text
    assert "1 min 30 s begun before" in text
    assert "2 seed 0 plantings 0, 1" in text
    assert "Cached: an earlier one left what this one reads of the model" in text
    assert "seal all 1 of 1 too few rows" in text


def test_the_limits_of_an_interval_are_told(page: Page) -> None:
    """What they cover, and that they test no difference."""
    assert "cover the choice of rows, and of a mean what differs between its rankings" in page.text
    assert "no test of a difference is made" in page.text


def test_a_slice_without_rows_is_not_zero(tmp_path: Path) -> None:
    """No row has several turns: the slice is there, and says not measured."""
    (compared,) = collect([written(tmp_path / "compared")]).comparisons
    slices = comparison_view(compared).rows[0].slices
    assert slices is not None
    (row, *_) = [row for row in slices.rows if row[0].text == "turns:2+"]
    assert [cell.text for cell in row[3:]] == ["not measured"] * 5 + ["0", "0"]


def test_no_text_of_a_comparison_acts(tmp_path: Path) -> None:
    """Methods, rows, kinds, settings and cues are shown as text, in the page's own tags only."""
    folder = written(tmp_path / "compared", HOSTILE.replace("\ud800", ""))
    page = report([folder], tmp_path)
    assert {tag for tag, _ in page.tags} <= set(TAGS)
    assert {name for _, attributes in page.tags for name in attributes} <= set(ATTRIBUTES)
    assert not page.open
    assert "<script>alert(1)</script>" in page.text


def test_a_comparison_beside_stages(folders: StageFolders, tmp_path: Path) -> None:
    """Both are shown, also where a folder holds both one level down."""
    folders.rank([0.1, 0.2])
    written(folders.root / "compared")
    page = report([folders.root], tmp_path)
    assert "2 rows ranked by seal" in page.text
    assert "Comparison of methods" in page.text


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A comparison that is not finished, one that is damaged."""
    (tmp_path / "early" / "cells").mkdir(parents=True)
    with pytest.raises(ConfigError, match="the comparison is not finished"):
        collect([tmp_path / "early"])
    broken = written(tmp_path / "broken", readouts={})
    with pytest.raises(ConfigError, match="no score of plain good"):
        collect([broken])
