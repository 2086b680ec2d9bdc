"""Several adapters on one frozen base, each descending weighted row losses, in shared passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tamis.errors import ConfigError
from tamis.models.checkpoint import (
    named,
    optimizer_tensors,
    restore_optimizer,
    restore_parameters,
)
from tamis.models.lora import (
    LoraSettings,
    adapter_parameters,
    attach_adapters,
    detach_adapters,
    use_adapters,
)
from tamis.models.row_forward import RowForward

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
