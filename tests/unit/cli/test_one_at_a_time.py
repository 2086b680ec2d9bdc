"""Two processes do not spoil each other's comparison or experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from test_plan_compare import comparison

from tamis.cli.experiment import run_experiment, run_one
from tamis.cli.experiment_config import ExperimentConfig, cells
from tamis.cli.run_verbs import compare
from tamis.errors import ConfigError, DataError
from tamis.runs import locked


def test_a_second_comparison_in_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    """Nothing is ranked or written; its expected time may be asked for."""
    config = comparison(tmp_path, {"it": {"name": "uniform"}}, n=40)
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    with locked(config.out):
        with pytest.raises(ConfigError, match="in use by another tamis process"):
            compare(path, plan=False)
        compare(path, plan=True)
    assert [found.name for found in config.out.iterdir()] == [".lock"]


def test_a_second_experiment_is_refused_and_its_cells_are_not(tmp_path: Path) -> None:
    """A cell gets as far as its rows, which are not there."""
    config = ExperimentConfig.model_validate({
        "finetuning_set": str(tmp_path / "none.jsonl"), "out": tmp_path / "out",
        "arms": {"nothing": {}, "everything": {}},
    })  # fmt: skip
    with locked(config.out):
        with pytest.raises(ConfigError, match="in use by another tamis process"):
            run_experiment(config)
        with pytest.raises(DataError, match=r"none\.jsonl"):
            run_one(config, cells(config)[0].name)
