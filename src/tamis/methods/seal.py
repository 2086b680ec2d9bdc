"""SEAL: learn one weight per fine-tuning row by bilevel optimisation (Shen et al., ICLR 2025).

Problem (Eq. 1). Rows z^i of the fine-tuning set D (N rows), trusted rows z_s of D_safe:

    upper:  min_w  mean_i l(theta*(w); z_s^i)
    lower:  theta*(w) = argmin_theta  mean_i sigma_i(w) l(theta; z^i)
    l(theta; z) = -(1/d_y) sum_t log P_theta(y_t | x, y_<t)                  nats per trained token

Notation: w `logits` (one per row), sigma(w) `selector_weights` (mean 1 under softmax), g
`penalty_strength`, theta the adapter "upper", theta-hat the adapter "lower", B rows in a batch.

Penalty form (Eq. 2-3), one step of Algorithm 1 (`full`):
    (a) theta     <- theta - beta [(1-g) grad l(theta; z_s) + g sigma_j(w) grad l(theta; z^j)]
    (b) theta-hat <- theta-hat - beta sigma_j(w) grad l(theta-hat; z^j)
    (c) w         <- w - alpha [l(theta; z^j) - l(theta-hat; z^j)] grad sigma_j(w)
Algorithm 2 (`memory_efficient`) drops theta-hat: (c) uses l(theta; z^j) alone.

Four readouts of one run: `selector` ranks by w, as published; `excess` by minus
l(theta; z) - l(theta-hat; z) under the final models, which is what (c) integrates, without the
optimiser's noise; `safe_loss` by minus l(theta; z); `safe_gain` by l(base; z) - l(theta; z).

Source: arXiv:2410.07471, Eq. 1-3, Alg. 1-2; hanshen95/SEAL@1538e62, trainer/sft_selector_trainer.py
lines 124-177 (which executes Algorithm 2 only).
Differs: scores belong to row ids, not to loader positions; both streams cycle, and every row is
visited exactly once per epoch; theta-hat exists; g is refused outside [0, 1); the chat template and
exact response masks are used; losses are float32. Under preset `paper` the selector is trained by
Adam on logits of a softmax over all rows, unregularised and at full speed while g is 0, with small
g; the preset says so in the manifest. Preset `small` uses entropic mirror descent instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores
from tamis.models.adapter_trainer import ADAM_BETAS, Part
from tamis.models.bilevel import BilevelRun, TwoStreams
from tamis.models.checkpoint import optimizer_tensors, restore_optimizer
from tamis.models.lora import LoraSettings
from tamis.models.trunk import trunk_reads
from tamis.rng import scoped_torch_seed

Activation = Literal["softmax", "sigmoid"]
CENTRE_ROWS = 256  # visits whose mean cost centres the mirror step: a steady mean of recent costs


def selector_weights(logits: Tensor, activation: Activation) -> Tensor:
    """sigma(w): softmax gives N exp(w_i) / sum_k exp(w_k), sigmoid gives 2 / (1 + exp(-w_i)).

    Args:
        logits: One per row (N).
        activation: Which of the two.

    Returns:
        Weights >= 0 (N).

    Source: spec of Eq. 1; SEAL@1538e62 models/actor.py:15-45 (both scalings).
    """
    if activation == "softmax":
        return len(logits) * torch.softmax(logits, dim=0)
    return 2 * torch.sigmoid(logits)


def lower_level_loss(weights: Tensor, losses: Tensor) -> Tensor:
    """mean_j sigma_j l(theta; z^j) over a batch: what theta-hat descends (scalar, nats)."""
    return (weights * losses).mean()


def penalized_objective(upper: Tensor, lower: Tensor, penalty_strength: float) -> Tensor:
    """(1 - g) * safe loss + g * weighted fine-tuning loss: what theta descends (scalar, nats)."""
    return (1 - penalty_strength) * upper + penalty_strength * lower


def selector_gradient(
    logits: Tensor, rows: Tensor, costs: Tensor, activation: Activation
) -> Tensor:
    """Gradient of mean_{j in batch} sigma_j(w) c_j with respect to every logit.

    softmax: (N/B) p_m [1(m in B) c_m - sum_{j in B} p_j c_j],  p = softmax(w)
    sigmoid: (2/B) s_m (1 - s_m) c_m for m in the batch, 0 elsewhere

    Args:
        logits: w (N).
        rows: Distinct positions of the batch (int64, B).
        costs: c_j, constants: l(theta) - l(theta-hat), or l(theta) (B).
        activation: Which selector.

    Returns:
        The gradient (N).

    Source: step (c) of Alg. 1 and 2 in mini-batch form.
    """
    gradient = torch.zeros_like(logits)
    if activation == "softmax":
        p = torch.softmax(logits, dim=0)
        gradient[rows] = p[rows] * costs
        gradient -= p * (p[rows] * costs).sum()
        return gradient * (len(logits) / len(rows))
    s = torch.sigmoid(logits[rows])
    gradient[rows] = 2 * s * (1 - s) * costs / len(rows)
    return gradient


def mirror_step(
    logits: Tensor, rows: Tensor, costs: Tensor, centre: float, rate: float, temperature: float
) -> Tensor:
    """Entropic mirror descent on the batch's weights; the other rows are untouched.

    w_j <- (1 - rate) w_j - (rate / temperature) (c_j - centre)

    The stationary point of mean sigma c + temperature * (negative entropy of sigma) is
    sigma_j ~ exp(-c_j / temperature); each visit moves a row the share `rate` of the way there.
    The centre is common to all rows, so the softmax leaves it out in the end; while some rows are
    still to be visited, it keeps the visited ones at the same mean weight as those.

    Args:
        logits: w (N).
        rows: Distinct positions of the batch (int64, B).
        costs: As in `selector_gradient` (B).
        centre: What an average row costs; see `running_mean`.
        rate: In (0, 1].
        temperature: In nats, > 0; smaller makes the weights steeper.

    Returns:
        New logits (N).

    Source: none; replaces the published Adam step, which ranks by when a row was last visited.
    """
    moved = logits.clone()
    moved[rows] = (1 - rate) * logits[rows] - rate / temperature * (costs - centre)
    return moved


def running_mean(mean: float, n: int, values: Tensor) -> tuple[float, int]:
    """Mean of the values seen so far, then of about the last CENTRE_ROWS of them.

    Costs drift while the models learn, so old ones must be forgotten; a batch's own mean would add
    its noise to every logit of the batch, and tell a batch of one nothing at all.

    Args:
        mean: The mean before, 0 at the start.
        n: Values it stands for, 0 at the start.
        values: New values (B).

    Returns:
        The mean with the new values, and what it stands for, at most CENTRE_ROWS.
    """
    n = min(n + len(values), max(CENTRE_ROWS, len(values)))
    return mean + (float(values.double().mean()) - mean) * len(values) / n, n


def excess_loss(upper_losses: Any, lower_losses: Any) -> Any:
    """l(theta; z) - l(theta-hat; z): how much worse the safe-aware model finds a row (nats)."""
    return upper_losses - lower_losses


def penalty_at(epoch: int, start: float, step: float, maximum: float) -> float:
    """Return g in the given epoch, counted from 0: min(start + epoch * step, maximum)."""
    return min(start + epoch * step, maximum)


class SEAL(Method):
    """Rank by a selector learned with the safe set (higher = keep).

    Source: Shen et al. 2024, arXiv:2410.07471, Alg. 1 and 2.
    Cost: per epoch, training of two models (Alg. 2: one) on the layers above the cut; one pass of
    those below.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model", "safe_set"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {},
        "fast": {"trunk_cut": 0.9, "lora": {"targets": "all"}},
        "exact": {"trunk_cut": 0},
        "paper": {
            "selector_optimizer": "adam", "selector_learning_rate": 5e-3, "learning_rate": 1e-5,
            "penalty_start": 0.0, "penalty_step": 0.03, "penalty_max": 0.06, "epochs": 3,
            "batch_size": 64, "safe_batch_size": 64, "trunk_cut": 0, "readout": "selector",
            "algorithm": "memory_efficient",
        },
    }  # fmt: skip

    preset: Literal["small", "fast", "exact", "paper"] | None = None
    """Recorded name of the preset the values came from."""
    algorithm: Literal["full", "memory_efficient"] = "full"
    """Algorithm 1 (with a lower-level model) or 2 (without)."""
    readout: Literal["excess", "selector", "safe_loss", "safe_gain"] | None = None
    """What `score` is: None is `excess` for `full`, `selector` for `memory_efficient`."""
    activation: Activation = "softmax"
    """Selector: softmax over all rows, or a sigmoid per row."""
    selector_optimizer: Literal["mirror", "adam"] = "mirror"
    """Entropic mirror descent, or Adam on the logits as published."""
    selector_learning_rate: float = Field(0.5, gt=0)
    """Step of the selector: a share in (0, 1] for mirror, Adam's learning rate else."""
    selector_temperature: float = Field(1.0, gt=0)
    """Entropy weight of the mirror step, in nats."""
    penalty_strength: float | None = Field(None, ge=0, lt=1)
    """g, constant over all epochs; instead of the three below."""
    penalty_start: float = Field(0.1, ge=0, lt=1)
    """g in the first epoch."""
    penalty_step: float = Field(0.0, ge=0, lt=1)
    """What each epoch adds to g."""
    penalty_max: float = Field(0.99, ge=0, lt=1)
    """Largest g."""
    epochs: int = Field(2, ge=1)
    """Passes over the fine-tuning set; every row is visited once in each."""
    batch_size: int = Field(4, ge=1)
    """Fine-tuning rows per optimiser step."""
    safe_batch_size: int = Field(4, ge=1)
    """Safe rows per optimiser step."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's learning rate of both models, constant."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    trunk_cut: float = Field(0.8, ge=0, allow_inf_nan=False)
    """Layers below are frozen and run once: a number of layers, or a fraction in (0, 1)."""
    lora: LoraSettings = LoraSettings()
    """The adapters of both models; `layers` is set from trunk_cut."""
    max_batch_tokens: int | None = Field(None, ge=1)
    """Tokens run at once, padding included; None is 1,024 on a CPU and 16,384 on a GPU. Changes
    speed and memory, not the result."""
    gradient_checkpointing: bool = False
    """Keep no activations of the trained layers: less memory, more time, the same scores up to
    rounding."""
    checkpoint_every_steps: int = Field(20, ge=1)
    """Optimiser steps between checkpoints."""

    @model_validator(mode="after")
    def _consistent(self) -> SEAL:
        if self.algorithm == "memory_efficient" and self.readout == "excess":
            raise ValueError(
                "readout=excess needs the lower-level model of algorithm=full; memory_efficient "
                "has selector, safe_loss and safe_gain"
            )
        preset = self.presets.get(self.preset or "", {})
        own = [
            name
            for name in ("penalty_start", "penalty_step")
            if getattr(self, name) not in (preset.get(name), type(self).model_fields[name].default)
        ]
        if self.penalty_strength is not None and own:
            raise ValueError(f"give penalty_strength or {' and '.join(own)}, not both")
        if self.selector_optimizer == "mirror" and self.selector_learning_rate > 1:
            raise ValueError("selector_learning_rate is a share in (0, 1] for the mirror step")
        if self.lora.layers is not None:
            raise ValueError("lora.layers follows from trunk_cut: set trunk_cut instead")
        return self

    @property
    def main_readout(self) -> str:
        """Name of the readout that becomes `score`."""
        default = "excess" if self.algorithm == "full" else "selector"
        return self.readout or default

    def penalty(self, epoch: int) -> float:
        """Return g in an epoch, counted from 0."""
        if self.penalty_strength is not None:
            return self.penalty_strength
        return penalty_at(epoch, self.penalty_start, self.penalty_step, self.penalty_max)

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`."""
        return trunk_reads(self.trunk_cut, n_layers)

    def rank(self, inputs: RankingInputs) -> Scores:
        """Train the selector and the models, then score every row.

        Raises:
            NoTrainedTokensError: One of the sets has no row to learn from.
            ConfigError: trunk_cut leaves no layer to train, or the model has no place for adapters.
        """
        run = BilevelRun(
            inputs.features, inputs.rendered("finetuning_set"), inputs.rendered("safe_set"),
            adapters=["upper", "lower"] if self.algorithm == "full" else ["upper"], lora=self.lora,
            trunk_cut=self.trunk_cut, learning_rate=self.learning_rate,
            max_gradient_norm=self.max_gradient_norm, max_batch_tokens=self.max_batch_tokens,
            gradient_checkpointing=self.gradient_checkpointing, seed=inputs.seed, work=inputs.work,
            progress=inputs.progress, settings=self.model_dump(mode="json"),
        )  # fmt: skip
        try:
            selector = self._train(run, inputs)
            losses = {"base": run.base_losses()}
            losses |= {name: run.losses_under(name, name) for name in run.trainer.parameters}
        finally:
            run.close()
        return self._scores(run, inputs, selector, losses)

    def _train(self, run: BilevelRun, inputs: RankingInputs) -> Selector:
        """Run every step that an earlier, killed run has not finished."""
        streams = TwoStreams(
            run.finetuning, run.safe, batch_size=self.batch_size,
            safe_batch_size=self.safe_batch_size, seed=inputs.seed,
        )  # fmt: skip
        selector = Selector(len(run.finetuning.order), self)
        done, tensors = run.restore()
        if tensors:
            selector.restore(tensors)
        n_steps = streams.steps_per_epoch * self.epochs
        progress = inputs.progress("training")
        for step in range(done, n_steps):
            epoch, places = streams.places(step)
            with scoped_torch_seed(inputs.seed, "dropout", step):
                figures = seal_step(
                    run, selector, streams.safe_rows(step), places, self.penalty(epoch)
                )
            selector.visits[places] += 1
            selector.last_visit[places] = step
            if (step + 1) % self.checkpoint_every_steps == 0 or step + 1 == n_steps:
                run.save(step + 1, selector.tensors())
            if progress:
                progress(step + 1, n_steps, figures)
        return selector

    def _scores(
        self, run: BilevelRun, inputs: RankingInputs, selector: Selector,
        losses: Mapping[str, np.ndarray],
    ) -> Scores:  # fmt: skip
        """Put both readouts and the record of every row together."""
        rows, order = run.finetuning.rows, run.finetuning.order
        logits, last_visit = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        visits = np.zeros(len(rows), dtype=np.int64)
        logits[order], last_visit[order] = selector.logits.numpy(), selector.last_visit.numpy()
        visits[order] = selector.visits.numpy()
        readouts = {"selector": logits, "safe_loss": -losses["upper"],
                    "safe_gain": losses["base"] - losses["upper"]}  # fmt: skip
        if "lower" in losses:
            readouts["excess"] = -excess_loss(losses["upper"], losses["lower"])
        return Scores(
            method="seal",
            ids=rows.ids,
            source_ids=inputs.finetuning_set.source_ids,
            values=readouts[self.main_readout],
            outcome=rows.column("outcome").tolist(),
            n_trained_tokens=rows.column("n_trained_tokens"),
            columns={
                **{f"score_{name}": values for name, values in readouts.items()},
                **{f"loss_{name}": values for name, values in losses.items()},
                "visits": visits,
                "last_visit_step": last_visit,
            },
            details={
                "readout": self.main_readout,
                "trained": run.trained,
                "notes": [*run.notes, *known_faults(self)],
            },
        )


