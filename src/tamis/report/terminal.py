"""The same tables for a terminal, in short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from tamis.report.collect import collect
from tamis.report.comparison import comparison_tables
from tamis.report.tables import (
    Cell,
    Table,
    comparison_table,
    detection_tables,
    outcome_table,
    selection_table,
    stage_table,
)
from tamis.report.text import visible

_DETECTION_COLUMNS = 4  # rows, readout, AUROC, average precision: what fits 80 characters
_COMPARISON_HIDDEN = tuple(range(5, 10))  # of a comparison: after average precision


def terminal_summary(folders: Sequence[Path]) -> RenderableType:
    """Return the report's main tables.

    Args:
        folders: Stage folders, or folders that hold them, in any order.

    Raises:
        ConfigError: Not one finished stage could be read.
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
    if found.evaluations:
        table = comparison_table(found.evaluations)
        parts.append(_table(table, hidden=(len(table.head) - 1,)))
    for record in found.comparisons:
        parts += [_table(table, hidden=_COMPARISON_HIDDEN) for table in comparison_tables(record)]
        parts += [Text(visible(cue), "yellow") for cues in record.cues.values() for cue in cues]
    parts += [
        Text(f"not shown: {visible(str(problem.folder))}: {visible(problem.reason)}", "yellow")
        for problem in found.problems
    ]
    parts += [Text(visible(sentence), "yellow") for sentence in found.mismatches]
    return Group(*parts)


def _table(table: Table, hidden: tuple[int, ...] = ()) -> RichTable:
    shown = RichTable(title=table.caption, title_justify="left")
    columns = [i for i in range(len(table.head)) if i not in hidden]
    for i in columns:
        numbers = all(row[i].kind in ("num", "none") for row in table.rows)
        shown.add_column(Text(visible(table.head[i])), justify="right" if numbers else "left")
    for row in table.rows:
        shown.add_row(*(_cell(row[i]) for i in columns))
    return shown


def _cell(cell: Cell) -> Text:
    # Text, not markup: a row's id may hold square brackets.
    text = Text(visible(cell.text), "dim" if cell.kind == "none" else "")
    for note in cell.notes:
        text.append("\n" + visible(note), "dim")
    return text
