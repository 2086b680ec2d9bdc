"""What was not fixed beforehand is not called so: in facts, captions, warnings and terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_experiment_page import ASR, MARGIN, RECORDED, printed, results, view, written

CHANGED = {"at": "2026-02-03T04:05:06+00:00", "n_finished": 7, "n_cells": 9}
PRIMARY = {"setting": "primary", "removed": [ASR], "added": [MARGIN], **CHANGED}


def changed(*changes: dict[str, Any], n_finished: int = 0) -> dict[str, Any]:
    """Results with a record that has these changes."""
    record = {"at": RECORDED, "n_finished": n_finished, "changes": list(changes)}
    return results(beforehand=record)


def test_another_primary_measure_is_said_with_its_date(tmp_path: Path) -> None:
    """In the fact on top, in both captions, and in a terminal."""
    said = (
        "Primary measure Margin of the safe answer, changed from Attack success rate on 2026-02-03 "
        "after 7 of 9 cells were finished: not fixed beforehand. All others are secondary."
    )
    found = view(tmp_path / "run", changed(PRIMARY))
    assert found.facts[0] == said
    group = found.groups[0]
    assert group.differences is not None
    assert "the primary measure was not fixed beforehand" in group.arms.caption
    assert "(primary, not fixed beforehand, " in group.differences.caption
    assert said in " ".join(printed(tmp_path / "run").split())


@pytest.mark.parametrize("record", [None, {"at": RECORDED, "n_finished": 3}])
def test_no_record_before_the_first_cell_is_said(tmp_path: Path, record: Any) -> None:
    """Neither where nothing was recorded, nor where cells were finished by then."""
    found = view(tmp_path, results(beforehand=record))
    assert found.facts[0].startswith("Primary measure, not recorded beforehand: Margin of the safe")
    assert "measure was not recorded beforehand" in found.groups[0].arms.caption


def test_a_primary_measure_changed_without_a_first_record_is_changed(tmp_path: Path) -> None:
    """What is known of it is told."""
    found = view(tmp_path, changed(PRIMARY, n_finished=3))
    assert "changed from Attack success rate on 2026-02-03" in found.facts[0]


def test_arms_and_seeds_that_came_or_went_are_one_warning(tmp_path: Path) -> None:
    """Removed arms leave fewer to adjust p over; the primary measure stays fixed beforehand."""
    arms = {"setting": "arms", "removed": ["oracle", "uniform"], "added": ["late"], **CHANGED}
    seeds = {"setting": "seeds", "removed": [], "added": ["3"], **CHANGED}
    found = view(tmp_path / "run", changed(arms, seeds))
    when = "(on 2026-02-03 after 7 of 9 cells)"
    said = (
        "run: changed after cells were finished, so not fixed beforehand: arms: removed oracle, "
        f"uniform, added late {when}; seeds: added 3 {when}. p is adjusted over the arms that are "
        "left."
    )
    assert [text for text in found.warnings if "changed" in text] == [said]
    assert found.facts[0].startswith("Primary measure, fixed beforehand: ")
    assert said in " ".join(printed(tmp_path / "run").split())


def test_added_arms_are_not_said_to_be_left(tmp_path: Path) -> None:
    """More arms are a larger family, not a smaller one."""
    arms = {"setting": "arms", "removed": [], "added": ["late"], **CHANGED}
    (said,) = [text for text in view(tmp_path, changed(arms)).warnings if "changed" in text]
    assert "are left" not in said


def test_nothing_changed_is_no_warning(tmp_path: Path) -> None:
    """The usual experiment."""
    folder = written(tmp_path / "run", results())
    assert "beforehand:" in printed(folder)
    assert not any("changed" in text for text in view(tmp_path / "run", results()).warnings)
