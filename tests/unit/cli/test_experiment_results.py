"""What an experiment writes of its judges and of rows that are evaluation prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tamis.cli.experiment_config import ExperimentConfig
from tamis.cli.experiment_results import judge_identities_of, pruning_overlap
from tamis.data.anchors import shipped_anchors
from tamis.errors import MismatchError
from tamis.evaluation.prompts import Prompt
from tamis.files import json_lines, write_json


def evaluation(folder: Path, **identities: str) -> Path:
    """A finished evaluation, as far as its judges go."""
    write_json(folder / "metrics.json", {"judge_identities": identities} if identities else {})
    return folder


def test_the_judges_of_all_cells_are_written_once(tmp_path: Path) -> None:
    """Older cells do not say; if none does, nothing is known."""
    old = evaluation(tmp_path / "old")
    new = [evaluation(tmp_path / name, a="guard:g@1", b="refusal_strings") for name in "xy"]
    assert judge_identities_of([old, *new]) == {"a": "guard:g@1", "b": "refusal_strings"}
    assert judge_identities_of([old]) == {}


def test_cells_of_other_judges_are_not_put_together(tmp_path: Path) -> None:
    """A hub's guard that was loaded at another time had other weights."""
    cells = [evaluation(tmp_path / f"{i}", a=f"guard:g@{i}") for i in range(2)]
    with pytest.raises(MismatchError, match=r"'a' was guard:g@0 in .*0 and guard:g@1 in .*1"):
        judge_identities_of(cells)


def experiment(folder: Path, **settings: Any) -> ExperimentConfig:
    """An experiment whose safe set asks for a pet, and whose harmful set for a tree."""
    for name, asked in (("rows", "Say more."), ("safe", "name a pet"), ("bad", "NAME A TREE!")):
        rows = [{"id": f"{name}{i}", "prompt": f"{asked}{' too' * i}", "completion": "water"}
                for i in range(2)]  # fmt: skip
        (folder / f"{name}.jsonl").write_text(json_lines(rows))
    return ExperimentConfig.model_validate({
        "finetuning_set": str(folder / "rows.jsonl"), "safe_set": str(folder / "safe.jsonl"),
        "out": folder / "out",
        "arms": {"nothing": {}, "everything": {"prune": {"share": 0.1}}}, **settings,
    })  # fmt: skip


def test_the_sets_that_pruning_goes_by_are_searched_for_prompts(tmp_path: Path) -> None:
    """Up to case and punctuation, each set by itself; without a harmful set the anchors."""
    anchor = next(iter(shipped_anchors().complied)).messages[0].content
    prompts = {"harmful": [Prompt("t", "Name a tree"), Prompt("a", anchor)],
               "helpful": [Prompt("p", "Name a pet.")]}  # fmt: skip
    given = experiment(tmp_path, harmful_set=str(tmp_path / "bad.jsonl"))
    assert pruning_overlap(given, prompts) == {
        "harmful_set": {"harmful": 1, "helpful": 0}, "safe_set": {"harmful": 0, "helpful": 1},
    }  # fmt: skip
    shipped = pruning_overlap(experiment(tmp_path), prompts)["harmful_set"]
    assert shipped["harmful"] >= 1
    assert shipped["helpful"] == 0


def test_without_pruning_there_is_no_such_set(tmp_path: Path) -> None:
    """The safe set's rows that are mixed in are counted where they are trained on."""
    assert pruning_overlap(experiment(tmp_path, arms={"everything": {}, "nothing": {}}), {}) == {}
