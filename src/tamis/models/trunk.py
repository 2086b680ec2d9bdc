"""The frozen trunk: run the layers below the trained ones once per row, then train from its output.

When only layers at or above `cut` are trained, everything below gives the same output at every
visit. It is computed once, kept (in a memory-mapped file when a folder is given) and fed to layer
`cut`; the layers below are passed through. Masks, positions and the rest stay the model's own.

Shapes: N tokens of all rows, B rows, T tokens of the longest, D hidden size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.data.batch import pad_batch, token_budget_batches
from tamis.data.rendered import JoinedRows, RenderedRows
from tamis.errors import ConfigError
from tamis.files import write_text_atomic
from tamis.models.lora import decoder_layers
from tamis.models.loss import has_plain_head, row_losses

Progress = Callable[[int, int, dict[str, float]], None]  # done, total, figures to show


CPU_BATCH_TOKENS = 1024  # enough for full matmul speed on few cores, little padding
GPU_BATCH_TOKENS = 16384


class _Reached(Exception):
    """The layer whose input was wanted has been reached."""


def resolve_cut(trunk_cut: float, n_layers: int) -> int:
    """Turn a number of layers, or a fraction of them in (0, 1), into the first trained layer.

    Raises:
        ConfigError: No layer would be left to train.
    """
    cut = round(trunk_cut * n_layers) if 0 < trunk_cut < 1 else int(trunk_cut)
    if not 0 <= cut < n_layers:
        raise ConfigError(
            f"trunk_cut={trunk_cut} leaves no layer to train: the model has {n_layers} layers. Set "
            f"a number from 0 to {n_layers - 1}, or a fraction below 1."
        )
    return cut


def to_device(batch: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Turn a padded numpy batch into tensors on a device."""
    return {key: torch.from_numpy(value).to(device) for key, value in batch.items()}


