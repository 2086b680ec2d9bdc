"""Files and folders that a ranking's settings name are its inputs, known by their bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tamis.cli.config import MethodConfig, RankSettings
from tamis.cli.inputs import described, method_inputs
from tamis.cli.stages import Common, rank_stage
from tamis.errors import MismatchError
from tamis.files import file_sha256
from tamis.runs import Stage


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    """A folder that is taken for a guard's; nothing loads it."""
    folder = tmp_path / "guard"
    folder.mkdir()
    (folder / "weights").write_text("safe")
    return folder


def stage(folder: Path, guard: Path) -> Stage:
    """A ranking of one row by that guard."""
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"id": "r", "prompt": "Say.", "completion": "water"}))
    settings = RankSettings.model_validate({"method": {"name": "guard", "guard": str(guard)}})
    return rank_stage(settings, Common(folder / "out"), data=str(rows))


def test_a_guard_that_changed_under_its_name_is_noticed(tmp_path: Path, guard: Path) -> None:
    """The ranking that was begun with the other one is refused."""
    with stage(tmp_path, guard) as begun:
        (begun.work / "part").write_text("hours of work")
    with stage(tmp_path, guard) as again:
        assert (again.work / "part").exists()
    (guard / "weights").write_text("anything")
    with (
        pytest.raises(MismatchError, match=r"inputs\.method_guard\.sha256"),
        stage(tmp_path, guard),
    ):
        pass


def test_an_outside_method_is_known_by_its_file(tmp_path: Path) -> None:
    """Written anew, its rankings are not taken for finished; a shipped one is of this version."""
    name = f"{__name__}:Outside"
    of = {f"method_code_of_{name}": Path(__file__)}
    assert method_inputs(MethodConfig(name=name)) == of
    assert method_inputs(MethodConfig(name="amortized", options={"teacher": name})) == of
    assert method_inputs(MethodConfig(name="loss")) == {}


class Outside:
    """A method that is not part of tamis."""

    requires: ClassVar[frozenset[str]] = frozenset()

    def rank(self, inputs: Any) -> None:
        """It is never run."""


def test_files_of_methods_within_methods_are_inputs(tmp_path: Path, guard: Path) -> None:
    """Anchors as a path, a guard and its policy in a signal's options; what is no file is none."""
    for name in ("anchors.jsonl", "policy.txt"):
        (tmp_path / name).write_text("x")
    options = {"guard": str(guard), "policy": str(tmp_path / "policy.txt"), "safe": ["safe"]}
    method: dict[str, Any] = {
        "contrast": {"method": "contrast", "options": {"anchors": str(tmp_path / "anchors.jsonl")}},
        "guard": {"method": "guard", "options": options},
    }
    found = method_inputs(MethodConfig(name="auto", options={"signals": method}))
    assert found == {
        "method_signals_contrast_options_anchors": tmp_path / "anchors.jsonl",
        "method_signals_guard_options_guard": guard,
        "method_signals_guard_options_policy": tmp_path / "policy.txt",
    }
    direction = MethodConfig(name="direction", options={"anchors": tmp_path / "anchors.jsonl"})
    assert method_inputs(direction) == {"method_anchors": tmp_path / "anchors.jsonl"}
    assert method_inputs(MethodConfig(name="guard", options={"guard": "owner/name"})) == {}


def test_a_guard_at_an_endpoint_is_no_folder(
    tmp_path: Path, guard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its name there, whatever lies here."""
    monkeypatch.chdir(tmp_path)
    options = {"backend": "endpoint", "guard": guard.name,
               "endpoint": {"base_url": "http://127.0.0.1:9/v1"}}  # fmt: skip
    assert method_inputs(MethodConfig(name="guard", options=options)) == {}


def test_a_file_below_the_home_folder_is_known_by_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is read: a settings file may name it with ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("x")
    assert described("~/rows.jsonl") == {
        "path": str(tmp_path / "rows.jsonl"), "sha256": file_sha256(tmp_path / "rows.jsonl"),
    }  # fmt: skip