def seal_step(
    run: BilevelRun, selector: Selector, safe_rows: list[int], places: Tensor, g: float
) -> dict[str, float]:
    """Take one step of Algorithm 1 (or 2) on a batch: theta, theta-hat, w.

    Args:
        run: The models and both sets.
        selector: The weights' logits and their optimiser.
        safe_rows: The batch of the safe set.
        places: The batch of the fine-tuning set, as places in `run.finetuning.order` (int64, B).
        g: Penalty strength.

    Returns:
        Figures to show, before the step.
    """
    rows = run.finetuning.order[places.numpy()].tolist()
    weights = selector_weights(selector.logits, selector.activation)[places]
    safe = run.safe.joined(safe_rows)
    # (a) theta. The coefficients are the gradient of penalized_objective in each row's loss.
    parts = [
        Part("upper", safe, torch.full((len(safe),), (1 - g) / len(safe))),
        Part("upper", rows, g * weights / len(rows)),
    ]
    # (b) theta-hat: no safe term, no g. Neither step reads the other's result: one pass does both.
    if "lower" in run.trainer.parameters:
        parts.append(Part("lower", rows, weights / len(rows)))
    safe_losses, upper_losses, *lower_losses = run.descend(*parts)
    costs = excess_loss(upper_losses, *lower_losses) if lower_losses else upper_losses
    # (c) w. The losses are constants here; g is absorbed in the selector's step.
    selector.step(places, costs)
    lower = lower_level_loss(weights, upper_losses)
    return {
        "objective": float(penalized_objective(safe_losses.mean(), lower, g)),
        "safe_loss": float(safe_losses.mean()),
        "loss": float(upper_losses.mean()),
    }


