"""LARF and DataShield: does a row's state point to complying with unsafe requests or to refusing?

Anchors: complied rows u_1..u_P and refused rows s_1..s_R (unsafe requests with a compliant opening,
with a refusal). h_l(z) is the hidden state of row z after l of L layers.

`larf`: states of the last response token,
    risk_i = mean_p cos(h_l(z^i), h_l(u_p)) - mean_r cos(h_l(z^i), h_l(s_r))
    layer: the one whose weights, scaled, move refusals most, by the probability of a refusal's
    first token (`auto`) or among generated answers, as published (`generated`); the formulas of
    both are in `tamis.models.layer_choice`
`datashield`: r is the mean state of the response, p that of the last prompt token,
    c_l = unit(mean_p r_l(u_p) - mean_r r_l(s_r)),   risk_i = <r_l(z^i), c_l> - <p_l(z^i), c_l>
    layer: the largest  CAS_l = v^T S_b v / v^T S_t v  of last-token states, v = mean_u - mean_s,
    S_b and S_t the scatter between the two kinds and in total

Scores are minus the risk. Of equal layers the lowest is taken. No label of the ranked rows is used.

Source: LARF, arXiv:2507.18631, LLLeoLi/LARF@596693d get_bi_rep_llama.py; DataShield,
arXiv:2606.00160, ZJunBo/DataShield@e724ae7 cal_projection.py, get_score.py.
Differs: complied anchors are bare openings without substance, not harmful answers; LARF's 110
over-refusal prompts are not shipped, the borderline requests of the anchors stand for them. The
released CAS takes the scatter of standardised states along a direction of raw ones: here both are
raw (`standardized_scatter` is the released form). DataShield's files number a layer by its output
when choosing and by its input when scoring: here both are its output. A response's mean includes
its end token, which DataShield leaves off. A row without tokens has no score, not 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tamis.data.anchors import Anchors, load_anchors, shipped_anchors
from tamis.data.rendered import RenderedRows
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores
from tamis.models.feature_names import depth_of, state_names
from tamis.models.lora import layer_count

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ROWS = 1024  # rows taken to float64 at once
SAME_MEAN = (
    "complied and refused anchors have the same mean at this layer, so nothing leads from one to "
    "the other. Set another layer, or give other anchors or sets."
)
SHIPPED_NOTE = (
    "LARF asks whether a row rather complies or refuses, and an ordinary answer complies: with the "
    "shipped anchors it put harmful dialogues above ordinary instructions (docs/methods.md). "
    "Give --harmful-set and use_sets=true."
)


def larf_risk(states: Tensor, complied: Tensor, refused: Tensor) -> Tensor:
    """mean_p cos(h_i, u_p) - mean_r cos(h_i, s_r), in [-2, 2] (higher = more harmful).

    Args:
        states: States of the rows (n x D).
        complied: Of the complied anchors (P x D).
        refused: Of the refused anchors (R x D).

    Returns:
        One risk per row (float64, n).

    Raises:
        ConfigError: The two kinds of anchors have one mean: there is no direction.
    """
    # A mean of cosines is one product with the mean unit vector.
    towards = _unit(complied.double()).mean(0) - _unit(refused.double()).mean(0)
    if not towards.norm() > 0:
        raise ConfigError(SAME_MEAN)
    return _by_row(lambda rows: (_unit(rows) * towards).sum(1), states)


def compliance_vector(complied: Tensor, refused: Tensor) -> Tensor:
    """unit(mean of complied - mean of refused) of the anchors' mean response states (float64, D).

    Raises:
        ConfigError: The two means are equal: there is no direction.
    """
    difference = complied.double().mean(0) - refused.double().mean(0)
    if not difference.norm() > 0:
        raise ConfigError(SAME_MEAN)
    return _unit(difference)


def projection_shift(response: Tensor, prompt: Tensor, direction: Tensor) -> Tensor:
    """<r_i, c> - <p_i, c>: how far an answer moves along c from its prompt (float64, n).

    Args:
        response: Mean state of each row's response (n x D).
        prompt: State of its last prompt token (n x D).
        direction: c, of length 1 (D).
    """
    return _by_row(lambda r, p: ((r - p) * direction).sum(1), response, prompt)


def compliance_aware_score(
    complied: Tensor, refused: Tensor, *, standardized: bool = False
) -> float:
    """CAS = v^T S_b v / v^T S_t v, in [0, 1]: the share of the variance along v between the kinds.

    Args:
        complied: Last-token states of the complied anchors (P x D).
        refused: Of the refused anchors (R x D).
        standardized: As released: S_b and S_t of states standardised over both kinds, with
            v still of the raw ones.

    Returns:
        The share; 0 where no state differs from another.
    """
    import torch

    states = torch.cat([complied, refused]).double()
    states = states - states[0]  # equal states become exact zeros, not rounding noise
    v = states[: len(complied)].mean(0) - states[len(complied) :].mean(0)
    centred = states - states.mean(0)
    if standardized:
        deviation = centred.square().sum(0).div(len(centred) - 1).sqrt()
        centred = torch.where(deviation > 0, centred / deviation, 0.0)
    along = centred @ v
    kinds = along[: len(complied)], along[len(complied) :]
    total = along.square().sum()
    between = sum(len(kind) * kind.mean().square() for kind in kinds)
    return float(between / total) if total > 0 else 0.0


def _unit(vectors: Tensor) -> Tensor:
    return vectors.div(vectors.norm(dim=-1, keepdim=True))


def _by_row(of_rows: Callable[..., Tensor], *tables: Tensor) -> Tensor:
    """Apply a function of rows to float64 copies of some at a time."""
    import torch

    parts = [slice(i, i + CHUNK_ROWS) for i in range(0, len(tables[0]), CHUNK_ROWS)]
    return torch.cat([of_rows(*(table[part].double() for table in tables)) for part in parts])


class Direction(Method):
    """Rank by how far a row points from refusing to complying (higher = keep).

    Source: LARF, arXiv:2507.18631; DataShield, arXiv:2606.00160.
    Cost: one forward pass; choosing LARF's layer, two per layer over 40 prompts.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})

    variant: Literal["larf", "datashield"] = "larf"
    """Cosines to the anchors, or the shift along the direction between them."""
    layer: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto", "generated"] = (
        "auto"
    )
    """States after this many layers, or after this fraction of them in (0, 1); auto chooses
    without labels, and so does generated, as published for `larf`, from many generated answers."""
    standardized_scatter: bool = False
    """`datashield` with layer=auto: the released form of CAS, whose spaces do not fit together."""
    anchors: Path | None = None
    """Folder with anchors of one's own (see tamis.data.anchors); None takes the shipped ones."""
    use_sets: bool = False
    """Take the harmful set for the complied and the safe set for the refused anchors."""

    @model_validator(mode="after")
    def _consistent(self) -> Direction:
        if self.variant == "larf" and self.layer == 0:
            raise ValueError("layer=0 of larf is the end token's embedding, the same for every row")
        if self.standardized_scatter and (self.variant, self.layer) != ("datashield", "auto"):
            raise ValueError("standardized_scatter belongs to variant=datashield with layer=auto")
        if (self.variant, self.layer) == ("datashield", "generated"):
            raise ValueError("layer=generated is LARF's choice: set variant=larf, or layer=auto")
        return self

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`; nothing where the layer is yet to be chosen."""
        if isinstance(self.layer, str):
            return {}
        return {"finetuning_set": self._features(depth_of(self.layer, n_layers))}

    def _features(self, depth: int) -> list[str]:
        readings = {"larf": ["response_last"], "datashield": ["response_mean", "prompt_last"]}
        return state_names([depth], readings[self.variant])

    def rank(self, inputs: RankingInputs) -> Scores:
        """Choose the layer, then score every row; unusable rows are NaN with their outcome.

        Raises:
            NoTrainedTokensError: The rows, or the anchors of a kind, have no token to read.
            ConfigError: A set is missing, or the layer cannot be chosen or does not exist.
        """
        anchors = shipped_anchors() if self.anchors is None else load_anchors(self.anchors)
        known = self._known(inputs, anchors)
        rows = inputs.rendered()
        rows.check_usable("finetuning_set")
        order = rows.id_order
        depth, chosen = self._choose_layer(inputs, anchors, known)
        names = self._features(depth)
        inputs.features.ensure(rows, names, inputs.progress("states"))
        complied, refused = (_states(inputs, part, names[0]) for part in known.values())
        states = [_states(inputs, rows, name) for name in names]
        if self.variant == "larf":
            risk = larf_risk(states[0], complied, refused)
        else:
            risk = projection_shift(states[0], states[1], compliance_vector(complied, refused))
        values = np.full(len(rows), np.nan)
        values[order] = -risk.numpy()
        used = {name: int(part.usable.sum()) for name, part in known.items()}
        notes = [f"{n} of {len(known[name])} rows of the {name} were read; the others were too "
                 "long or had no token."
                 for name, n in used.items() if n < len(known[name])]  # fmt: skip
        if self.variant == "larf" and self.anchors is None and not self.use_sets:
            notes.append(SHIPPED_NOTE)
        return Scores(
            method="direction",
            ids=inputs.finetuning_set.ids,
            source_ids=inputs.finetuning_set.source_ids,
            values=values,
            outcome=[str(o) for o in rows.column("outcome")],
            n_trained_tokens=rows.column("n_trained_tokens"),
            details={
                "layer": depth,
                **chosen,
                "anchors": used,
                "notes": notes,
                "anchors_by_outcome": {name: part.counts() for name, part in known.items()},
            },
        )

    def _known(self, inputs: RankingInputs, anchors: Anchors) -> dict[str, RenderedRows]:
        """Render what stands for complying and for refusing, in this order."""
        sets = {"complied anchors": anchors.complied, "refused anchors": anchors.refused}
        if self.use_sets:
            if inputs.harmful_set is None or inputs.safe_set is None:
                raise ConfigError("use_sets=true needs a --harmful-set and a --safe-set.")
            sets = {"harmful set": inputs.harmful_set, "safe set": inputs.safe_set}
        known = {name: inputs.rendered(rows) for name, rows in sets.items()}
        for name, rows in known.items():
            rows.check_usable(name)
        return known

    def _choose_layer(
        self, inputs: RankingInputs, anchors: Anchors, known: Mapping[str, RenderedRows]
    ) -> tuple[int, Mapping[str, Any]]:
        """Return the layer, and how it was chosen."""
        n_layers = layer_count(inputs.features.lm.model)
        if not isinstance(self.layer, str):
            return depth_of(self.layer, n_layers), {"layer_chosen_by": "setting"}
        if self.variant == "larf":
            from tamis.models.layer_choice import by_answers, by_first_token

            features, progress = inputs.features, inputs.progress("choosing the layer")
            borderline = inputs.rendered(anchors.borderline)
            if self.layer == "generated":
                return by_answers(features, borderline, progress)
            refused, complied = map(inputs.rendered, (anchors.refused, anchors.complied))
            return by_first_token(features, refused, borderline, complied, progress)
        names, table = [f"state:{d}:response_last" for d in range(n_layers + 1)], []
        for rows in known.values():
            inputs.features.ensure(rows, names, inputs.progress("anchor states"))
        for name in names:
            kinds = (_states(inputs, rows, name) for rows in known.values())
            table.append(compliance_aware_score(*kinds, standardized=self.standardized_scatter))
        how = f"largest compliance-aware score of layers 0 to {n_layers}"
        return int(np.argmax(table)), {"layer_chosen_by": how, "layer_table": table}


def _states(inputs: RankingInputs, rows: RenderedRows, name: str) -> Tensor:
    """States of the usable rows, by id."""
    return inputs.features.states(rows, name)[rows.id_order]
