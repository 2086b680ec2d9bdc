"""What an experiment fixes before its first cell is run, and what was changed afterwards.

`beforehand.json` in the experiment's folder has one entry: the time, how many cells were finished,
and the settings that decide how figures are read. It stays as it is; a run with other settings adds
an entry below it.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
from pydantic import ValidationError

from tamis.cli.config import Section
from tamis.cli.experiment_config import ExperimentConfig, cells
from tamis.errors import ConfigError, DataError
from tamis.files import read_json_object, write_json
from tamis.stage_files import make_folder

if TYPE_CHECKING:
    from tamis.evaluation.finished import Questions

BEFOREHAND = "beforehand.json"
_LOCK = ".beforehand.lock"
_HARM, _GRADE = "attack_success_rate", "harmfulness_score"
# By kind of judge or, of an endpoint, by rubric: the measures that its verdicts give.
_GIVEN_BY: Mapping[str, Collection[str]] = {
    "refusal_strings": (_HARM, "over_refusal_rate"), "classifier": (_HARM, _GRADE),
    "guard": (_HARM, _GRADE), "hexphi": (_HARM, _GRADE), "strongreject": (_HARM, _GRADE),
    "saft": (_HARM,), "xstest": ("over_refusal_rate", "partial_refusal_rate"),
}  # fmt: skip


def refuse_silent_primary(config: ExperimentConfig, asked: Questions) -> None:
    """Refuse a primary measure that no cell would have a figure of.

    Raises:
        ConfigError: Its judge does not give it, or no prompt has an answer to check.
    """
    measure, _, name = config.primary.partition("/")
    first, *others = config.evaluate.judges
    judge = next((one for one in others if one.label == name), None) if name else first
    if judge is None:
        named = ", ".join(one.label for one in others) or "there are none"
        raise ConfigError(
            f"primary {config.primary!r} is a figure of {name}, which is none of the judges after "
            f"the first: {named}. The first one's has no name."
        )
    judged = {measure for measures in _GIVEN_BY.values() for measure in measures}
    if measure in judged and measure not in _GIVEN_BY[judge.rubric or judge.kind]:
        able = ", ".join(kind for kind, measures in _GIVEN_BY.items() if measure in measures)
        raise ConfigError(
            f"primary {config.primary!r} would have no figure: the judge {judge.label} gives none. "
            f"Those of {able} do; or set another primary."
        )
    checkable = any(one.answer is not None for one in asked.prompts["helpful"])
    if measure == "task_accuracy" and not checkable:
        raise ConfigError(
            f"primary {config.primary!r} would have no figure: no helpful prompt has an answer to "
            "check. Give prompts.helpful with an `answer` each, or another primary."
        )


class Fixed(Section):
    """Settings that decide how figures are read; the order of names means nothing."""

    primary: str
    references: list[str]
    arms: list[str]
    seeds: list[int]
    parts: list[str]
    selection_ratios: list[float]
    budgets: list[str]

    def names(self, setting: str) -> set[str]:
        """Return what a setting holds, one by one."""
        value = getattr(self, setting)
        return {value} if isinstance(value, str) else set(map(str, value))

    def differs(self, other: Fixed, setting: str) -> bool:
        """Whether a setting holds something else."""
        return self.names(setting) != other.names(setting)


class Entry(Section):
    """The settings of one run."""

    at: str
    """Time in UTC, ISO 8601."""
    n_finished: int
    """Cells that were finished then, whatever settings they belong to."""
    n_cells: int
    """Cells that were finished or planned by earlier entries; by this one where it is the first."""
    fixed: Fixed
    cells: list[str]
    """Names of those that these settings plan."""
    judges: list[dict[str, Any]] | None = None
    """Settings of the judges; None in older records."""


class _Record(Section):
    entries: list[Entry]


def read_entries(out: Path) -> list[Entry]:
    """Return what was recorded in an experiment's folder, the first entry first; empty without.

    Raises:
        DataError: The file is damaged.
    """
    path = out / BEFOREHAND
    if not path.exists():
        return []
    try:
        return _Record.model_validate(read_json_object(path)).entries
    except ValidationError as error:
        raise DataError(
            f"{path} is not what an experiment writes: {error}. Put it back as it was, or move it "
            "away: the page then says that nothing was recorded beforehand."
        ) from error


def write_entry(config: ExperimentConfig, *, only_first: bool = False) -> None:
    """Record what the settings fix, unless the last entry says the same.

    Args:
        config: The experiment.
        only_first: Leave changes to the run of all cells: for a process that runs one of them.

    Raises:
        ConfigError: The folder is a file.
        DataError: The record is damaged.
    """
    make_folder(config.out)
    # Waits its turn: cells that a scheduler starts side by side all come here first.
    with filelock.FileLock(config.out / _LOCK):
        entries = read_entries(config.out)
        fixed = Fixed(
            primary=config.primary, references=config.compared_with, arms=list(config.arms),
            seeds=config.seeds, parts=list(config.parts), selection_ratios=config.selection_ratios,
            budgets=list(config.budgets),
        )  # fmt: skip
        if entries and (only_first or not _differing(entries[-1].fixed, fixed)):
            return
        here = config.out / "cells"
        finished = {path.parent.parent.relative_to(here).as_posix()
                    for path in here.glob("*/*/evaluate/manifest.json")}  # fmt: skip
        names = [cell.name for cell in cells(config)]
        planned = {name for entry in entries for name in entry.cells} or set(names)
        entries.append(Entry(
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            n_finished=len(finished), n_cells=len(finished | planned), fixed=fixed, cells=names,
            judges=[judge.model_dump(mode="json") for judge in config.evaluate.judges],
        ))  # fmt: skip
        write_json(config.out / BEFOREHAND, _Record(entries=entries).model_dump(mode="json"))


def beforehand(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """Say what `results.json` does: when it was recorded first, and what is different by now.

    What was changed before any cell was finished, or changed back, counts as fixed beforehand.

    Returns:
        `at` and `n_finished` of the first entry, and `changes`; None without an entry.
    """
    if not entries:
        return None
    first = entries[0]
    return {"at": first.at, "n_finished": first.n_finished, "changes": list(_changes(entries))}


def _changes(entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    before = [*entries[:1], *takewhile(lambda entry: not entry.n_finished, entries)][-1].fixed
    now = entries[-1].fixed
    for setting in _differing(before, now):
        last = [b for a, b in pairwise(entries) if a.fixed.differs(b.fixed, setting)][-1]
        old, new = before.names(setting), now.names(setting)
        yield {"setting": setting, "removed": sorted(old - new), "added": sorted(new - old),
               "at": last.at, "n_finished": last.n_finished, "n_cells": last.n_cells}  # fmt: skip


def _differing(one: Fixed, other: Fixed) -> list[str]:
    return [setting for setting in Fixed.model_fields if one.differs(other, setting)]
