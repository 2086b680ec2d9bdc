"""What a frozen model makes of rows, computed once and asked by name.

| name | value per row |
|---|---|
| `loss` | mean loss of its trained tokens, nats |
| `trunk:C` | input of decoder layer C at every token (T x D): training the layers above needs it |
| `state:L:response_mean` | hidden state after L layers, mean over the trained tokens (D) |
| `state:L:response_first` | the same at the first trained token |
| `state:L:response_last` | the same at the last trained token |
| `state:L:prompt_last` | the same at the token before the first trained one |

L = 0 is the embeddings' output. All names asked for together come from one pass, which ends at the
deepest layer that any of them needs; who knows what others will ask of the same rows says so
(`read_with`), and it is one pass for all. Rows are known by their tokens, so every method, data
set and contamination rate that shares a cache shares the work. What else is made of the model
(losses under models tuned from it, products of gradients) is kept beside them: see
`tamis.models.kept_values`.

Shapes: B rows, T tokens of the longest, D hidden size, n rows asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tamis.data.batch import pad_batch, token_budget_batches
from tamis.data.rendered import RenderedRows
from tamis.data.row_views import JoinedRows
from tamis.models.batches import batch_tokens, to_device
from tamis.models.feature_names import Feature
from tamis.models.kept_values import KeptValues
from tamis.models.lora import layer_count
from tamis.models.loss import has_plain_head, row_losses
from tamis.models.row_store import PendingParts, RowStore, row_key
from tamis.models.trunk import capturing

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel
    from tamis.models.pass_counter import PassCount

Progress = Callable[[int, int, dict[str, float]], None]  # done, total, figures to show
LESS_TO_KEEP = (
    "Set trunk_cut=0 (nothing is stored, every step runs the whole model), or lower "
    "render.max_prompt_tokens or max_response_tokens. "
)


class FeatureCache:
    """Features of rows under one frozen model.

    Args:
        lm: The model.
        folder: Where features are kept, by model and name; None keeps them in memory, and what is
            too much for `memory_gib` in a temporary folder.
        memory_gib: Largest memory for features when there is no folder.
        disk_gib: Largest disk space for one call's features.
        max_batch_tokens: Tokens run at once, padding included; None is chosen by the device.
        passes: Told what kept features spare; None where nobody counts.

    Attributes:
        kept: What is known already, of rows and beside them.
    """

    def __init__(
        self, lm: LanguageModel, folder: Path | None = None, *, memory_gib: float = 2.0,
        disk_gib: float = 100.0, max_batch_tokens: int | None = None,
        passes: PassCount | None = None,
    ) -> None:  # fmt: skip
        self.lm = lm
        self.passes = passes
        self.max_batch_tokens = max_batch_tokens or batch_tokens(lm.device)
        self.kept = KeptValues(lm, folder, memory_gib=memory_gib, disk_gib=disk_gib,
                               passes=passes)  # fmt: skip
        self._keys: dict[int, tuple[Any, list[bytes]]] = {}
        self._with: dict[int, tuple[Any, Sequence[str]]] = {}

    def read_with(self, rows: RenderedRows, names: Sequence[str]) -> None:
        """Whenever rows of these are read, take these features too, for whoever comes later."""
        self._with[id(rows)] = rows, names

    def ensure(
        self, rows: RenderedRows | JoinedRows, names: Iterable[str],
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        """Compute what is missing of these features for all usable rows, in one pass.

        Raises:
            ConfigError: A name does not exist, or the features need more disk than allowed.
        """
        n_layers = layer_count(self.lm.model)
        asked = [Feature.parse(name, n_layers) for name in dict.fromkeys(names)]
        keys = self.keys(rows)
        depths = [n_layers if f.depth is None else f.depth for f in asked]
        if asked:
            self.note_spared(rows, [self.kept.named(f.name) for f in asked], max(depths))
        wanted: dict[bytes, int] = {}  # rows with equal tokens are one
        for index in rows.id_order:
            if any(keys[index] not in self.kept.named(feature.name) for feature in asked):
                wanted.setdefault(keys[index], int(index))
        lacking = list(wanted.values())
        if not lacking:
            return
        features = self._lacked_by(wanted, asked)
        others = self._with.get(id(rows), (rows, ()))[1]
        more = self._lacked_by(wanted, [Feature.parse(name, n_layers) for name in others])
        n_tokens = int(rows.lengths[lacking].sum())

        def size(features: Sequence[Feature]) -> int:
            return expected_bytes(features, n_tokens, len(lacking), self.lm)

        for feature in sorted(more, key=lambda feature: size([feature])):
            if feature not in features and self.kept.has_room(size([*features, feature])):
                features.append(feature)
        self.kept.make_room(
            f"{', '.join(f.name for f in features)} of {len(lacking):,} rows with {n_tokens:,} "
            "tokens", size(features), LESS_TO_KEEP,
        )  # fmt: skip
        pending = PendingParts([self.kept.named(feature.name) for feature in features])
        done = 0
        try:
            for indices, found in self._passes(rows, lacking, features):
                pending.add([keys[index] for index in indices], found)
                done += len(indices)
                if progress:
                    progress(done, len(lacking), {})
        finally:  # whole batches, from the shortest up: a stopped pass goes on with the same ones
            pending.write()

    def _lacked_by(self, rows: Iterable[bytes], features: Sequence[Feature]) -> list[Feature]:
        """Return the features that some of these rows lack."""
        return [f for f in features if any(row not in self.kept.named(f.name) for row in rows)]

    def read(
        self, rows: RenderedRows | JoinedRows, names: Sequence[str],
        progress: Progress | None = None,
    ) -> Iterator[tuple[list[int], list[Tensor]]]:  # fmt: skip
        """Read states or losses of all usable rows once and keep nothing.

        Args:
            rows: The rows; memory does not grow with their number.
            names: Features of one vector per row.
            progress: Called after each batch.

        Yields:
            Some rows' indices, and each feature of them (B x D), from the shortest rows up.
        """
        features = [Feature.parse(name, layer_count(self.lm.model)) for name in names]
        usable, done = rows.id_order.tolist(), 0
        for indices, found in self._passes(rows, usable, features):
            yield indices, [torch.cat(values) for values in found]
            done += len(indices)
            if progress:
                progress(done, len(usable), {})

    def _passes(
        self, rows: RenderedRows | JoinedRows, indices: list[int], features: Sequence[Feature]
    ) -> Iterator[tuple[list[int], list[list[Tensor]]]]:
        """Run rows in batches of similar length; yields their indices and their features."""
        if any(feature.kind == "loss" for feature in features):
            has_plain_head(self.lm.model)  # asked first of a model, this runs it
        for places in token_budget_batches(rows.lengths[indices], self.max_batch_tokens):
            chosen = [indices[place] for place in places]
            batch = to_device(pad_batch([rows[index] for index in chosen]), self.lm.device)
            yield chosen, self._run(batch, features)

    def losses(self, rows: RenderedRows | JoinedRows) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Mean loss per trained token of every row, in nats (n); NaN where a row has none."""
        found = self._table(rows, "loss")
        return np.asarray(found[:, 0].double().numpy(), dtype=np.float64)

    def states(self, rows: RenderedRows | JoinedRows, name: str) -> Tensor:
        """Return a `state:...` feature of every row (float32, n x D); NaN where a row has none."""
        return self._table(rows, name)

    def tuned_losses(
        self, rows: RenderedRows | JoinedRows, recipe: Mapping[str, Any],
        compute: Callable[[list[int]], np.ndarray[Any, np.dtype[np.float64]]],
    ) -> np.ndarray[Any, np.dtype[np.float64]]:  # fmt: skip
        """Losses of rows under a model tuned from this one, kept like features of this one.

        Args:
            rows: The rows.
            recipe: Everything that decides how the tuned model came about, as JSON-able values.
            compute: Returns the losses of usable rows, by index; asked for those not kept yet.

        Returns:
            float64 (n); NaN where a row is not usable.
        """
        store, keys = self.kept.made_by("tuned", recipe), self.keys(rows)
        self.note_spared(rows, [store])
        lacking = {keys[index]: int(index) for index in rows.id_order if keys[index] not in store}
        if lacking:
            found = torch.from_numpy(compute(list(lacking.values())))
            store.append(list(lacking), list(found[:, None, None]))
        values = np.full(len(rows), np.nan)
        for index in rows.id_order:
            values[index] = float(store[keys[index]])
        return values

    def has_tuned_losses(self, rows: RenderedRows | JoinedRows, recipe: Mapping[str, Any]) -> bool:
        """Whether `tuned_losses` would compute nothing."""
        store, keys = self.kept.made_by("tuned", recipe), self.keys(rows)
        return all(keys[index] in store for index in rows.id_order)

    def note_spared(
        self, rows: RenderedRows | JoinedRows, stores: Sequence[RowStore], depth: int | None = None
    ) -> None:
        """Tell who counts what a reading of these rows is spared by what was kept before.

        Args:
            rows: The rows.
            stores: Where what is wanted of them is kept; a row that one of these lacks is read.
            depth: How many layers deep it would be read; None is all of them.
        """
        if self.passes is not None:
            keys = self.keys(rows)
            spared = {keys[index]: int(rows.lengths[index]) for index in rows.id_order
                      if all(store.was_there(keys[index]) for store in stores)}  # fmt: skip
            layers = layer_count(self.lm.model) if depth is None else depth
            self.passes.spare(layers, sum(spared.values()))

    def trunk(self, rows: RenderedRows | JoinedRows, cut: int) -> Callable[[int], Tensor]:
        """Return a function from a row's index to its `trunk:cut` (T x D), on the CPU."""
        keys, store = self.keys(rows), self.kept.named(f"trunk:{cut}")
        return lambda index: store[keys[index]]

    def keys(self, rows: RenderedRows | JoinedRows) -> list[bytes]:
        """Return every row's key; rows are hashed once."""
        if id(rows) not in self._keys:
            if isinstance(rows, JoinedRows):
                found = [key for part in rows.sets for key in self.keys(part)]
            else:
                found = [row_key(row) for row in rows]
            self._keys[id(rows)] = rows, found
        return self._keys[id(rows)][1]

    def digest(self, rows: RenderedRows) -> str:
        """Return a hash of the usable rows, by id and key, in the order of their ids."""
        keys, digest = self.keys(rows), hashlib.sha256()
        for index in rows.id_order:
            digest.update(json.dumps(rows.ids[index]).encode() + keys[index])
        return digest.hexdigest()[:16]

    def _table(self, rows: RenderedRows | JoinedRows, name: str) -> Tensor:
        self.ensure(rows, [name])
        keys, store = self.keys(rows), self.kept.named(name)
        usable = np.flatnonzero(rows.usable)
        width = store[keys[usable[0]]].shape[1] if len(usable) else 0
        table = torch.full((len(rows), width), float("nan"))
        for index in usable:
            table[index] = store[keys[index]][0]
        return table

    @torch.no_grad()
    def _run(self, batch: Mapping[str, Tensor], features: Sequence[Feature]) -> list[list[Tensor]]:
        """Run a batch as deep as needed; returns each feature's vectors of each row."""
        model = self.lm.model
        depths = sorted({feature.depth for feature in features if feature.depth is not None})
        states: dict[int, Tensor] = {}
        losses: list[Tensor] = []
        whole = any(feature.kind == "loss" for feature in features)
        with capturing(model, depths, states.__setitem__, stop=not whole):
            if whole:
                sums, counts = row_losses(model, batch)
                losses = list((sums / counts).float().cpu()[:, None, None])
            else:
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                      use_cache=False)  # fmt: skip
        return [
            losses if feature.depth is None else feature.of_batch(states[feature.depth], batch)
            for feature in features
        ]


def expected_bytes(
    features: Sequence[Feature], n_tokens: int, n_rows: int, lm: LanguageModel
) -> int:
    """Size of features on disk or in memory, in bytes."""
    width = int(lm.model.get_input_embeddings().embedding_dim)
    per_kind = {
        "loss": 4 * n_rows,
        "state": 4 * n_rows * width,
        "trunk": lm.dtype.itemsize * n_tokens * width,
    }
    return sum(per_kind[feature.kind] for feature in features)
