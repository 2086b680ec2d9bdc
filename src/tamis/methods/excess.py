"""Excess loss: how much worse a safe-tuned model finds a row than another model does.

    e_i = l(theta_safe; z^i) - l(theta_other; z^i),   score_i = -e_i
    l(theta; z) = -(1/d_y) sum_t log P_theta(y_t | x, y_<t)                  nats per trained token

theta_safe is the base tuned on the safe set. theta_other, all tuned for as many steps, is

    base          the base itself: what the safe set taught against the row
    crossfit      tuned on the other folds of the fine-tuning set: a likelihood ratio of "safe" and
                  "like these rows" that no row's own training spoils
    harmful       tuned on a harmful set: a likelihood ratio of "safe" and "harmful"

Models that no row of the fine-tuning set took part in give a row the same loss in any mixture: with
a shared cache they are trained once for all of them.

Two safe-tuned models, one from each half of the safe set, are averaged; their agreement is told.

Source: improvements I2 to I6 on Shen et al. 2024, arXiv:2410.07471, whose Algorithm 1 moves its
weights by such a difference; the base form is RHO-loss (Mindermann et al. 2022, arXiv:2206.07137)
with the safe set as its holdout.
Differs: RHO-loss selects online from large batches; here final models score all rows once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from tamis.data.example import content_of
from tamis.data.folds import content_folds
from tamis.data.rendered import RenderedRows
from tamis.data.row_views import FirstTokens
from tamis.data.strata import Strata, by_length, by_source, standardised, strata_counts
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores, row_scores
from tamis.models.adapter_trainer import Part
from tamis.models.bilevel import BilevelRun, Cycle
from tamis.models.lora import LoraSettings
from tamis.models.trunk import trunk_reads
from tamis.rng import numpy_generator, scoped_torch_seed

PASSES = 3  # over half of the safe set, when no number of steps is given
RELIABLE = 0.5  # Spearman-Brown reliability below which scores are mostly chance


def excess_loss(safe_losses: np.ndarray, other_losses: np.ndarray) -> np.ndarray:
    """Return e = l(theta_safe; z) - l(theta_other; z), nats per trained token."""
    return np.asarray(safe_losses - other_losses)


def reliability(first: np.ndarray, second: np.ndarray) -> float | None:
    """Reliability of the mean of two half-scores: Spearman-Brown of their rank correlation.

    2 rho / (1 + rho), for rho the Spearman correlation over rows; 0 where rho is negative, and None
    where a half has one value only, so that there is nothing to correlate.
    """
    from scipy.stats import spearmanr

    if not np.ptp(first) or not np.ptp(second):
        return None
    rho = max(0.0, float(spearmanr(first, second).statistic))
    return 2 * rho / (1 + rho)


class Excess(Method):
    """Minus the excess loss of a safe-tuned model (higher = keep), nats per trained token.

    Source: RHO-loss, Mindermann et al. 2022, arXiv:2206.07137; Shen et al. 2024, arXiv:2410.07471.
    Cost: two models tuned on the safe set (crossfit: more on the rows), a forward pass of each.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model", "safe_set"})

    against: Literal["base", "crossfit", "harmful"] = "base"
    """What the safe-tuned model is compared with."""
    folds: int = Field(2, ge=2)
    """Folds of `crossfit`: as many adapters are trained, each on all other folds."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps of every model; None is three passes over half of the safe set."""
    batch_size: int = Field(4, ge=1)
    """Rows per step and model."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's, constant."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    first_tokens: int | None = Field(None, ge=1)
    """Read losses of so many first trained tokens; None is the whole response. Models are trained
    on whole responses either way."""
    strata: Strata = "none"
    """Standardise scores within quarters of response `length`, or within each `source` (field of
    the record, else file), so that none is flagged more often for that alone. Not where one source
    is the harmful one: its rows would be compared with each other."""
    trunk_cut: float = Field(0.8, ge=0, allow_inf_nan=False)
    """Layers below are frozen and run once: a number of layers, or a fraction in (0, 1)."""
    lora: LoraSettings = LoraSettings()
    """The adapters; `layers` is set from trunk_cut."""
    max_batch_tokens: int | None = Field(None, ge=1)
    """Tokens run at once; changes speed and memory, not the result."""
    gradient_checkpointing: bool = False
    """Keep no activations of the trained layers: less memory, more time."""
    checkpoint_every_steps: int = Field(20, ge=1)
    """Optimiser steps between checkpoints."""

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`."""
        return trunk_reads(self.trunk_cut, n_layers)

    def rank(self, inputs: RankingInputs) -> Scores:
        """Train the adapters, then read every row's losses.

        Raises:
            ConfigError: `against=harmful` without a harmful set, or sets too small to be halved.
            NoTrainedTokensError: One of the sets has no usable row.
        """
        if self.against == "harmful" and inputs.harmful_set is None:
            raise ConfigError("excess with against=harmful needs harmful_set: give --harmful-set.")
        more = {"harmful_set": inputs.rendered("harmful_set")} if self.against == "harmful" else {}
        rows, safe = inputs.rendered(), inputs.rendered("safe_set")
        others = {"base": [], "harmful": ["harmful"],
                  "crossfit": [f"fold-{k}" for k in range(self.folds)]}[self.against]  # fmt: skip
        untrained = ["base"] if self.against == "base" and self.first_tokens else []
        run = BilevelRun(
            inputs.features, rows, safe, more=more,
            adapters=["safe-0", "safe-1", *others, *untrained], lora=self.lora,
            trunk_cut=self.trunk_cut, learning_rate=self.learning_rate,
            max_gradient_norm=self.max_gradient_norm, max_batch_tokens=self.max_batch_tokens,
            gradient_checkpointing=self.gradient_checkpointing, seed=inputs.seed, work=inputs.work,
            progress=inputs.progress, settings=self.model_dump(mode="json"),
        )  # fmt: skip
        try:
            fold = _deal(rows, self.folds, inputs.seed, "folds")
            streams, n_steps = self._streams(run, inputs.seed, fold), self._n_steps(run)
            recipes = {
                name: self._recipe(run, row_set, cycle, n_steps, inputs.seed)
                for name, (row_set, cycle) in streams.items()
                if row_set is not run.finetuning
            }
            # Apart, so that a side's losses are the same with or without the other's training.
            sides = [[name for name in streams if name.startswith("safe-") == safe_side]
                     for safe_side in (True, False)]  # fmt: skip
            lacking = [{name: streams[name] for name in side} for side in sides if not all(
                name in recipes and run.features.has_tuned_losses(rows, recipes[name])
                for name in side
            )]  # fmt: skip
            self._train(run, lacking, n_steps, inputs)
            if self.first_tokens:
                run.forward.rows = FirstTokens(run.forward.rows, self.first_tokens)
            safe_losses = [run.independent_losses(name, recipes[name])[rows.id_order]
                           for name in ("safe-0", "safe-1")]  # fmt: skip
            other = self._other_losses(run, fold, recipes)
        finally:
            run.close()
        halves = [excess_loss(found, other) for found in safe_losses]
        return self._scores(inputs, run, halves, other, n_steps)

    def _streams(self, run: BilevelRun, seed: int, fold: np.ndarray) -> Mapping[str, Any]:
        """Say which rows every adapter is trained on: its set and a cycle over its part."""

        def cycle(name: str, order: np.ndarray, adapter: str) -> tuple[Any, Cycle]:
            if not len(order):
                usable = run.sets[name].rows
                n = len({content_of(usable.ids[i]) for i in usable.id_order})
                raise ConfigError(
                    f"{n} different rows of the {name} can be learned from, and they are divided: "
                    f"the model {adapter} got none. Give more rows of the {name}."
                )
            return run.sets[name], Cycle(order, self.batch_size, seed, adapter)

        half = _deal(run.safe.rows, 2, seed, "halves")
        found = {f"safe-{k}": cycle("safe_set", run.safe.order[half == k], f"safe-{k}")
                 for k in range(2)}  # fmt: skip
        if self.against == "harmful":
            order = run.sets["harmful_set"].order
            found["harmful"] = cycle("harmful_set", order, "harmful")
        if self.against == "crossfit":
            for k in range(self.folds):
                order = run.finetuning.order[fold != k]
                found[f"fold-{k}"] = cycle("finetuning_set", order, f"fold-{k}")
        return found

    def _n_steps(self, run: BilevelRun) -> int:
        per_pass = math.ceil(math.ceil(len(run.safe.order) / 2) / self.batch_size)
        return self.steps or PASSES * per_pass

    def _recipe(
        self, run: BilevelRun, row_set: Any, cycle: Cycle, n_steps: int, seed: int
    ) -> dict[str, Any]:
        """Everything that decides an adapter's losses: its rows, in their order, and settings."""
        keys = run.features.keys(row_set.rows)
        return {
            "rows": hashlib.sha256(b"".join(keys[i] for i in cycle.order)).hexdigest(),
            "visits": cycle.purpose, "batch_size": cycle.size, "steps": n_steps, "seed": seed,
            "trained": run.trained, "lora": self.lora.model_dump(mode="json"),
            "learning_rate": self.learning_rate, "max_gradient_norm": self.max_gradient_norm,
            "first_tokens": self.first_tokens,
        }  # fmt: skip

    def _train(
        self, run: BilevelRun, sides: Sequence[Mapping[str, Any]], n_steps: int,
        inputs: RankingInputs,
    ) -> None:  # fmt: skip
        """Take every step that an earlier, killed run has not taken."""
        if not sides:
            return
        done, _ = run.restore(names := [name for streams in sides for name in streams])
        progress = inputs.progress("training")
        for step in range(done, n_steps):
            losses = []
            for streams in sides:
                parts = []
                for adapter, (row_set, cycle) in streams.items():
                    chosen = row_set.joined(cycle.rows(step))
                    weights = torch.full((len(chosen),), 1 / len(chosen))
                    parts.append(Part(adapter, chosen, weights))
                with scoped_torch_seed(inputs.seed, "excess", *streams, step):  # dropout
                    losses += run.descend(*parts)
            if (step + 1) % self.checkpoint_every_steps == 0 or step + 1 == n_steps:
                run.save(step + 1, {}, names)
            if progress:
                progress(step + 1, n_steps, {"loss": float(torch.cat(losses).mean())})

    def _other_losses(
        self, run: BilevelRun, fold: np.ndarray, recipes: Mapping[str, Mapping[str, Any]]
    ) -> np.ndarray:
        """Losses under the model of comparison, in the order of ids."""
        order = run.finetuning.order
        if self.against == "harmful":
            return np.asarray(run.independent_losses("harmful", recipes["harmful"])[order])
        if self.against == "base":
            first = {"base": True, "first_tokens": self.first_tokens}
            found = (run.independent_losses("base", first) if self.first_tokens
                     else run.base_losses())  # fmt: skip
            return np.asarray(found[order])
        losses = np.empty(len(order))
        for k in range(self.folds):
            mine = fold == k
            found = run.losses_under(f"fold-{k}", f"fold-{k}", order[mine])
            losses[mine] = found[order[mine]]
        return losses

    def _scores(
        self, inputs: RankingInputs, run: BilevelRun, halves: list[np.ndarray],
        other: np.ndarray, n_steps: int,
    ) -> Scores:  # fmt: skip
        """Average the halves, and say how well they agree."""
        rows = run.finetuning.rows
        excess = (halves[0] + halves[1]) / 2
        agreement = reliability(*halves)
        notes = list(run.notes)
        if agreement is None or agreement < RELIABLE:
            agreed = "cannot be compared" if agreement is None else (
                f"agree with a reliability of {agreement:.2f} only ({RELIABLE} is little already)"
            )  # fmt: skip
            notes.append(
                "the scores are mostly chance: safe-tuned models from two halves of the safe set "
                f"{agreed}. Give more safe rows or more steps."
            )
        strata = {
            "length": by_length(rows, rows.id_order),
            "source": by_source(inputs.finetuning_set, rows.id_order),
        }
        z = {name: standardised(excess, stratum) for name, stratum in strata.items()}
        return row_scores(
            "excess", inputs, rows, -z.get(self.strata, excess),
            columns={
                "score_excess": -excess,
                **{f"score_by_{name}": -values for name, values in z.items()},
                "score_safe_loss": -(excess + other), "loss_other": other,
            },
            details={
                "against": self.against, "steps": n_steps, "reliability": agreement,
                "trained": run.trained, "notes": notes,
                "strata": {name: strata_counts(stratum) for name, stratum in strata.items()},
            },
        )  # fmt: skip


def _deal(rows: RenderedRows, parts: int, seed: int, purpose: str) -> np.ndarray:
    """Deal usable rows, in the order of their ids, to parts of equal size at random."""
    ids = [rows.ids[i] for i in rows.id_order]
    return content_folds(ids, parts, numpy_generator(seed, "excess", purpose))
