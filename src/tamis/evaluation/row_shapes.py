"""Slices by the shape of a row: how many turns it has, how long its answer is.

Within each of them harmful rows are compared with other rows of the same shape, so that turns and
length give nothing away. The slices are made without labels, from all rows at once: a part of the
rows has the same bounds as the whole.

Length is counted in characters of the last answer, not in tokens: it is then the same for every
method, with or without a model, and rows that are cut to the same number of tokens still differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tamis.data.example import Example

N_LENGTHS = 4  # quarters of all rows


@dataclass(frozen=True)
class RowShapes:
    """Rows by shape.

    Attributes:
        slices: Ids by slice: `turns:1` (one exchange), `turns:2+`, `length:1` (shortest) to
            `length:4`. Every row is in one slice of either kind; a slice may be empty.
        length_bounds: Longest answers of `length:1` to `length:3`, in characters.
    """

    slices: dict[str, frozenset[str]]
    length_bounds: tuple[float, ...]


def row_shapes(rows: Sequence[Example]) -> RowShapes:
    """Sort rows by their turns and into quarters by the length of their last answer.

    Args:
        rows: All rows of a comparison.

    Returns:
        The slices. Rows of equal length stand together, so quarters of few lengths are unequal.
    """
    ids, turns, lengths = [], [], []
    for row in rows:
        ids.append(row.id)
        turns.append(sum(message.role == "user" for message in row.messages))
        lengths.append(len(row.messages[-1].content))
    bounds = np.quantile(lengths, np.arange(1, N_LENGTHS) / N_LENGTHS) if lengths else np.empty(0)
    quarter = np.searchsorted(bounds, lengths, side="left")
    several = np.asarray(turns) > 1
    members = {"turns:1": ~several, "turns:2+": several}
    members |= {f"length:{k + 1}": quarter == k for k in range(N_LENGTHS)}
    named = np.asarray(ids, dtype=object)
    return RowShapes(
        {name: frozenset(named[mask].tolist()) for name, mask in members.items()},
        tuple(float(bound) for bound in bounds),
    )
