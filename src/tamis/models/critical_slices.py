"""Search a model's weights for critical slices, and compare other rows with the reference there.

What a critical slice is stands in `tamis.models.weight_slices`. Whole gradients of the known rows
are held for some weights at a time and then only at the critical slices; of other rows nothing else
is computed. Results are kept under a name that says what they were computed from.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.data.rendered import RenderedRows
from tamis.errors import ConfigError
from tamis.models.batches import batch_tokens
from tamis.models.checkpoint import read_checkpoint, save_checkpoint
from tamis.models.features import FeatureCache, Progress
from tamis.models.linear_gradients import modules_named, visit_modules
from tamis.models.lora import linear_modules
from tamis.models.row_forward import RowForward
from tamis.models.row_gradients import store_rows
from tamis.models.row_store import RowStore
from tamis.models.weight_slices import (
    CriticalSlices,
    cosines_at,
    critical_slices,
    rows_at_once,
)

SEARCH_BYTES = 2**31  # whole gradients of known rows held at once; of one weight at least
PARTS = ("rows", "columns", "row_reference", "column_reference")


@dataclass(frozen=True)
class FoundSlices:
    """The critical slices of a model.

    Attributes:
        by_module: Of every weight that has one, in the model's order.
        n_slices: Rows and columns of all weights that were searched.
        largest_gap: Over all of them; NaN where no gap is a number.
    """

    by_module: Mapping[str, CriticalSlices]
    n_slices: int
    largest_gap: float

    def __len__(self) -> int:
        return sum(map(len, self.by_module.values()))

    def counts(self) -> dict[str, int]:
        """Count critical rows and columns, the weights that have them, and all slices."""
        found = self.by_module.values()
        return {
            "rows": sum(len(one.rows) for one in found),
            "columns": sum(len(one.columns) for one in found),
            "weights": len(found),
            "of_slices": self.n_slices,
        }


class SliceSearch:
    """One model, and two sets of known rows whose gradients are compared in its weights.

    Args:
        features: The model, and what is known of rows under it.
        first: Rows whose mean gradient is the reference; at least one is usable.
        second: The other rows; at least one is usable.
        modules: Last parts of the names of the linear modules whose weights count; None is all of
            the decoder layers.
        threshold: Slices with a larger gap are critical.
        max_batch_tokens: Tokens run at once, padding included; None is chosen by the device.
        folder: For results so far; None keeps everything in memory.

    Raises:
        ConfigError: The decoder layers have no linear module of such a name.
    """

    def __init__(
        self, features: FeatureCache, first: RenderedRows, second: RenderedRows, *,
        modules: tuple[str, ...] | None, threshold: float, max_batch_tokens: int | None,
        folder: Path | None,
    ) -> None:  # fmt: skip
        lm = features.lm
        present = linear_modules(lm.model)
        if missing := sorted(set(modules or ()) - set(present)):
            raise ConfigError(
                f"modules names {missing}, which are no linear modules of the decoder layers of "
                f"{type(lm.model).__name__}: those are {', '.join(present)}."
            )
        self.modules = modules_named(lm.model, modules or present)
        self.features, self.threshold = features, threshold
        self.max_batch_tokens = max_batch_tokens or batch_tokens(lm.device)
        self._sides = [self._forward(rows) for rows in (first, second)]
        kind = [lm.fingerprint, str(lm.dtype), lm.device.type, list(self.modules), threshold]
        rows = [[key.hex() for key in features.keys(side)] for side in (first, second)]
        name = hashlib.sha256(json.dumps([kind, rows]).encode()).hexdigest()[:16]
        self._folder = None if folder is None else folder / f"critical-slices-{name}"

    def find(self, progress: Progress | None = None) -> FoundSlices:
        """Return the critical slices of all weights, on the model's device.

        Weights are searched some at a time, so that whole gradients of few are held at once.

        Args:
            progress: Called after each pass over a known row.

        Raises:
            ConfigError: There is no room to keep them.
        """
        path = None if self._folder is None else self._folder / "slices.safetensors"
        stored = None if path is None else read_checkpoint(path)
        if stored is None:
            found = self._search(progress)
            if path is not None:
                tensors = {f"{name}/{part}": getattr(one, part)
                           for name, one in found.by_module.items() for part in PARTS}  # fmt: skip
                n_bytes = sum(tensor.nbytes for tensor in tensors.values())
                self.features.kept.make_room("the critical slices", n_bytes)
                facts = {"n_slices": found.n_slices, "largest_gap": found.largest_gap}
                save_checkpoint(path, tensors, facts)
            return found
        device = self.features.lm.device
        return FoundSlices({
            name: CriticalSlices(*(stored[0][f"{name}/{part}"].to(device) for part in PARTS))
            for name in self.modules if f"{name}/rows" in stored[0]
        }, **stored[1])  # fmt: skip

    def mean_cosines(
        self, rows: RenderedRows, slices: FoundSlices, progress: Progress | None = None
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return each row's mean cosine to the reference over all critical slices.

        Args:
            rows: Any rows.
            slices: What `find` returned; there is at least one.
            progress: Called after each batch.

        Returns:
            float64 (n), in [-1, 1]; NaN for rows that are not usable or whose gradient there is not
            finite.
        """
        forward, keys = self._forward(rows), self.features.keys(rows)
        store = RowStore(self._folder, self.features.passes)
        modules = {name: self.modules[name] for name in slices.by_module}
        self.features.note_spared(rows, [store])

        def compute(indices: list[int]) -> Tensor:
            sums: list[Tensor] = []  # of each weight: one per row

            def take(name: str, inputs: Tensor, gradient: Tensor) -> None:
                one = slices.by_module[name]
                n = rows_at_once(one, inputs, gradient)
                parts = [slice(i, i + n) for i in range(0, len(inputs), n)]
                sums.append(torch.cat([
                    cosines_at(one, inputs[part].float(), gradient[part].float()).sum(-1)
                    for part in parts
                ]))  # fmt: skip

            visit_modules(modules, forward, indices, _whole, take)
            return (torch.stack(sums).cpu().double().sum(0) / len(slices))[:, None]

        store_rows(compute, forward, keys, store, progress)
        values = np.full(len(rows), np.nan)
        for index in forward.order:
            values[index] = float(store[keys[index]])
        return values

    def _search(self, progress: Progress | None) -> FoundSlices:
        known = [(side, index) for side in self._sides for index in side.order.tolist()]
        n_first = len(self._sides[0].order)
        groups = self._groups(len(known))
        by_module: dict[str, CriticalSlices] = {}
        n_slices, largest, done = 0, math.nan, 0
        for group in groups:
            gradients: dict[str, list[Tensor]] = {name: [] for name in group}

            def take(
                name: str, inputs: Tensor, gradient: Tensor, found: Any = gradients
            ) -> None:  # of one row
                found[name].append(gradient[0].float().T @ inputs[0].float())

            for side, index in known:
                visit_modules(group, side, [index], _whole, take)
                done += 1
                if progress:
                    progress(done, len(groups) * len(known), {})
            for name in group:
                whole = torch.stack(gradients.pop(name))
                one, gap = critical_slices(whole[:n_first], whole[n_first:], self.threshold)
                n_slices += sum(whole.shape[1:])
                largest = float(np.fmax(largest, gap))
                if len(one):
                    by_module[name] = one
        return FoundSlices(by_module, n_slices, largest)

    def _groups(self, n_known: int) -> list[dict[str, Any]]:
        """Divide the modules, in their order, so that a group's gradients fit `SEARCH_BYTES`."""
        groups: list[dict[str, Any]] = []
        room = 0
        for name, module in self.modules.items():
            weight = module.weight  # 4-bit weights stand two in a byte
            n_weights = weight.numel() * (1 if weight.is_floating_point() else 2)
            need = 4 * n_weights * n_known
            if not groups or need > room:
                groups.append({})
                room = SEARCH_BYTES
            groups[-1][name] = module
            room -= need
        return groups

    def _forward(self, rows: RenderedRows) -> RowForward:
        lm = self.features.lm
        return RowForward(lm.model, rows, device=lm.device, max_batch_tokens=self.max_batch_tokens)


def _whole(_name: str, inputs: Tensor) -> Tensor:
    return inputs
