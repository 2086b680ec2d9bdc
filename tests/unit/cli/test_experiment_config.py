"""Arms, cells and budgets of an experiment; what cannot be meant is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.cli.experiment import finetune_config, folders
from tamis.cli.experiment_config import ExperimentConfig, cells
from tamis.cli.experiment_rows import ranking_folder, read_data
from tamis.errors import ConfigError, MismatchError

ARMS: dict[str, Any] = {
    "nothing": {}, "everything": {}, "uniform": {"method": "uniform"},
    "loss": {"method": {"name": "loss"}},
    "loss+safe": {"method": "loss", "mix": {"share": 0.2}},
}  # fmt: skip


def settings(**changes: Any) -> ExperimentConfig:
    """A small experiment's settings."""
    return ExperimentConfig.model_validate({
        "finetuning_set": "rows.jsonl", "safe_set": "safe.jsonl", "labels": "labels.jsonl",
        "out": "out", "arms": ARMS, "seeds": [0, 1], **changes,
    })  # fmt: skip


def test_an_arm_says_how_it_chooses() -> None:
    """By its method, or by its name where it has none."""
    arms = settings().arms
    assert [arms[name].choice for name in ARMS] == [
        "nothing", "everything", "ranked", "ranked", "ranked",
    ]  # fmt: skip


def test_an_arm_without_fine_tuning_is_one_cell() -> None:
    """Every other has one per part, ratio, budget and seed; everything has no ratio."""
    config = settings(
        parts={"a": {}, "b": {"rate": 0.1}}, selection_ratios=[0.5, 0.8],
        budgets=["steps", "epochs"],
    )  # fmt: skip
    names = [cell.name for cell in cells(config)]
    assert len(set(names)) == len(names)
    assert names.count("a/nothing") == 1
    assert "b/nothing" not in names
    assert sum(name.startswith("a/everything-") for name in names) == 4
    assert sum(name.startswith("b/loss-0.5-") for name in names) == 4
    assert len(names) == 1 + 2 * (4 + 3 * 8)


def test_equal_settings_share_a_ranking() -> None:
    """The second arm finds the first one's."""
    config = settings()
    assert ranking_folder(config, "all", "loss+safe") == Path("out/rankings/all/loss")
    assert ranking_folder(config, "all", "uniform") == Path("out/rankings/all/uniform")


def test_equal_steps_are_those_of_the_largest_selection() -> None:
    """80% of 100 rows in batches of 8 are 10 steps a pass, for every arm; `epochs` counts rows."""
    config = settings(
        budgets=["steps", "epochs"], selection_ratios=[0.5, 0.8],
        finetune={"epochs": 2, "batch_size": 8},
    )  # fmt: skip
    by_budget = {cell.budget: finetune_config(config, cell, 100) for cell in cells(config)[1:]}
    assert by_budget["steps"].max_steps == 20
    assert by_budget["epochs"].max_steps is None


def test_given_steps_are_the_budget() -> None:
    """Whatever the rows."""
    config = settings(finetune={"max_steps": 7})
    assert finetune_config(config, cells(config)[-1], 1000).max_steps == 7


def test_a_cell_without_fine_tuning_is_evaluated_only() -> None:
    """It has neither rows nor an adapter."""
    where = folders(settings(), cells(settings())[0])
    assert (where.rows, where.finetune) == (None, None)
    assert where.evaluate == Path("out/cells/all/nothing/evaluate")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"arms": {"a": {"choice": "ranked"}, "everything": {}}}, "choice=ranked and a method"),
        ({"arms": {"a": {"choice": "oracle", "method": "loss"}, "everything": {}}}, "belong"),
        ({"arms": {"mine": {}, "everything": {}}}, "mine"),
        ({"labels": None, "arms": {"oracle": {}, "everything": {}}}, "an oracle needs labels"),
        ({"labels": None, "parts": {"p": {"rate": 0.1}}}, "a rate needs labels"),
        ({"arms": {"nothing": {"mix": {"share": 0.1}}, "everything": {}}}, "nothing is trained"),
        ({"arms": {"nothing": {"prune": {}}, "everything": {}}}, "nothing is trained"),
        ({"safe_set": None, "arms": {"nothing": {}, "everything": {"prune": {}}}}, "safe_set"),
        ({"safe_set": None}, "give mix.rows, or a safe_set"),
        ({"references": ["other"]}, "which arms does not have"),
        ({"references": []}, "references is empty"),
        ({"references": ["everything", "everything"]}, "references .* repeat one"),
        ({"seeds": [1, 1]}, r"seeds \[1, 1\] repeat one"),
        ({"budgets": ["steps", "steps"]}, "budgets .* repeat one"),
        ({"primary": "prefrence_margin"}, "primary 'prefrence_margin' is none of"),
        ({"parts": {}}, "parts is empty"),
        ({"selection_ratios": [0.0]}, r"selection_ratios \[0.0\] are no shares in"),
        ({"parts": {"p": {"rows": "r.txt", "rate": 0.1}}}, "not both"),
        ({"arms": {"a/b": {"method": "loss"}, "everything": {}}}, "cannot name a folder"),
        ({"arms": {"everything": {}}}, "at least 2"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], match: str) -> None:
    """With the place and the reason."""
    with pytest.raises((ConfigError, ValueError), match=match):
        settings(**changes)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Those of arms and parts as well."""
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "finetuning_set: rows.jsonl\nsafe_set: safe.jsonl\nout: results\n"
        "arms: {everything: {}, mixed: {choice: everything, mix: {share: 0.1, rows: more.jsonl}}}\n"
        "parts: {half: {rows: half.txt}}\n"
    )
    for name in ("rows.jsonl", "safe.jsonl", "more.jsonl"):
        (tmp_path / name).touch()
    config = ExperimentConfig.read(file)
    mix = config.arms["mixed"].mix
    assert config.out == tmp_path / "results"
    assert config.parts["half"].rows == tmp_path / "half.txt"
    assert mix is not None
    assert mix.rows == str(tmp_path / "more.jsonl")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"arms": {"u": {"method": "loss"}, "u-0.5": {"choice": "everything"}},
          "selection_ratios": [0.5]}, r"u at ratio 0\.5 and u-0\.5 would share .*rows/all/u-0\.5"),
        ({"arms": {"a": {"choice": "everything"}, "a-steps-1": {"choice": "nothing"}}},
         r"a and a-steps-1 would share the folder cells/all/a-steps-1"),
        ({"selection_ratios": [0.5, 0.5000001]}, "ratios that differ in six digits"),
    ],
)  # fmt: skip
def test_two_cells_do_not_share_a_folder(changes: dict[str, Any], match: str) -> None:
    """Both are named, before one writes over the other."""
    with pytest.raises(ValueError, match=match):
        settings(**changes)


def test_rows_without_a_label_are_told_with_a_way_out_that_exists(tmp_path: Path) -> None:
    """An experiment takes no list of rows for all it does."""
    rows = [{"id": f"r{i}", "prompt": f"{i}", "completion": "yes"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "labels.jsonl").write_text('{"id": "r0", "harmful": true}\n')
    config = settings(finetuning_set=str(tmp_path / "rows.jsonl"), labels=tmp_path / "labels.jsonl")
    with pytest.raises(MismatchError, match="finetuning_set that holds the labelled") as refused:
        read_data(config)
    assert "--rows" not in str(refused.value)
