"""Rows' gradients against mean gradients of known sets: what lies below a gradient method's maths.

Notation: g_b the gradient of a row (see `tamis.models.row_gradients`), m_S the mean of g / |g| over
the rows of a set S. Means and inner products are kept in the work folder, under a name that says
what they were computed from, so a stopped ranking goes on and ends with the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.data.rendered import RenderedRows
from tamis.models.batches import batch_tokens
from tamis.models.checkpoint import read_checkpoint, save_checkpoint
from tamis.models.features import FeatureCache, Progress
from tamis.models.lora import layer_count
from tamis.models.row_forward import RowForward
from tamis.models.row_gradients import RowGradients, mean_unit_gradient, store_products
from tamis.models.row_store import RowStore
from tamis.models.trunk import resolve_cut, trunk_is_exact

Float64 = np.ndarray[Any, np.dtype[np.float64]]


class GradientProducts:
    """One model, one adapter at its initialisation, and the mean gradients of some sets.

    Args:
        features: The model, and what is known of rows under it.
        sets: Rows by the name of their set; each set has a usable row.
        rank: Rank of the adapter.
        targets: Its modules; None is q_proj and v_proj, else the fused projection.
        trunk_cut: Layers below have no adapter and run once; see `resolve_cut`.
        max_batch_tokens: Tokens run at once, padding included; None is chosen by the device.
        gradient_checkpointing: See `tamis.models.recompute`.
        seed: Seed of the adapter's A factors.
        work: Folder for results so far; None keeps everything in memory.
        progress: Given a stage's name, the callback for its progress.

    Raises:
        ConfigError: The adapter has no place in the model, or the trunk no room.
    """

    def __init__(
        self, features: FeatureCache, sets: Mapping[str, RenderedRows], *, rank: int,
        targets: tuple[str, ...] | None, trunk_cut: float, max_batch_tokens: int | None,
        gradient_checkpointing: bool, seed: int, work: Path | None,
        progress: Callable[[str], Progress | None],
    ) -> None:  # fmt: skip
        lm = features.lm
        n_layers = layer_count(lm.model)
        first = resolve_cut(trunk_cut, n_layers)
        self.gradients = RowGradients(
            lm.model, rank=rank, seed=seed, first_layer=first, targets=targets
        )
        targets = self.gradients.targets
        self.adapter = (
            f"LoRA B, r={rank}, on {', '.join(targets)} of layers {first} to {n_layers - 1}"
        )
        self.notes = [self.gradients.note] if self.gradients.note else []
        self.cut = first
        if first and not trunk_is_exact(lm.model, first, lm.device):
            self.notes.append(
                f"the layers below {first} of this architecture cannot be run apart: they run "
                "again with every row, which is slower and gives the same scores."
            )
            self.cut = 0
        self.features, self.sets, self.work, self.progress = features, sets, work, progress
        self.max_batch_tokens = max_batch_tokens or batch_tokens(lm.device)
        self.recompute = gradient_checkpointing
        kind = [lm.fingerprint, str(lm.dtype), lm.device.type, rank, seed, first, list(targets)]
        rows = [[name, *sorted(key.hex() for key in features.keys(found))]
                for name, found in sets.items()]  # fmt: skip
        self._name = hashlib.sha256(json.dumps([kind, rows]).encode()).hexdigest()[:16]

    def means(self) -> dict[str, Tensor]:
        """Return m_S of every set, by module (float32, sets x out x r, on the model's device)."""
        path = None if self.work is None else self.work / f"means-{self._name}.safetensors"
        stored = None if path is None else read_checkpoint(path)
        if stored is not None:
            device = self.features.lm.device
            # In the order of the model, as below: sums over modules must not depend on the file's.
            return {module: stored[0][module].to(device) for module in self.gradients.modules}
        found = []
        for name, rows in self.sets.items():
            progress = self.progress(f"anchors: {name}")
            forward = self._forward(rows, name)
            found.append(mean_unit_gradient(self.gradients, forward, progress))
        means = {
            module: torch.stack([mean[module] for mean in found])
            for module in self.gradients.modules
        }
        if path is not None:
            save_checkpoint(path, means, {})
        return means

    def of_rows(self, rows: RenderedRows, means: Mapping[str, Tensor]) -> Float64:
        """Return <g_b, m_S> of every row with every set, |g_b|^2, and the row's loss in nats.

        Args:
            rows: Any rows.
            means: What `means` returned.

        Returns:
            float64, n x (sets + 2); NaN for rows that are not usable.
        """
        folder = None if self.work is None else self.work / f"products-{self._name}"
        store, keys = RowStore(folder), self.features.keys(rows)
        forward = self._forward(rows, "rows")
        store_products(self.gradients, forward, keys, means, store, self.progress("gradients"))
        values = np.full((len(rows), len(self.sets) + 2), np.nan)
        for index in forward.order:
            values[index] = store[keys[index]][0].double().numpy()
        return values

    def _forward(self, rows: RenderedRows, name: str) -> RowForward:
        trunk = None
        if self.cut:
            self.features.ensure(rows, [f"trunk:{self.cut}"], self.progress(f"trunk: {name}"))
            trunk = self.features.trunk(rows, self.cut)
        lm = self.features.lm
        return RowForward(
            lm.model, rows, device=lm.device, max_batch_tokens=self.max_batch_tokens, cut=self.cut,
            trunk=trunk, recompute=self.recompute,
        )  # fmt: skip


def geometry(means: Mapping[str, Tensor]) -> tuple[Float64, Float64]:
    """Return |m_S| of K sets, and the cosines of all pairs of them (K x K; NaN where |m_S| = 0).

    Args:
        means: m_S by module (K x out x r).
    """
    flat = [mean.flatten(1).double().cpu() for mean in means.values()]
    gram = torch.stack([m @ m.T for m in flat]).sum(0).numpy()
    lengths = np.sqrt(np.diag(gram))
    with np.errstate(divide="ignore", invalid="ignore"):
        return lengths, gram / np.outer(lengths, lengths)
