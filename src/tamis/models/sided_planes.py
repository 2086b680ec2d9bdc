"""Planes between rows whose side is known, and self-training on rows that are taken for known.

No row is scored by a plane that had it, or a copy of it, among its rows.

Shapes: n rows, K axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tamis.errors import ConfigError
from tamis.models.planes import PrincipalAxes, fit_plane, principal_axes

FOLDS = 5  # rows are scored by planes that saw four fifths of the others


@dataclass(frozen=True)
class Sides:
    """Rows whose side is known.

    Attributes:
        states: Reduced states (n x K).
        harmful: Their side (bool, n).
        fold: Rows of one fold are held out together (int, n): all anchors of one request are.
        safe: Rows of the user's safe set (bool, n).
    """

    states: np.ndarray
    harmful: np.ndarray
    fold: np.ndarray
    safe: np.ndarray


def believed(risk: np.ndarray, top: float, bottom: float) -> tuple[np.ndarray, np.ndarray]:
    """Take the riskiest share `top` as harmful and the least risky share `bottom` as safe.

    Args:
        risk: Risk of every row (n), ties by place.
        top: Share in [0, 1).
        bottom: Likewise.

    Returns:
        Places of either, riskiest first and least risky first.
    """
    order = np.argsort(-risk, kind="stable")
    n_top, n_bottom = round(top * len(risk)), round(bottom * len(risk))
    return order[:n_top], order[len(order) - n_bottom :][::-1]


def held_out_risks(
    known: Sides, rows: np.ndarray, fold: np.ndarray, trusted: tuple[np.ndarray, np.ndarray],
    strength: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Fit one plane per fold without the fold's rows, and score these with it.

    Args:
        known: Rows whose side is known.
        rows: Reduced states of the rows to rank (n x K).
        fold: Their folds (n).
        trusted: Places in `rows` that are taken as harmful and as safe.
        strength: See `fit_plane`.

    Returns:
        Log-odds of harmful of the ranked rows (n), and of the known rows.
    """
    risk, known_risk = np.empty(len(rows)), np.empty(len(known.states))
    for held_out in range(FOLDS):
        mine = known.fold != held_out
        _refuse_one_side(known.harmful[mine])
        added = [places[fold[places] != held_out] for places in trusted]
        states = np.concatenate([known.states[mine], *(rows[places] for places in added)])
        sides = np.concatenate(
            [known.harmful[mine], np.ones(len(added[0]), bool), np.zeros(len(added[1]), bool)]
        )
        weight, bias = fit_plane(states, sides, strength)
        risk[fold == held_out] = rows[fold == held_out] @ weight + bias
        known_risk[~mine] = known.states[~mine] @ weight + bias
    return risk, known_risk


def declining(
    rows: np.ndarray, refused: np.ndarray, others: np.ndarray, n_layers: int, n_components: int,
    strength: float,
) -> np.ndarray:  # fmt: skip
    """Log-odds that a row declines, by planes between refused and other known rows (n).

    Args:
        rows: States of all layers side by side (n x D).
        refused: Those of rows known to decline.
        others: Those of rows known to answer.
        n_layers: Layers, with a plane each; log-odds are averaged.
        n_components: Principal axes of each.
        strength: See `fit_plane`.
    """
    known = np.concatenate([refused, others])
    sides = np.repeat([True, False], [len(refused), len(others)])
    found = np.zeros(len(rows))
    for span in np.split(np.arange(rows.shape[1]), n_layers):
        axes = principal_axes(np.concatenate([known[:, span], rows[:, span]]), n_components)
        weight, bias = fit_plane(axes.reduce(known[:, span]), sides, strength)
        found += axes.reduce(rows[:, span]) @ weight + bias
    return found / n_layers


@dataclass(frozen=True)
class LayerPlanes:
    """States of one layer on its principal axes.

    Attributes:
        axes: Those of all its rows.
        known: Rows whose side is known, reduced.
        rows: The rows to rank, reduced (n x K).
    """

    axes: PrincipalAxes
    known: Sides
    rows: np.ndarray

    @classmethod
    def read(
        cls, span: np.ndarray, rows: np.ndarray, parts: Sequence[Sides], n_components: int
    ) -> LayerPlanes:
        """Find the axes of a layer and reduce its states.

        Args:
            span: Its columns in the states.
            rows: States of the rows to rank (n x D).
            parts: Known rows with their states (each m x D), by where they are from.
            n_components: Principal axes; fewer where there are fewer rows.
        """
        states = np.concatenate([part.states[:, span] for part in parts])
        axes = principal_axes(np.concatenate([rows[:, span], states]), n_components)
        known = Sides(axes.reduce(states), *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("harmful", "fold", "safe")
        ))  # fmt: skip
        return cls(axes, known, axes.reduce(rows[:, span]))

    def plane(
        self, trusted: tuple[np.ndarray, np.ndarray], strength: float
    ) -> tuple[np.ndarray, float]:
        """Fit on all known rows and those taken for known, over the states as they are."""
        states = np.concatenate([self.known.states, *(self.rows[places] for places in trusted)])
        sides = np.concatenate([self.known.harmful, np.ones(len(trusted[0]), bool),
                                np.zeros(len(trusted[1]), bool)])  # fmt: skip
        return self.axes.plane(*fit_plane(states, sides, strength))


def _refuse_one_side(harmful: np.ndarray) -> None:
    """Refuse rows of one side only.

    Raises:
        ConfigError: The other side has too few distinct rows to leave any when a fold is held out.
    """
    for side, present in (("harmful", harmful.any()), ("safe", not harmful.all())):
        if not present:
            raise ConfigError(
                f"with a fifth of the known rows held out, no {side} row is left to learn from: "
                f"there are too few distinct {side} rows. Give at least {FOLDS} different ones."
            )
