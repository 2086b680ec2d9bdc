"""Slices by turns and length."""

from __future__ import annotations

from typing import Any

from tamis.data.load import load_examples
from tamis.evaluation.row_shapes import row_shapes


def row(n_characters: int, n_turns: int = 1) -> dict[str, Any]:
    """A conversation of equal turns whose last answer has so many characters."""
    question = {"role": "user", "content": "q"}
    earlier = [question, {"role": "assistant", "content": "long ago" * 9}] * (n_turns - 1)
    return {"messages": [*earlier, question, {"role": "assistant", "content": "x" * n_characters}]}


def test_every_row_is_in_one_slice_by_turns_and_in_one_by_length() -> None:
    """Eight lengths make four pairs, the shortest first; earlier answers do not count."""
    rows = load_examples([row(8), row(1, 2), row(7, 3), row(2), row(6), row(3), row(5), row(4)])
    found = row_shapes(rows)
    place = {row_id: i for i, row_id in enumerate(rows.ids)}
    shown = {name: {place[row_id] for row_id in ids} for name, ids in found.slices.items()}
    assert shown == {
        "turns:1": {0, 3, 4, 5, 6, 7}, "turns:2+": {1, 2},
        "length:1": {1, 3}, "length:2": {5, 7}, "length:3": {4, 6}, "length:4": {0, 2},
    }  # fmt: skip
    # Quantiles of 1..8 between the ranks: 1 + 7/4, 1 + 7/2, 1 + 21/4.
    assert found.length_bounds == (2.75, 4.5, 6.25)


def test_a_slice_without_rows_is_there() -> None:
    """Equal lengths have no quarters: all are shortest, three slices are empty."""
    found = row_shapes(load_examples([row(5) | {"id": i} for i in range(3)]))
    sizes = {name: len(ids) for name, ids in found.slices.items()}
    assert sizes == {"turns:1": 3, "turns:2+": 0, "length:1": 3, "length:2": 0, "length:3": 0,
                     "length:4": 0}  # fmt: skip


def test_no_rows_have_no_shapes() -> None:
    """An empty set is no error here: whoever ranks it says so."""
    assert not any(row_shapes([]).slices.values())
