"""Faults of an evaluation are told before the work that comes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy
from tamis.cli.config import EvaluateSettings, PromptPaths, RunConfig
from tamis.cli.experiment import run_experiment
from tamis.cli.experiment_config import ExperimentConfig
from tamis.cli.model_stages import run_evaluate
from tamis.cli.pipeline import run_pipeline
from tamis.cli.stages import Common
from tamis.errors import ConfigError, DataError
from tamis.evaluation.evaluate import EvaluateConfig, evaluate
from tamis.evaluation.prompts import Prompt

GRADER: dict[str, Any] = {
    "kind": "endpoint", "model": "m", "rubric": "hexphi", "policy": "/none/policy.txt",
    "endpoint": {"base_url": "http://127.0.0.1:9/v1"},
}  # fmt: skip
GUARD = {"kind": "guard", "guard": {"guard": "g", "policy": "/none/policy.txt"}}


def run(folder: Path, **values: Any) -> None:
    """`tamis run`; neither the rows nor the models are there."""
    run_pipeline(RunConfig.model_validate({
        "finetuning_set": "/none/rows.jsonl", "out": folder, "method": {"name": "uniform"},
        "model": {"name": "/none/model"}, **values,
    }))  # fmt: skip


def experiment(folder: Path, **values: Any) -> None:
    """`tamis experiment`, likewise."""
    run_experiment(ExperimentConfig.model_validate({
        "finetuning_set": "/none/rows.jsonl", "out": folder, "model": {"name": "/none/model"},
        "arms": {"nothing": {}, "everything": {}}, **values,
    }))  # fmt: skip


def evaluation(folder: Path, evaluate: Any = None, prompts: Any = None) -> None:
    """`tamis evaluate`, likewise."""
    settings = {"evaluate": evaluate or {}, "model": {"name": "/none/model"}}
    run_evaluate(
        EvaluateSettings.model_validate(settings), Common(folder),
        prompts=PromptPaths.model_validate(prompts or {}),
    )  # fmt: skip


@pytest.mark.parametrize("verb", [run, experiment, evaluation])
@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ({"evaluate": {"judges": [GRADER]}}, ConfigError, "policy '/none/policy.txt' cannot be"),
        ({"evaluate": {"judges": [GUARD]}}, ConfigError, "policy '/none/policy.txt' cannot be"),
        ({"evaluate": {"n_openings": 1000}}, ConfigError, "n_openings=1000, but .* are shipped"),
        ({"prompts": {"harmful": "/none/prompts.jsonl"}}, DataError, "prompts.jsonl cannot be"),
        ({"prompts": {"pairs": "/none/pairs.jsonl"}}, DataError, "pairs.jsonl cannot be"),
    ],
)  # fmt: skip
def test_it_is_told_before_rows_are_read_and_models_are_loaded(
    verb: Callable[..., None], values: dict[str, Any], error: type[Exception], match: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Neither is there, and neither is what the message says."""
    with pytest.raises(error, match=match):
        verb(tmp_path / "out", **values)


def test_too_many_openings_are_refused_before_anything_is_answered(tmp_path: Path) -> None:
    """In Python too."""
    with pytest.raises(ConfigError, match="n_openings=1000"):
        evaluate(toy.tiny_lm(), harmful=[Prompt("p", "Say.")], work=tmp_path,
                 config=EvaluateConfig(max_new_tokens=1, n_openings=1000))  # fmt: skip
    assert list(tmp_path.iterdir()) == []