class Selector:
    """w, its optimiser, and when each row was visited; N rows."""

    def __init__(self, n: int, config: SEAL) -> None:
        self.config, self.activation = config, config.activation
        # Adam's path depends on where it starts: the published constants.
        start = {"softmax": 0.1, "sigmoid": -1e-4}[self.activation]
        self.logits = torch.full((n,), start if config.selector_optimizer == "adam" else 0.0)
        self.adam = torch.optim.Adam(
            [self.logits], lr=config.selector_learning_rate, betas=ADAM_BETAS
        )
        self.visits = torch.zeros(n, dtype=torch.int64)
        self.last_visit = torch.full((n,), -1, dtype=torch.int64)
        self.centre, self.n_centre = 0.0, 0

    def step(self, places: Tensor, costs: Tensor) -> None:
        """Step (c), with the optimiser that was chosen."""
        config = self.config
        if config.selector_optimizer == "adam":
            self.logits.grad = selector_gradient(self.logits, places, costs, self.activation)
            self.adam.step()
        else:
            self.centre, self.n_centre = running_mean(self.centre, self.n_centre, costs)
            moved = mirror_step(
                self.logits, places, costs, self.centre, config.selector_learning_rate,
                config.selector_temperature,
            )  # fmt: skip
            self.logits.copy_(moved)

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on."""
        state = {"logits": self.logits, "visits": self.visits, "last_visit": self.last_visit}
        centre = torch.tensor([self.centre, self.n_centre], dtype=torch.float64)
        return {**state, "centre": centre, **optimizer_tensors(self.adam, "selector")}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        for name in ("logits", "visits", "last_visit"):
            getattr(self, name).copy_(tensors[name])
        self.centre, self.n_centre = tensors["centre"][0].item(), int(tensors["centre"][1])
        restore_optimizer(self.adam, "selector", tensors)


def known_faults(config: SEAL) -> list[str]:
    """Say which faults of the published recipe these settings keep (docs/methods.md)."""
    found = []
    if config.selector_optimizer == "adam":
        found.append(
            "F3: Adam turns the tiny gradients of unvisited rows into full steps, so the selector "
            "depends on when a row was last visited."
        )
        found.append(
            "F7: each selector step moves all logits through the softmax's normaliser."
            if config.activation == "softmax" else "F7 does not apply: sigmoid weights are per row."
        )  # fmt: skip
        found.append("F8: no regulariser; the weights depend on when training stops.")
    if config.selector_optimizer == "adam" and config.penalty(0) == 0:
        found.append("F9: the selector moves at full speed while g = 0.")
    full = config.algorithm == "full"
    if config.selector_optimizer == "mirror" and config.main_readout == "selector" and full:
        found.append(
            "mirror: costs are small while both models are still alike: with one epoch, the rows "
            "of early batches hardly move the selector."
        )
    if config.penalty(config.epochs - 1) <= 0.06:
        found.append("F10: g stays at or below 0.06: the weights hardly reach the model.")
    return found
