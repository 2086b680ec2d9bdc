"""Count how much of a model was run: the cost of a ranking in forward and backward passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
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
        reading: The least that the largest request for features takes where none of them is kept:
            fewer forward passes mean that kept ones served.
    """

    n_layers: int
    forward: int = 0
    backward: int = 0
    reading: int = 0

    def read(self, depth: int, n_tokens: int) -> None:
        """Note that features of so many tokens after `depth` layers are wanted."""
        self.reading = max(self.reading, depth * n_tokens)

    def per_token(self, n_tokens: int) -> dict[str, float] | None:
        """Return whole passes of the model per token of the data; None without tokens.

        `reading` is there where features were wanted.
        """
        if not n_tokens:
            return None
        whole = self.n_layers * n_tokens
        found = {"forward": self.forward / whole, "backward": self.backward / whole}
        return {**found, "reading": self.reading / whole} if self.reading else found


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
