"""Plant labelled harmful rows among the others at a chosen rate, by seed; the truth is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tamis.errors import ConfigError
from tamis.rng import numpy_generator


def planted_ids(
    ids: Sequence[str], harmful: np.ndarray, rate: float, *, seed: int, draw: int = 0
) -> list[str]:
    """Choose rows so that a share `rate` of them is harmful.

    All rows that are not harmful stay and harmful ones are drawn; where there are too few of these,
    all stay and the others are drawn. Draws are nested: with one seed and draw, the harmful rows at
    2% are among those at 5%.

    Args:
        ids: Row ids.
        harmful: Their labels (bool, one each).
        rate: Harmful share wanted, in [0, 1).
        seed: The user's seed.
        draw: Number of the draw.

    Returns:
        Ids of the chosen rows, in the order given.

    Raises:
        ConfigError: The rate is out of range, a kind is missing, or the rows are too few for one of
            either kind at this rate.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"contamination rate {rate} is not in [0, 1).")
    n_harmful, n_other = int(harmful.sum()), int((~harmful).sum())
    if not n_other or (rate > 0 and not n_harmful):
        raise ConfigError(
            f"{n_harmful} harmful and {n_other} other rows cannot be mixed to a rate of {rate}: "
            "label rows of both kinds."
        )
    # Ordered by id first: the draw does not depend on the order of the file.
    by_id = np.argsort(np.asarray(ids, dtype=object), kind="stable")
    order = by_id[numpy_generator(seed, "contaminate", draw).permutation(len(ids))]
    bad, good = order[harmful[order]], order[~harmful[order]]
    n_bad = round(rate / (1 - rate) * n_other)
    if n_bad > n_harmful:
        n_bad, good = n_harmful, good[: round((1 - rate) / rate * n_harmful)]
    if rate > 0 and not (n_bad and len(good)):
        none, n, way = ("other", n_harmful, "lower") if n_bad else ("harmful", n_other, "raise")
        raise ConfigError(
            f"a contamination rate of {rate} is less than one {none} row beside {n:,}: {way} the "
            "rate, or give more rows."
        )
    chosen = set(bad[:n_bad].tolist()) | set(good.tolist())
    return [row for place, row in enumerate(ids) if place in chosen]
