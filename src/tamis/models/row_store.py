"""Tensors of many rows, known by what they were computed from, in files that are only ever added.

A row's key is a hash of its tokens and labels, so equal rows of two data sets share one entry and a
changed template finds none. Parts are written whole or not at all: a killed pass goes on after its
last part.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tamis.data.rendered import RenderedRow
from tamis.errors import MismatchError
from tamis.models.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from tamis.models.pass_counter import PassCount

KEY_BYTES = 16
PART_BYTES = 2**26  # written at once, 64 MiB or
PART_ROWS = 2048  # this many rows, or what
PART_SECONDS = 60.0  # gave: what a killed pass repeats at most


def row_key(row: RenderedRow) -> bytes:
    """Hash a row's tokens and labels: equal keys, equal features."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    digest.update(np.asarray(row.input_ids, dtype=np.int64).tobytes())
    digest.update(np.asarray(row.labels, dtype=np.int64).tobytes())
    return digest.digest()


class RowStore:
    """One feature of many rows: a few vectors each, as many as the row needs.

    Args:
        folder: Where the parts are kept, memory-mapped when read; None keeps them in memory.
        passes: Remembers which parts were there before it counted; None where nobody counts.

    Raises:
        MismatchError: A file in the folder is no part of tamis.
    """

    def __init__(self, folder: Path | None, passes: PassCount | None = None) -> None:
        self._folder = folder
        self._parts: list[Tensor] = []
        self._names: list[str] = []  # of the parts' files; "" in memory
        self._spans: dict[bytes, tuple[int, int, int]] = {}  # key -> part, first vector, vectors
        if folder is not None:
            for path in sorted(folder.glob("part-*.safetensors")):
                self._map(path)
        self._before = frozenset[str]()
        if folder is not None and passes is not None:
            self._before = passes.before(folder, self._names)

    def was_there(self, key: bytes) -> bool:
        """Whether a row was kept before passes were counted; False where nobody counts."""
        return key in self and self._names[self._spans[key][0]] in self._before

    def __contains__(self, key: bytes) -> bool:
        return key in self._spans

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, key: bytes) -> Tensor:
        part, start, length = self._spans[key]
        return self._parts[part][start : start + length]

    def adopt(self, other: RowStore) -> None:
        """Take over what another store holds, as it holds it."""
        for key, (part, start, length) in other._spans.items():
            self._spans[key] = (len(self._parts) + part, start, length)
        self._parts += other._parts
        self._names += other._names

    def append(self, keys: Sequence[bytes], values: Sequence[Tensor]) -> None:
        """Add rows: for each its vectors (k x D)."""
        joined = torch.cat(list(values)).contiguous()
        lengths = torch.tensor([len(value) for value in values], dtype=torch.int64)
        if self._folder is None:
            self._add(keys, lengths, joined)
            return
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:24]
        path = self._folder / f"part-{name}.safetensors"
        packed = torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).copy())
        save_checkpoint(path, {"keys": packed, "lengths": lengths, "values": joined}, {})
        self._map(path)

    def _map(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as stored:
                packed = stored.get_tensor("keys").numpy().tobytes()
                lengths, values = stored.get_tensor("lengths"), stored.get_tensor("values")
            if len(packed) != KEY_BYTES * len(lengths) or int(lengths.sum()) != len(values):
                raise ValueError(f"{len(lengths)} rows, {len(values)} vectors")
        except (SafetensorError, OSError, ValueError) as error:
            raise MismatchError(
                f"{path} is not a feature file of tamis ({error}). Remove it to compute it again."
            ) from error
        keys = [packed[i : i + KEY_BYTES] for i in range(0, len(packed), KEY_BYTES)]
        self._add(keys, lengths, values, path.name)

    def _add(self, keys: Sequence[bytes], lengths: Tensor, values: Tensor, name: str = "") -> None:
        ends = lengths.cumsum(0).tolist()
        for key, length, end in zip(keys, lengths.tolist(), ends, strict=True):
            self._spans[key] = (len(self._parts), end - length, length)
        self._parts.append(values)
        self._names.append(name)


class PendingParts:
    """Values that wait to be written as one part of every store that lacks them."""

    def __init__(self, stores: Sequence[RowStore]) -> None:
        self._stores = stores
        self._values: list[dict[bytes, Tensor]] = [{} for _ in stores]
        self._bytes = [0 for _ in stores]
        self._written = time.monotonic()

    def add(self, keys: Sequence[bytes], values: Sequence[Sequence[Tensor]]) -> None:
        """Take a batch's values; write those of a store when there is enough for a part."""
        for which, (kept, new) in enumerate(zip(self._values, values, strict=True)):
            store = self._stores[which]
            lacking = [(k, value) for k, value in zip(keys, new, strict=True) if k not in store]
            kept |= {key: value.clone() for key, value in lacking}  # without the batch's padding
            self._bytes[which] += sum(value.nbytes for _, value in lacking)
            if self._bytes[which] >= PART_BYTES or len(kept) >= PART_ROWS:
                self._write(which)
        if time.monotonic() - self._written >= PART_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what there is."""
        for which in range(len(self._stores)):
            self._write(which)
        self._written = time.monotonic()

    def _write(self, which: int) -> None:
        if kept := self._values[which]:
            self._stores[which].append(list(kept), list(kept.values()))
            kept.clear()
        self._bytes[which] = 0
