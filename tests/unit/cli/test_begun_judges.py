"""Judges that nobody named stay those of the work's first call."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml

from tamis.cli.begun_judges import begun_judges, settled_judges
from tamis.cli.experiment_beforehand import write_entry
from tamis.cli.experiment_config import ExperimentConfig
from tamis.errors import DataError
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.evaluation.usual_judges import SECOND_JUDGE

STRINGS = "refusal_strings"
MINE = JudgeSettings.model_validate({"kind": "guard", "guard": {"guard": "mine"}})


class Hub:
    """A Hugging Face cache that may hold the second judge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"models--{SECOND_JUDGE.replace('/', '--')}"

    def come(self) -> None:
        """Lay the guard's files there, empty: their names are looked at."""
        snapshot = self.folder / "snapshots" / ("f" * 40)
        snapshot.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (snapshot / name).touch()
        (self.folder / "refs").mkdir()
        (self.folder / "refs" / "main").write_text("f" * 40, encoding="utf-8")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Hub(tmp_path / "hub")


def names(config: EvaluateConfig) -> list[str]:
    """Who judges."""
    return [judge.label for judge in config.judges]


def begun(folder: Path, config: EvaluateConfig) -> Path:
    """Leave the settings of an evaluation in a folder."""
    kept = {"config": {"evaluate": config.model_dump(mode="json")}}
    (folder / "config.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")
    return folder


def test_an_evaluation_goes_on_with_one_judge_where_a_guard_has_come(
    hub: Hub, tmp_path: Path
) -> None:
    """A new one has both."""
    folder = begun(tmp_path, EvaluateConfig())
    hub.come()
    assert names(begun_judges(EvaluateConfig(), folder)) == [STRINGS]
    assert names(begun_judges(EvaluateConfig(), tmp_path / "new")) == [STRINGS, SECOND_JUDGE]


def test_an_evaluation_goes_on_with_both_where_the_guard_is_gone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its commit."""
    hub.come()
    first = EvaluateConfig()
    folder = begun(tmp_path, first)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    assert names(EvaluateConfig()) == [STRINGS]
    assert begun_judges(EvaluateConfig(), folder).judges == first.judges


def test_judges_that_were_named_are_not_taken_for_usual_ones(tmp_path: Path) -> None:
    """Neither those of the folder nor those of the settings."""
    folder = begun(tmp_path, EvaluateConfig(judges=(MINE,)))
    assert names(begun_judges(EvaluateConfig(), folder)) == [STRINGS]
    named = EvaluateConfig(judges=(JudgeSettings(), MINE))
    assert begun_judges(named, folder) is named
    assert settled_judges(named, tmp_path) is named


@pytest.mark.parametrize("text", ["", "[", "config: {}", "config: {evaluate: {judges: [1]}}"])
def test_a_folder_that_says_nothing_of_judges_changes_nothing(tmp_path: Path, text: str) -> None:
    """Such as that of another stage, which will be refused."""
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    config = EvaluateConfig()
    assert begun_judges(config, tmp_path) is config


@pytest.mark.parametrize("changed", [{"unsafe": [" Unsafe"]}, {"guard": "Qwen/Qwen3Guard-Gen-4B"}])
def test_a_named_guard_with_other_settings_is_not_the_usual_one(
    changed: dict[str, object], tmp_path: Path
) -> None:
    """Though its name in tables may be the same."""
    guard = {"kind": "guard", "name": SECOND_JUDGE, "guard": {"preset": "qwen3guard", **changed}}
    judges = (JudgeSettings(), JudgeSettings.model_validate(guard))
    folder = begun(tmp_path, EvaluateConfig(judges=judges))
    assert names(begun_judges(EvaluateConfig(), folder)) == [STRINGS]


def experiment(out: Path) -> ExperimentConfig:
    """Return the settings of an experiment that name no judge."""
    return ExperimentConfig.model_validate({
        "finetuning_set": "rows.jsonl", "out": out, "arms": {"nothing": {}, "everything": {}},
    })  # fmt: skip


def test_all_cells_of_an_experiment_have_the_judges_of_its_record(hub: Hub, tmp_path: Path) -> None:
    """On whatever machine they run; a new one has what is usual there."""
    write_entry(experiment(tmp_path))
    hub.come()
    assert names(settled_judges(EvaluateConfig(), tmp_path)) == [STRINGS]
    other = settled_judges(EvaluateConfig(n_openings=2), tmp_path / "other")
    assert names(other) == [STRINGS, SECOND_JUDGE]
    assert other.n_openings == 2


def test_without_a_record_of_judges_finished_cells_tell(hub: Hub, tmp_path: Path) -> None:
    """An experiment of an earlier version; no cell looks for others by itself."""
    cell = tmp_path / "cells" / "all" / "nothing" / "evaluate"
    cell.mkdir(parents=True)
    begun(cell, EvaluateConfig())
    hub.come()
    settled = settled_judges(EvaluateConfig(), tmp_path)
    assert names(settled) == [STRINGS]
    assert begun_judges(settled, tmp_path / "elsewhere") is settled
    fresh = settled_judges(EvaluateConfig(), tmp_path / "fresh")
    assert begun_judges(fresh, cell) is fresh


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    """Nobody can say who judged."""
    (tmp_path / "beforehand.json").write_text('{"entries": [1]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"beforehand\.json"):
        settled_judges(EvaluateConfig(), tmp_path)
