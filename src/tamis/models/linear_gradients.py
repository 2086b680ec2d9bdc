"""One forward and one backward pass over rows, listened to at linear modules.

The gradient of row b's loss in the weight of a linear module is known from what went into the
module and from the gradient at what came out of it,

    dl_b / dW = sum_t d_bt x_bt^T                                             (out x in)

so rows that share a pass keep gradients of their own, weights need none and may be quantised.

Shapes: B rows, T tokens of the longest, in and out the sizes of a module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tamis.errors import ConfigError
from tamis.models.row_forward import RowForward
from tamis.models.trunk import layers_of

# Module and its inputs (B x T x in) -> what the backward pass will need of them.
Keep = Callable[[str, Tensor], Tensor]
# Module, what was kept, and the gradient of the rows' losses at its outputs (B x T x out).
Take = Callable[[str, Tensor, Tensor], None]


def modules_named(model: Any, names: Collection[str], first_layer: int = 0) -> dict[str, Any]:
    """Return modules of the decoder layers by the number of their layer and their name in it.

    Args:
        model: A causal language model.
        names: Last parts of the modules' names, such as `q_proj`.
        first_layer: Layers below are left out.
    """
    return {
        f"{number}.{name}": module
        for number, layer in enumerate(layers_of(model))
        for name, module in layer.named_modules()
        if number >= first_layer and name.rpartition(".")[2] in names
    }


def visit_modules(
    modules: Mapping[str, Any], forward: RowForward, indices: Sequence[int], keep: Keep, take: Take
) -> Tensor:
    """Run rows once forward and once backward, as far down as the lowest of the modules.

    Args:
        modules: Linear modules by name.
        forward: The rows, under the model of the modules.
        indices: B usable rows; all run at once.
        keep: Called for every module in the forward pass.
        take: Called for every module in the backward pass, the last layer first.

    Returns:
        Mean loss of each row, in nats per trained token (float32, B).

    Raises:
        ConfigError: A module does not take rows x tokens x features.
    """
    starts: list[Tensor] = []
    handles = [
        module.register_forward_hook(
            functools.partial(_tap, name, len(indices), starts, keep, take)
        )
        for name, module in modules.items()
    ]
    try:
        with torch.enable_grad():
            losses = forward.losses(indices)
            # The mean of one row does not depend on another: the sum keeps them apart.
            torch.autograd.grad(losses.sum(), starts)
    finally:
        for handle in handles:
            handle.remove()
    return losses.detach()


def _tap(
    name: str, n_rows: int, starts: list[Tensor], keep: Keep, take: Take, _module: Any,
    args: tuple[Any, ...], output: Tensor,
) -> Tensor:  # fmt: skip
    if args[0].ndim != 3 or len(args[0]) != n_rows:
        raise ConfigError(
            f"{name} takes an input of shape {tuple(args[0].shape)} where {n_rows} rows x tokens x "
            "features are needed: what a row contributes cannot be told there, as in a mixture of "
            "experts. Name the modules to take, without this one."
        )
    kept = keep(name, args[0].detach())
    if not output.requires_grad:  # below, everything is frozen: the graph begins here
        starts.append(output.detach().requires_grad_())
        output = starts[-1].clone()  # a leaf itself could not be changed in place
    output.register_hook(lambda gradient: take(name, kept, gradient))  # type: ignore[no-untyped-call]
    return output
