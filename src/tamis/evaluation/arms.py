"""Outcomes of two arms side by side, prompts paired by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.errors import MismatchError


@dataclass(frozen=True, eq=False)
class Arms:
    """Two arms' outcomes side by side.

    Attributes:
        ids: Prompts of either arm, sorted.
        a: Outcomes of arm A, [s, n] in the order of `ids`; NaN where there is none.
        b: Outcomes of arm B.
        n_only_a: Prompts that no seed of arm B was asked.
        n_only_b: Prompts that no seed of arm A was asked.
    """

    ids: tuple[str, ...]
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    n_only_a: int
    n_only_b: int


def join_arms(
    a: Sequence[Mapping[str, float | None]], b: Sequence[Mapping[str, float | None]]
) -> Arms:
    """Pair the prompts of two arms by id.

    Args:
        a: Per seed of arm A its outcomes by prompt id, None where unscored.
        b: The same of arm B.

    Returns:
        Both arms over all ids of either: what one lacks is NaN there, so that
        `paired_difference` counts it.

    Raises:
        MismatchError: An arm is empty, or the arms have no prompt in common.
    """
    asked_a, asked_b = ({prompt for seed in arm for prompt in seed} for arm in (a, b))
    if not asked_a & asked_b:
        raise MismatchError(
            f"The arms have no prompt in common ({len(asked_a)} and {len(asked_b)} prompts): a "
            "paired difference needs the same prompts. Evaluate both on one prompt set."
        )
    ids = tuple(sorted(asked_a | asked_b))
    return Arms(ids, _table(a, ids), _table(b, ids), len(asked_a - asked_b), len(asked_b - asked_a))


def _table(arm: Sequence[Mapping[str, float | None]], ids: Sequence[str]) -> NDArray[np.float64]:
    rows = [[seed.get(prompt) for prompt in ids] for seed in arm]
    return np.array(rows, dtype=np.float64)  # None becomes NaN
