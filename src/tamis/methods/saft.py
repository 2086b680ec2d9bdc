"""SAFT: rows along the top singular directions of the set are harmful (Choi, Du, Li 2024).

Notation: e_i hidden state of row i under the model before fine-tuning (n rows, D dimensions), Z
the centred states, p_ij = <z_i, v_j> the projections, lam the harmful share.

Published:  Z = E - mean(E) = U S V^T,   risk_i = (1/k) sum_{j<=k} p_ij^2   (times s_j on demand)

The square drops the sign of v_j. What remains is the distance of the two groups from the common
mean, (1-lam) Delta and -lam Delta: harmful rows stand out while they are few, and there is no
signal at lam = 1/2. Repaired:

    r_i = e_i - B^T [1, log n_prompt, log n_response, turns]     nuisances taken out (least squares)
    z_i = W r_i,   W = Cov(r over the safe set)^(-1/2)           with a safe set; Ledoit-Wolf
    risk_i = sgn_j p_ij / sd_j                                   the surest j <= k of all layers
    min_l rho(risk, risk^(l)) >= rho_0                           else refused; l the other layers
    P(risk of an anchor > risk of a safe row) >= a_0             else refused

rho is the rank correlation: what harm does to the states shows in every layer, what a layer's main
directions happen to be does not. Anchors are unsafe requests with bare compliant openings, which no
direction of harm puts among safe rows. Where either test fails, no direction is named.
B is fitted on the safe set: on the rows themselves it would take out the harm that goes with turns
or length. sgn_j is found without labels (tamis.models.directions): by the safe set where that tells
of a direction, and the one it departs from most is taken; else by the skewness of v_1. Without a
side the ranking is refused.

Source: arXiv:2410.10014, Sec. 4 and App. A; no code was released.
Differs: score = -risk (higher = keep); k and layer are not chosen on labels; the decomposition is
exact, in float64. All of `repaired` is ours. Sources are audited, and taken out on demand only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from tamis.data.anchors import chosen_anchors
from tamis.data.example import Examples
from tamis.data.nuisances import (
    NUMBERS,
    SOURCE,
    Facts,
    Nuisance,
    audit_notes,
    nuisance_audit,
    nuisance_columns,
    row_facts,
    varying,
)
from tamis.data.rendered import RenderedRows
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores
from tamis.models.directions import (
    LEAST_ROWS,
    Rule,
    gap_notes,
    orientation_notes,
)
from tamis.models.layer_directions import LayerDirections, layer_directions, surest_layer
from tamis.models.lora import layer_count

PUBLISHED_NOTE = (
    "The squared score has no sign: what lies far from the mean is taken for harmful. That holds "
    "while harmful rows are well below half of the set and its widest difference."
)
FIT_ROWS = 10  # safe rows for each coefficient of a nuisance
Reading = Literal[
    "response_mean", "response_first", "response_last", "prompt_last", "response_minus_prompt"
]


def squared_scores(projections: Tensor, weights: Tensor | None = None) -> Tensor:
    """risk_i = (1/k) sum_j w_j p_ij^2 >= 0 of projections (n x k); the sign of v_j is irrelevant.

    Source: arXiv:2410.10014, Sec. 4; weights w (k) = s are those of HaloScope, default 1.
    """
    squares = projections**2
    return (squares if weights is None else squares * weights).mean(1)


@dataclasses.dataclass(frozen=True)
class Part:
    """The usable rows of a set, by id."""

    rows: RenderedRows
    places: list[int]
    facts: Facts


class SAFT(Method):
    """Rank by minus the projection on the set's top singular directions (higher = keep).

    Source: Choi, Du, Li 2024, arXiv:2410.10014, Sec. 4. Cost: one forward pass.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "repaired": {"mode": "repaired"},
        "published": {"mode": "published", "reading": "prompt_last", "layers": (0.5,),
                      "n_directions": 1, "nuisances": (), "whiten": False},
    }  # fmt: skip

    preset: Literal["repaired", "published"] | None = None
    """Recorded name of the preset the values came from."""
    mode: Literal["repaired", "published"] = "repaired"
    """Signed projections without nuisances, or squared ones; each brings its preset's values."""
    reading: Reading = "response_mean"
    """Position of the hidden state; `response_minus_prompt` is response_mean - prompt_last."""
    layers: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.5, 0.6, 0.7, 0.8), min_length=1
    )
    """Depths to choose from, as shares of the model's layers; `published` takes one."""
    n_directions: int = Field(5, ge=1, le=50)
    """k in the paper, which sums over them; `repaired` takes the surest of them."""
    weighting: Literal["none", "sigma"] = "none"
    """Weights of the squares (`published`): 1, or the singular value."""
    nuisances: tuple[Nuisance, ...] = NUMBERS
    """What is taken out of the states first (`repaired`); lengths as log of tokens. Fitted on the
    safe set if that has FIT_ROWS rows for each, else, or with `source`, on the rows themselves."""
    source_key: str = SOURCE
    """Field of a record that names its source; where there is none, the file is the source."""
    whiten: bool = True
    """Divide by the safe set's covariance, when a safe set is given (`repaired`)."""
    sign: Rule = "auto"
    """What orients a direction (`repaired`): auto is the safe set where it tells, else skewness."""
    min_margin: float = Field(3.0, ge=0)
    """Least margin of a sign, in standard errors (`repaired`)."""
    min_agreement: float = Field(0.3, ge=-1, le=1)
    """Least rank correlation of the score with that of every other of `layers` (`repaired`); two
    layers that only tell a share lam of the rows from the others, without a tie, reach
    3 lam (1 - lam)."""
    anchors: Literal["shipped", "none"] | Path = "shipped"
    """Whose complied rows must lie on the harmful side (`repaired`, with a safe set): the shipped
    ones, a folder as `tamis.data.anchors` describes it, or none's."""
    min_anchors: float = Field(0.75, ge=0, le=1)
    """Least share of pairs of an anchor and a safe row in which the anchor has the larger risk."""

    @model_validator(mode="before")
    @classmethod
    def _with_mode(cls, values: Any) -> Any:
        mode = values.get("mode") if isinstance(values, Mapping) else None
        return {**cls.presets.get(mode, {}), **values} if mode else values

    @model_validator(mode="after")
    def _consistent(self) -> SAFT:
        repairs = self.nuisances or self.whiten or self.sign != "auto" or len(self.layers) != 1
        if self.mode == "published" and repairs:
            raise ValueError(
                "mode=published takes one of layers, and neither nuisances, whiten nor sign: they "
                "belong to mode=repaired"
            )
        unused = [name for name in ("min_margin", "min_agreement", "anchors", "min_anchors")
                  if getattr(self, name) != type(self).model_fields[name].default]  # fmt: skip
        if self.mode == "published" and unused:
            raise ValueError(f"{unused[0]} belongs to mode=repaired: a squared score has no side")
        if self.mode == "repaired" and self.weighting != "none":
            raise ValueError("weighting belongs to mode=published")
        return self

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`."""
        names = [name for depth in self._depths(n_layers) for name in self._features(depth)]
        guided = self.mode == "repaired"
        return {"finetuning_set": names, **({"safe_set": names} if guided else {})}

    def _depths(self, n_layers: int) -> list[int]:
        return sorted({max(1, round(share * n_layers)) for share in self.layers})

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row; unusable rows are NaN with their outcome.

        Raises:
            NoTrainedTokensError: A set has no usable row.
            ConfigError: Too few rows or directions, no harmful side known, layers that do not
                agree, or anchors on the other side.
        """
        repaired = self.mode == "repaired"
        if self.sign == "safe_set" and inputs.safe_set is None:
            raise ConfigError("sign=safe_set needs a safe set: give --safe-set or sign=skewness.")
        pool = self._part(inputs, "finetuning_set")
        guided = repaired and inputs.safe_set is not None
        safe = self._part(inputs, "safe_set") if guided else None
        anchors = None
        if guided and self.anchors != "none":
            anchors = self._part(inputs, "anchors", chosen_anchors(self.anchors).complied)
        n_layers = layer_count(inputs.features.lm.model)
        depths, names = self._depths(n_layers), self.reads(n_layers)["finetuning_set"]
        for part in filter(None, (pool, safe, anchors)):
            inputs.features.ensure(part.rows, names, inputs.progress("hidden states"))
        tried = [self._layer(inputs, depth, pool, safe, anchors) for depth in depths]
        best, agreement = (
            surest_layer(tried, self.min_margin, self.min_agreement, self.min_anchors)
            if repaired else (tried[0], None)
        )  # fmt: skip
        sigma = (best.variances[: len(best.found)] * len(pool.places)).sqrt()
        weights = sigma if self.weighting == "sigma" else None
        risks = {"squared": squared_scores(best.projections, weights)}
        if repaired:
            risks["signed"] = best.signed
        return self._scores(inputs, (pool, safe, anchors), tried, best, risks, agreement)

    def _part(self, inputs: RankingInputs, which: str, given: Examples | None = None) -> Part:
        rows = inputs.rendered(given or which)
        examples = given or getattr(inputs, which)
        rows.check_usable(which)
        places = rows.id_order.tolist()
        if len(places) < LEAST_ROWS:
            raise ConfigError(f"{which} has {len(places)} usable rows: give {LEAST_ROWS} or more.")
        return Part(rows, places, row_facts(examples, rows, places, self.source_key))

    def _fitted_on_safe(self, safe: Part | None) -> bool:
        """Whether the nuisances' part of the states is the safe rows' to tell."""
        needed = FIT_ROWS * (1 + len(self.nuisances))
        return safe is not None and SOURCE not in self.nuisances and len(safe.places) >= needed

    def _features(self, depth: int) -> list[str]:
        difference = self.reading == "response_minus_prompt"
        readings = ["response_mean", "prompt_last"] if difference else [self.reading]
        return [f"state:{depth}:{reading}" for reading in readings]

    def _states(self, inputs: RankingInputs, depth: int, part: Part) -> Tensor:
        """Hidden states of the usable rows, by id (float64, n x D)."""
        first, *rest = [inputs.features.states(part.rows, name)[part.places].double()
                        for name in self._features(depth)]  # fmt: skip
        return first - rest[0] if rest else first

    def _layer(
        self, inputs: RankingInputs, depth: int, pool: Part, safe: Part | None,
        anchors: Part | None,
    ) -> LayerDirections:  # fmt: skip
        """Decompose one layer and orient its directions."""
        on_safe = self._fitted_on_safe(safe)
        reference = safe if safe is not None and on_safe else pool
        sets = [
            (self._states(inputs, depth, part), torch.from_numpy(
                nuisance_columns(part.facts, reference.facts, self.nuisances)))
            for part in (pool, safe, anchors) if part
        ]  # fmt: skip
        return layer_directions(
            depth, sets, fitted_on=int(on_safe), whiten=self.whiten,
            n_directions=self.n_directions, all_of_them=self.mode == "published",
            rule=self.sign, min_margin=self.min_margin,
        )  # fmt: skip

    def _scores(
        self, inputs: RankingInputs, parts: tuple[Part, Part | None, Part | None],
        tried: list[LayerDirections], best: LayerDirections, risks: Mapping[str, Tensor],
        agreement: float | None,
    ) -> Scores:  # fmt: skip
        """Put scores, projections and the audit together."""
        pool, safe, anchors = parts
        columns = {f"score_{name}": -risk for name, risk in risks.items()}
        columns |= {f"projection_{j + 1}": p for j, p in enumerate(best.projections.T)}
        whole = np.full((len(columns), len(pool.rows)), np.nan)
        whole[:, pool.places] = torch.stack(list(columns.values())).numpy()
        table = dict(zip(columns, whole, strict=True))
        main, ahead = list(risks)[-1], best.variances[: len(best.found) + 1]
        audits = {f"direction {j + 1}": nuisance_audit(p.numpy(), pool.facts)
                  for j, p in enumerate(best.projections.T)}  # fmt: skip
        audits["score"] = nuisance_audit(-risks[main].numpy(), pool.facts)
        chosen = best.found.index(best.surest) + 1 if main == "signed" else None
        notes = orientation_notes(best.surest, chosen) if chosen else [PUBLISHED_NOTE]
        notes += gap_notes(ahead, len(pool.places), chosen)
        fitted_on = "safe_set" if self._fitted_on_safe(safe) else "finetuning_set"
        fitted = safe if safe is not None and fitted_on == "safe_set" else pool
        taken = varying(self.nuisances, fitted.facts)
        notes += [f"{name} is the same in all rows of the {fitted_on}: what it does to the states "
                  "is not known from them, and was not taken out."
                  for name in self.nuisances if name not in taken]  # fmt: skip
        return Scores(
            method="saft",
            ids=inputs.finetuning_set.ids,
            source_ids=inputs.finetuning_set.source_ids,
            values=table[f"score_{main}"],
            outcome=[str(outcome) for outcome in pool.rows.column("outcome")],
            n_trained_tokens=pool.rows.column("n_trained_tokens"),
            columns=table,
            details={
                "layer": best.depth,
                "layers": {str(layer.depth): dataclasses.asdict(layer.surest) for layer in tried},
                "directions": [dataclasses.asdict(one) for one in best.found],
                "direction": chosen,
                "nuisances_fitted_on": fitted_on,
                "nuisances_taken_out": taken,
                "layer_agreement": agreement,
                "anchor_auroc": best.anchor_auroc,
                "anchors_by_outcome": None if anchors is None else anchors.rows.counts(),
                "variances": ahead.tolist(),
                "variance_removed": best.removed,
                "nuisances": audits,
                "notes": [*notes, *audit_notes(audits)],
            },
        )
