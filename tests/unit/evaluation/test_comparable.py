"""Two evaluations that differ in more than the adapter are told apart, by content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tamis.errors import DataError
from tamis.evaluation.comparable import why_apart
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.runs import Stage
from toy_evaluation import evaluated


def endpoint(**settings: Any) -> dict[str, Any]:
    """A grader at an endpoint, as a manifest has it."""
    judge = {"kind": "endpoint", "model": "m", "rubric": "saft",
             "endpoint": {"base_url": "http://127.0.0.1:1/v1", **settings}}  # fmt: skip
    return JudgeSettings.model_validate(judge).model_dump(mode="json")


def guard(folder: str, **settings: Any) -> dict[str, Any]:
    """A classifier in a folder, likewise."""
    judge = {"kind": "classifier", "name": "g", "guard": {"guard": folder, **settings}}
    return JudgeSettings.model_validate(judge).model_dump(mode="json")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"adapter": "x"}),
        ({}, {"batch_size": 3, "max_unscored_share": 0.5, "allow_ranking_guard": True}),
        ({"judges": [endpoint()]}, {"judges": [endpoint(max_calls=7, timeout_seconds=9.0)]}),
        ({"judges": [guard("/a")]}, {"judges": [guard("/b", device="cpu")]}),
        ({"inputs": {"pairs": {"path": "/a", "sha256": "1"}}},
         {"inputs": {"pairs": {"path": "/b", "sha256": "1"}}}),
        ({"inputs": {"chat_template": {"path": "/a", "sha256": "1"}}},
         {"inputs": {"chat_template": {"path": "/b", "sha256": "1"}}}),
    ],
)  # fmt: skip
def test_what_decides_no_figure_does_not_count(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:  # fmt: skip
    """The adapter is what is compared; batches, patience and places are no difference."""
    folders = [evaluated(tmp_path / name, [True, False], **values)
               for name, values in (("a", one), ("b", other))]  # fmt: skip
    assert why_apart(*folders) == []


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({}, {"asked": "Sing"}, "other harmful prompts; other helpful prompts"),
        ({}, {"model": "e" * 64}, "another base model"),
        ({}, {"max_new_tokens": 999, "temperature": 0.5},
         "other settings (evaluate.max_new_tokens, evaluate.temperature)"),
        ({"judges": [endpoint()]}, {"judges": [endpoint(request={"temperature": 1})]},
         "other settings (evaluate.judges)"),
        ({"identities": {"refusal_strings": "guard:g@1"}},
         {"identities": {"refusal_strings": "guard:g@2"}}, "other judges"),
        ({"inputs": {"judge_0_policy": {"path": "/a", "sha256": "1"}}},
         {"inputs": {"judge_0_policy": {"path": "/a", "sha256": "2"}}}, "other judges"),
        ({}, {"inputs": {"pairs": {"path": "/a", "sha256": "1"}}}, "other pairs"),
        ({"inputs": {"chat_template": {"path": "/a", "sha256": "1"}}},
         {"inputs": {"chat_template": {"path": "/a", "sha256": "2"}}}, "other chat template"),
    ],
)  # fmt: skip
def test_what_decides_figures_is_told(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], said: str
) -> None:
    """Prompts, judges, settings and weights, by their content."""
    folders = [evaluated(tmp_path / name, [True, False], **values)
               for name, values in (("a", one), ("b", other))]  # fmt: skip
    assert "; ".join(why_apart(*folders)) == said


def test_many_settings_are_counted(tmp_path: Path) -> None:
    """Four by name."""
    changes = {"max_new_tokens": 1, "temperature": 1, "n_openings": 9, "a": 1, "b": 2, "c": 3}
    folders = [evaluated(tmp_path / "a", [True]), evaluated(tmp_path / "b", [True], **changes)]
    assert why_apart(*folders)[0].endswith("evaluate.max_new_tokens and 2 more)")


def test_an_older_evaluation_does_not_say(tmp_path: Path) -> None:
    """It cannot be taken for one of the same prompts."""
    new = evaluated(tmp_path / "new", [True])
    with Stage(tmp_path / "old", "evaluate", {}, {}, seed=0) as stage:
        stage.finish(details={"adapter": None})
    with pytest.raises(DataError, match="old does not say what was asked or who judged"):
        why_apart(new, tmp_path / "old")
