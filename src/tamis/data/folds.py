"""Deal rows to folds at random, all copies of one row to the same fold.

A fine-tuning set repeats rows. A model that learned from one copy has seen the others too, so that
folds over rows would score them with a model that knows the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tamis.data.example import content_of


def content_folds(ids: Sequence[str], n_folds: int, generator: np.random.Generator) -> np.ndarray:
    """Deal rows to folds of equally many distinct contents.

    Args:
        ids: Row ids, in an order that does not depend on the file (sorted, say).
        n_folds: Folds.
        generator: Decides the deal.

    Returns:
        The fold of every row (int, n). Sets that share rows are dealt together: give the ids of
        all, one set after the other.
    """
    place: dict[str, int] = {}
    contents = [place.setdefault(content_of(row), len(place)) for row in ids]
    return np.asarray((generator.permutation(len(place)) % n_folds)[contents])
