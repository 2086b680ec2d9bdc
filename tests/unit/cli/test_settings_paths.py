"""Paths in settings files: every one of them, in every verb that reads a whole file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tamis.cli.compare_config import CompareConfig
from tamis.cli.config import RunConfig
from tamis.cli.experiment_config import ExperimentConfig

FILES = ("rows.jsonl", "labels.jsonl", "anchors.jsonl", "template.jinja", "policy.txt")
FOLDERS = ("base", "ranker", "my-guard", "my-judge")
OUTPUTS = ("out", "cache")  # need not be there
GUARD = {"guard": "my-guard", "policy": "policy.txt", "chat_template": "template.jinja"}
ADDRESS = {"base_url": "http://127.0.0.1:9/v1"}
JUDGES = [
    {"kind": "guard", "guard": {**GUARD, "guard": "my-judge"}},
    {"kind": "endpoint", "model": "m", "rubric": "hexphi", "policy": "policy.txt",
     "endpoint": ADDRESS},
]  # fmt: skip
METHODS: dict[str, Any] = {
    "guard": {"name": "guard", **GUARD},
    "auto": {"name": "auto", "signals": {"it": {"method": "guard", "options": GUARD}}},
    "direction": {"name": "direction", "anchors": "anchors.jsonl"},
}  # fmt: skip
COMMON: dict[str, Any] = {
    "finetuning_set": "rows.jsonl", "labels": "labels.jsonl", "out": "out", "cache": "cache",
    "safe_set": "owner/name", "model": {"name": "base"},
    "render": {"chat_template": "template.jinja"},
}  # fmt: skip
PROMPTS = {"harmful": "prompts.jsonl", "pairs": "pairs.jsonl"}
CASES: list[tuple[Any, dict[str, Any]]] = [
    (RunConfig, {"method": METHODS["guard"], "ranking_model": {"name": "ranker"}, "rows": "ids.txt",
                 "evaluate": {"judges": JUDGES}, "prompts": PROMPTS}),
    (ExperimentConfig, {
        "arms": {name: {"method": method} for name, method in METHODS.items()}
        | {"mixed": {"choice": "everything", "mix": {"share": 0.1, "rows": "rows.jsonl"}}},
        "ranking_model": {"name": "ranker"}, "parts": {"half": {"rows": "ids.txt"}},
        "evaluate": {"judges": JUDGES}, "prompts": PROMPTS,
    }),
    (CompareConfig, {"methods": METHODS, "parts": {"half": {"rows": "ids.txt"}}}),
]  # fmt: skip


def texts(value: Any) -> list[str]:
    """Every text in settings."""
    if isinstance(value, dict):
        return [text for one in value.values() for text in texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in texts(one)]
    return [value] if isinstance(value, str) else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all that the settings name."""
    for name in FILES:
        (tmp_path / name).write_text("x")
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(("cls", "more"), CASES)
def test_every_path_is_relative_to_the_file(folder: Path, cls: Any, more: Any) -> None:
    """None is left as it stood; what is no path and a hub id are."""
    values = {**COMMON, **more}
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    found = texts(cls.read(folder / "settings.yaml").model_dump(mode="json"))
    known = {*FILES, *FOLDERS, *OUTPUTS, "ids.txt", "prompts.jsonl", "pairs.jsonl"}
    given = known & set(texts(values))
    assert len(given) > 8
    assert {str(folder / name) for name in given} <= set(found)
    assert not known & set(found)
    assert "owner/name" in found


def test_an_endpoints_guard_has_its_name_there(folder: Path) -> None:
    """A folder of that name beside the file is another thing."""
    served = {"name": "guard", "backend": "endpoint", "guard": "my-guard", "endpoint": ADDRESS}
    values = {**COMMON, "methods": {"served": served}}
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    config = CompareConfig.read(folder / "settings.yaml")
    assert config.methods["served"].options["guard"] == "my-guard"
