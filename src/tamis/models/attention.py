"""Which attention kernel a backward pass takes on a CPU in bfloat16.

Torch's fused kernel works block by block, and in bfloat16 on a CPU every block's product is set up
anew. Its backward pass then takes five times as long as plain products over rows of 200 tokens: a
third of all time of a small model's passes (docs/LOG.md). The plain kernel keeps the attention
weights, heads x T x T per row and layer, and gains little over long rows, which stay with the fused
one. Passes without gradients are faster with the fused one at any length; float32 is as fast either
way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

LONGEST = 256  # tokens; rows up to 512 gain a twelfth at most and take an eighth more memory


@contextlib.contextmanager
def attention_with_gradients(model: Any, n_tokens: int, *, recompute: bool) -> Iterator[None]:
    """Run forward passes of this block with the kernel whose backward pass is the fastest.

    Args:
        model: A causal language model, PEFT-wrapped or not; one with attention of its own, such as
            transformers' `eager`, keeps it.
        n_tokens: Tokens of the longest row, padding included.
        recompute: Layers run again in the backward pass, outside this block. Both runs must take
            the same kernel, so nothing is changed.
    """
    weight = model.get_input_embeddings().weight
    if (
        recompute or not torch.is_grad_enabled() or n_tokens > LONGEST
        or weight.device.type != "cpu" or weight.dtype != torch.bfloat16
    ):  # fmt: skip
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    switches = torch.backends.cuda  # those of every device, whatever the name
    before = switches.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    switches.allow_fp16_bf16_reduction_math_sdp(True)  # bfloat16 throughout, as in the fused kernel
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        switches.allow_fp16_bf16_reduction_math_sdp(before)
