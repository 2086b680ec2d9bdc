"""Padded batches on a device, and how many tokens it takes at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CPU_BATCH_TOKENS = 1024  # enough for full matmul speed on few cores, little padding
GPU_BATCH_TOKENS = 16384


def batch_tokens(device: torch.device) -> int:
    """Tokens to run at once, padding included."""
    return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Turn a padded numpy batch into tensors on a device."""
    return {key: torch.from_numpy(value).to(device) for key, value in batch.items()}
