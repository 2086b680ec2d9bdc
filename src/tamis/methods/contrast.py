"""Contrast: what tells compliance with unsafe requests from everything safe, on hidden states.

    x_L(row) = [mean state of the response, last state of the prompt]  after layer L
    D+       = anchors: unsafe requests with bare compliant openings (and a harmful set, if given);
               turned rows of the safe set: requests that its answers decline, with the openings
    D-       = anchors: the same requests refused, safe requests complied with, answered requests;
               the safe set; its other requests with the openings
    f_L      = logistic plane between D+ and D- on the principal axes of all rows
    score_i  = -mean_L f_L(x_L(i)), from planes that had neither row i nor a copy in a set

The anchors carry no harmful substance: their direction is the decision to comply, read where the
model has made it. Turned rows say the same in the user's own domain: an answer of the safe set that
reads as a refusal (a plane between refused and other anchors says so) marks its request as unsafe,
and the same request complied with is what is looked for. No row to rank is on a side of a plane
(they take part in finding the axes, no more), so a small share of harm does not turn it; `rounds`
of self-training put the riskiest and the least risky rows on the sides as well, which helps where
harm is frequent and misleads where it is rare. Without anything that says which side is harm, the
method refuses.

Source: ours; logistic planes on states are textbook, and so are positive-unlabelled learning and
self-training (Bekker and Davis 2020, arXiv:1811.04820). What was tried is in docs/LOG.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tamis.data.anchors import SETS, Anchors, chosen_anchors, request_folds, requests, turned
from tamis.data.example import Examples
from tamis.data.folds import content_folds
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores, row_scores
from tamis.models.feature_names import depths_of, state_names
from tamis.models.lora import layer_count
from tamis.models.sided_planes import (
    FOLDS,
    LayerPlanes,
    Sides,
    believed,
    declining,
    held_out_risks,
)
from tamis.models.state_selector import StateSelector
from tamis.rng import numpy_generator

IDENTIFIABLE = 0.8  # held-out AUROC below which the anchors say nothing about this model's states
Reading = Literal["response_mean", "response_first", "response_last", "prompt_last"]


class Contrast(Method):
    """Minus the log-odds of compliance with an unsafe request (higher = keep).

    Source: ours, on positive-unlabelled learning, Bekker and Davis 2020, arXiv:1811.04820.
    Cost: one forward pass to the highest layer that is read, and over the known rows.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model", "safe_set"})

    anchors: Literal["shipped", "none"] | Path = "shipped"
    """Anchor rows: those of tamis, a folder of yours, or none (then a harmful set is needed)."""
    layers: tuple[float, ...] = Field((0.6, 0.8), min_length=1)
    """Layers with a plane each: numbers of layers, or fractions of the depth in (0, 1)."""
    readings: tuple[Reading, ...] = Field(("response_mean", "prompt_last"), min_length=1)
    """Positions whose states are read, side by side."""
    n_components: int = Field(60, ge=1)
    """Principal axes kept; fewer where there are fewer rows."""
    turned: int = Field(1000, ge=0)
    """Rows of the safe set, at most, whose requests are answered with two openings each."""
    strength: float = Field(0.1, gt=0)
    """Inverse of the logistic planes' ridge penalty."""
    rounds: int = Field(0, ge=0)
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

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`."""
        names = state_names(depths_of(self.layers, n_layers), self.readings)
        return dict.fromkeys(("finetuning_set", "safe_set", "harmful_set"), names)

    def rank(self, inputs: RankingInputs) -> Scores:
        """Learn the planes and score every row.

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
        depths = depths_of(self.layers, layer_count(lm.model))
        names = state_names(depths, self.readings)
        rows, folds = inputs.rendered(), self._folds(inputs)
        ranked = inputs.states("finetuning_set", names)
        parts = self._known(inputs, names, folds)
        if self.anchors != "none":
            parts |= self._turned(inputs, names, parts, len(depths))
        layers = [
            LayerPlanes.read(span, ranked, list(parts.values()), self.n_components)
            for span in np.split(np.arange(ranked.shape[1]), len(depths))
        ]
        trusted = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        risk, known_risk = self._risks(layers, folds["finetuning_set"], trusted)
        details = self._identified(parts, known_risk)
        for _ in range(self.rounds):
            trusted = believed(risk, self.top, self.bottom)
            risk, known_risk = self._risks(layers, folds["finetuning_set"], trusted)
        safe = layers[0].known.safe
        threshold = float(np.quantile(known_risk[safe], 1 - self.false_positive_rate))
        weights, biases = zip(*(each.plane(trusted, self.strength) for each in layers), strict=True)
        return row_scores(
            "contrast", inputs, rows, -risk,
            columns={"flagged": (risk > threshold).astype(np.float64)},
            selector=StateSelector.made_for(
                lm, rows, method="contrast", names=names,
                weight=-np.concatenate(weights) / len(layers), bias=-float(np.mean(biases)),
            ),
            details={
                **details, "layers": depths, "threshold": -threshold,
                "false_positive_rate": self.false_positive_rate,
                "flagged": int((risk > threshold).sum()),
                "known_rows": {name: len(part.states) for name, part in parts.items()},
                "anchors_by_outcome": self._outcomes(inputs),
                "notes": self._notes(parts),
            },
        )  # fmt: skip

    def _risks(
        self,
        layers: Sequence[LayerPlanes],
        fold: np.ndarray,
        trusted: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean over layers of the held-out log-odds, of the ranked and of the known rows."""
        found = [held_out_risks(layer.known, layer.rows, fold, trusted, self.strength)
                 for layer in layers]  # fmt: skip
        return np.mean([risk for risk, _ in found], axis=0), np.mean([k for _, k in found], axis=0)

    def _anchors(self) -> Anchors:
        return chosen_anchors(self.anchors)

    def _outcomes(self, inputs: RankingInputs) -> dict[str, dict[str, int]]:
        """Count the anchors by what was done to fit them into the limits."""
        if self.anchors == "none":
            return {}
        anchors = self._anchors()
        return {name: inputs.rendered(getattr(anchors, name)).counts()
                for name in SETS}  # fmt: skip

    def _folds(self, inputs: RankingInputs) -> dict[str, np.ndarray]:
        """Deal the usable rows of all sets to folds, by content and with the anchors' requests.

        Copies share a fold, in whatever set they are. What asks the same as an anchor is held out
        with it: a safe set may hold the refusals that the anchors are made of.
        """
        harmful = [] if inputs.harmful_set is None else ["harmful_set"]
        names = ["finetuning_set", "safe_set", *harmful]
        usable = {name: inputs.rendered(name).id_order for name in names}
        ids = {name: [inputs.rendered(name).ids[i] for i in order]
               for name, order in usable.items()}  # fmt: skip
        generator = numpy_generator(inputs.seed, "contrast")
        fold = content_folds(list(itertools.chain(*ids.values())), FOLDS, generator)
        found = dict(zip(ids, np.split(fold, np.cumsum([len(ids[name]) for name in names[:-1]])),
                         strict=True))  # fmt: skip
        if self.anchors == "none":
            return found
        of_request = request_folds(self._anchors(), FOLDS)
        for name, order in usable.items():
            asked = requests(getattr(inputs, name))
            own = [of_request.get(asked[i], -1) for i in order]
            found[name] = np.where(np.array(own) < 0, found[name], own)
        return found

    def _known(
        self, inputs: RankingInputs, names: Sequence[str], folds: Mapping[str, np.ndarray]
    ) -> dict[str, Sides]:
        """Read the states of the sets and anchors, by where they are from."""
        states = inputs.states("safe_set", names)
        n = len(states)
        found = {"safe_set": Sides(states, np.zeros(n, bool), folds["safe_set"], np.ones(n, bool))}
        if inputs.harmful_set is not None:
            states = inputs.states("harmful_set", names)
            n = len(states)
            found["harmful_set"] = Sides(states, np.ones(n, bool), folds["harmful_set"],
                                         np.zeros(n, bool))  # fmt: skip
        if self.anchors != "none":
            anchors = self._anchors()
            of_request = request_folds(anchors, FOLDS)
            for name in SETS:
                which: Examples = getattr(anchors, name)
                states, usable = inputs.states(which, names), inputs.rendered(which).id_order
                n, fold = len(states), np.array([of_request[asked] for asked in requests(which)])
                found[name] = Sides(states, np.full(n, name == "complied"), fold[usable],
                                    np.zeros(n, bool))  # fmt: skip
        return found

    def _turned(
        self, inputs: RankingInputs, names: Sequence[str], parts: Mapping[str, Sides], n_layers: int
    ) -> dict[str, Sides]:
        """Answer requests of the safe set with the openings; the side is that of its answer."""
        safe, usable = inputs.safe_set, inputs.rendered("safe_set").id_order
        assert safe is not None, "check_inputs saw to it"
        draw = numpy_generator(inputs.seed, "contrast", "turned").permutation(len(usable))
        answers = [parts[name].states for name in ("opened", "answered", "borderline")]
        declines = declining(
            parts["safe_set"].states, parts["refused"].states, np.concatenate(answers), n_layers,
            self.n_components, self.strength,
        ) > 0  # fmt: skip
        # Half of them decline, where there are as many: a rare refusal is not lost in the draw.
        unsafe, others = draw[declines[draw]], draw[~declines[draw]]
        n_unsafe = min(len(unsafe), max(self.turned // 2, self.turned - len(others)))
        chosen = np.sort(np.concatenate([unsafe[:n_unsafe], others[: self.turned - n_unsafe]]))
        found, openings = {}, self._anchors().openings
        for name, harmful in (("turned_unsafe", True), ("turned_ordinary", False)):
            places = chosen[declines[chosen] == harmful]
            if not len(places):
                continue
            which = turned(safe, [int(usable[i]) for i in places], openings)
            states, rendered = inputs.states(which, names), inputs.rendered(which)
            # Rows of `which` stand in pairs, one pair per place.
            own = places[rendered.id_order // 2]
            found[name] = Sides(states, np.full(len(own), harmful), parts["safe_set"].fold[own],
                                np.zeros(len(own), bool))  # fmt: skip
        return found

    def _notes(self, parts: Mapping[str, Sides]) -> list[str]:
        notes = []
        n_safe = len(parts["safe_set"].states)
        if n_safe * self.false_positive_rate < 1:
            notes.append(
                f"{n_safe} safe rows are too few for a threshold that {self.false_positive_rate:g} "
                "of them pass: `flagged` says little. Give more safe rows."
            )
        if not self.turned or "complied" not in parts or "turned_unsafe" in parts:
            return notes
        return [
            *notes,
            "no answer of the safe set reads as a refusal, so that nothing says what an unsafe "
            "request looks like in your own domain: the scores rest on the anchors alone. Add safe "
            "answers to unsafe requests (tamis safe-set --demonstrations).",
        ]

    def _identified(self, parts: dict[str, Sides], risk: np.ndarray) -> dict[str, Any]:
        """Refuse where held-out anchors are not told apart; returns how well they are."""
        from sklearn.metrics import roc_auc_score

        ends = np.cumsum([0, *(len(part.states) for part in parts.values())])
        of = {
            name: risk[start:stop] for name, start, stop in zip(parts, ends, ends[1:], strict=False)
        }
        positive = "complied" if "complied" in of else "harmful_set"
        tested = [name for name in of if name not in ("complied", "harmful_set")
                  and not name.startswith("turned")]  # fmt: skip
        separation = {
            name: float(roc_auc_score(
                np.repeat([True, False], [len(of[positive]), len(values)]),
                np.concatenate([of[positive], values]),
            ))
            for name, values in of.items() if name in tested
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
