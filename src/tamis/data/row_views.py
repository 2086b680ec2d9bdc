"""Rendered rows seen otherwise: several sets as one, or their first trained tokens only."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis.data.rendered import UNTRAINED, RenderedRow, RenderedRows


class JoinedRows(Sequence[RenderedRow]):
    """Several sets of rendered rows as one, in the order given; nothing is copied.

    Ids are unique within a set, and may occur in two.
    """

    def __init__(self, *sets: RenderedRows) -> None:
        self.sets = sets
        self._starts = np.cumsum([0, *(len(found) for found in sets)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> RenderedRow:  # type: ignore[override]
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.sets[which][index - int(self._starts[which])]

    @functools.cached_property
    def ids(self) -> list[str]:
        """The rows' ids."""
        return [row_id for found in self.sets for row_id in found.ids]

    @functools.cached_property
    def usable(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each row has trained tokens."""
        return np.concatenate([found.usable for found in self.sets])

    @functools.cached_property
    def id_order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Places of usable rows, by id: work in this order does not depend on the file's."""
        found = sorted(np.flatnonzero(self.usable).tolist(), key=self.ids.__getitem__)
        return np.asarray(found, dtype=np.int64)

    @functools.cached_property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of each row; 0 for rows set aside."""
        return np.concatenate([found.lengths for found in self.sets])


class FirstTokens:
    """The same rows, of which only the first k trained tokens count.

    Args:
        rows: Rendered rows.
        k: Trained tokens kept of each; those with fewer keep all.
    """

    def __init__(self, rows: RenderedRows | JoinedRows | FirstTokens, k: int) -> None:
        self._rows, self._k = rows, k
        self.lengths: np.ndarray[Any, np.dtype[np.int64]] = rows.lengths
        self.id_order: np.ndarray[Any, np.dtype[np.int64]] = rows.id_order

    def __getitem__(self, index: int) -> RenderedRow:
        row = self._rows[index]
        trained = [place for place, label in enumerate(row.labels) if label != UNTRAINED]
        later = set(trained[self._k :])
        labels = [UNTRAINED if i in later else label for i, label in enumerate(row.labels)]
        return dataclasses.replace(row, labels=labels)
