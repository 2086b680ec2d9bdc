"""Losses and gradients of chosen rows under the model as it is now, from their stored trunk output.

Shapes: B rows, T tokens of the longest, D hidden size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.data.batch import pad_batch, token_budget_batches
from tamis.data.rendered import RenderedRows
from tamis.data.row_views import FirstTokens, JoinedRows
from tamis.models.attention import attention_with_gradients
from tamis.models.batches import to_device
from tamis.models.features import Progress
from tamis.models.loss import has_plain_head, row_losses
from tamis.models.recompute import recomputing
from tamis.models.trunk import running_from


class RowForward:
    """Losses of chosen rows, differentiable, in micro-batches of similar length.

    Args:
        model: The model whose layers at or above `cut` may be trained (PEFT-wrapped or not).
        rows: Rendered rows; only usable ones may be asked for.
        device: Where the model is.
        max_batch_tokens: Largest number of tokens, padding included, run at once.
        cut: First layer that is not frozen; 0 runs the whole model.
        trunk: The input of layer `cut` by row (T x D); needed where `cut` is above 0.
        recompute: Keep no activations of the trained layers for the backward pass; rows of several
            adapters cannot share a pass then.
    """

    def __init__(
        self, model: Any, rows: RenderedRows | JoinedRows | FirstTokens, *, device: torch.device,
        max_batch_tokens: int, cut: int = 0, trunk: Callable[[int], Tensor] | None = None,
        recompute: bool = False,
    ) -> None:  # fmt: skip
        self.model = model
        self.recompute = recompute
        self.rows = rows
        self.device = device
        self.max_batch_tokens = max_batch_tokens
        self.cut = cut
        self.trunk = trunk
        self.order = rows.id_order
        has_plain_head(model)  # found out on the whole model, before a trunk is fed to it

    @contextlib.contextmanager
    def _from_trunk(self, indices: Sequence[int], width: int) -> Iterator[None]:
        """Feed the stored states of these rows, padded to `width` tokens."""
        if self.trunk is None or self.cut == 0:
            yield
            return
        found = [self.trunk(index) for index in indices]
        states = found[0].new_zeros((len(indices), width, found[0].shape[1]))
        for row, values in enumerate(found):
            states[row, : len(values)] = values
        with running_from(self.model, self.cut, states.to(self.device)):
            yield

    def _places(self, indices: Sequence[int]) -> list[list[int]]:
        """Group positions in `indices` by similar length, within the token budget."""
        lengths = self.rows.lengths[np.asarray(indices, dtype=np.int64)]
        return token_budget_batches(lengths, self.max_batch_tokens)

    def losses(self, indices: Sequence[int], adapters: Sequence[str] | None = None) -> Tensor:
        """Mean loss of each row, in nats per trained token, differentiable (float32, B).

        Args:
            indices: B usable rows.
            adapters: The adapter of each; None takes the active one for all.
        """
        batch = to_device(pad_batch([self.rows[i] for i in indices]), self.device)
        again, width = self.recompute and torch.is_grad_enabled(), batch["input_ids"].shape[1]
        with (
            self._from_trunk(indices, width),
            recomputing(self.model, self.cut) if again else contextlib.nullcontext(),
            attention_with_gradients(self.model, width, recompute=again),
        ):
            sums, counts = row_losses(self.model, batch, adapters)
        return sums / counts

    def accumulate(
        self, indices: Sequence[int], coefficients: Tensor, adapters: Sequence[str] | None = None
    ) -> Tensor:
        """Add the gradient of sum_i coefficients[i] * losses[i] to the trained parameters.

        Runs in micro-batches of similar length; rows whose coefficient is zero are only read, which
        saves their backward pass.

        Args:
            indices: B usable rows; a row may occur under several adapters.
            coefficients: Weight of each row's loss (float32, B).
            adapters: The adapter of each; None takes the active one for all.

        Returns:
            The losses before any step (float32, B, on the CPU), in the order of `indices`.
        """
        result = torch.empty(len(indices))
        for trained in (True, False):
            chosen = ((coefficients != 0) == trained).nonzero()[:, 0].tolist()
            for group in self._places([indices[i] for i in chosen]):
                places = [chosen[i] for i in group]
                names = None if adapters is None else [adapters[i] for i in places]
                with torch.set_grad_enabled(trained):
                    losses = self.losses([indices[i] for i in places], names)
                    if trained:
                        (coefficients[places].to(losses.device) * losses).sum().backward()  # type: ignore[no-untyped-call]
                result[places] = losses.detach().float().cpu()
        return result

    @torch.no_grad()
    def losses_of(
        self, indices: Sequence[int], progress: Progress | None = None
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Mean loss of usable rows without gradients (float64), in the order of `indices`.

        Args:
            indices: Usable rows.
            progress: Called after each micro-batch.
        """
        values, done = np.empty(len(indices)), 0
        for places in self._places(indices):
            losses = self.losses([indices[i] for i in places])
            values[places] = losses.double().cpu().numpy()
            done += len(places)
            if progress:
                progress(done, len(indices), {})
        return values
