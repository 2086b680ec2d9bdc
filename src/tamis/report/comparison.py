"""A finished comparison of methods as tables: how well, how alike, at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tamis.report.charts import intervals_svg
from tamis.report.comparison_costs import cost_table, labels_cell
from tamis.report.comparison_records import Compared, ComparisonRecord, Measures
from tamis.report.loads import load_lines
from tamis.report.records import Interval
from tamis.report.tables import (
    MAIN_SLICES,
    SLICES,
    Cell,
    Table,
    count_cell,
    interval_cell,
    settings_table,
)
from tamis.report.text import NOT_MEASURED, number, percent, share

_HEAD = ("AUROC", "Average precision", "Found at 5% FPR", "Found at 1% FPR", "Recall at rate", "n",
         "Harmful")  # fmt: skip


@dataclass(frozen=True)
class RowsView:
    """What one set of rows shows.

    Attributes:
        name: Of the rows.
        main: Every method on all of them, on the clear ones and against hard negatives.
        facts: What is odd about them, what could not be measured, what methods flag.
        cues: Where a trivial cue does as well.
        slices: Every method on every other slice; None without one.
        readouts: Every other readout of every method; None where methods have one score.
        agreement: Rank correlation and shared rows of every two methods; None for one method.
    """

    name: str
    main: Table
    facts: tuple[str, ...]
    cues: tuple[str, ...]
    slices: Table | None
    readouts: Table | None
    agreement: Table | None


@dataclass(frozen=True)
class ComparisonView:
    """One comparison.

    Attributes:
        name: Its folder's.
        facts: What to know before reading the tables.
        rows: One per set of rows.
        rates: AUROC by set of rows, from the cleanest up; None for one set.
        refused: Rankings that ended in an error, and why; None without any.
        costs: Time, memory and passes.
        notes: What rankings say of themselves, and which.
        settings: Of every method.
    """

    name: str
    facts: tuple[str, ...]
    rows: tuple[RowsView, ...]
    rates: Table | None
    refused: Table | None
    costs: Table
    notes: tuple[str, ...]
    settings: tuple[Table, ...]


def comparison_view(found: ComparisonRecord) -> ComparisonView:
    """Say how the methods of a comparison did."""
    learned = list(dict.fromkeys(e.method for e in found.entries if e.uses_labels))
    facts = load_lines(found.sets)
    if labels := found.inputs.get("labels"):
        facts.append(f"Labels: {labels['path']}, SHA-256 {labels.get('sha256', NOT_MEASURED)}.")
    if learned:
        facts.append(
            f"Learned from labels of some of these rows: {', '.join(learned)}. They stand in a "
            "column of their own and are measured on the other rows only."
        )
    if chosen := list(dict.fromkeys(e.method for e in found.entries if e.chosen_with_labels)):
        facts.append(
            f"Options chosen with labels of these rows in sight: {', '.join(chosen)}. "
            "Their figures flatter them."
        )
    if found.length_bounds:
        bounds = ", ".join(number(bound) for bound in found.length_bounds)
        facts.append(
            f"Slices by length are quarters of all rows; their bounds are {bounds} characters of "
            "the last answer."
        )
    if any(entry.peak_gib is None for entry in found.entries):
        facts.append(
            "Peak memory is not measured where the process was larger before and the system "
            "cannot set its mark back."
        )
    names = tuple(dict.fromkeys(entry.rows for entry in found.entries))
    configs = {entry.method: entry.config for entry in found.entries}
    return ComparisonView(
        name=found.folder.name,
        facts=tuple(facts),
        rows=tuple(_rows_view(found, name) for name in names),
        rates=_rate_table(found, names) if len(names) > 1 else None,
        refused=_refused_table(found),
        costs=cost_table(found),
        notes=_notes(found),
        settings=tuple(settings_table(config, name) for name, config in configs.items()),
    )


def comparison_tables(found: ComparisonRecord) -> Iterator[Table]:
    """Yield the main table of every set of rows, then what was refused."""
    for name in dict.fromkeys(entry.rows for entry in found.entries):
        yield _rows_view(found, name).main
    if (refused := _refused_table(found)) is not None:
        yield refused


def _refused_table(found: ComparisonRecord) -> Table | None:
    rows = tuple(
        (Cell(one.method, (one.rows,), kind="head"),
         Cell(f"{len(one.rankings):,} of {one.of:,}", kind="num"), Cell(" ".join(one.reasons)))
        for one in found.refused
    )  # fmt: skip
    head = ("Method and rows", "Rankings refused", "Why")
    return Table("Refused: no figure of these counts", head, rows) if rows else None


def _notes(found: ComparisonRecord) -> tuple[str, ...]:
    """Every note once, with the rankings that it is of."""
    of: dict[str, list[str]] = {}
    for entry in found.entries:
        for note in entry.notes:
            of.setdefault(note, []).append(f"{entry.method} on {entry.rows}")
    return tuple(
        f"{'all' if len(names) == len(found.entries) else ', '.join(names)}: {note}"
        for note, names in of.items()
    )


def _rows_view(found: ComparisonRecord, rows: str) -> RowsView:
    entries = _ordered(found, rows)
    scores = {entry.method: entry.readouts["score"] for entry in entries}
    n, n_harmful = (max(getattr(s, key) for s in scores.values()) for key in ("n", "n_harmful"))
    caption = f"{rows}: {n:,} rows, {n_harmful:,} harmful"
    slices = dict.fromkeys(name for score in scores.values() for name in score.slices)
    main = [name for name in ("", *MAIN_SLICES) if name == "" or name in slices]
    others = [name for name in slices if name not in main]
    readouts = [
        _row(entry, f"{entry.method}, {name}", "", measures)
        for entry in entries for name, measures in entry.readouts.items() if name != "score"
    ]  # fmt: skip
    head = ("Rows", "Method", "Labels", *_HEAD)
    return RowsView(
        name=rows,
        main=Table(f"{caption}, with 95% intervals", head, tuple(_slice_rows(entries, main))),
        facts=found.facts.get(rows, ()),
        cues=found.cues.get(rows, ()),
        slices=Table(f"{rows}: further slices", head, tuple(_slice_rows(entries, others)))
        if others else None,
        readouts=Table(f"{rows}: further readouts", head, tuple(readouts)) if readouts else None,
        agreement=_agreement_table(found, rows, [entry.method for entry in entries]),
    )  # fmt: skip


def _ordered(found: ComparisonRecord, rows: str) -> list[Compared]:
    """Return the methods on one set of rows, those that owe something to labels last."""
    here = [entry for entry in found.entries if entry.rows == rows]
    return sorted(here, key=lambda entry: bool(entry.label_use))


def _slice_rows(entries: list[Compared], names: list[str]) -> Iterator[tuple[Cell, ...]]:
    for name in names:
        label = SLICES.get(name, name)
        for entry in entries:
            whole = entry.readouts["score"]
            measures = whole if name == "" else whole.slices.get(name)
            if measures is not None:
                yield _row(entry, entry.method, label, measures)
                label = ""  # said once per slice


def _row(entry: Compared, name: str, label: str, found: Measures) -> tuple[Cell, ...]:
    cells = f"mean of {found.n_cells} rankings" if found.n_cells > 1 else ""
    if entry.n_refused:
        mean = "mean of " if found.n_cells > 1 else ""
        cells = f"{mean}{found.n_cells} of {found.n_cells + entry.n_refused} rankings, the others "\
                "refused"  # fmt: skip
    return (
        Cell(label, kind="head"),
        Cell(name, (cells,) if cells else (), kind="name"),
        labels_cell(entry),
        interval_cell(found.auroc, as_percent=False),
        interval_cell(found.average_precision, as_percent=False),
        interval_cell(found.tpr_at_5pct_fpr, as_percent=True),
        interval_cell(found.tpr_at_1pct_fpr, as_percent=True),
        interval_cell(found.recall_at_rate, as_percent=True),
        count_cell(found.n),
        Cell(number(found.n_harmful), (share(found.n_harmful, found.n),) if found.n else (),
             kind="num"),
    )  # fmt: skip


def _rate_table(found: ComparisonRecord, names: tuple[str, ...]) -> Table:
    """AUROC of every method over the sets of rows, from the smallest harmful share up."""
    by_rows = {name: {e.method: e.readouts["score"] for e in found.entries if e.rows == name}
               for name in names}  # fmt: skip

    def rate(name: str) -> float:
        # Labels that taught a method are not measured: the others know the rate best.
        largest = max(by_rows[name].values(), key=lambda score: score.n)
        return largest.n_harmful / largest.n if largest.n else 0.0

    ordered = sorted(names, key=rate)
    rows = []
    for method in dict.fromkeys(entry.method for entry in found.entries):
        found_here = [score.auroc if (score := by_rows[name].get(method)) else Interval()
                      for name in ordered]  # fmt: skip
        drawing = intervals_svg([(e.value, e.low, e.high) for e in found_here])
        rows.append((
            Cell(method, kind="head"), *(interval_cell(e, as_percent=False) for e in found_here),
            Cell(drawing=drawing, kind="plot"),
        ))  # fmt: skip
    head = ("Method", *(f"{name}, {percent(rate(name))} harmful" for name in ordered), "0 to 1")
    return Table("AUROC by harmful share of the rows, with 95% intervals", head, tuple(rows))


def _agreement_table(found: ComparisonRecord, rows: str, methods: list[str]) -> Table | None:
    """Spearman's rho over the shared overlap of what two methods keep."""
    pairs: Mapping[frozenset[str], tuple[float | None, float | None]] = {
        frozenset(pair.methods): (pair.spearman, pair.overlap)
        for pair in found.agreement.get(rows, ())
    }
    known = [name for name in methods if any(name in pair for pair in pairs)]
    if not known:
        return None

    def cell(one: str, other: str) -> Cell:
        if one == other:
            return Cell()
        rho, overlap = pairs.get(frozenset((one, other)), (None, None))
        shared = "" if overlap is None else f"{percent(overlap)} shared"
        kind = "none" if rho is None else "num"
        return Cell(number(rho), (shared,) if shared else (), kind=kind)

    table = tuple((Cell(one, kind="head"), *(cell(one, other) for other in known)) for one in known)
    caption = (
        f"{rows}: rank correlation of the scores, and the share that two kept sets have in common "
        f"at a ratio of {percent(found.selection_ratio)}"
    )
    return Table(caption, ("Method", *known), table)
