"""What ranked the rows of an experiment does not judge it, whatever it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import toy
import toy_guard
from tamis.cli.experiment import run_cell, run_experiment
from tamis.cli.experiment_config import ExperimentConfig, cells
from tamis.cli.experiment_rows import read_data
from tamis.cli.stages import Common
from tamis.errors import ConfigError, MismatchError
from tamis.files import write_json
from tamis.methods.base import RankingInputs
from tamis.methods.guard import Guard
from tamis.methods.scores import Scores

HERE = __name__


class Quiet:
    """Asks a guard that its settings do not name."""

    requires: ClassVar[frozenset[str]] = frozenset()

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row 0, and say who was asked."""
        rows = inputs.finetuning_set
        return Scores("quiet", rows.ids, rows.source_ids, np.zeros(len(rows)), ["ok"] * len(rows),
                      None, details={"guard": {"name": "org/the-guard"}})  # fmt: skip


def settings(folder: Path, guard: str, method: str) -> ExperimentConfig:
    """An experiment on four rows and one prompt, judged by a classifier."""
    rows = [{"id": f"r{i}", "prompt": f"{i}", "completion": "yes"} for i in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = folder / "prompts.jsonl"
    prompt.write_text(json.dumps({"id": "p", "prompt": "Say more.", "reference": "water"}))
    judge = {"kind": "classifier", "guard": {"guard": guard, "device": "cpu", "dtype": "float32"}}
    return ExperimentConfig.model_validate({
        "finetuning_set": str(folder / "rows.jsonl"), "out": folder / "out", "device": "cpu",
        "arms": {"nothing": {}, "ranked": {"method": method}},
        "evaluate": {"max_new_tokens": 2, "judges": [judge]},
        "prompts": dict.fromkeys(("harmful", "over_refusal", "helpful"), prompt),
    })  # fmt: skip


def test_the_guard_that_a_ranking_names_does_not_judge(tmp_path: Path) -> None:
    """Told when the rows are ranked, before any model is fine-tuned or judged."""
    config = settings(tmp_path, "mirror/The-Guard", f"{HERE}:Quiet")
    with pytest.raises(ConfigError, match=r"mirror/The-Guard@ is the guard that ranks the rows"):
        run_experiment(config)
    assert not (config.out / "cells").exists()


def evaluated(config: ExperimentConfig) -> Any:
    """Evaluate the arm without fine-tuning."""
    common = Common(config.out, device="cpu", dtype="float32")
    return run_cell(config, read_data(config), common, cells(config)[0], toy.tiny_lm())


def test_weights_are_known_once_they_are_loaded(tmp_path: Path) -> None:
    """A guard from a hub has the fingerprint of the folder that judges."""
    folder = toy_guard.saved(toy_guard.classifier(), tmp_path / "judge")
    lm = Guard(backend="classifier", guard=folder, device="cpu", dtype="float32").load().lm
    config = settings(tmp_path, folder, "uniform")
    guard = {"name": "org/the-guard", "fingerprint": lm.fingerprint}
    ranking = config.out / "rankings" / "all" / "ranked"
    write_json(ranking / "manifest.json", {"details": {"guard": guard}})
    with pytest.raises(ConfigError, match="is the guard that ranks the rows"):
        evaluated(config)
    write_json(ranking / "manifest.json", {"details": {"guard": {**guard, "fingerprint": "0"}}})
    evaluated(config)


def test_other_weights_in_the_judges_folder_are_another_request(tmp_path: Path) -> None:
    """Its verdicts are not taken for those of the old ones."""
    folder = toy_guard.saved(toy_guard.classifier(), tmp_path / "judge")
    evaluated(settings(tmp_path, folder, "uniform"))
    toy_guard.saved(toy_guard.classifier(seed=1), tmp_path / "judge")
    with pytest.raises(MismatchError, match=r"inputs\.judge_0_guard\.sha256"):
        evaluated(settings(tmp_path, folder, "uniform"))
