"""Rows' gradients against mean gradients of known sets: what lies below a gradient method's maths.

Notation: g_b the gradient of a row (see `tamis.models.row_gradients`), m_S the mean of g / |g| over
the rows of a set S. Means and inner products are kept with the features, under a hash of what they
were computed from: a stopped ranking goes on and ends with the same bits, and rankings that share a
cache, a seed and the known sets share them, whatever else is among the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.data.rendered import RenderedRows
from tamis.models.batches import batch_tokens
from tamis.models.features import FeatureCache, Progress
from tamis.models.lora import layer_count
from tamis.models.row_forward import RowForward
from tamis.models.row_gradients import RowGradients, mean_unit_gradient, store_products
from tamis.models.trunk import resolve_cut, trunk_is_exact

Float64 = np.ndarray[Any, np.dtype[np.float64]]


class GradientProducts:
    """One model, one adapter at its initialisation, and the mean gradients of some sets.

    Args:
        features: The model, and what is known of rows under it; takes what is found.
        sets: Rows by the name of their set; each set has a usable row.
        rank: Rank of the adapter.
        targets: Its modules; None is q_proj and v_proj, else the fused projection.
        trunk_cut: Layers below have no adapter and run once; see `resolve_cut`.
        max_batch_tokens: Tokens run at once, padding included; None is chosen by the device.
        gradient_checkpointing: See `tamis.models.recompute`.
        seed: Seed of the adapter's A factors.
        progress: Given a stage's name, the callback for its progress.

    Raises:
        ConfigError: The adapter has no place in the model, or the trunk no room.
    """

    def __init__(
        self, features: FeatureCache, sets: Mapping[str, RenderedRows], *, rank: int,
        targets: tuple[str, ...] | None, trunk_cut: float, max_batch_tokens: int | None,
        gradient_checkpointing: bool, seed: int,
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
        self.features, self.sets, self.progress = features, sets, progress
        self.max_batch_tokens = max_batch_tokens or batch_tokens(lm.device)
        self.recompute = gradient_checkpointing
        self._recipe = {
            "rank": rank, "seed": seed, "first_layer": first, "targets": list(targets),
            "sets": [[name, *sorted(key.hex() for key in features.keys(found))]
                     for name, found in sets.items()],
        }  # fmt: skip

    def means(self) -> dict[str, Tensor]:
        """Return m_S of every set, by module (float32, sets x out x r, on the model's device).

        Raises:
            ConfigError: There is no room to keep them.
        """
        kept = self.features.kept.tensors("means", self._recipe, self._means)
        device = self.features.lm.device
        # In the order of the model: sums over modules must not depend on a file's.
        return {module: kept[module].to(device) for module in self.gradients.modules}

    def _means(self) -> dict[str, Tensor]:
        found = []
        for name, rows in self.sets.items():
            progress = self.progress(f"anchors: {name}")
            forward = self._forward(rows, name)
            found.append(mean_unit_gradient(self.gradients, forward, progress))
        return {
            module: torch.stack([mean[module] for mean in found])
            for module in self.gradients.modules
        }

    def of_rows(self, rows: RenderedRows, means: Mapping[str, Tensor]) -> Float64:
        """Return <g_b, m_S> of every row with every set, |g_b|^2, and the row's loss in nats.

        Args:
            rows: Any rows.
            means: What `means` returned.

        Returns:
            float64, n x (sets + 2); NaN for rows that are not usable.

        Raises:
            ConfigError: There is no room to keep them.
        """
        kept, keys, order = self.features.kept, self.features.keys(rows), rows.id_order.tolist()
        width = len(self.sets) + 2
        store = kept.made_by("products", self._recipe)
        self.features.note_spared(rows, [store])
        if n_lacking := sum(keys[index] not in store for index in order):
            kept.make_room(f"gradients' products of {n_lacking:,} rows", 4 * width * n_lacking)
            store = kept.made_by("products", self._recipe)  # elsewhere now, if memory was full
            store_products(
                self.gradients, self._forward(rows, "rows"), keys, means, store,
                self.progress("gradients"),
            )  # fmt: skip
        values = np.full((len(rows), width), np.nan)
        for index in order:
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
