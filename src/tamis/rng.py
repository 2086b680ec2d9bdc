"""Seeded generators, made here and passed on as arguments: no global random state anywhere.

A generator is derived from the user's seed and a purpose ("order", "init", "bootstrap"), so that
adding a random draw to one part of the program changes no other part.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on the user's seed and every part of the purpose."""
    text = "\x1f".join([str(seed), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a numpy generator for one purpose."""
    return np.random.default_rng(derived_seed(seed, *purpose))


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU torch generator for one purpose."""
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, *purpose))


@contextlib.contextmanager
def scoped_torch_seed(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generator inside the block and restore it afterwards.

    Only for library code that draws from the global generator and takes no argument (adapter
    initialisation in PEFT, sampling in `generate`).
    """
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived_seed(seed, *purpose))  # noqa: TID251  the one allowed place
        yield
