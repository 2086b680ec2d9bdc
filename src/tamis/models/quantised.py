"""A base in 4 bits: how it is loaded, and what keeps it trainable."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from tamis.errors import MissingDependencyError


def four_bits(dtype: torch.dtype) -> Any:
    """Return the settings of a 4-bit base as QLoRA has them, computing in `dtype`.

    Source: Dettmers et al. 2023, "QLoRA", arXiv:2305.14314: NF4 and double quantisation.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "model.load_in_4bit needs the package bitsandbytes, which is not installed. Run "
            "`pip install bitsandbytes`, or `pip install -e '.[quant]'` where tamis was checked "
            "out, or leave load_in_4bit out."
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip


def stay_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first forward pass without gradients.

    On CPUs with AVX512-BF16 it packs them for inference then. What goes through a packed layer has
    no gradient, without a word: adapters below it would never be trained. Layers narrower than a
    block of the quantisation cannot be packed at all.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
