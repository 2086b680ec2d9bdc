"""What a pruning says of itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tamis.data.row_lists import name_some
from tamis.errors import ConfigError
from tamis.training.config import PruneConfig


@dataclass(frozen=True)
class PrunedTensor:
    """What was taken out of one factor of the adapter.

    Attributes:
        name: In the adapter's file.
        n_rows: O.
        n_columns: I.
        n_asked: Weights that the share asks for, the same number of each row.
        n_removed: Weights taken out: those of them that matter more to harmful text.
        share: That is of all weights of the tensor.
        harmful_share: Of the importance on harmful rows, [0, 1]; None where that is 0 everywhere.
        benign_share: Of the importance on the safe set; None also without one.
    """

    name: str
    n_rows: int
    n_columns: int
    n_asked: int
    n_removed: int
    share: float
    harmful_share: float | None
    benign_share: float | None


@dataclass(frozen=True)
class PruneReport:
    """What pruning did.

    Attributes:
        adapter: Folder that plain PEFT loads.
        mask: File that gives the original back; see `tamis.training.prune_mask`.
        tensors: What was taken out, by tensor.
        n_weights: Weights of these tensors.
        n_removed: Of them, taken out.
        harmful_loss: Mean loss of the harmful rows before and after, in nats per trained token.
        benign_loss: Of the safe set; None without one. Both are of the rows that the mask was made
            from, and no evaluation.
        n_tokens: Trained tokens of the two sets.
        rows_by_outcome: Rendering outcomes of the two sets.
        notes: What the user should know.
    """

    adapter: Path
    mask: Path
    tensors: tuple[PrunedTensor, ...]
    n_weights: int
    n_removed: int
    harmful_loss: tuple[float, float]
    benign_loss: tuple[float, float] | None
    n_tokens: dict[str, int]
    rows_by_outcome: dict[str, dict[str, int]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest says of the pruning."""
        values = {**vars(self), "adapter": self.adapter.name, "mask": self.mask.name}
        return {**values, "tensors": [asdict(tensor) for tensor in self.tensors]}


def refuse_no_numbers(name: str, losses: Sequence[float]) -> None:
    """Refuse losses that are no numbers.

    Raises:
        ConfigError: One is none.
    """
    if not all(map(math.isfinite, losses)):
        raise ConfigError(
            f"the loss of the {name.replace('_', ' ')} is not a number, so nothing is written. Set "
            "--dtype float32, and see whether the adapter's training diverged."
        )


def refuse_nothing_removed(tensors: Sequence[PrunedTensor], config: PruneConfig) -> None:
    """Refuse a mask that takes nothing out.

    Raises:
        ConfigError: It is one; says what would take something.
    """
    if any(found.n_removed for found in tensors):
        return
    if any(found.n_asked for found in tensors):
        raise ConfigError(
            "no weight of the adapter matters more to harmful rows than to safe ones, so nothing "
            f"is taken out (benign_weight={config.benign_weight:g}). Give sets that differ, or a "
            "lower benign_weight."
        )
    widest = max((found.n_columns for found in tensors), default=0)
    raise ConfigError(
        f"share={config.share:g} takes nothing out of rows of at most {widest} weights. Set "
        f"share to {0.5 / widest if widest else 0.5:.3g} or more."
    )


def pruning_notes(
    tensors: Sequence[PrunedTensor], others: Sequence[str], harmful_loss: tuple[float, float],
    config: PruneConfig,
) -> Iterator[str]:  # fmt: skip
    """Say what was not pruned, and why, and when pruning did the opposite of what it is for.

    Args:
        tensors: What was taken out of the factors.
        others: Names of the adapter's other tensors.
        harmful_loss: Before and after.
        config: What was asked for.
    """
    narrow = [found for found in tensors if not found.n_asked]
    if narrow:
        yield (
            f"{len(narrow)} of {len(tensors)} tensors are as they were: a share of "
            f"{config.share:g} of rows of {narrow[0].n_columns} weights is none."
        )
    n_asked = sum(found.n_asked for found in tensors)
    n_spared = n_asked - sum(found.n_removed for found in tensors)
    if n_spared:
        than = "no more to harmful rows than to safe ones" if config.benign_weight else "to no row"
        yield (
            f"{n_spared:,} of the {n_asked:,} weights that share={config.share:g} asks for stay: "
            f"they matter {than}."
        )
    if others:
        yield (
            f"{len(others)} tensors of the adapter are as they were, because they are no LoRA "
            f"factors of linear modules, or these were never run: {name_some(others)}."
        )
    before, after = harmful_loss
    if after < before:
        yield (
            f"pruning lowered the loss of the harmful rows ({before:.4f} to {after:.4f}): their "
            "text has become likelier, the opposite of what it is for. Give other rows, or another "
            "share, or keep the adapter as it was."
        )
