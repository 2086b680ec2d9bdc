"""Contrast: what tells compliance with unsafe requests from everything safe, on hidden states.

    x(row)  = [mean state of the response, last state of the prompt]  of one middle layer
    D+      = anchors: unsafe requests with bare compliant openings (and a harmful set, if given)
    D-      = anchors: the same requests refused, safe requests complied with, answered requests;
              and the user's safe set
    f_0     = logistic plane between D+ and D- on the principal axes of all rows
    f_r     = the same with the riskiest rows of the fine-tuning set added to D+ and the least risky
              to D-, by f_(r-1)
    score_i = -f_R(x_i), from a plane that never had row i among its rows

The anchors carry no harmful substance: their direction is the decision to comply, read where the
model has made it. They orient the plane, so that self-training cannot lock on to the user's own
domain when few rows are harmful; without anything that says which side is harm, the method refuses.

Source: ours; positive-unlabelled learning and self-training are textbook (Bekker and Davis 2020,
arXiv:1811.04820). That such anchors work was found on two mixtures (docs/methods.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tamis.data.folds import content_folds
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs, row_scores
from tamis.methods.scores import Scores
from tamis.models.feature_names import depth_of
from tamis.models.lora import layer_count
from tamis.models.planes import fit_plane, principal_axes
from tamis.models.state_selector import StateSelector
from tamis.rng import numpy_generator

IDENTIFIABLE = 0.8  # held-out AUROC below which the anchors say nothing about this model's states
FOLDS = 5  # rows are scored by planes that saw four fifths of the others
Reading = Literal["response_mean", "response_first", "response_last", "prompt_last"]


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
        added = [places[fold[places] != held_out] for places in trusted]
        states = np.concatenate([known.states[mine], *(rows[places] for places in added)])
        sides = np.concatenate(
            [known.harmful[mine], np.ones(len(added[0]), bool), np.zeros(len(added[1]), bool)]
        )
        weight, bias = fit_plane(states, sides, strength)
        risk[fold == held_out] = rows[fold == held_out] @ weight + bias
        known_risk[~mine] = known.states[~mine] @ weight + bias
    return risk, known_risk


class Contrast(Method):
    """Minus the log-odds of compliance with an unsafe request (higher = keep).

    Source: ours, on textbook positive-unlabelled learning; see the module's docstring.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model", "safe_set"})

    anchors: Literal["shipped", "none"] | Path = "shipped"
    """Anchor rows: those of tamis, a folder of yours, or none (then a harmful set is needed)."""
    layers: tuple[float, ...] = Field((0.6,), min_length=1)
    """Layers whose states are read: numbers of layers, or fractions of the depth in (0, 1)."""
    readings: tuple[Reading, ...] = Field(("response_mean", "prompt_last"), min_length=1)
    """Positions whose states are read, side by side."""
    n_components: int = Field(60, ge=1)
    """Principal axes kept; fewer where there are fewer rows."""
    strength: float = Field(1.0, gt=0)
    """Inverse of the logistic plane's ridge penalty."""
    rounds: int = Field(2, ge=0)
    """Rounds of self-training."""
    top: float = Field(0.02, ge=0, lt=0.5)
    """Share of rows taken as harmful in each round."""
    bottom: float = Field(0.15, ge=0, lt=0.9)
    """Share of rows taken as safe in each round."""
    false_positive_rate: float = Field(0.05, gt=0, lt=1)
    """Share of the safe set's rows that may be flagged; gives the threshold."""

    @model_validator(mode="after")
    def _apart(self) -> Contrast:
        if self.top + self.bottom > 1:
            raise ValueError("top + bottom is above 1: a row would be taken as both")
        return self

    def rank(self, inputs: RankingInputs) -> Scores:
        """Learn the plane and score every row.

        Raises:
            ConfigError: Nothing says which side is harmful, or the model's states do not separate
                the anchors.
            NoTrainedTokensError: One of the sets has no usable row.
        """
        if self.anchors == "none" and inputs.harmful_set is None:
            raise ConfigError(
                "contrast with anchors=none has nothing that says which side is harm: between a "
                "safe set and unlabelled rows alone, a rare harmful kind is outweighed by the "
                "rows' own domain. Leave anchors as it is, or give --harmful-set."
            )
        lm = inputs.features.lm
        depths = [depth_of(layer, layer_count(lm.model)) for layer in self.layers]
        names = [f"state:{depth}:{reading}" for depth in depths for reading in self.readings]
        rows = inputs.rendered()
        ranked = inputs.states("finetuning_set", names)
        folds = _folds(inputs)
        parts = self._known(inputs, names, folds)
        axes = principal_axes(
            np.concatenate([ranked, *(part.states for part in parts.values())]), self.n_components
        )
        known = Sides(*(
            np.concatenate(found) for found in zip(*(
                (axes.reduce(p.states), p.harmful, p.fold, p.safe) for p in parts.values()
            ), strict=True)
        ))  # fmt: skip
        states, fold = axes.reduce(ranked), folds["finetuning_set"]
        nobody = np.empty(0, dtype=np.int64)
        risk, known_risk = held_out_risks(known, states, fold, (nobody, nobody), self.strength)
        details = self._identified(parts, known_risk)
        trusted = nobody, nobody
        for _ in range(self.rounds):
            trusted = believed(risk, self.top, self.bottom)
            risk, known_risk = held_out_risks(known, states, fold, trusted, self.strength)
        threshold = float(np.quantile(known_risk[known.safe], 1 - self.false_positive_rate))
        weight, bias = fit_plane(
            np.concatenate([known.states, states[trusted[0]], states[trusted[1]]]),
            np.concatenate([known.harmful, np.ones(len(trusted[0]), bool),
                            np.zeros(len(trusted[1]), bool)]),
            self.strength,
        )  # fmt: skip
        vector, offset = axes.plane(weight, bias)
        return row_scores(
            "contrast", inputs, rows, -risk,
            columns={"flagged": (risk > threshold).astype(np.float64)},
            selector=StateSelector("contrast", tuple(names), -vector, -offset, lm.fingerprint,
                                   rows.fingerprint),
            details={
                **details, "layers": depths, "threshold": -threshold,
                "false_positive_rate": self.false_positive_rate,
                "flagged": int((risk > threshold).sum()),
                "known_rows": {name: len(part.states) for name, part in parts.items()},
            },
        )  # fmt: skip

    def _known(
        self, inputs: RankingInputs, names: Sequence[str], folds: Mapping[str, np.ndarray]
    ) -> dict[str, Sides]:
        """Read the states of all rows whose side is known, by where they are from."""
        found: dict[str, Sides] = {}

        def take(name: str, which: Any, *, harmful: bool, per_request: int | None = None) -> None:
            states = inputs.states(which, names)
            n = len(states)
            if per_request is None:
                fold = folds[name]
            else:
                rendered = inputs.rendered(which)
                requests = [which[int(i)].messages[0].content for i in rendered.id_order]
                fold = _request_folds(requests)
            found[name] = Sides(
                states, np.full(n, harmful), fold, np.full(n, name == "safe_set", dtype=bool)
            )

        take("safe_set", "safe_set", harmful=False)
        if inputs.harmful_set is not None:
            take("harmful_set", "harmful_set", harmful=True)
        if self.anchors != "none":
            from tamis.data.anchors import load_anchors, shipped_anchors

            anchors = (
                load_anchors(Path(self.anchors)) if self.anchors != "shipped" else shipped_anchors()
            )
            for name in ("complied", "refused", "borderline", "opened", "answered"):
                take(name, getattr(anchors, name), harmful=name == "complied", per_request=1)
        return found

    def _identified(self, parts: dict[str, Sides], risk: np.ndarray) -> dict[str, Any]:
        """Refuse where held-out anchors are not told apart; returns how well they are."""
        from sklearn.metrics import roc_auc_score

        ends = np.cumsum([0, *(len(part.states) for part in parts.values())])
        of = {
            name: risk[start:stop] for name, start, stop in zip(parts, ends, ends[1:], strict=False)
        }
        positive = "complied" if "complied" in of else "harmful_set"
        separation = {
            name: float(roc_auc_score(
                np.repeat([True, False], [len(of[positive]), len(values)]),
                np.concatenate([of[positive], values]),
            ))
            for name, values in of.items() if name not in ("complied", "harmful_set")
        }  # fmt: skip
        worst = min(separation, key=lambda name: separation[name])
        if separation[worst] < IDENTIFIABLE:
            raise ConfigError(
                f"the states of this model do not tell {positive} rows from {worst} rows that the "
                f"plane has not seen (AUROC {separation[worst]:.2f}, {IDENTIFIABLE} is needed): "
                "there is no direction to rank by. Set other layers, a larger ranking model, or "
                "anchors in the language of your data."
            )
        return {"held_out_auroc_of_anchors": separation}


def _folds(inputs: RankingInputs) -> dict[str, np.ndarray]:
    """Deal the usable rows of all sets to folds; copies share one, in whatever set they are."""
    names = ["finetuning_set", "safe_set"]
    if inputs.harmful_set is not None:
        names.append("harmful_set")
    ids = {name: [rows.ids[i] for i in rows.id_order]
           for name, rows in ((name, inputs.rendered(name)) for name in names)}  # fmt: skip
    fold = content_folds(list(itertools.chain(*ids.values())), FOLDS,
                         numpy_generator(inputs.seed, "contrast"))  # fmt: skip
    return dict(zip(ids, np.split(fold, np.cumsum([len(ids[name]) for name in names[:-1]])),
                    strict=True))  # fmt: skip


def _request_folds(requests: Sequence[str]) -> np.ndarray:
    """Put all anchors of one request into one fold."""
    place = {request: i for i, request in enumerate(sorted(set(requests)))}
    return np.array([place[request] % FOLDS for request in requests], dtype=np.int64)
