"""Rank rows by the gradient they would pull the model along, against gradients of known rows.

Notation: g_i is the gradient of row i's mean loss in the B factors of a LoRA adapter at its
initialisation (q and v of all layers), u_i = g_i / |g_i|; for a set S of anchors, m_S is the mean
of their u, and p_S(i) = <u_i, m_S>. C are compliant openings to unsafe requests, R refusals of
them; the safe sets are R, borderline, opened and answered. Risk of a row (score = -risk):

    conflict   - cos(g_i, m_R)                        a step on the row unlearns refusing
    contrast   cos(g_i, m_C) - cos(g_i, m_R)
    he         p_C(i) - mean over safe sets of p_S(i)
    less       p_C(i) - max over safe sets of p_S(i)

<u_i, m_S> is the mean of the cosines to the anchors of S, which is LESS's influence for one
checkpoint and one subtask; cos divides it by |m_S|.

Source: `he`: He, Xia, Henderson 2024, "What is in Your Safe Data?", arXiv:2404.01099, gradient
matching with anchors on both sides. `less`: Xia et al. 2024, arXiv:2402.04333, its influence at one
checkpoint. `conflict`: SEAL's idea (Shen et al. 2024, arXiv:2410.07471) to first order: a step on
row i changes the loss of refusals in proportion to -<g_i, m_R>. `contrast`: none.
Differs: B factors at initialisation stand for the gradient of all parameters (`he`) and for that
of a warmed-up adapter (`less`), without LESS's Adam preconditioning, later checkpoints and
projection; anchors' responses hold no substance; `he` takes the mean, not the sum, over safe sets,
so that their number does not tilt the score; anchors are averaged as unit gradients in all
variants; gradients are sums in float32 and taken in batches; a score of exactly 0 is a score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tamis.data.rendered import UNTRAINED, RenderedRow, RenderedRows
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores
from tamis.models.gradient_products import Float64, GradientProducts, geometry

HARMFUL_SET = "complied"
SAFE_SETS = ("refused", "borderline", "opened", "answered")
SAME_DIRECTION = 0.999  # cosine of two means from which on rows cannot be told apart by them
CONFLICT_NOTE = (
    "conflict finds rows that unlearn refusing, harmless to read or not; rows that are harmful in "
    "another way may rank high. Read it beside score_contrast and other methods, not alone."
)


def risks(products: Mapping[str, Float64], lengths: Mapping[str, float]) -> dict[str, Float64]:
    """Risk of every row, by variant, as far as the sets allow; see the module's docstring.

    Args:
        products: p_S of every row (n), by set.
        lengths: |m_S| by set.

    Returns:
        Each in [-1, 1], `contrast`, `he` and `less` in [-2, 2] (n).
    """
    cosines = {name: products[name] / lengths[name] for name in products}
    safe = [products[name] for name in SAFE_SETS if name in products]
    found = {}
    if "refused" in products:
        found["conflict"] = -cosines["refused"]
    if HARMFUL_SET in products and "refused" in products:
        found["contrast"] = cosines[HARMFUL_SET] - cosines["refused"]
    if HARMFUL_SET in products and safe:
        found["he"] = products[HARMFUL_SET] - np.mean(safe, axis=0)
        found["less"] = products[HARMFUL_SET] - np.max(safe, axis=0)
    return found


def unit_products(values: Float64) -> Float64:
    """Divide products with directions by the row's own length: <g, m> / |g|.

    Args:
        values: <g_i, m_S> of K sets, then |g_i|^2 (n x (K + 1)).

    Returns:
        n x K; NaN where |g_i| is 0 or not finite: such a row points nowhere.
    """
    squares = values[:, -1:]
    there = (squares > 0) & np.isfinite(squares)
    found: Float64 = values[:, :-1] / np.sqrt(np.where(there, squares, np.nan))
    return found


def opening_of(row: RenderedRow, n_tokens: int) -> RenderedRow:
    """Return a row whose first `n_tokens` trained tokens alone are trained, and that ends there."""
    trained = [place for place, label in enumerate(row.labels) if label != UNTRAINED][:n_tokens]
    length = trained[-1] + 1 if trained else len(row.input_ids)
    n_prompt = min(row.n_prompt_tokens, length)
    return dataclasses.replace(
        row, input_ids=row.input_ids[:length], labels=row.labels[:length],
        n_prompt_tokens=n_prompt, n_response_tokens=length - n_prompt,
        n_trained_tokens=len(trained),
    )  # fmt: skip


class Gradient(Method):
    """Minus the risk of a row's gradient against gradients of anchors (higher = keep).

    Source: He et al. 2024, arXiv:2404.01099; Xia et al. 2024, arXiv:2402.04333.
    Cost: one forward and backward pass through all layers.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})

    variant: Literal["he", "less", "conflict", "contrast"] = "conflict"
    """What `score` is; the others are readouts of the same run."""
    anchors: Path | None = None
    """Folder of anchors, as `tamis.data.anchors` describes it; None takes the shipped ones."""
    use_sets: bool = False
    """Take the harmful set as `complied` and the safe set as `refused`, instead of anchors."""
    anchors_per_set: int = Field(100, ge=1)
    """Rows of each set of anchors that count: of the usable ones, those with the lowest ids."""
    anchor_tokens: int | None = Field(10, ge=1)
    """Response tokens of an anchor that count, from the first on; None is all of them."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the adapter: columns of a random projection of the gradient."""
    lora_targets: tuple[str, ...] | None = None
    """Modules with an adapter; None is q_proj and v_proj, else the fused attention projection."""
    trunk_cut: float = Field(0, ge=0, allow_inf_nan=False)
    """Layers below have no adapter and run once: a number of layers, or a fraction in (0, 1)."""
    max_batch_tokens: int | None = Field(None, ge=1)
    """Tokens run at once, padding included; None is 1,024 on a CPU and 16,384 on a GPU. Changes
    speed and memory, not the result."""
    gradient_checkpointing: bool = False
    """Keep no activations of the layers with an adapter: less memory, more time."""

    @model_validator(mode="after")
    def _one_source_of_anchors(self) -> Gradient:
        if self.use_sets and self.anchors is not None:
            raise ValueError("anchors and use_sets both say what the anchors are: set one of them")
        return self

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row; unusable rows are NaN with their outcome.

        Raises:
            NoTrainedTokensError: No row, or no row of a set of anchors, has a trained token.
            ConfigError: The variant's sets are not given or cannot be told apart, or the model has
                no place for the adapter.
        """
        rows, sets = inputs.rendered(), self._anchors(inputs)
        for name, found in {"finetuning_set": rows, **sets}.items():
            found.check_usable(name)
        run = GradientProducts(
            inputs.features, sets, rank=self.lora_rank, targets=self.lora_targets,
            trunk_cut=self.trunk_cut, max_batch_tokens=self.max_batch_tokens,
            gradient_checkpointing=self.gradient_checkpointing, seed=inputs.seed,
            progress=inputs.progress,
        )  # fmt: skip
        means = run.means()
        lengths, cosines = geometry(means)
        self._check(list(sets), lengths, cosines)
        values = run.of_rows(rows, means)
        units = unit_products(values[:, :-1])
        outcome = rows.column("outcome").astype(object)
        outcome[rows.usable & np.isnan(units).any(1)] = "no_gradient"
        found_risks = risks(
            {name: units[:, k] for k, name in enumerate(sets)},
            dict(zip(sets, lengths.tolist(), strict=True)),
        )
        return Scores(
            method="gradient",
            ids=rows.ids,
            source_ids=inputs.finetuning_set.source_ids,
            values=-found_risks[self.variant],
            outcome=outcome.tolist(),
            n_trained_tokens=rows.column("n_trained_tokens"),
            columns={
                **{f"score_{name}": -risk for name, risk in found_risks.items()},
                "gradient_norm": np.sqrt(values[:, -2]),
                "loss_base": values[:, -1],
            },
            details={
                "variant": self.variant,
                "gradient": run.adapter,
                "notes": run.notes + ([CONFLICT_NOTE] if self.variant == "conflict" else []),
                "anchors": {
                    name: {"rows": int(found.usable.sum()), "coherence": float(lengths[k]),
                           "by_outcome": found.counts()}
                    for k, (name, found) in enumerate(sets.items())
                },
                "anchor_cosines": {
                    f"{one}/{other}": float(cosines[j, k])
                    for j, one in enumerate(sets) for k, other in enumerate(sets) if j < k
                },
            },
        )  # fmt: skip

    def _anchors(self, inputs: RankingInputs) -> dict[str, RenderedRows]:
        """Render the sets of anchors that there are; only what counts of them."""
        if self.use_sets:
            given = {HARMFUL_SET: inputs.harmful_set, "refused": inputs.safe_set}
            examples = {name: found for name, found in given.items() if found is not None}
            needed = {"refused"} if self.variant == "conflict" else set(given)
            if needed - set(examples):
                raise ConfigError(
                    f"gradient.variant={self.variant} with use_sets needs "
                    f"{'the safe set' if len(needed) == 1 else 'the harmful and the safe set'}: "
                    "give --harmful-set and --safe-set, or leave use_sets out."
                )
        else:
            from tamis.data.anchors import load_anchors, shipped_anchors

            source = shipped_anchors() if self.anchors is None else load_anchors(self.anchors)
            examples = {name: getattr(source, name) for name in (HARMFUL_SET, *SAFE_SETS)}
        return {name: self._counting(inputs.rendered(found)) for name, found in examples.items()}

    def _counting(self, rows: RenderedRows) -> RenderedRows:
        """Return the anchors of a set that count, each cut to what counts of it."""
        order = sorted(np.flatnonzero(rows.usable).tolist(), key=rows.ids.__getitem__)
        if not order:
            return rows  # they tell why none is usable
        chosen = (rows[index] for index in order[: self.anchors_per_set])
        cut = (opening_of(row, self.anchor_tokens or row.n_trained_tokens) for row in chosen)
        return RenderedRows.from_rows(((row, None, False) for row in cut), rows.facts)

    def _check(self, names: list[str], lengths: Float64, cosines: Float64) -> None:
        """Refuse anchors that have no direction, or one direction for both sides."""
        for name, length in zip(names, lengths.tolist(), strict=True):
            if not 0 < length < float("inf"):
                raise ConfigError(
                    f"the gradients of the anchors {name!r} have a mean of length {length}: they "
                    "point nowhere. Load the model in float32, or give other anchors."
                )
        if self.variant == "conflict" or HARMFUL_SET not in names:
            return
        harmful = names.index(HARMFUL_SET)
        for k, name in enumerate(names):
            if k != harmful and cosines[harmful, k] > SAME_DIRECTION:
                raise ConfigError(
                    f"the anchors {HARMFUL_SET!r} and {name!r} have one mean gradient (cosine "
                    f"{cosines[harmful, k]:.5f}), so {self.variant} cannot tell the two sides "
                    "apart. Give sets that differ, or set variant=conflict."
                )
