"""Arms side by side: means, differences and what could be found, and sweeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from markupsafe import Markup

from tamis.evaluation.power import too_few_prompts
from tamis.report.charts import intervals_svg
from tamis.report.experiment_beforehand import when_fixed
from tamis.report.experiment_records import (
    ArmDifference,
    ArmMean,
    ExperimentRecord,
    Group,
    Measured,
)
from tamis.report.experiment_rows import kept_words
from tamis.report.judge_records import count_judges
from tamis.report.measures import heading, measure_of, shown
from tamis.report.records import Interval
from tamis.report.tables import Cell, Table, count_cell, interval_cell
from tamis.report.text import NOT_MEASURED, number

_DIMENSIONS = {"part": "part", "ratio": "share kept", "budget": "budget"}
_NOTHING_VARIED = "nothing varied"
_TOO_FEW = "too few prompts to find anything"
DIFFERENCE_HEAD = ("Arm", "Less", "Difference", "p, adjusted", "Smallest found", "n")
_EMPTY = (None, None, None)


def group_name(group: Group, dimensions: Sequence[str] = tuple(_DIMENSIONS)) -> str:
    """Name a group by its part, ratio and budget, or by some of them."""
    words = {"part": group.part, "ratio": kept_words(group.ratio),
             "budget": f"equal {group.budget}"}  # fmt: skip
    return ", ".join(words[dimension] for dimension in dimensions)


def n_judges(found: ExperimentRecord, name: str) -> int:
    """Count the models that judged for a measure anywhere: not all judge all prompts."""
    names = [other.partition("/") for group in found.groups for other in group.measures]
    base = name.partition("/")[0]
    judges = {judge or found.judges[0] for other, _, judge in names if other == base}
    return count_judges(judges, found.judge_identities)


def _heading(found: ExperimentRecord, name: str) -> str:
    return heading(name, n_judges(found, name))


def arms_table(
    caption: str, found: ExperimentRecord, group: Group, names: Sequence[str]
) -> Table:  # fmt: skip
    """Every arm's means, one column per measure; the primary one is marked."""
    arms = dict.fromkeys(arm for name in names for arm in group.measures[name].arms)
    rows = tuple(
        (Cell(arm, kind="head"),
         *(mean_cell(group.measures[name].arms.get(arm), name) for name in names))
        for arm in arms
    )  # fmt: skip
    heads = [_heading(found, name) for name in names]
    heads = [f"{head} (primary)" if name == found.primary else head
             for head, name in zip(heads, names, strict=True)]  # fmt: skip
    return Table(caption, ("Arm", *heads), rows)


def mean_cell(found: ArmMean | None, name: str) -> Cell:
    """An arm's mean over its interval, what it rests on, and the spread between its seeds."""
    if found is None:
        return Cell(NOT_MEASURED, kind="none")
    cell = interval_cell(Interval(found.value, found.low, found.high),
                         as_percent=measure_of(name).is_rate)  # fmt: skip
    missing = f", {found.n_missing:,} scores missing" if found.n_missing else ""
    rests = [f"n = {found.n:,} x {found.n_seeds:,}, unscored {found.n_unscored:,}{missing}"]
    if found.seed_sd is not None:
        rests.append(f"SD between seeds {shown(name)(found.seed_sd)}")
    # Equal values resample to themselves: "100% to 100%" would read as certain.
    interval = (_NOTHING_VARIED,) if cell.notes and found.low == found.high else cell.notes
    return replace(cell, notes=(*interval, *rests))


def primary_differences(found: ExperimentRecord, group: Group) -> Table | None:
    """Differences of the primary measure, also drawn around 0; None without one."""
    measured = group.measures.get(found.primary)
    if measured is None or not measured.differences:
        return None
    scale = _scale(found.primary)
    ends = [abs(end) for one in measured.differences for end in _interval(one) if end is not None]
    span = max(ends, default=0.0)
    rows = []
    for one in measured.differences:
        drawing = _drawn([_interval(one)], -span, span)
        rows.append((Cell(one.arm, kind="head"), *difference_cells(one, scale),
                     Cell(drawing=drawing, kind="plot")))  # fmt: skip
    label = _heading(found, found.primary)
    way = ", ".join(filter(None, (f"primary, {when_fixed(found)}", _way(found.primary, measured))))
    caption = f"{group_name(group)}: differences of {label} ({way})"
    ends_shown = f"{number(-span * scale)} to {number(span * scale)}"
    return Table(caption, (*DIFFERENCE_HEAD, ends_shown), tuple(rows))


