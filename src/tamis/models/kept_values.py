"""Where what a frozen model makes of rows is kept: in memory, or in a folder that rankings share.

In a folder, values stand by model (fingerprint of the weights, dtype, kind of device), then by a
name or, where a name would not tell what they are, by the hash of a recipe: everything else that
decides them. Files are written whole or not at all and never changed, so rankings that run at the
same time may share a folder: at worst both compute the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tamis.errors import ConfigError
from tamis.models.checkpoint import read_checkpoint, save_checkpoint
from tamis.models.row_store import RowStore

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel
    from tamis.models.pass_counter import PassCount

_GIB = 2**30


class KeptValues:
    """Values of rows under one model.

    Args:
        lm: The model.
        folder: Where they are kept; None keeps them in memory, and what is too much for
            `memory_gib` in a temporary folder.
        memory_gib: Largest memory when there is no folder.
        disk_gib: Largest disk space that is asked for at once.
        passes: Told what a folder held before; None where nobody counts.

    Attributes:
        temporary: The temporary folder; None without one.
    """

    def __init__(
        self, lm: LanguageModel, folder: Path | None, *, memory_gib: float, disk_gib: float,
        passes: PassCount | None = None,
    ) -> None:  # fmt: skip
        self.lm = lm
        self.memory_gib, self.disk_gib = memory_gib, disk_gib
        self.temporary: Path | None = None
        self._folder = folder
        self._passes = passes
        self._held = 0  # bytes in memory
        self._stores: dict[str, RowStore] = {}

    def named(self, name: str) -> RowStore:
        """Return where the values of one name are, by row key."""
        if name not in self._stores:
            self._stores[name] = RowStore(self._place(name), self._passes)
        return self._stores[name]

    def made_by(self, kind: str, recipe: Mapping[str, Any]) -> RowStore:
        """Return where the values of one recipe are, by row key.

        Args:
            kind: What they are, in a word.
            recipe: Everything that decides them besides the row and the model, JSON-able.
        """
        return self.named(_name(kind, recipe))

    def tensors(
        self, kind: str, recipe: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return tensors that depend on a recipe alone and on none of the rows asked about.

        Args:
            kind: As in `made_by`.
            recipe: Likewise.
            compute: Gives them where they are not kept; without a folder that is always.

        Returns:
            What was kept, on the CPU, or what `compute` gave.

        Raises:
            ConfigError: They need more disk than is free or allowed.
        """
        folder = self._place(_name(kind, recipe))
        path = None if folder is None else folder / "tensors.safetensors"
        stored = None if path is None else read_checkpoint(path)
        if stored is not None:
            return stored[0]
        found = compute()
        if path is not None:
            self.make_room(f"the {kind}", sum(tensor.nbytes for tensor in found.values()))
            save_checkpoint(path, found, {})
        return found

    def has_room(self, need: int) -> bool:
        """Whether so many bytes can be kept where the values are; memory alone is not asked for."""
        folder = self._folder or self.temporary
        if folder is None:
            return self._held + need <= self.memory_gib * _GIB
        folder.mkdir(parents=True, exist_ok=True)
        return need <= min(self.disk_gib * _GIB, shutil.disk_usage(folder).free)

    def make_room(self, what: str, need: int, advice: str = "") -> None:
        """Refuse what does not fit on the disk; without a folder, leave memory when it is full.

        Args:
            what: What is to be kept.
            need: Its size in bytes.
            advice: What else than a larger disk helps, as sentences that end with a space.

        Raises:
            ConfigError: It needs more disk than is free or allowed.
        """
        if self._folder is None and self.temporary is None:
            self._held += need
            if self._held <= self.memory_gib * _GIB:
                return
            self.temporary = Path(tempfile.mkdtemp(prefix="tamis-features-"))
            weakref.finalize(self, shutil.rmtree, self.temporary, ignore_errors=True)
            # What is in memory stays there; what comes goes to the folder.
            held, self._stores = self._stores, {}
            for name, store in held.items():
                self.named(name).adopt(store)
        folder = self._folder or self.temporary
        assert folder is not None, "one of the two was made above"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.has_room(need):
            free = shutil.disk_usage(folder).free
            raise ConfigError(
                f"{what} need {need / _GIB:.1f} GiB in {folder}, where {free / _GIB:.1f} GiB are "
                f"free and {self.disk_gib:g} GiB are allowed. {advice}Raise cache_gib, or give a "
                "--cache folder on a larger disk."
            )

    def _place(self, name: str) -> Path | None:
        folder = self._folder or self.temporary
        if folder is None:
            return None
        kind = f"{str(self.lm.dtype).removeprefix('torch.')}-{self.lm.device.type}"
        return folder / f"{self.lm.fingerprint}-{kind}" / name.replace(":", "-")


def _name(kind: str, recipe: Mapping[str, Any]) -> str:
    text = json.dumps(recipe, sort_keys=True)
    return f"{kind}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
