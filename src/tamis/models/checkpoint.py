"""Checkpoints of a training loop as safetensors and JSON: bit for bit, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tamis.errors import MismatchError
from tamis.files import atomic_path
from tamis.request import differences


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able record as one file, atomically."""
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(copies, temporary, metadata={"tamis": json.dumps(dict(meta))})
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{path} cannot be written: {error}") from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save_checkpoint` wrote; None when there is no file.

    Raises:
        MismatchError: The file is no checkpoint of tamis.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            meta = json.loads((stored.metadata() or {})["tamis"])
            return {name: stored.get_tensor(name) for name in stored.keys()}, meta  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise MismatchError(
            f"{path} is not a checkpoint of tamis ({error}). Remove it to start again."
        ) from error


def refuse_other(path: Path, made_of: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that was made of something else; where there is no file, do nothing.

    Args:
        path: The checkpoint.
        made_of: What its record should say under `made_of`, as JSON-able values.

    Raises:
        MismatchError: It says otherwise or nothing, or is no checkpoint of tamis.
    """
    if (stored := read_checkpoint(path)) is None:
        return
    wanted, found = json.loads(json.dumps(dict(made_of))), stored[1].get("made_of")
    if found != wanted:
        what = "does not say of which" if found is None else differences(found, wanted)
        raise MismatchError(
            f"{path} is of another ranking ({what}): this one cannot go on from there. Rank as it "
            "was asked then, give another work folder, or remove that one to start again."
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return an optimizer's per-parameter state (moments, step counts) under flat names."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{prefix}."):
            index, _, name = key.removeprefix(f"{prefix}.").partition(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def restore_parameters(
    parameters: Mapping[str, Tensor], prefix: str, tensors: Mapping[str, Tensor]
) -> None:
    """Copy stored values into parameters of the same names."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{prefix}.{name}"])


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix names, the inverse of what `restore_parameters` reads."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
