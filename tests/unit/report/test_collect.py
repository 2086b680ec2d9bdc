"""Which stages are found, how evaluations are paired, and what is said of the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from stage_folders import StageFolders

from tamis.errors import ConfigError
from tamis.report.collect import collect, flat_settings
from tamis.runs import Stage


def test_a_run_folder_stands_for_the_stages_in_it(folders: StageFolders) -> None:
    """Given the folder above, all its stages are found."""
    folders.everything()
    assert len(collect([folders.root]).records) == 5


def test_order_and_repetition_of_the_folders_do_not_matter(folders: StageFolders) -> None:
    """Reversed, and with the run folder on top, the same stages in the same places."""
    paths = folders.everything()
    once = [r.facts.folder for r in collect(paths).records]
    assert [r.facts.folder for r in collect([*reversed(paths), folders.root]).records] == once


def test_before_and_after_are_told_by_the_adapter(folders: StageFolders) -> None:
    """The evaluation without an adapter is the one before, wherever it stands."""
    after = folders.evaluate(name="a", adapter="some/adapter")
    before = folders.evaluate(name="b", adapter=None)
    found = collect([after, before]).evaluations
    assert [(e.role, e.record.facts.folder) for e in found] == [
        ("before", before),
        ("after", after),
    ]


def test_several_afters_are_named_by_their_folders(folders: StageFolders) -> None:
    """Two arms against one base."""
    paths = [folders.evaluate(name=n, adapter=a) for n, a in (("x", None), ("y", "1"), ("z", "2"))]
    assert [e.role for e in collect(paths).evaluations] == ["before", "after (y)", "after (z)"]


def test_a_stage_without_a_manifest_is_named_as_unfinished(folders: StageFolders) -> None:
    """The others are read."""
    rank = folders.rank([0.1, 0.2])
    with Stage(folders.root / "half", "select", {}, {}, seed=0):
        pass
    found = collect([rank, folders.root / "half"])
    assert [p.reason for p in found.problems] == [
        "select is not finished (it has no manifest.json yet)"
    ]
    assert len(found.ranks) == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "[]"),
        ("manifest.json", '{"stage": "rank", "seed": "many"}'),
        ("scores.parquet", "no parquet"),
        ("ranking.json", '{"primary": 3}'),
        ("ends.jsonl", '{"id": "x"}'),
        ("ends.jsonl", "\n"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_read(
    folders: StageFolders, file: str, content: str
) -> None:
    """Whatever the damage, the stage becomes a named problem and nothing is raised."""
    rank = folders.rank([0.1, 0.2, 0.3], labels=True)
    other = folders.evaluate(name="evaluate", adapter=None)
    (rank / file).write_text(content)
    found = collect([rank, other])
    assert [p.folder.name for p in found.problems] == ["rank"]
    assert file in found.problems[0].reason
    assert not found.ranks
    assert len(found.evaluations) == 1


def test_nothing_to_read_is_refused_with_every_reason(tmp_path: Path) -> None:
    """No page is written about nothing."""
    with pytest.raises(
        ConfigError, match=r"none of the 2 folders(.|\n)*no such folder(.|\n)*no stage"
    ):
        collect([tmp_path / "absent", tmp_path])


def test_a_selection_from_other_scores_is_said(folders: StageFolders) -> None:
    """Same rows, other scores: the histogram and the ranking do not belong together."""
    selection = folders.select(folders.rank([0.1, 0.2, 0.3], name="one"))
    found = collect([folders.rank([0.3, 0.2, 0.1], name="two"), selection])
    assert "made from other scores" in found.mismatches[0]


def test_a_selection_by_another_readout_belongs_to_its_ranking(folders: StageFolders) -> None:
    """`select.readout` takes another column of the same scores."""
    rank = folders.rank(np.linspace(0, 1, 6))
    other = folders.rank(-np.arange(6.0), name="other")
    selection = folders.select(other)
    shutil.rmtree(other)
    assert collect([rank, selection]).mismatches == ()


def test_fine_tuning_on_other_rows_is_said(folders: StageFolders) -> None:
    """The hash of what was trained on is none of the selections'."""
    selection = folders.select(folders.rank([0.1, 0.2, 0.3]))
    assert collect([selection, folders.finetune(selection)]).mismatches == ()
    stray = folders.finetune(None, name="stray")
    assert "fine-tuned on other rows" in collect([selection, stray]).mismatches[0]


def test_evaluations_that_cannot_be_compared_are_said(folders: StageFolders) -> None:
    """Other prompts, another judge, other settings: one sentence each."""
    before = folders.evaluate(name="b", adapter=None)
    after = folders.evaluate(name="a", adapter="x", prompt="other", judge="guard", max_new_tokens=9)
    said = " ".join(collect([before, after]).mismatches)
    assert "different prompts" in said
    assert "different judges (refusal_strings, guard)" in said
    assert "different settings: evaluate.max_new_tokens" in said


def test_settings_are_named_by_their_path() -> None:
    """As `--set` takes them; an empty mapping stays a value."""
    assert flat_settings({"a": {"b": 1, "c": {"d": 2}}, "e": {}}) == {"a.b": 1, "a.c.d": 2, "e": {}}
