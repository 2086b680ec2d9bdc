"""Labels as a Python user hands them over: taken as they are meant, or refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.errors import ConfigError


def labelled_rows(
    labelled: ArrayLike, harmful: ArrayLike, n_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Check which rows have a label, and what it is.

    A conversion would turn None into "harmless", "false" and NaN into "harmful", and 1.7 or True
    into row 1.

    Args:
        labelled: Positions of the labelled rows, whole numbers, [n].
        harmful: Whether each of them is harmful, bool [n].
        n_rows: Rows there are.

    Returns:
        Positions [n] and labels [n].

    Raises:
        ConfigError: A label is no bool, a position is no whole number, is none of the rows or
            repeats, or lengths differ.
    """
    # As objects: an array of True and 2 would have turned the former into 1.
    positions = np.asarray(labelled, dtype=object).ravel().tolist()
    labels = np.asarray(harmful, dtype=object).ravel().tolist()
    if len(labels) != len(positions):
        raise ConfigError(f"{len(positions):,} labelled rows but {len(labels):,} labels.")
    for place, label in enumerate(labels):
        if not isinstance(label, bool | np.bool_):
            raise ConfigError(
                f"label {place} is {repr(label)[:60]}, neither True nor False. A row without an "
                "answer is not harmless: leave no row open, and give bools."
            )
    for position in positions:
        if isinstance(position, bool) or not isinstance(position, int | np.integer):
            raise ConfigError(
                f"labelled position {repr(position)[:60]} is no whole number. Give the labelled "
                "rows' positions among the scores (of a mask, np.flatnonzero(mask))."
            )
        if not 0 <= position < n_rows:
            raise ConfigError(f"labelled position {position} is not one of the {n_rows:,} rows.")
    if len(set(positions)) < len(positions):
        raise ConfigError("a row is labelled twice: the draw is without replacement.")
    return np.array(positions, dtype=np.int64), np.array(labels, dtype=bool)
