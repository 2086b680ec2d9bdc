"""The rows that an experiment's arms may train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.cli.experiment_config import ExperimentConfig, cells
from tamis.cli.experiment_rows import ranking_folder, read_data, rows_in_reach, run_rows
from tamis.cli.stages import Common
from tamis.errors import MismatchError
from tamis.evaluation.overlap import rows_with_prompts
from tamis.evaluation.prompts import Prompt
from tamis.methods.scores import Scores


def write(path: Path, words: list[str]) -> str:
    """Write a row per word."""
    rows = [{"prompt": f"Name a {word}.", "completion": f"A {word}."} for word in words]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_mixed_rows_are_looked_through_for_prompts(tmp_path: Path) -> None:
    """A prompt that only the mixed rows have is found; a row in both sets counts once."""
    config = ExperimentConfig.model_validate({
        "finetuning_set": write(tmp_path / "rows.jsonl", ["pet", "tree", "stone"]),
        "safe_set": write(tmp_path / "safe.jsonl", ["pet", "river"]), "out": str(tmp_path / "out"),
        "arms": {"everything": {}, "mixed": {"mix": {"share": 0.5}, "method": "uniform"},
                 "again": {"mix": {"share": 0.5}, "method": "uniform"}},
    })  # fmt: skip
    data = read_data(config)
    prompts = [Prompt(word, f"Name a {word}.") for word in ("pet", "river")]
    for n_mixed, n in (({}, 1), ({"mixed": 2, "again": 2}, 2)):
        rows = rows_in_reach(config, data, n_mixed)
        assert rows_with_prompts(rows, {"helpful": prompts}) == {"helpful": n}


def test_a_larger_budget_of_calls_selects_no_other_rows(tmp_path: Path) -> None:
    """While the scores are the same, what was selected by them stays."""

    def rows(most: int) -> dict[str, Any]:
        endpoint = {"base_url": "http://127.0.0.1:9/v1", "max_calls": most}
        method = {"name": "guard", "backend": "endpoint", "guard": "toy", "endpoint": endpoint}
        config = ExperimentConfig.model_validate({
            "finetuning_set": write(tmp_path / "rows.jsonl", ["pet", "tree"]),
            "out": str(tmp_path / "out"), "arms": {"nothing": {}, "guard": {"method": method}},
        })  # fmt: skip
        data = read_data(config)
        ids = list(data.examples.ids)
        scores = Scores("guard", ids, list(data.examples.source_ids), np.ones(2), ["ok"] * 2, None)
        folder = ranking_folder(config, "all", "guard")
        if not folder.exists():
            scores.write(folder)
        cell = next(cell for cell in cells(config) if cell.arm == "guard")
        return run_rows(config, data, Common(config.out), cell)

    assert rows(10) == rows(1)


def test_rows_to_mix_in_that_are_read_otherwise_are_others(tmp_path: Path) -> None:
    """Another mapping of the safe set's records is another request."""

    def rows(**mapping: str) -> dict[str, Any]:
        config = ExperimentConfig.model_validate({
            "finetuning_set": write(tmp_path / "rows.jsonl", ["pet", "tree"]),
            "safe_set": write(tmp_path / "safe.jsonl", ["river"]), "out": str(tmp_path / "out"),
            "safe_data": {"fields": mapping},
            "arms": {"nothing": {}, "everything": {"mix": {"share": 0.5}}},
        })  # fmt: skip
        cell = next(cell for cell in cells(config) if cell.arm == "everything")
        return run_rows(config, read_data(config), Common(config.out), cell)

    rows(prompt="prompt", response="completion")
    with pytest.raises(MismatchError, match="safe_data"):
        rows(prompt="completion", response="prompt")