def secondary_differences(
    found: ExperimentRecord, group: Group, names: Sequence[str]
) -> Table | None:
    """Differences of some other measures, each with its interval; None without one."""
    rows = []
    for name in names:
        measured = group.measures[name]
        label, note = _heading(found, name), _way(name, measured)
        for one in measured.differences:
            rows.append((
                Cell(label, (note,) if note else (), kind="head"), Cell(one.arm, kind="name"),
                *difference_cells(one, _scale(name)),
            ))  # fmt: skip
            label = note = ""  # said once per measure
    caption = f"{group_name(group)}: differences of the secondary measures, with 95% intervals"
    return Table(caption, ("Measure", *DIFFERENCE_HEAD), tuple(rows)) if rows else None


def _way(name: str, measured: Measured) -> str:
    unit = "percentage points" if measure_of(name).is_rate else ""
    better = "" if measured.better is None else f"{measured.better} is better"
    return ", ".join(filter(None, (better, unit)))


def difference_cells(one: ArmDifference, scale: float) -> tuple[Cell, ...]:
    """Reference, difference over its interval, p, smallest difference found, and n beside it."""
    value, low, high = _interval(one)
    difference = smallest = Cell(NOT_MEASURED, kind="none")
    if value is not None and low is not None and high is not None:
        interval = f"{number(low * scale)} to {number(high * scale)}"
        # Equal differences resample to themselves: "0 to 0" would read as certain.
        interval = _NOTHING_VARIED if low == high else interval
        difference = Cell(number(value * scale), (interval,), kind="num")
        if too_few_prompts(one.n, one.n_compared or 1):
            smallest = Cell(NOT_MEASURED, (_TOO_FEW,), kind="none")
        elif one.detectable is None:
            smallest = Cell(NOT_MEASURED, (_NOTHING_VARIED,), kind="none")
        else:
            smallest = Cell(number(one.detectable * scale), (_level(one),), kind="num")
    p = Cell(number(one.p_holm), kind="none" if one.p_holm is None else "num")
    left_out = (f"{one.n_unpaired:,} not in both",) if one.n_unpaired else ()
    missing = (f"{one.n_unscored:,} scores missing",) if one.n_unscored else ()
    n = replace(count_cell(one.n), notes=(*left_out, *missing))
    return (Cell(one.reference, kind="name"), difference, p, smallest, n)


def _level(one: ArmDifference) -> str:
    """The p at which the smallest difference is found, as Holm's strictest step has it."""
    if one.n_compared is None:
        return "2.80 standard errors"
    return "at .05" if one.n_compared == 1 else f"at .05 / {one.n_compared:,}"


def _interval(one: ArmDifference | ArmMean | None) -> tuple[float | None, ...]:
    """Value and both ends; nothing of a value that lacks an end."""
    if one is None:
        return _EMPTY
    ends = (one.value, one.low, one.high)
    return ends if all(end is not None and math.isfinite(end) for end in ends) else _EMPTY


def _scale(name: str) -> float:
    return 100.0 if measure_of(name).is_rate else 1.0


def _drawn(found: Sequence[tuple[float | None, ...]], low: float, high: float) -> Markup | None:
    """Draw intervals on a line from `low` to `high`; None where that is no line."""
    if not high > low:
        return None

    def place(end: float | None) -> float | None:
        return None if end is None else (end - low) / (high - low)

    return intervals_svg([(place(a), place(b), place(c)) for a, b, c in found])


def sweep_tables(found: ExperimentRecord) -> Iterator[Table]:
    """The primary measure of every arm over whatever has several values, the rest held."""
    groups = [group for group in found.groups if found.primary in group.measures]
    for dimension, word in _DIMENSIONS.items():
        held = [other for other in _DIMENSIONS if other != dimension]
        alike: dict[tuple[object, ...], list[Group]] = {}
        for group in groups:
            alike.setdefault(tuple(getattr(group, other) for other in held), []).append(group)
        for several in alike.values():
            if len(several) > 1:
                yield _sweep_table(found, several, dimension,
                                   f"by {word}: {group_name(several[0], held)}")  # fmt: skip


def _sweep_table(
    found: ExperimentRecord, groups: Sequence[Group], dimension: str, which: str
) -> Table:  # fmt: skip
    by_group = [group.measures[found.primary].arms for group in groups]
    arms = dict.fromkeys(arm for means in by_group for arm in means)
    ends = [end for means in by_group for one in means.values() for end in _interval(one)
            if end is not None]  # fmt: skip
    is_rate = measure_of(found.primary).is_rate
    low, high = (0.0, 1.0) if is_rate else (min(ends, default=0.0), max(ends, default=0.0))
    rows = tuple(
        (Cell(arm, kind="head"), *(mean_cell(means.get(arm), found.primary) for means in by_group),
         Cell(drawing=_drawn([_interval(means.get(arm)) for means in by_group], low, high),
              kind="plot"))
        for arm in arms
    )  # fmt: skip
    write = shown(found.primary)
    head = (
        "Arm",
        *(group_name(group, [dimension]) for group in groups),
        f"{write(low)} to {write(high)}",
    )
    return Table(f"{_heading(found, found.primary)} {which}", head, rows)
