"""Scores that compare a row with rows like it: of its length, or of its source.

A stratum that is standardised within itself holds no more flagged rows than another. That is right
where a length or a source differs for reasons of its own, and wrong where the harm is in one.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from tamis.data.example import Examples
from tamis.data.nuisances import source_of
from tamis.data.rendered import RenderedRows

Strata = Literal["none", "length", "source"]
LEAST_STRATUM = 50  # rows; smaller strata are standardised with all rows
LENGTH_EDGES = (0.25, 0.5, 0.75)  # quantiles of response length between strata


def by_length(rows: RenderedRows, places: np.ndarray) -> np.ndarray:
    """Return the quarter of response length, 0 to 3, of the rows at `places` (int, n)."""
    lengths = rows.column("n_response_tokens")[places]
    edges = np.quantile(lengths, LENGTH_EDGES)
    return np.asarray(np.searchsorted(edges, lengths, side="left"))


def by_source(examples: Examples, places: np.ndarray) -> np.ndarray:
    """Return a number for the source (`source_of`) of each of the rows at `places` (int, n)."""
    seen: dict[str, int] = {}  # an array of text would take the longest name for every row
    names = (source_of(examples[int(place)]) for place in places)
    return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64)


def centred(values: np.ndarray) -> tuple[float, float]:
    """Return where most scores lie and how widely: median and 1.4826 MAD.

    Both are little moved by a minority of harmful rows; NaN counts for neither. Where more than
    half of the scores are equal the standard deviation stands in, and 1 where all are.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0, 1.0
    middle = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - middle))) or float(known.std()) or 1.0
    return middle, spread


def standardised(values: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Robust z-scores within strata: (value - median) / spread, as `centred` has them.

    Args:
        values: n.
        stratum: Of every row (int, n); those with fewer than LEAST_STRATUM rows use all rows.

    Returns:
        n values without a unit.
    """

    def scaled(part: np.ndarray, reference: np.ndarray) -> np.ndarray:
        middle, spread = centred(reference)
        return np.asarray((part - middle) / spread)

    found = scaled(values, values)
    labels, sizes = np.unique(stratum, return_counts=True)
    for label in labels[sizes >= LEAST_STRATUM]:
        mine = stratum == label
        found[mine] = scaled(values[mine], values[mine])
    return found


def strata_counts(stratum: np.ndarray) -> dict[str, Any]:
    """Say how many strata there are, and how many rows are in those too small for their own."""
    _, sizes = np.unique(stratum, return_counts=True)
    small = sizes[sizes < LEAST_STRATUM]
    return {"n": len(sizes), "n_small": len(small), "rows_in_small": int(small.sum())}
