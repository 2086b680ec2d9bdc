"""Comparison with recorded figures: what is told, and what is let pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import recording
from recording import ALLOWED, ALLOWED_OF_SPREAD, Table

# Spread 4: up to 1.5e-5 + 4 * 5e-5 = 2.15e-4 is allowed.
RECORDED: Table = {"a": {"score": 1.0}, "b": {"score": 2.0}, "c": {"score": 5.0}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three rows, recorded."""
    recording.write(tmp_path / "brevity.json", RECORDED)
    return tmp_path / "brevity.json"


def test_the_tolerance_grows_with_the_spread(path: Path) -> None:
    """The same step is let pass below 1.5e-5 + 4 * 5e-5 and told above."""
    allowed = ALLOWED + 4 * ALLOWED_OF_SPREAD
    near, far = ({**RECORDED, "b": {"score": 2 + allowed * share}} for share in (0.99, 1.01))
    assert recording.complaint("brevity", path, near) == ""
    assert "b: score was 2 and is 2.0002" in recording.complaint("brevity", path, far)


def test_a_change_names_method_row_amount_and_what_to_do(path: Path) -> None:
    """All on the way to the cause are in the message, and that two rows swapped."""
    told = recording.complaint("brevity", path, {**RECORDED, "a": {"score": 3.0}})
    assert told.startswith("brevity no longer gives what was recorded in brevity.json")
    assert "a: score was 1 and is 3: moved by 2, allowed is 0.00022" in told
    assert "order by score: 1 of 3 pairs clearly apart swapped" in told
    assert "make golden-record` and say why in the commit" in told


def test_another_environment_is_told(path: Path) -> None:
    """A change may come from a newer library alone."""
    record = json.loads(path.read_text())
    record["environment"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    assert "recorded with torch 1.0, here " in recording.complaint("brevity", path, {})


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"a": {"score": 1.0}, "b": {"score": 2.0}}, "c is gone"),
        ({**RECORDED, "d": {"score": 1.0}}, "d is new"),
        ({**RECORDED, "c": {"loss": 5.0}}, "c: only one of the two has loss, score"),
        ({**RECORDED, "c": {"score": float("nan")}}, "c: score was 5 and is nan"),
    ],
)
def test_rows_and_figures_are_the_same(path: Path, found: Table, told: str) -> None:
    """One that is missing, new or no number is named."""
    assert told in recording.complaint("brevity", path, found)


def test_a_table_without_a_record_is_told(tmp_path: Path) -> None:
    """A new method is recorded once."""
    told = recording.complaint("brevity", tmp_path / "brevity.json", RECORDED)
    assert told == "brevity has no record: run `make golden-record`."
