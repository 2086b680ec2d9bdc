"""What a plan tells of methods that refuse few rows: their time, or that it cannot be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import toy
import toy_guard
from tamis.cli.compare import prepare
from tamis.cli.compare_config import CompareConfig
from tamis.cli.config import RunConfig
from tamis.cli.plan import plan_run
from tamis.cli.plan_compare import plan_compare
from tamis.data.example import Examples
from tamis.errors import ConfigError
from tamis.selection.auto import Auto

# Of `auto` the default clears; the default judge needs a model that tells the anchors apart.
METHODS: dict[str, dict[str, Any]] = {
    "amortized": {"teacher": "loss"},
    "auto": {"signals": {
        "contrast": {"method": "contrast", "options": {"anchors": "none", "layers": [1, 2]}},
        "excess": Auto().signals["excess"].model_dump(),
    }},
    "saft": {"min_margin": 0.0, "min_agreement": -1.0, "anchors": "none"},
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """120 rows, 24 safe and 20 harmful ones, labels, a prompt, and a tiny model of six layers."""
    folder = tmp_path_factory.mktemp("inputs")

    def written(name: str, lines: list[dict[str, Any]]) -> str:
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(folder / name)

    def records(rows: Examples) -> list[dict[str, Any]]:
        return [{"id": f"r{i}", "prompt": row.messages[0].content,
                 "completion": row.messages[-1].content} for i, row in enumerate(rows)]  # fmt: skip

    made = toy.contaminated_set(120, n_harmful=30, n_safe=24)
    other = toy.contaminated_set(20, n_harmful=20, n_safe=1, seed=5)
    return {
        "rows": {
            "finetuning_set": written("rows.jsonl", records(made.finetuning_set)),
            "safe_set": written("safe.jsonl", records(made.safe_set)),
            "harmful_set": written("harmful.jsonl", records(other.finetuning_set)),
            "model": {"name": toy_guard.saved(toy.llama(6), folder / "model")},
            "device": "cpu",
        },
        "labels": written("labels.jsonl", [{"id": f"r{i}", "harmful": bool(bad)}
                                           for i, bad in enumerate(made.harmful)]),
        "prompts": written("prompts.jsonl", [{"id": "p", "prompt": "Tell me about the lamp"}]),
    }  # fmt: skip


def run_config(inputs: Mapping[str, Any], out: Path, name: str, options: Any) -> RunConfig:
    """Settings of a short run."""
    return RunConfig.model_validate({
        **inputs["rows"], "out": out, "method": {"name": name, **options},
        "finetune": {"max_steps": 1}, "evaluate": {"max_new_tokens": 1},
        "prompts": {"harmful": inputs["prompts"]},
    })  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_runs_time_is_told(inputs: Mapping[str, Any], tmp_path: Path, name: str) -> None:
    """Of every stage: the sample has rows enough for each of these methods."""
    found = plan_run(run_config(inputs, tmp_path / "run", name, METHODS[name]))
    assert found.untold == []
    ranking = found.stages[0]
    assert (ranking.refusal, ranking.measured) == (None, f"{name} on 32 rows")
    assert all(stage.minutes and stage.minutes > 0 for stage in found.stages)


def test_a_comparisons_time_is_told(inputs: Mapping[str, Any], tmp_path: Path) -> None:
    """Of every method: none refuses a quarter of the sample."""
    found = plan_compare(prepare(CompareConfig.model_validate({
        **inputs["rows"], "labels": inputs["labels"], "out": tmp_path / "out",
        "methods": {name: {"name": name, **options} for name, options in METHODS.items()},
    })))  # fmt: skip
    assert {method.method: method.refusal for method in found.methods} == dict.fromkeys(METHODS)
    assert found.untold == []


def test_a_method_that_refuses_the_sample_leaves_the_other_stages_told(
    inputs: Mapping[str, Any], tmp_path: Path
) -> None:
    """No margin is a thousand standard errors: `saft` knows no side, with few rows or with many."""
    found = plan_run(
        run_config(inputs, tmp_path / "run", "saft", {**METHODS["saft"], "min_margin": 1e3})
    )
    ranking, *others = found.stages
    assert (ranking.minutes, ranking.memory_gib, ranking.disk_gib) == (None, None, None)
    assert "saft finds no direction whose harmful side is known" in str(ranking.refusal)
    assert ranking.measured == "cannot be told: saft stops on 32 rows"
    assert found.untold == ["rank"]
    assert found.minutes == sum(stage.minutes or 0.0 for stage in others) > 0


def test_a_method_that_refuses_any_rows_ends_the_plan(
    inputs: Mapping[str, Any], tmp_path: Path
) -> None:
    """In the same words for few rows and for more: a teacher lacks its labels."""
    with pytest.raises(ConfigError, match="'probe' needs trusted_set"):
        plan_run(run_config(inputs, tmp_path / "run", "amortized", {"teacher": "probe"}))


def test_only_few_rows_refused_still_tell_the_time(
    inputs: Mapping[str, Any], tmp_path: Path
) -> None:
    """The sample of 32 rows has more directions than eight rows can have."""
    options = {**METHODS["saft"], "n_directions": 12}
    found = plan_run(run_config(inputs, tmp_path / "run", "saft", options))
    assert found.untold == []
    assert found.stages[0].minutes
