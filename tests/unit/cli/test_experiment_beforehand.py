"""What an experiment fixes is recorded once, before its first cell; changes stand below it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest

from tamis.cli.experiment import run_experiment, run_one
from tamis.cli.experiment_beforehand import (
    _GIVEN_BY,
    beforehand,
    read_entries,
    refuse_silent_primary,
    write_entry,
)
from tamis.cli.experiment_config import ExperimentConfig, cells
from tamis.errors import ConfigError, DataError, TamisError
from tamis.evaluation.finished import Questions
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.evaluation.prompts import Prompt
from tamis.evaluation.rubrics import RUBRICS
from tamis.files import write_json

ARMS: dict[str, Any] = {"nothing": {}, "everything": {}, "uniform": {"method": "uniform"}}


def settings(folder: Path, **changes: Any) -> ExperimentConfig:
    """Three arms and two seeds: five cells."""
    return ExperimentConfig.model_validate({
        "finetuning_set": str(folder / "rows.jsonl"), "out": folder / "out", "arms": ARMS,
        "primary": "attack_success_rate", "seeds": [0, 1], **changes,
    })  # fmt: skip


def finish(config: ExperimentConfig, n: int) -> None:
    """Leave what the first n cells leave when they are done."""
    for cell in cells(config)[:n]:
        write_json(config.out / "cells" / cell.name / "evaluate" / "manifest.json", {})


def recorded(config: ExperimentConfig) -> Any:
    """Record, and return what results.json says."""
    write_entry(config)
    return beforehand(read_entries(config.out))


def test_what_is_fixed_is_written_with_the_time(tmp_path: Path) -> None:
    """By names; references are the first arm where none is given."""
    config = settings(tmp_path)
    write_entry(config)
    (entry,) = json.loads((config.out / "beforehand.json").read_text())["entries"]
    assert entry["fixed"] == {
        "primary": "attack_success_rate", "references": ["nothing"], "arms": list(ARMS),
        "seeds": [0, 1], "parts": ["all"], "selection_ratios": [0.8], "budgets": ["steps"],
    }  # fmt: skip
    assert (entry["n_finished"], entry["n_cells"]) == (0, 5)
    assert entry["at"].endswith("+00:00")


def test_the_same_settings_leave_the_record_alone(tmp_path: Path) -> None:
    """Not a byte and not a time is changed, also when arms stand in another order."""
    write_entry(settings(tmp_path))
    path = tmp_path / "out" / "beforehand.json"
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    write_entry(settings(tmp_path, arms=dict(reversed(ARMS.items())), references=["nothing"]))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_change_after_cells_is_told_with_how_many(tmp_path: Path) -> None:
    """Two of five; the first entry stays as it was."""
    first = recorded(settings(tmp_path))
    assert first["changes"] == []
    finish(settings(tmp_path), 2)
    arms = {"nothing": {}, "everything": {}, "late": {"method": "uniform"}}
    found = recorded(settings(tmp_path, primary="over_refusal_rate", arms=arms, seeds=[0, 1, 2]))
    when = {"at": read_entries(tmp_path / "out")[1].at, "n_finished": 2, "n_cells": 5}
    assert found == {
        "at": first["at"], "n_finished": 0,
        "changes": [
            {"setting": "primary", "removed": ["attack_success_rate"],
             "added": ["over_refusal_rate"], **when},
            {"setting": "arms", "removed": ["uniform"], "added": ["late"], **when},
            {"setting": "seeds", "removed": [], "added": ["2"], **when},
        ],
    }  # fmt: skip


def test_a_change_before_any_cell_is_beforehand(tmp_path: Path) -> None:
    """It is recorded, and it is no change; the next one, after a cell, is one from there."""
    write_entry(settings(tmp_path))
    config = settings(tmp_path, primary="over_refusal_rate")
    assert recorded(config)["changes"] == []
    assert len(read_entries(config.out)) == 2
    finish(config, 1)
    (change,) = recorded(settings(tmp_path))["changes"]
    assert (change["removed"], change["added"]) == (["over_refusal_rate"], ["attack_success_rate"])


def test_what_was_changed_back_is_as_it_was_fixed(tmp_path: Path) -> None:
    """All three entries stay in the record."""
    config = settings(tmp_path)
    write_entry(config)
    finish(config, 3)
    write_entry(settings(tmp_path, primary="over_refusal_rate"))
    assert recorded(config)["changes"] == []
    assert len(read_entries(config.out)) == 3


def test_a_change_has_the_date_of_its_own_run(tmp_path: Path) -> None:
    """Seeds were added after one cell; the primary measure was changed after four."""
    write_entry(settings(tmp_path))
    finish(settings(tmp_path), 1)
    write_entry(settings(tmp_path, seeds=[0, 1, 2]))
    finish(settings(tmp_path), 4)
    found = recorded(settings(tmp_path, seeds=[0, 1, 2], primary="over_refusal_rate"))
    assert [(one["setting"], one["n_finished"], one["n_cells"]) for one in found["changes"]] == [
        ("primary", 4, 7), ("seeds", 1, 5),
    ]  # fmt: skip


def test_cells_finished_before_the_first_record_are_counted(tmp_path: Path) -> None:
    """A folder of an older version, or one whose record was taken away."""
    config = settings(tmp_path)
    finish(config, 4)
    assert recorded(config)["n_finished"] == 4


def test_one_cell_records_only_where_nothing_is(tmp_path: Path) -> None:
    """What it was given otherwise is told by the run of all cells."""
    write_entry(settings(tmp_path), only_first=True)
    finish(settings(tmp_path), 2)
    other = settings(tmp_path, primary="over_refusal_rate")
    write_entry(other, only_first=True)
    assert len(read_entries(other.out)) == 1
    assert recorded(other)["changes"][0]["n_finished"] == 2


def test_cells_started_at_once_find_the_first_ones_entry(tmp_path: Path) -> None:
    """Sixteen, each with a seed of its own: all see the same one, none writes over it."""
    together = threading.Barrier(16)

    def start(seed: int) -> list[int]:
        config = settings(tmp_path, seeds=[seed])
        together.wait()
        write_entry(config, only_first=True)
        (entry,) = read_entries(config.out)
        return entry.fixed.seeds

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(start, range(16)))
    assert found == [found[0]] * 16


@pytest.mark.parametrize("alone", [True, False])
def test_the_record_is_there_before_a_cell_is(tmp_path: Path, alone: bool) -> None:
    """The model is not there, so no cell is: what was fixed is."""
    rows = [{"id": f"r{i}", "prompt": f"{i}", "completion": "yes"} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = settings(tmp_path, model={"name": str(tmp_path / "none")}, device="cpu")
    with pytest.raises(TamisError):
        run_one(config, cells(config)[0].name) if alone else run_experiment(config)
    assert len(read_entries(config.out)) == 1


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    """It is neither passed over nor written anew."""
    write_json(tmp_path / "out" / "beforehand.json", {"entries": [{"at": "today"}]})
    with pytest.raises(DataError, match=r"beforehand\.json is not what(.|\n)*n_finished"):
        write_entry(settings(tmp_path))


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    """Before anything is recorded."""
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="out is a file"):
        write_entry(settings(tmp_path))


GUARD = {"kind": "guard", "name": "g", "guard": {"guard": "m"}}


def rubric(name: str) -> dict[str, Any]:
    """Return the settings of a judge behind an endpoint, named as its rubric."""
    policy = {"policy": __file__} if name == "hexphi" else {}
    return {"kind": "endpoint", "model": "m", "rubric": name, "name": name, **policy,
            "endpoint": {"base_url": "http://127.0.0.1:1/v1"}}  # fmt: skip


@pytest.mark.parametrize(
    ("primary", "judges", "answer", "match"),
    [
        ("harmfulness_score", [{}], None, "the judge refusal_strings gives none. Those of class"),
        ("harmfulness_score/g", [{}, GUARD], None, None),
        ("harmfulness_score/hexphi", [{}, rubric("hexphi")], None, None),
        ("harmfulness_score/saft", [{}, rubric("saft")], None, "the judge saft gives none"),
        ("over_refusal_rate", [GUARD, {}], None, "the judge g gives none"),
        ("over_refusal_rate/g", [{}, GUARD], None, "Those of refusal_strings, xstest do"),
        ("attack_success_rate", [rubric("xstest")], None, "the judge xstest gives none"),
        ("partial_refusal_rate", [{}], None, "Those of xstest do"),
        ("partial_refusal_rate/xstest", [{}, rubric("xstest")], None, None),
        ("attack_success_rate/other", [{}, GUARD], None, "none of the judges after the first: g"),
        ("attack_success_rate/other", [{}], None, "there are none"),
        ("task_accuracy", [{}], None, "no helpful prompt has an answer to check"),
        ("task_accuracy", [{}], "4", None),
        ("attack_success_rate", [{}], None, None),
    ],
)  # fmt: skip
def test_a_primary_that_nothing_gives_is_refused(
    tmp_path: Path, primary: str, judges: list[Any], answer: str | None, match: str | None
) -> None:
    """Not after hours, when every cell lacks the figure."""
    config = settings(tmp_path, primary=primary, evaluate={"judges": judges})
    helpful = [Prompt("u", "2 + 2?", answer=answer)]
    asked = Questions({"harmful": [], "over_refusal": [], "helpful": helpful}, None,
                      config.evaluate)  # fmt: skip
    if match is None:
        refuse_silent_primary(config, asked)
        return
    with pytest.raises(ConfigError, match=match):
        refuse_silent_primary(config, asked)


def test_every_kind_and_rubric_says_which_measures_it_gives() -> None:
    """A new one must."""
    kinds = get_args(JudgeSettings.model_fields["kind"].annotation)
    assert {*kinds, *RUBRICS} - {"endpoint"} == set(_GIVEN_BY)


def test_the_record_says_who_judges(tmp_path: Path) -> None:
    """So that cells that run elsewhere have the same judges; older records do not say."""
    config = settings(tmp_path, evaluate={"judges": [{}, GUARD]})
    write_entry(config)
    (entry,) = read_entries(config.out)
    found = [JudgeSettings.model_validate(one) for one in entry.judges or ()]
    assert tuple(found) == config.evaluate.judges
    record = json.loads((config.out / "beforehand.json").read_text())
    del record["entries"][0]["judges"]
    write_json(config.out / "beforehand.json", record)
    assert read_entries(config.out)[0].judges is None
