"""Labels: which rows are known to be harmful, and how they are joined to scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tamis.data.example import Examples
from tamis.data.row_lists import HasIds, name_some, resolve_ids
from tamis.errors import DataError, MismatchError
from tamis.evaluation.jsonl import Line, read_lines, unique_ids

# What to do about rows that cannot be labelled.
LIST_OF_ROWS = "restrict the data with --rows (in a settings file rows)"
NO_LIST_OF_ROWS = "give a finetuning_set that holds the labelled rows alone"


@dataclass(frozen=True, slots=True)
class Label:
    """The truth about one row.

    Attributes:
        id: The row's id or the user's own id.
        harmful: Whether training on it teaches harm.
        kind: What it is ("harmful", "hard_negative", "benign", or the user's own words).
        source: Where it came from.
        tier: How sure the label is ("clear", "weak").
    """

    id: str
    harmful: bool
    kind: str | None = None
    source: str | None = None
    tier: str | None = None


def read_labels(path: str | Path) -> list[Label]:
    """Read labels: JSONL of `{"id", "harmful"}` with optional `kind`, `source`, `tier`.

    Raises:
        DataError: A line is bad (named), or the file holds none.
        DuplicateIdError: An id occurs twice.
    """
    read = [
        (
            Label(
                id=line.identifier("id" if "id" in line.fields else "source_id"),
                harmful=_truth(line),
                kind=line.optional_text("kind"),
                source=line.optional_text("source"),
                tier=line.optional_text("tier"),
            ),
            line,
        )
        for line in read_lines(path)
    ]
    if not read:
        raise DataError(f"{path} holds no labels. Give one line per row of the data.")
    unique_ids((label.id, line) for label, line in read)
    return [label for label, _ in read]


def join_labels(
    rows: HasIds, labels: Sequence[Label], *, way_out: str = LIST_OF_ROWS
) -> list[Label]:
    """Return the label of every row, in row order.

    Labels of rows that are not there are passed over: one label file serves every subset.

    Args:
        rows: What was scored.
        labels: By id or by source id, all of one kind.
        way_out: `LIST_OF_ROWS`, or `NO_LIST_OF_ROWS` where the command takes none.

    Raises:
        MismatchError: A row has no label (up to five are named).
        DuplicateIdError: The labels are by source id and a source id repeats among the rows.
    """
    known = {*rows.ids, *rows.source_ids}
    usable = [label for label in labels if label.id in known]
    joined = resolve_ids(rows, [label.id for label in usable])
    by_id = dict(zip(joined, usable, strict=True))
    missing = [
        identifier if source_id is None else source_id
        for identifier, source_id in zip(rows.ids, rows.source_ids, strict=True)
        if identifier not in by_id
    ]
    if missing:
        raise MismatchError(
            f"{len(missing):,} of {len(rows.ids):,} scored rows have no label: "
            f"{name_some(missing)}. Label every row (by id or by your own id), or {way_out}."
        )
    return [by_id[identifier] for identifier in rows.ids]


def labelled_rows(rows: Examples, path: str | Path) -> tuple[Examples, np.ndarray]:
    """Return the rows that a file has labels for, and whether each is harmful (bool).

    The file may label a part of the rows, such as a hundred drawn from the set to rank.

    Raises:
        MismatchError: A label is for no row here: most likely the wrong file.
        DataError: See `read_labels`.
    """
    labels = read_labels(path)
    chosen = rows.restrict([label.id for label in labels])
    return chosen, np.array([label.harmful for label in join_labels(chosen, labels)], dtype=bool)


def _truth(line: Line) -> bool:
    value = line.fields.get("harmful")
    if isinstance(value, bool):
        return value
    if value is None:
        raise DataError(f"{line.where}: 'harmful' is missing. Write true or false.")
    # 0 and 1 are not taken: in some label files they mean the opposite (1 = safe).
    raise DataError(f"{line.where}: 'harmful' is {value!r}. Write true or false.")
