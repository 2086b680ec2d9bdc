"""Weights taken out of an adapter, kept in a file so that they can be put back bit for bit.

The mask file is safetensors. For every tensor that lost weights (O x I, n of them taken out):

    <tensor>.places   int64, n   row * I + column of each, ascending
    <tensor>.values   n          what stood there, in the tensor's own type

Its header holds the digests of the adapter before and after, so that a mask is never put on another
adapter.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tamis.errors import ConfigError, MismatchError
from tamis.files import atomic_path
from tamis.models.checkpoint import read_checkpoint, save_checkpoint
from tamis.models.load import adapter_folder

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MASK_FILE = "mask.safetensors"


@dataclass(frozen=True)
class AdapterWeights:
    """The tensors of an adapter's file, and what its header says beside them."""

    tensors: dict[str, Tensor]
    header: dict[str, str] | None

    def digest(self) -> str:
        """SHA-256 of all names, types, shapes and bits."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def without(self, places: Mapping[str, Tensor]) -> AdapterWeights:
        """Return W (1 - mask): zeros at the given places (int64, n) of each named tensor."""
        emptied = {name: _filled(self.tensors[name], found, 0) for name, found in places.items()}
        return AdapterWeights({**self.tensors, **emptied}, self.header)


def _filled(tensor: Tensor, places: Tensor, values: Tensor | int) -> Tensor:
    """Return a tensor with other values at some places, counted row by row."""
    flat = tensor.flatten().clone()
    flat[places] = values
    return flat.reshape(tensor.shape)


def read_adapter(folder: Path) -> AdapterWeights:
    """Read the weights of an adapter's folder as they are stored.

    Raises:
        ConfigError: There are none in safetensors, or they cannot be read.
    """
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no {ADAPTER_WEIGHTS}. Weights in another format (adapter_model.bin) "
            "are not read: save the adapter again with a current PEFT."
        )
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return AdapterWeights(tensors, stored.metadata())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Save the adapter again.") from error


def write_adapter(weights: AdapterWeights, out: Path, *, like: Path) -> None:
    """Write an adapter's folder that plain PEFT loads, with the settings of the folder `like`.

    Raises:
        ConfigError: `out` is `like`.
    """
    if out.resolve() == like.resolve():
        raise ConfigError(f"{out} holds the adapter that is read. Give another folder to write to.")
    with atomic_path(out / ADAPTER_WEIGHTS) as temporary:
        try:
            save_file(weights.tensors, temporary, metadata=weights.header)
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{out} cannot be written: {error}") from error
    with atomic_path(out / ADAPTER_CONFIG) as temporary:
        shutil.copyfile(like / ADAPTER_CONFIG, temporary)


def write_mask(path: Path, original: AdapterWeights, places: Mapping[str, Tensor]) -> None:
    """Write what `original.without(places)` takes out of an adapter."""
    tensors = {}
    for name, taken in places.items():
        tensors[f"{name}.places"] = taken
        tensors[f"{name}.values"] = original.tensors[name].flatten()[taken]
    digests = {"original": original.digest(), "pruned": original.without(places).digest()}
    save_checkpoint(path, tensors, digests)


def restored(pruned: AdapterWeights, mask: Path) -> AdapterWeights:
    """Put back what was taken out of an adapter.

    Returns:
        The adapter as it was before, bit for bit.

    Raises:
        ConfigError: There is no mask file.
        MismatchError: It is no mask, belongs to another adapter, or is damaged.
    """
    try:
        found = read_checkpoint(mask)
    except MismatchError as error:
        raise MismatchError(f"{mask} is not a mask that `tamis prune` wrote.") from error
    if found is None:
        raise ConfigError(
            f"{mask} does not exist. Give the folder that `tamis prune` wrote, with its adapter/ "
            f"and {MASK_FILE}."
        )
    tensors, digests = found
    if strange := [key for key in tensors if not key.endswith((".places", ".values"))]:
        raise MismatchError(f"{mask} is no mask of this version: it holds {strange[0]}.")
    if digests.get("pruned") != pruned.digest():
        raise MismatchError(
            f"{mask} was not made with this adapter, or the adapter was changed since. Give the "
            "two that one `tamis prune` wrote."
        )
    whole = dict(pruned.tensors)
    for key, values in tensors.items():
        name, _, part = key.rpartition(".")
        if part == "values":
            whole[name] = _filled(whole[name], tensors[f"{name}.places"], values)
    result = AdapterWeights(whole, pruned.header)
    if result.digest() != digests.get("original"):
        raise MismatchError(
            f"{mask} is damaged: the adapter it gives back is not the one it was made from. Use a "
            "copy of the mask, or the folder of the fine-tuning."
        )
    return result


def restore_adapter(pruned: Path, out: Path, *, mask: Path | None = None) -> Path:
    """Undo `tamis.training.prune.prune_adapter`: write the adapter as it was before, bit for bit.

    Args:
        pruned: The folder that it wrote, or its `adapter/`.
        out: Folder for the adapter's files.
        mask: The mask file; None is the one beside `adapter/`.

    Returns:
        `out`.

    Raises:
        ConfigError: There is no adapter or no mask, or `out` holds the pruned adapter.
        MismatchError: The mask belongs to another adapter, or is damaged.
    """
    folder = adapter_folder(pruned)
    original = restored(read_adapter(folder), mask or folder.resolve().parent / MASK_FILE)
    write_adapter(original, out, like=folder)
    return out
