"""Gradients of single rows, many rows at a time: where the first step of a LoRA adapter would go.

At initialisation B = 0: the adapted model is the base model, and the A factors have no gradient.
For a linear layer with inputs x_bt and the gradients d_bt of row b's mean loss at its outputs,

    dl_b / dB = (alpha / r) sum_t d_bt (A x_bt)^T                            (out x r)

One forward and one backward pass give x and d of a whole batch, so no row needs a pass of its own,
and no adapter is attached: A is drawn here and applied to x. The factor alpha / r is the same for
all rows and left out. The entries of A are uniform with variance 1 / (3 in), as PEFT draws them, so
that on average over A

    <dl_b / dB, dl_c / dB> = r / (3 in) <dl_b / dW, dl_c / dW>

with W the layer's own weight: the B factors hold a random projection of its gradient.

Shapes: B rows, T tokens of the longest, r rank, in and out the sizes of a layer, K directions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tamis.data.batch import token_budget_batches
from tamis.errors import ConfigError
from tamis.models.features import Progress
from tamis.models.linear_gradients import modules_named, visit_modules
from tamis.models.lora import LoraSettings, choose_targets
from tamis.models.row_forward import RowForward
from tamis.models.row_store import RowStore
from tamis.rng import torch_generator

SAVE_ROWS = 256  # what a killed pass repeats at most
Consume = Callable[[str, Tensor], None]  # layer and name of a module, its gradients (B x out x r)


class RowGradients:
    """Gradients of rows with respect to the B factors of an adapter that is not there yet.

    Args:
        model: A causal language model, frozen.
        rank: r of the adapter.
        seed: Seed of its A factors.
        first_layer: First adapted decoder layer.
        targets: Names of the adapted modules; None is q_proj and v_proj, else the fused projection.

    Raises:
        ConfigError: The model has no such module in these layers.
    """

    def __init__(
        self, model: Any, *, rank: int, seed: int, first_layer: int = 0,
        targets: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        self.rank, self.seed = rank, seed
        self.targets, self.note = choose_targets(model, LoraSettings(rank=rank, targets=targets))
        self.modules = modules_named(model, self.targets, first_layer)
        if not self.modules:
            raise ConfigError(
                f"no {' or '.join(self.targets)} in the decoder layers from {first_layer} on: set "
                "trunk_cut lower, or name other modules."
            )
        self._factors: dict[str, Tensor] = {}

    def factor(self, name: str, like: Tensor) -> Tensor:
        """Return a module's A (float32, r x in), for inputs like these (.. x in)."""
        if name not in self._factors:
            bound = 1 / math.sqrt(like.shape[-1])
            generator = torch_generator(self.seed, "lora A", name)
            drawn = torch.rand(self.rank, like.shape[-1], generator=generator)
            self._factors[name] = ((2 * drawn - 1) * bound).to(like.device)
        return self._factors[name]

    def visit(self, forward: RowForward, indices: Sequence[int], consume: Consume) -> Tensor:
        """Run rows once forward and once backward.

        Args:
            forward: The rows, under the model of this object.
            indices: B usable rows; all run at once.
            consume: Called for every module, the last layer first, with each row's gradient
                (float32, B x out x r); what it does not keep is gone.

        Returns:
            Mean loss of each row, in nats per trained token (float32, B).
        """

        def project(name: str, inputs: Tensor) -> Tensor:
            return inputs.float() @ self.factor(name, inputs).T

        def take(name: str, projected: Tensor, gradient: Tensor) -> None:
            consume(name, torch.einsum("bto,btr->bor", gradient.float(), projected))

        return visit_modules(self.modules, forward, indices, project, take)


def mean_unit_gradient(
    gradients: RowGradients, forward: RowForward, progress: Progress | None = None
) -> dict[str, Tensor]:
    """Mean over rows of g / |g|, with |g| the norm over all modules; not normalised itself.

    Args:
        gradients: Of which model and adapter.
        forward: The rows; all usable ones count.
        progress: Called after each batch.

    Returns:
        One tensor per module (float32, out x r). A row without any gradient counts as zero.
    """
    total: dict[str, Tensor] = {}
    done = 0
    for indices in batches_of(forward, forward.order.tolist()):
        found: dict[str, Tensor] = {}
        gradients.visit(forward, indices, found.__setitem__)
        squares = torch.stack([g.square().sum((1, 2)) for g in found.values()]).sum(0)
        shares = torch.where(squares > 0, squares.rsqrt(), 0.0) / len(forward.order)
        for name, gradient in found.items():
            part = torch.einsum("bor,b->or", gradient, shares)
            total[name] = total[name] + part if name in total else part
        done += len(indices)
        if progress:
            progress(done, len(forward.order), {})
    return total


def products_with(
    gradients: RowGradients, forward: RowForward, indices: Sequence[int],
    directions: Mapping[str, Tensor],
) -> Tensor:  # fmt: skip
    """Inner products of rows' gradients with directions; no gradient is kept.

    Args:
        gradients: Of which model and adapter.
        forward: The rows.
        indices: B usable rows; all run at once.
        directions: For every module (float32, K x out x r), on the model's device.

    Returns:
        float32, B x (K + 2), on the CPU: <g_b, m_k> for each k, then |g_b|^2, then the row's loss.
    """
    products: list[Tensor] = []

    def consume(name: str, gradient: Tensor) -> None:
        flat = gradient.flatten(1)
        along = flat @ directions[name].flatten(1).T
        products.append(torch.cat([along, flat.square().sum(1, keepdim=True)], dim=1))

    losses = gradients.visit(forward, indices, consume)
    return torch.cat([torch.stack(products).sum(0), losses[:, None]], dim=1).cpu()


def store_products(
    gradients: RowGradients, forward: RowForward, keys: Sequence[bytes],
    directions: Mapping[str, Tensor], store: RowStore, progress: Progress | None = None,
) -> None:  # fmt: skip
    """Put `products_with` of all usable rows into a store; see `store_rows`."""
    compute = functools.partial(products_with, gradients, forward, directions=directions)
    store_rows(compute, forward, keys, store, progress)


def store_rows(
    compute: Callable[[list[int]], Tensor], forward: RowForward, keys: Sequence[bytes],
    store: RowStore, progress: Progress | None = None,
) -> None:  # fmt: skip
    """Put values of all usable rows into a store, in one pass over those it lacks.

    Batches are the longest rows first and are stored whole, so a pass that was stopped goes on with
    the same batches, and ends with the same bits.

    Args:
        compute: Given B rows that run at once, their values (B x K, on the CPU).
        forward: The rows.
        keys: The key of every row; rows with equal keys are one.
        store: Takes 1 x K per row.
        progress: Called after each batch.
    """
    wanted: dict[bytes, int] = {}
    for index in forward.order.tolist():
        if keys[index] not in store:
            wanted.setdefault(keys[index], index)
    lacking = list(wanted.values())
    waiting: dict[bytes, Tensor] = {}
    done = 0
    for indices in batches_of(forward, lacking):
        values = compute(indices)
        waiting |= {keys[i]: value[None] for i, value in zip(indices, values, strict=True)}
        done += len(indices)
        if len(waiting) >= SAVE_ROWS or done == len(lacking):
            store.append(list(waiting), list(waiting.values()))
            waiting.clear()
        if progress:
            progress(done, len(lacking), {})


def batches_of(forward: RowForward, indices: Sequence[int]) -> list[list[int]]:
    """Group rows by similar length, within the token budget of their forward."""
    lengths = forward.rows.lengths[list(indices)]
    found = token_budget_batches(lengths, forward.max_batch_tokens)
    return [[indices[place] for place in places] for places in found]
