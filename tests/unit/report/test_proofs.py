"""Certificates, win rates and prunings on the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stage_folders import StageFolders
from test_render import ATTRIBUTES, HOSTILE, TAGS, Page, report

from tamis.evaluation.pairwise import AnswerPair, win_figures
from tamis.files import write_json
from tamis.report.collect import collect
from tamis.report.proof_records import WinRateRecord
from tamis.report.proofs import win_rate_table
from tamis.runs import Stage
from tamis.selection.certificate import certify


def certificate(root: Path, *, harmful: int | None = 0, text: str = "plain") -> Path:
    """Write a draw of 200 of 400 rows, and what its labels gave; None has no labels yet."""
    config = {"certify": {"n_labels": 200, "alpha": 0.1, "delta": 0.05, "readout": text}}
    inputs = {"scores": {"path": text, "sha256": "a" * 64}}
    with Stage(root / "certify", "certify", config, inputs, seed=1) as stage:
        stage.finish(drawn=[], n_scored=400)
    if harmful is None:
        return root / "certify"
    labelled = np.arange(0, 400, 2)
    walk = certify(np.linspace(0, 1, 400), labelled, labelled >= 400 - 2 * harmful, delta=0.05)
    step = walk.certified
    found: dict[str, Any] = {
        "certified": step is not None, "alpha": walk.alpha, "delta": walk.delta,
        "attempt": 2, "delta_of_all_attempts": 0.2,
        "n_labels": 200, "n_harmful": harmful, "n_scored": 400, "n_unscored": 3,
        "walk": walk.to_json(),
    }  # fmt: skip
    if step is None:
        found["refusal"] = f"{walk.refusal()} {text}"
    else:
        found |= {"threshold": step.threshold, "n_kept": step.n_kept, "n_harmful_kept": 0,
                  "n_labels_kept": step.n_labelled, "guarantee": f"certified: {text}"}  # fmt: skip
    write_json(root / "certify" / f"{'refused' if step is None else 'certificate'}.json", found)
    return root / "certify"


def pruning(root: Path, *, text: str = "plain", **details: Any) -> Path:
    """Write a pruning of two layers: 1 of 4 and 4 of 8 weights."""
    tensors = [
        {"name": f"base.layers.{layer}.{text}", "n_rows": rows, "n_columns": 2, "n_removed": n,
         "share": 0.5, "harmful_share": None, "benign_share": None}
        for layer, rows, n in ((10, 2, 1), (2, 4, 4))
    ]  # fmt: skip
    with Stage(root / "prune", "prune", {"prune": {"share": 0.25}}, {}, seed=0) as stage:
        stage.finish(details={"tensors": tensors, "notes": [text], **details})
    return root / "prune"


def win_rates(
    root: Path, judges: Sequence[tuple[str, str, str]], text: str = "plain"
) -> Path:  # fmt: skip
    """Write three wins of four, one inconsistent, per (name, identity, set)."""
    names = [str(i) for i in range(5)]
    pairs = [AnswerPair(name, "ask", "one", "twelve") for name in names]
    places = [("first", "second")] * 3 + [("first", "first"), (None, None)]
    lines = [{"id": name, "model_first": a, "reference_first": b}
             for name, (a, b) in zip(names, places, strict=True)]  # fmt: skip
    entries = [
        {"judge": name, "identity": identity, "set": kind, **win_figures(pairs, lines),
         "rubric": "safety" if kind == "harmful" else "helpfulness"}
        for name, identity, kind in judges
    ]  # fmt: skip
    inputs = {role: {"path": f"/runs/{text}/{role}"} for role in ("model", "reference")}
    with Stage(root / "wins", "win-rate", {"judges": [text]}, inputs, seed=0) as stage:
        stage.finish(details={"win_rates": entries, "notes": [text]})
    return root / "wins"


def heads(folder: Path) -> tuple[str, list[tuple[str, ...]]]:
    """Return the head over the win rates, and the notes below each."""
    (record,) = collect([folder]).proofs
    assert isinstance(record, WinRateRecord)
    table = win_rate_table(record)
    return table.head[1], [row[1].notes for row in table.rows]


def test_a_certificate_states_what_it_rests_on(tmp_path: Path) -> None:
    """Alpha, delta, labels, threshold and guarantee."""
    text = report([certificate(tmp_path)], tmp_path).text
    assert "at most 10.0% of the kept rows are harmful (alpha)" in text
    assert "of at most 5.00% (delta, of attempt 2; 20.0% over all attempts)" in text
    assert "200 rows were labelled, drawn uniformly from 400 scored ones; 0 of them" in text
    assert "Certified: plain" in text
    assert "Threshold: 0.0. It keeps 400 rows" in text


def test_a_refusal_states_its_reason(tmp_path: Path) -> None:
    """And no threshold."""
    text = report([certificate(tmp_path, harmful=90)], tmp_path).text
    assert "Refused: no threshold is certified: of the 60 best-scored rows" in text
    assert "Threshold:" not in text


def test_a_draw_without_labels_certifies_nothing(tmp_path: Path) -> None:
    """It waits."""
    text = report([certificate(tmp_path, harmful=None)], tmp_path).text
    assert "200 rows are drawn and wait for their labels: nothing is certified." in text


def test_a_certificate_of_other_scores_is_said(tmp_path: Path, folders: StageFolders) -> None:
    """It says nothing about the ranking beside it."""
    found = collect([folders.rank([0.1, 0.2]), certificate(tmp_path)])
    assert "was made from other scores" in found.mismatches[0]


def test_a_pruning_shows_its_share_layer_by_layer(tmp_path: Path) -> None:
    """Layers in their order, not in that of their digits."""
    text = report([pruning(tmp_path)], tmp_path).text
    assert "Taken out: 5 of 12 weights of the adapter; asked for: share 0.25." in text
    assert "2 8 4 50.0% 10 4 1 25.0%" in text


def test_a_restored_adapter_is_called_so(tmp_path: Path) -> None:
    """Nothing is taken out of it."""
    text = report([pruning(tmp_path, tensors=[], restored="/runs/p/adapter")], tmp_path).text
    assert "Restored: the adapter as it was before /runs/p/adapter." in text
    assert "Taken out:" not in text


def test_win_rates_stand_with_all_they_rest_on(tmp_path: Path) -> None:
    """3.5 of 4 with its interval, ties, orders that disagree, and what was not scored."""
    text = report([win_rates(tmp_path, [("a", "endpoint:a", "harmful")])], tmp_path).text
    row = text.split("safety, harmful prompts")[1]
    assert row.startswith(" 87.5%")
    assert "44.6% to 97.7% n = 4, unscored 1" in row
    assert "4 scored prompts; at least 20 are needed 3, 1, 0 1 of 4" in row


@pytest.mark.parametrize(
    ("judges", "head", "alone"),
    [
        # One model under two names is one judge; two models are not, whatever the names end in.
        ([("a", "m", "harmful"), ("b", "m", "harmful")], "Win rate (one judge)", [False] * 2),
        ([("x:same", "m", "harmful"), ("y:same", "n", "harmful")], "Win rate", [False] * 2),
        # Each set has its own judge: no prompt has two.
        ([("a", "m", "harmful"), ("b", "n", "helpful")], "Win rate (one judge)", [False] * 2),
        ([("a", "m", "harmful"), ("b", "n", "harmful"), ("c", "n", "helpful")], "Win rate",
         [False, False, True]),
    ],
)  # fmt: skip
def test_heads_count_who_judges(
    tmp_path: Path, judges: list[tuple[str, str, str]], head: str, alone: list[bool]
) -> None:
    """By what gives the verdicts, set by set."""
    found, notes = heads(win_rates(tmp_path, judges))
    assert found == head
    assert ["one judge" in below for below in notes] == alone


def test_data_cannot_add_a_tag(tmp_path: Path) -> None:
    """Hostile names of judges, tensors, rows and folders stay text."""
    text = HOSTILE.replace("\ud800", "")
    paths = [
        certificate(tmp_path / "a", text=text), certificate(tmp_path / "b", harmful=90, text=text),
        pruning(tmp_path, text=text), win_rates(tmp_path, [(text, text, text)], text),
    ]  # fmt: skip
    page: Page = report(paths, tmp_path)
    assert {tag for tag, _ in page.tags} <= set(TAGS)
    assert {name for _, attributes in page.tags for name in attributes} <= set(ATTRIBUTES)
    assert not page.open
    literal = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
    assert sum(literal in part for part in page.texts) >= 10


@pytest.mark.parametrize(
    ("file", "stage"), [("certify/certificate.json", "certify"), ("wins/manifest.json", "wins")]
)
def test_a_damaged_folder_is_named(tmp_path: Path, file: str, stage: str) -> None:
    """The others are read."""
    paths = [certificate(tmp_path), win_rates(tmp_path, [("a", "m", "harmful")]), pruning(tmp_path)]
    (tmp_path / file).write_text("{")
    found = collect(paths)
    assert [problem.folder.name for problem in found.problems] == [stage]
    assert len(found.proofs) == 2
