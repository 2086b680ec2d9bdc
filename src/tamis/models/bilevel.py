"""Two sets, several adapters on one frozen base: what a bilevel method needs below its own maths.

Rows are visited by id and seed alone, every fine-tuning row once per epoch, the safe rows in a
cycle of their own; models descend weighted row losses; everything can be saved after any step and
put back bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.data.batch import visiting_order
from tamis.data.rendered import RenderedRows
from tamis.data.row_views import JoinedRows
from tamis.models.adapter_trainer import AdapterTrainer, Part
from tamis.models.batches import batch_tokens
from tamis.models.checkpoint import read_checkpoint, refuse_other, save_checkpoint
from tamis.models.features import FeatureCache, Progress
from tamis.models.lora import LoraSettings, choose_targets, layer_count
from tamis.models.row_forward import RowForward
from tamis.models.trunk import resolve_cut, trunk_is_exact

TRAINING = "training.safetensors"
# Settings with which a killed run may go on otherwise: they decide no result.
FREE_SETTINGS = {"preset", "max_batch_tokens", "gradient_checkpointing", "checkpoint_every_steps"}


@dataclass(frozen=True)
class RowSet:
    """One set of a run's rows.

    Attributes:
        rows: The set, rendered.
        order: Its usable rows, sorted by id (int64).
        first: Where the set starts among all rows of the run.
    """

    rows: RenderedRows
    order: np.ndarray[Any, np.dtype[np.int64]]
    first: int = 0

    def joined(self, rows: Sequence[int]) -> list[int]:
        """Turn rows of the set into rows of the run."""
        return [self.first + row for row in rows]


class Cycle:
    """Rows of one set over and over, in a new order each time; a function of the step alone.

    Args:
        order: The rows to visit.
        size: Rows per step; fewer when there are fewer.
        seed: The user's seed.
        purpose: Tells streams of one seed apart.
    """

    def __init__(
        self, order: np.ndarray[Any, np.dtype[np.int64]], size: int, seed: int, purpose: str
    ) -> None:
        self.order, self.size = order, min(size, len(order))
        self.seed, self.purpose = seed, purpose
        self._orders: dict[int, np.ndarray[Any, np.dtype[np.int64]]] = {}

    def rows(self, step: int) -> list[int]:
        """Return a step's rows; a batch that spans two cycles may hold a row twice."""
        chosen: list[int] = []
        for position in range(step * self.size, (step + 1) * self.size):
            cycle, within = divmod(position, len(self.order))
            chosen.append(int(self.order[self._visits(cycle)[within]]))
        return chosen

    def _visits(self, cycle: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        if cycle not in self._orders:
            order = visiting_order(len(self.order), self.seed, self.purpose, cycle)
            self._orders = {**dict(list(self._orders.items())[-1:]), cycle: order}
        return self._orders[cycle]


class TwoStreams:
    """Which rows a step visits: a function of the step's number, the ids and the seed alone.

    Args:
        finetuning: Visited once per epoch each, in a new order every epoch; a smaller last batch
            is kept.
        safe: Visited in cycles of their own, as often as it takes.
        batch_size: Fine-tuning rows per step.
        safe_batch_size: Safe rows per step; fewer when there are fewer.
        seed: The user's seed.
    """

    def __init__(
        self, finetuning: RowSet, safe: RowSet, *, batch_size: int, safe_batch_size: int,
        seed: int,
    ) -> None:  # fmt: skip
        self.finetuning, self.safe = finetuning, safe
        self.batch_size = batch_size
        self._safe = Cycle(safe.order, safe_batch_size, seed, "safe_set")
        self.seed = seed
        self._order: tuple[int, np.ndarray[Any, np.dtype[np.int64]]] | None = None
        self.steps_per_epoch = math.ceil(len(finetuning.order) / batch_size)

    def places(self, step: int) -> tuple[int, Tensor]:
        """Return a step's epoch, from 0, and its rows' places in `finetuning.order`."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = visiting_order(len(self.finetuning.order), self.seed, "finetuning_set", epoch)
            self._order = epoch, order
        order = self._order[1]
        start = within * self.batch_size
        return epoch, torch.from_numpy(order[start : start + self.batch_size])

    def safe_rows(self, step: int) -> list[int]:
        """Return a step's safe rows; a batch that spans two cycles may hold a row twice."""
        return self._safe.rows(step)


class BilevelRun:
    """Both sets and the trained models of one run, with its checkpoint.

    Args:
        features: The model, changed in place until `close`, and what is known of rows under it.
        rows: Rendered fine-tuning rows.
        safe_rows: Rendered safe rows.
        more: Further sets to train on, rendered.
        adapters: Names of the models to train.
        lora: Shape of the adapters; `layers` is set from `trunk_cut`.
        trunk_cut: Layers below are frozen and run once; see `resolve_cut`.
        learning_rate: See `AdapterTrainer`.
        max_gradient_norm: Likewise.
        max_batch_tokens: Tokens run at once, padding included; None is chosen by the device.
        gradient_checkpointing: See `tamis.models.recompute`.
        seed: The user's seed.
        settings: All of the method's, as JSON-able values: a checkpoint is of these alone.
        work: Folder for checkpoints; None keeps everything in memory.
        progress: Given a stage's name, the callback for its progress.

    Raises:
        NoTrainedTokensError: One of the sets has no row to learn from.
        ConfigError: No layer would be trained, the adapters have no place, or the trunk no room.
        MismatchError: The folder holds checkpoints of another run.
    """

    def __init__(
        self, features: FeatureCache, rows: RenderedRows, safe_rows: RenderedRows, *,
        adapters: Sequence[str], lora: LoraSettings, trunk_cut: float, learning_rate: float,
        max_gradient_norm: float, max_batch_tokens: int | None, seed: int,
        settings: Mapping[str, Any], work: Path | None,
        progress: Callable[[str], Progress | None], gradient_checkpointing: bool = False,
        more: Mapping[str, RenderedRows] | None = None,
    ) -> None:  # fmt: skip
        sets = {"finetuning_set": rows, "safe_set": safe_rows, **(more or {})}
        for name, found in sets.items():
            found.check_usable(name)
        lm, n_layers = features.lm, layer_count(features.lm.model)
        self.made_of = {
            "settings": {k: value for k, value in settings.items() if k not in FREE_SETTINGS},
            "seed": seed, "model": lm.fingerprint, "dtype": str(lm.dtype),
            **{name: features.digest(found) for name, found in sets.items()},
        }  # fmt: skip
        for path in [] if work is None else [work / TRAINING, *work.glob("losses-*.safetensors")]:
            refuse_other(path, self.made_of)
        cut = resolve_cut(trunk_cut, n_layers)
        lora = lora.model_copy(update={"layers": tuple(range(cut, n_layers)) if cut else None})
        targets, note = choose_targets(lm.model, lora)
        self.trained = (
            f"LoRA r={lora.rank} on {', '.join(targets)} of layers {cut} to {n_layers - 1}"
        )
        self.notes = [note] if note else []
        if cut and not trunk_is_exact(lm.model, cut, lm.device):
            self.notes.append(
                f"the layers below {cut} of this architecture cannot be run apart: they run again "
                "at every visit, which is slower and gives the same scores."
            )
            cut = 0
        self.features, self.work, self.progress = features, work, progress
        joined = JoinedRows(*sets.values())
        trunk = [f"trunk:{cut}"] if cut else []
        features.ensure(rows, ["loss", *trunk], progress("base losses"))
        for name in list(sets)[1:]:
            features.ensure(sets[name], trunk, progress(f"trunk of the {name}"))
        # On a CPU separate passes are as full, and spare gathering each adapter's rows per layer.
        mixed = lm.device.type != "cpu" and not gradient_checkpointing
        self.trainer = AdapterTrainer(
            lm.model, adapters, lora, seed=seed, learning_rate=learning_rate,
            max_gradient_norm=max_gradient_norm, mixed=mixed,
        )  # fmt: skip
        self.forward = RowForward(
            self.trainer.model, joined, cut=cut, device=lm.device,
            trunk=features.trunk(joined, cut) if cut else None,
            max_batch_tokens=max_batch_tokens or batch_tokens(lm.device),
            recompute=gradient_checkpointing,
        )  # fmt: skip
        starts = np.cumsum([0, *map(len, sets.values())])
        self.sets = {
            name: RowSet(found, found.id_order, first=int(first))
            for (name, found), first in zip(sets.items(), starts, strict=False)
        }
        self.finetuning, self.safe = self.sets["finetuning_set"], self.sets["safe_set"]

    def base_losses(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Losses of every fine-tuning row under the base model (n); NaN where not usable."""
        return self.features.losses(self.finetuning.rows)

    def descend(self, *parts: Part) -> list[Tensor]:
        """Step every adapter named down its parts; see `AdapterTrainer.descend`."""
        return self.trainer.descend(self.forward, parts)

    def losses_under(
        self, adapter: str, name: str,
        places: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    ) -> np.ndarray[Any, np.dtype[np.float64]]:  # fmt: skip
        """Losses of fine-tuning rows under one adapter, kept on disk as `name`.

        Args:
            adapter: Its name.
            name: What they are kept as.
            places: Which rows; None is all usable ones.

        Returns:
            float64 (n), NaN for rows that are not usable or were not asked for.
        """
        self.trainer.activate(adapter)
        order = self.finetuning.order if places is None else places
        values = np.full(len(self.finetuning.rows), np.nan)
        path = None if self.work is None else self.work / f"losses-{name}.safetensors"
        stored = None if path is None else read_checkpoint(path)
        if stored is not None:
            values[order] = stored[0]["losses"].numpy()
            return values
        found = self.forward.losses_of(order.tolist(), self.progress(f"losses: {name}"))
        values[order] = found
        if path is not None:
            losses = {"losses": torch.from_numpy(found)}
            save_checkpoint(path, losses, {"made_of": self.made_of})
        return values

    def independent_losses(
        self, adapter: str, recipe: Mapping[str, Any]
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Losses of fine-tuning rows under an adapter that was not trained on any of them.

        They do not depend on the other rows, so they are kept with the features: the same rows in
        another mixture, ranked with the same settings, have theirs already.

        Args:
            adapter: Its name.
            recipe: See `FeatureCache.tuned_losses`.

        Returns:
            float64 (n), NaN for rows that are not usable.
        """

        def compute(rows: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
            self.trainer.activate(adapter)
            return self.forward.losses_of(rows, self.progress(f"losses: {adapter}"))

        return self.features.tuned_losses(self.finetuning.rows, recipe, compute)

    def save(self, step: int, others: Mapping[str, Tensor], trained: Sequence[str] = ()) -> None:
        """Keep the state after so many steps of the adapters `trained`, and further tensors."""
        if self.work is not None:
            tensors = {**self.trainer.tensors(), **others}
            meta = {"step": step, "trained": sorted(trained), "made_of": self.made_of}
            save_checkpoint(self.work / TRAINING, tensors, meta)

    def restore(self, trained: Sequence[str] = ()) -> tuple[int, dict[str, Tensor]]:
        """Put back the newest state in which these adapters were trained.

        Returns:
            Steps done (0 without such a state), and all its tensors.
        """
        path = None if self.work is None else self.work / TRAINING
        stored = None if path is None else read_checkpoint(path)
        if stored is None:
            return 0, {}
        tensors, meta = stored
        if not set(trained) <= set(meta.get("trained", ())):
            return 0, {}
        self.trainer.restore(tensors)
        return int(meta["step"]), tensors

    def close(self) -> None:
        """Remove the adapters; the base model is as it was."""
        self.trainer.close()
