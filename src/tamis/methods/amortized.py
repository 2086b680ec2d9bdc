"""Amortised scores: a ridge regression of another method's scores on hidden states.

    f = argmin_w  mean_i (t_i - <w, x_i> - b)^2 + alpha |w|^2,    score_i = f without row i's fold

t_i is the teacher's score of a row, standardised; x_i its states, standardised. Noise that the
teacher puts on single rows is averaged out, and what is left is one plane, kept as a selector: it
scores rows the teacher never saw, and sets far larger than the teacher could be run on.

It can only pass on what the teacher knows: where the teacher is wrong on average, so is the plane,
and a teacher that ranks by topic gives a plane for the topic.

Source: ours, improvement I9 on Shen et al. 2024, arXiv:2410.07471, whose selector is a table over
the ranked rows and says nothing of others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tamis.data.example import content_of
from tamis.data.folds import content_folds
from tamis.errors import ConfigError
from tamis.methods import build_method, merged_reads, reads_of
from tamis.methods.base import Method, RankingInputs, check_inputs
from tamis.methods.scores import Scores, row_scores
from tamis.models.feature_names import depths_of, state_names
from tamis.models.lora import layer_count
from tamis.models.state_selector import StateSelector
from tamis.rng import numpy_generator

LEAST_ROWS = 4  # two folds of two: a plane through one row says nothing
PENALTIES = tuple(10.0**power for power in range(-1, 7))  # alpha, on standardised states
Reading = Literal["response_mean", "response_first", "response_last", "prompt_last"]


def fit_ridge(states: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Fit a plane to standardised states; the penalty has the lowest leave-one-out error.

    Args:
        states: Hidden states as they are (n x D).
        targets: What to predict (n).

    Returns:
        w (D) and b for the states as they are, and the penalty.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(states)
    model = RidgeCV(alphas=PENALTIES).fit(scaler.transform(states), targets)
    weight = model.coef_ / scaler.scale_
    return weight, float(model.intercept_ - weight @ scaler.mean_), float(model.alpha_)


def cross_fitted(
    states: np.ndarray, targets: np.ndarray, fold: np.ndarray
) -> tuple[np.ndarray, list[float]]:
    """Predict every row from the other folds.

    Args:
        states: n x D.
        targets: n.
        fold: Of every row (int, n).

    Returns:
        The predictions (n) and the penalty of each fold.
    """
    found, penalties = np.empty(len(states)), []
    for held_out in np.unique(fold):
        mine = fold != held_out
        weight, bias, penalty = fit_ridge(states[mine], targets[mine])
        found[~mine] = states[~mine] @ weight + bias
        penalties.append(penalty)
    return found, penalties


class Amortized(Method):
    """A teacher's scores, learned from hidden states (higher = keep).

    Source: ours; what it learns from is its teacher's.
    Needs: what its teacher needs.
    Cost: the teacher's, and one forward pass to the highest layer that is read.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})

    teacher: str = "seal"
    """Method whose scores are learned; what it needs must be given."""
    teacher_options: dict[str, Any] = Field(default_factory=dict)
    """Its settings."""
    layers: tuple[float, ...] = Field((0.6, 0.8), min_length=1)
    """Layers whose states are read: numbers of layers, or fractions of the depth in (0, 1)."""
    readings: tuple[Reading, ...] = Field(("response_mean", "prompt_last"), min_length=1)
    """Positions whose states are read, side by side."""
    folds: int = Field(5, ge=2)
    """A row is scored by a plane that did not see its fold; fewer where one would have fewer than
    two different rows with a score."""

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`."""
        teacher = build_method(self.teacher, self.teacher_options)
        mine = state_names(depths_of(self.layers, n_layers), self.readings)
        return merged_reads([{"finetuning_set": mine}, reads_of(teacher, n_layers)])

    def rank(self, inputs: RankingInputs) -> Scores:
        """Rank with the teacher, then learn its scores.

        Raises:
            ConfigError: The teacher lacks an input, or scored too few rows.
            NoTrainedTokensError: No row is usable.
        """
        teacher = build_method(self.teacher, self.teacher_options)
        work = None if inputs.work is None else inputs.work / "teacher"
        shared = inputs.cache or (None if inputs.work is None else inputs.work / "features")
        theirs = dataclasses.replace(inputs, work=work, cache=shared)
        check_inputs(teacher, theirs, self.teacher)
        depths = depths_of(self.layers, layer_count(inputs.features.lm.model))
        names = state_names(depths, self.readings)
        states, rows = inputs.states("finetuning_set", names), inputs.rendered()
        taught: Scores = teacher.rank(theirs)
        scores = taught.values[rows.id_order]
        known = ~np.isnan(scores)
        n_known = len({content_of(rows.ids[i]) for i in rows.id_order[known]})
        if n_known < LEAST_ROWS:
            raise ConfigError(
                f"the teacher {self.teacher!r} scored {n_known} different rows, and {LEAST_ROWS} "
                "are needed: a row's score is learned from others. Give more rows."
            )
        folds, dealt = min(self.folds, n_known // 2), np.ones(len(states), bool)
        notes = [f"teacher {self.teacher}: {note}" for note in taught.details.get("notes", ())]
        if folds < self.folds:
            dealt = known  # so few are dealt by themselves: a fold may get none of them else
            notes.append(
                f"{n_known} different rows with a score are too few for folds={self.folds}: they "
                f"were dealt to {folds} folds, and the planes rest on few rows. Give more rows."
            )
        centre, scale = scores[known].mean(), scores[known].std() or 1.0
        targets = (scores[known] - centre) / scale
        fold = np.zeros(len(states), dtype=np.int64)
        fold[dealt] = content_folds([rows.ids[i] for i in rows.id_order[dealt]], folds,
                                    numpy_generator(inputs.seed, "amortized"))  # fmt: skip
        values = np.empty(len(states))
        values[known], penalties = cross_fitted(states[known], targets, fold[known])
        weight, bias, penalty = fit_ridge(states[known], targets)
        values[~known] = states[~known] @ weight + bias  # no fold of theirs took part
        selector = StateSelector.made_for(inputs.features.lm, rows, method="amortized",
                                          names=names, weight=weight, bias=bias)  # fmt: skip
        return row_scores(
            "amortized", inputs, rows, values, columns={"score_teacher": scores},
            selector=selector,
            details={
                "layers": depths, "penalties": penalties, "penalty": penalty,
                "r_squared": 1 - float(((values[known] - targets) ** 2).mean()),
                "teacher": {"method": self.teacher, **_plain(taught.details)},
                "notes": notes,
            },
        )  # fmt: skip


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in details.items() if key != "notes"}
