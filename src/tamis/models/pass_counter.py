"""Count how much of a model was run: the cost of a ranking in forward and backward passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tamis.models.lora import layer_count
from tamis.models.recompute import recomputes
from tamis.models.trunk import is_passed_through, layers_of


@dataclass
class PassCount:
    """Tokens that decoder layers saw, padding included, summed over layers.

    Attributes:
        n_layers: Layers of the model.
        forward: Of forward passes, those that gradient checkpointing repeats included; a layer
            that a trunk stands for is not run.
        backward: Of forward passes whose gradient was wanted.
        spared: What the largest request for features would have taken besides, had none of them
            been kept before the count began.
    """

    n_layers: int
    forward: int = 0
    backward: int = 0
    spared: int = 0
    _before: dict[Path, frozenset[str]] = field(default_factory=dict)

    def spare(self, depth: int, n_tokens: int) -> None:
        """Note that kept features of so many tokens after `depth` layers are used."""
        self.spared = max(self.spared, depth * n_tokens)

    def before(self, folder: Path, parts: Sequence[str]) -> frozenset[str]:
        """Return the parts of a folder that were there when it was first asked about.

        Args:
            folder: Of kept features.
            parts: The parts that are there now.
        """
        return self._before.setdefault(folder, frozenset(parts))

    def per_token(self, n_tokens: int) -> dict[str, float] | None:
        """Return whole passes of the model per token of the data; None without tokens."""
        if not n_tokens:
            return None
        whole = self.n_layers * n_tokens
        return {name: getattr(self, name) / whole for name in ("forward", "backward", "spared")}


@contextlib.contextmanager
def counted_passes(model: Any) -> Iterator[PassCount]:
    """Count the passes of a model, and of any adapters put on it, in this block."""
    count = PassCount(layer_count(model))

    def hook(layer: Any, _args: Any, output: Any) -> None:
        if is_passed_through(layer):
            return
        states = output[0] if isinstance(output, tuple) else output
        n_tokens = states.shape[0] * states.shape[1]
        count.forward += n_tokens
        if states.requires_grad and torch.is_grad_enabled():
            count.backward += n_tokens
            if recomputes(layer):
                count.forward += n_tokens

    handles = [layer.register_forward_hook(hook) for layer in layers_of(model)]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