class RowForward:
    """Losses of chosen rows under the model as it is now, from their stored trunk output.

    Args:
        model: The model whose layers at or above `cut` may be trained (PEFT-wrapped or not).
        rows: Rendered rows; only usable ones may be asked for.
        cut: First layer that is not frozen; 0 stores nothing and runs the whole model.
        device: Where the model is.
        max_batch_tokens: Largest number of tokens, padding included, run at once; None is
            chosen by the device.
        store: File for the trunk's output; None keeps it in memory.
    """

    def __init__(
        self, model: Any, rows: RenderedRows | JoinedRows, *, cut: int, device: torch.device,
        max_batch_tokens: int | None, store: Path | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.rows = rows
        self.cut = cut
        self.device = device
        if max_batch_tokens is None:
            max_batch_tokens = CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        self.max_batch_tokens = max_batch_tokens
        usable = np.flatnonzero(rows.usable).tolist()
        # By id, so that neither batches nor results depend on the order of the user's file.
        self.order = np.asarray(sorted(usable, key=rows.ids.__getitem__), dtype=np.int64)
        self.lengths = rows.lengths
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self._store = store
        self._hidden: Tensor | None = None
        self.note = ""
        has_plain_head(model)  # found out on the whole model, before a trunk is fed to it
        if cut and not self._trunk_is_exact():
            self.cut = 0
            self.note = (
                f"the layers below {cut} of this architecture cannot be run apart: they run again "
                "at every visit, which is slower and gives the same scores."
            )

    def build(self, progress: Progress | None = None) -> None:
        """Run the trunk over every usable row and keep its output, in the model's dtype."""
        if self.cut == 0:
            return
        marker = None if self._store is None else self._store.with_suffix(".done")
        if marker is not None and marker.exists():
            self._hidden = self._allocate(self._hidden_size(), getattr(torch, marker.read_text()))
            return
        done = 0
        for indices in self.micro_batches(self.order.tolist()):
            batch = to_device(pad_batch([self.rows[i] for i in indices]), self.device)
            hidden = self._run_trunk(batch)
            if self._hidden is None:
                self._hidden = self._allocate(hidden.shape[-1], hidden.dtype)
            for row, index in enumerate(indices):
                start, length = self._offsets[index], self.lengths[index]
                self._hidden[start : start + length] = hidden[row, :length].to(self._hidden.device)
            done += len(indices)
            if progress:
                progress(done, len(self.order), {})
        if marker is not None and self._hidden is not None:
            write_text_atomic(marker, str(self._hidden.dtype).removeprefix("torch."))

    def _hidden_size(self) -> int:
        return int(self.model.get_input_embeddings().embedding_dim)

    def _allocate(self, width: int, dtype: torch.dtype) -> Tensor:
        shape = (int(self._offsets[-1]), width)
        if self._store is None:
            return torch.empty(shape, dtype=dtype)
        size = shape[0] * shape[1]
        flat = torch.from_file(str(self._store), shared=True, size=size, dtype=dtype)
        return flat.view(shape)

    @torch.no_grad()
    def _run_trunk(self, batch: Mapping[str, Tensor]) -> Tensor:
        captured: list[Tensor] = []

        def capture(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            captured.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        handle = self._layers()[self.cut].register_forward_pre_hook(capture, with_kwargs=True)
        try:
            self.model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                use_cache=False,
            )
        except _Reached:
            return captured[0]
        finally:
            handle.remove()
        raise AssertionError("the model ran without reaching its own layer")

    @torch.no_grad()
    def _trunk_is_exact(self) -> bool:
        """Whether feeding the trunk's output gives the whole model's logits, on four tokens."""
        ids = torch.arange(4, device=self.device).unsqueeze(0)
        whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        wanted = self.model(**whole, use_cache=False).logits
        try:
            hidden = self._run_trunk(whole)
            with self._feeding(hidden):
                found = self.model(**whole, use_cache=False).logits
        except (RuntimeError, TypeError, AttributeError, IndexError, KeyError):
            return False
        return torch.allclose(found.float(), wanted.float(), rtol=1e-3, atol=1e-3)

    def _layers(self) -> Any:
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return decoder_layers(base)

    @contextlib.contextmanager
    def _from_trunk(self, indices: Sequence[int], width: int) -> Iterator[None]:
        """Feed the stored output to layer `cut` and pass through the layers below."""
        if self.cut == 0:
            yield
            return
        if self._hidden is None:
            raise AssertionError("build() comes before losses()")
        hidden = self._hidden.new_zeros((len(indices), width, self._hidden.shape[1]))
        for row, index in enumerate(indices):
            start, length = self._offsets[index], self.lengths[index]
            hidden[row, :length] = self._hidden[start : start + length]
        with self._feeding(hidden.to(self.device)):
            yield

    @contextlib.contextmanager
    def _feeding(self, hidden: Tensor) -> Iterator[None]:
        """Replace the input of layer `cut`, and skip the layers below."""

        def feed(
            _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        layers = self._layers()
        handle = layers[self.cut].register_forward_pre_hook(feed, with_kwargs=True)
        below = list(layers[: self.cut])
        try:
            for layer in below:
                layer.forward = _pass_through
            yield
        finally:
            for layer in below:
                del layer.forward
            handle.remove()

    def micro_batches(self, indices: Sequence[int]) -> list[list[int]]:
        """Split rows into groups of similar length within the token budget."""
        return [[indices[i] for i in places] for places in self._places(indices)]

    def _places(self, indices: Sequence[int]) -> list[list[int]]:
        """Group positions in `indices` likewise; a row may occur twice."""
        lengths = self.lengths[np.asarray(indices, dtype=np.int64)]
        return token_budget_batches(lengths, self.max_batch_tokens)

    def losses(self, indices: Sequence[int], adapters: Sequence[str] | None = None) -> Tensor:
        """Mean loss of each row, in nats per trained token, differentiable (float32, B).

        Args:
            indices: B usable rows.
            adapters: The adapter of each; None takes the active one for all.
        """
        batch = to_device(pad_batch([self.rows[i] for i in indices]), self.device)
        with self._from_trunk(indices, batch["input_ids"].shape[1]):
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
        self, indices: Sequence[int], progress: Progress | None = None, done: int = 0,
        total: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Mean loss of usable rows without gradients (float64), in the order of `indices`.

        Args:
            indices: Usable rows.
            progress: Called after each micro-batch.
            done: Rows finished before this call, for the progress.
            total: Rows to be finished in all; None is this call's.
        """
        values = np.empty(len(indices))
        for places in self._places(indices):
            losses = self.losses([indices[i] for i in places])
            values[places] = losses.double().cpu().numpy()
            done += len(places)
            if progress:
                progress(done, total or len(indices), {})
        return values


def _pass_through(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden_states
