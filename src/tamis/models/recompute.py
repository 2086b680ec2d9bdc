"""Gradient checkpointing of the trained layers: keep their inputs, compute the rest again.

A layer's activations are dropped after the forward pass and computed once more when the backward
pass needs them. Memory then holds one hidden state per layer and the activations of a single layer,
for one more forward pass of the trained layers. The gradients are the same.

Any decoder layer can be run twice this way: unlike transformers' own switch, nothing has to be in
train mode, which would turn on dropout that the model's configuration carries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.checkpoint import checkpoint

from tamis.models.trunk import forwards_replaced, layers_of


@contextlib.contextmanager
def recomputing(model: Any, cut: int) -> Iterator[None]:
    """Keep only the inputs of layer `cut` and above in forward passes of this block.

    Hooks inside the layers must be the same in the backward pass as they were in the forward pass;
    hooks on a layer itself run once, since they belong to its call and not to its forward.

    Args:
        model: A causal language model, PEFT-wrapped or not.
        cut: The first layer with a gradient; those below are left alone.
    """
    with forwards_replaced(layers_of(model)[cut:], _checkpointed):
        yield


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        # Random numbers of LoRA's dropout are drawn again as they were (the function's default).
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    run.recomputes = True  # type: ignore[attr-defined]
    return run


def recomputes(layer: Any) -> bool:
    """Whether a layer is run once more in the backward pass."""
    return getattr(vars(layer).get("forward"), "recomputes", False)
