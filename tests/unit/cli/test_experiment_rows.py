"""The rows that an experiment's arms may train on."""

from __future__ import annotations

import json
from pathlib import Path

from tamis.cli.experiment_config import ExperimentConfig
from tamis.cli.experiment_rows import read_data, rows_in_reach
from tamis.evaluation.overlap import rows_with_prompts
from tamis.evaluation.prompts import Prompt


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
