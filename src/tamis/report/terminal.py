"""The same tables for a terminal, in short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from tamis.report.collect import collect
from tamis.report.comparison import comparison_tables
from tamis.report.comparison_records import ComparisonRecord
from tamis.report.evaluation import evaluation_notes, evaluation_tables
from tamis.report.experiment import ExperimentView, experiment_view
from tamis.report.loads import left_out
from tamis.report.paired import figures_file, paired_view, read_paired
from tamis.report.proof_records import Proof
from tamis.report.proofs import proof_views
from tamis.report.tables import (
    Cell,
    Table,
    detection_tables,
    outcome_table,
    selection_table,
    stage_table,
)
from tamis.report.text import visible

_DETECTION_COLUMNS = 4  # rows, readout, AUROC, average precision: what fits 80 characters
_KEPT_HIDDEN = (5, 6)  # of what an experiment's arms trained on: after four shares
_N_NOTES = 2  # of an experiment's figures: the interval, and what it rests on
_COMPARISON_HIDDEN = tuple(range(5, 10))  # of a comparison: after average precision


def terminal_summary(folders: Sequence[Path], page: Path | None = None) -> RenderableType:
    """Return the report's main tables.

    Args:
        folders: Stage folders, or folders that hold them, in any order.
        page: The page written of them, beside which the differences between evaluations are; they
            are left out without one.

    Raises:
        ConfigError: Not one finished stage could be read.
        DataError: The differences beside the page are damaged.
    """
    found = collect(folders)
    parts: list[RenderableType] = []
    if found.records:
        parts.append(_table(stage_table(found), hidden=(1, 5)))
    parts += [_table(outcome_table(rank), hidden=(3,)) for rank in found.ranks]
    main, _ = detection_tables(found.ranks)
    if main:
        n_columns = len(main.head)
        parts.append(_table(main, hidden=tuple(range(_DETECTION_COLUMNS, n_columns))))
    parts += [_table(selection_table(selection)) for selection in found.selects]
    parts += [_table(table) for table in evaluation_tables(found.evaluations)]
    parts += [Text(visible(note), "yellow") for note in evaluation_notes(found.evaluations)]
    if page is not None and figures_file(page).exists():
        view = paired_view(read_paired(figures_file(page)), found.evaluations)
        parts += [_table(view.main)] if view.main else []
        parts += [Text(visible(sentence), "dim") for sentence in view.facts]
    for record in found.comparisons:
        parts += [_table(table, hidden=_COMPARISON_HIDDEN) for table in comparison_tables(record)]
        parts += [Text(visible(line), "yellow") for line in _bad_records(record)]
        for said in (record.facts, record.cues):
            parts += [Text(visible(f"{rows}: {sentence}"), "yellow")
                      for rows, sentences in said.items() for sentence in sentences]  # fmt: skip
    for proof in (view for kind in get_args(Proof) for view in proof_views(found.proofs, kind)):
        parts += [Text(visible(sentence)) for sentence in proof.facts]
        parts += [_table(table) for table in proof.tables]
    for experiment in found.experiments:
        parts += _experiment_parts(experiment_view(experiment))
    parts += [
        Text(f"not shown: {visible(str(problem.folder))}: {visible(problem.reason)}", "yellow")
        for problem in found.problems
    ]
    parts += [Text(visible(sentence), "yellow") for sentence in found.mismatches]
    return Group(*parts)


def _bad_records(record: ComparisonRecord) -> list[str]:
    return [left_out(role, load.n_quarantined, load.n_read, load.quarantine)
            for role, load in record.sets.items() if load.n_quarantined]  # fmt: skip


def _experiment_parts(view: ExperimentView) -> Iterator[RenderableType]:
    """Yield what neither is folded on the page nor says again what another table does."""
    yield from (Text(visible(sentence), "dim") for sentence in view.facts)
    for group in view.groups:
        yield _table(group.arms, n_notes=_N_NOTES)
        if group.differences is not None:
            yield _table(group.differences)
    if view.agreement is not None:
        yield _table(view.agreement)
    if view.kept is not None:
        yield _table(view.kept, _KEPT_HIDDEN, _N_NOTES)
    yield from (Text(visible(sentence), "yellow") for sentence in view.warnings)


def _table(table: Table, hidden: tuple[int, ...] = (), n_notes: int | None = None) -> RichTable:
    """Show a table; of what is no head at most `n_notes` smaller lines."""
    # Text, not markup: a caption may hold a folder's name.
    shown = RichTable(title=Text(visible(table.caption)), title_justify="left")
    columns = [
        i for i in range(len(table.head))
        if i not in hidden and not any(row[i].kind == "plot" for row in table.rows)
    ]  # fmt: skip
    for i in columns:
        numbers = all(row[i].kind in ("num", "none") for row in table.rows)
        # Folded: a name that is cut short may be another's.
        shown.add_column(
            Text(visible(table.head[i])),
            justify="right" if numbers else "left", overflow="fold",
        )  # fmt: skip
    for row in table.rows:
        shown.add_row(*(_cell(row[i], n_notes) for i in columns))
    return shown


def _cell(cell: Cell, n_notes: int | None) -> Text:
    # Text, not markup: a row's id may hold square brackets.
    text = Text(visible(cell.text), "dim" if cell.kind == "none" else "")
    for note in cell.notes if cell.kind == "head" else cell.notes[:n_notes]:
        text.append("\n" + visible(note), "dim")
    return text
