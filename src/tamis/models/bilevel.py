"""Two sets, several adapters on one frozen base: what a bilevel method needs below its own maths.

Rows are visited by id and seed alone, every fine-tuning row once per epoch, the safe rows in a
cycle of their own; models descend weighted row losses; everything can be saved after any step and
put back bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tamis.data.batch import visiting_order
from tamis.data.rendered import JoinedRows, RenderedRows
from tamis.errors import ConfigError, NoTrainedTokensError
from tamis.models.checkpoint import (
    named,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    restore_parameters,
    save_checkpoint,
)
from tamis.models.load import LanguageModel
from tamis.models.lora import (
    LoraSettings,
    adapter_parameters,
    attach_adapters,
    choose_targets,
    detach_adapters,
    layer_count,
    use_adapters,
)
from tamis.models.trunk import Progress, RowForward, resolve_cut

ADAM_BETAS = (0.9, 0.95)  # SEAL's published engines, hanshen95/SEAL@1538e62 train_sft_selector.py


class Part(NamedTuple):
    """Rows whose weighted losses one adapter descends."""

    adapter: str
    rows: Sequence[int]
    """Usable rows of the forward (B)."""
    weights: Tensor
    """Coefficient of each row's loss (float32, B)."""


class AdapterTrainer:
    """Train named adapters on one base model.

    Args:
        model: The base model; changed in place until `close`.
        names: Adapter names; all start from the same weights.
        settings: Shape and place of the adapters.
        seed: Seed of the adapters' first weights.
        learning_rate: AdamW's, constant, without weight decay.
        max_gradient_norm: Gradients are scaled down to this norm before each step.
        mixed: Run rows of several adapters in one pass. The gradients are those of separate
            passes; with dropout, which PEFT cannot mix, passes are separate in any case.
    """

    def __init__(
        self, model: Any, names: Sequence[str], settings: LoraSettings, *, seed: int,
        learning_rate: float, max_gradient_norm: float, mixed: bool = True,
    ) -> None:  # fmt: skip
        self.model = attach_adapters(model, names, settings, seed=seed)
        self.model.eval()
        self.dropout = settings.dropout > 0
        self.mixed = mixed and not self.dropout
        self.parameters = {name: adapter_parameters(self.model, name) for name in names}
        self.max_gradient_norm = max_gradient_norm
        self.optimizers = {
            name: torch.optim.AdamW(
                list(parameters.values()), lr=learning_rate, betas=ADAM_BETAS, weight_decay=0.0
            )
            for name, parameters in self.parameters.items()
        }

    def descend(self, forward: RowForward, parts: Sequence[Part]) -> list[Tensor]:
        """Take one optimiser step of every adapter named, down the sum of its parts.

        Args:
            forward: The rows.
            parts: Rows, their adapter and their weights; an adapter may have several.

        Returns:
            The losses of each part's rows before the steps (float32, on the CPU).

        Raises:
            ConfigError: A loss is not finite: the step would spoil the model.
        """
        names = list(dict.fromkeys(part.adapter for part in parts))
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)
        together = [names] if self.mixed else [[name] for name in names]
        losses: list[Tensor] = [torch.empty(0)] * len(parts)
        for group in together:
            use_adapters(self.model, group)
            # Dropout is the only part of a decoder that train mode changes.
            self.model.train(self.dropout)
            chosen = [i for i, part in enumerate(parts) if part.adapter in group]
            found = self._accumulate(forward, [parts[i] for i in chosen], mixed=len(group) > 1)
            for i, values in zip(chosen, found, strict=True):
                losses[i] = values
            self.model.eval()
        for part, values in zip(parts, losses, strict=True):
            self._refuse_nonfinite(forward, part, values)
        for name in names:
            torch.nn.utils.clip_grad_norm_(self.parameters[name].values(), self.max_gradient_norm)
            self.optimizers[name].step()
        return losses

    @staticmethod
    def _accumulate(forward: RowForward, parts: Sequence[Part], *, mixed: bool) -> Sequence[Tensor]:
        """Add up the gradients of all parts in one go, as few and as full batches as can be."""
        rows = [row for part in parts for row in part.rows]
        adapters = [part.adapter for part in parts for _ in part.rows] if mixed else None
        losses = forward.accumulate(rows, torch.cat([part.weights for part in parts]), adapters)
        sizes = [len(part.rows) for part in parts]
        return torch.split(losses, sizes)

    @staticmethod
    def _refuse_nonfinite(forward: RowForward, part: Part, losses: Tensor) -> None:
        if bool(torch.isfinite(losses).all()):
            return
        bad = [forward.rows[row].id for row, loss in zip(part.rows, losses, strict=True)
               if not torch.isfinite(loss)]  # fmt: skip
        raise ConfigError(
            f"the loss of rows {', '.join(bad[:5])} under adapter {part.adapter!r} is not finite. "
            "Lower learning_rate, or set --dtype float32."
        )

    def activate(self, name: str) -> None:
        """Make one adapter the one that losses are computed with."""
        use_adapters(self.model, [name])

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on: parameters and optimiser states."""
        state: dict[str, Tensor] = {}
        for name, parameters in self.parameters.items():
            state |= named(f"adapter-{name}", parameters)
            state |= optimizer_tensors(self.optimizers[name], f"optimizer-{name}")
        return state

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        for name, parameters in self.parameters.items():
            restore_parameters(parameters, f"adapter-{name}", tensors)
            restore_optimizer(self.optimizers[name], f"optimizer-{name}", tensors)

    def close(self) -> None:
        """Remove the adapters; the base model is as it was."""
        detach_adapters(self.model)


@dataclass(frozen=True)
class RowSet:
    """One set of a run's rows.

    Attributes:
        rows: The set, rendered.
        order: Its usable rows, sorted by id (int64).
        first: Where the set starts among all rows of the run.
    """

    rows: RenderedRows
    order: np.ndarray[Any, np.dtype[np.int64]]
    first: int = 0

    def joined(self, rows: Sequence[int]) -> list[int]:
        """Turn rows of the set into rows of the run."""
        return [self.first + row for row in rows]


class TwoStreams:
    """Which rows a step visits: a function of the step's number, the ids and the seed alone.

    Args:
        finetuning: Visited once per epoch each, in a new order every epoch; a smaller last batch
            is kept.
        safe: Visited in cycles of their own, as often as it takes.
        batch_size: Fine-tuning rows per step.
        safe_batch_size: Safe rows per step; fewer when there are fewer.
        seed: The user's seed.
    """

    def __init__(
        self, finetuning: RowSet, safe: RowSet, *, batch_size: int, safe_batch_size: int,
        seed: int,
    ) -> None:  # fmt: skip
        self.finetuning, self.safe = finetuning, safe
        self.batch_size = batch_size
        self.safe_batch_size = min(safe_batch_size, len(safe.order))
        self.seed = seed
        self._safe_orders: dict[int, np.ndarray[Any, np.dtype[np.int64]]] = {}
        self.steps_per_epoch = math.ceil(len(finetuning.order) / batch_size)

    def places(self, step: int) -> tuple[int, Tensor]:
        """Return a step's epoch, from 0, and its rows' places in `finetuning.order`."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = visiting_order(len(self.finetuning.order), self.seed, "finetuning_set", epoch)
        start = within * self.batch_size
        return epoch, torch.from_numpy(order[start : start + self.batch_size])

    def safe_rows(self, step: int) -> list[int]:
        """Return a step's safe rows; a batch that spans two cycles may hold a row twice."""
        n, size = len(self.safe.order), self.safe_batch_size
        chosen: list[int] = []
        for position in range(step * size, (step + 1) * size):
            cycle, within = divmod(position, n)
            chosen.append(int(self.safe.order[self._safe_order(cycle)[within]]))
        return chosen

    def _safe_order(self, cycle: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        if cycle not in self._safe_orders:
            order = visiting_order(len(self.safe.order), self.seed, "safe_set", cycle)
            self._safe_orders = {**dict(list(self._safe_orders.items())[-1:]), cycle: order}
        return self._safe_orders[cycle]


class BilevelRun:
    """Both sets and the trained models of one run, with its checkpoint.

    Args:
        lm: The model; changed in place until `close`.
        rows: Rendered fine-tuning rows.
        safe_rows: Rendered safe rows.
        adapters: Names of the models to train.
        lora: Shape of the adapters; `layers` is set from `trunk_cut`.
        trunk_cut: Layers below are frozen and run once; see `resolve_cut`.
        learning_rate: See `AdapterTrainer`.
        max_gradient_norm: Likewise.
        max_batch_tokens: Tokens run at once, padding included; None is chosen by the device.
        seed: The user's seed.
        work: Folder for checkpoints and the trunk's output; None keeps everything in memory.
        progress: Given a stage's name, the callback for its progress.

    Raises:
        NoTrainedTokensError: One of the sets has no row to learn from.
        ConfigError: No layer would be trained, or the adapters have no place.
    """

    def __init__(
        self, lm: LanguageModel, rows: RenderedRows, safe_rows: RenderedRows, *,
        adapters: Sequence[str], lora: LoraSettings, trunk_cut: float, learning_rate: float,
        max_gradient_norm: float, max_batch_tokens: int | None, seed: int, work: Path | None,
        progress: Callable[[str], Progress | None],
    ) -> None:  # fmt: skip
        for name, found in (("finetuning_set", rows), ("safe_set", safe_rows)):
            if not found.usable.any():
                raise NoTrainedTokensError(
                    f"none of the {len(found)} rows of the {name} has a trained token "
                    f"({found.counts()}). Raise render.max_prompt_tokens and "
                    "render.max_response_tokens."
                )
        n_layers = layer_count(lm.model)
        cut = resolve_cut(trunk_cut, n_layers)
        layers = tuple(range(cut, n_layers)) if cut else None
        lora = lora.model_copy(update={"layers": layers})
        targets, note = choose_targets(lm.model, lora)
        self.trained = (
            f"LoRA r={lora.rank} on {', '.join(targets)} of layers {cut} to {n_layers - 1}"
        )
        self.notes = [note] if note else []
        self.work, self.progress = work, progress
        self.trainer = AdapterTrainer(
            lm.model, adapters, lora, seed=seed, learning_rate=learning_rate,
            max_gradient_norm=max_gradient_norm,
        )  # fmt: skip
        joined = JoinedRows(rows, safe_rows)
        self.forward = RowForward(
            self.trainer.model, joined, cut=cut, device=lm.device,
            max_batch_tokens=max_batch_tokens, store=None if work is None else work / "trunk.bin",
        )  # fmt: skip
        order, n = self.forward.order, len(rows)
        self.finetuning = RowSet(rows, order[order < n])
        self.safe = RowSet(safe_rows, order[order >= n] - n, first=n)
        self.notes += [self.forward.note] if self.forward.note else []
        try:
            self.forward.build(progress("trunk"))
        except BaseException:
            self.close()
            raise

    def descend(self, *parts: Part) -> list[Tensor]:
        """Step every adapter named down its parts; see `AdapterTrainer.descend`."""
        return self.trainer.descend(self.forward, parts)

    def losses_under(self, adapter: str, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Losses of every fine-tuning row under one adapter, kept on disk as `name`.

        Returns:
            float64 (n), NaN for rows that are not usable.
        """
        self.trainer.activate(adapter)
        order = self.finetuning.order
        values = np.full(len(self.finetuning.rows), np.nan)
        path = None if self.work is None else self.work / f"losses-{name}.safetensors"
        stored = None if path is None else read_checkpoint(path)
        if stored is not None:
            values[order] = stored[0]["losses"].numpy()
            return values
        found = self.forward.losses_of(order.tolist(), self.progress(f"losses: {name}"))
        values[order] = found
        if path is not None:
            save_checkpoint(path, {"losses": torch.from_numpy(found)}, {})
        return values

    def save(self, step: int, others: Mapping[str, Tensor]) -> None:
        """Keep the state after `step` steps, with the method's own tensors."""
        if self.work is not None:
            tensors = {**self.trainer.tensors(), **others}
            save_checkpoint(self.work / "training.safetensors", tensors, {"step": step})

    def restore(self) -> tuple[int, dict[str, Tensor]]:
        """Put back the newest state; returns steps done (0 without one) and all its tensors."""
        path = None if self.work is None else self.work / "training.safetensors"
        stored = None if path is None else read_checkpoint(path)
        if stored is None:
            return 0, {}
        tensors, meta = stored
        self.trainer.restore(tensors)
        return int(meta["step"]), tensors

    def close(self) -> None:
        """Remove the adapters; the base model is as it was."""
        self.trainer.close()
