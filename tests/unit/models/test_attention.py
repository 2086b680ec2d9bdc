"""The kernel of a backward pass: which one is taken, that it computes the same, what it leaves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import toy
from tamis.data.template import RenderConfig, render
from tamis.models.attention import LONGEST, attention_with_gradients
from tamis.models.row_forward import RowForward
from tamis.training.trl_trainer import collate

FUSED = "FlashAttention"


def batch(n_tokens: int) -> dict[str, Tensor]:
    """Return two rows of which one is padded."""
    long, short = list(range(1, n_tokens + 1)), list(range(1, n_tokens // 2))
    rows = [{"id": str(len(ids)), "input_ids": [i % 250 for i in ids],
             "labels": [i % 250 for i in ids]} for ids in (long, short)]  # fmt: skip
    return collate(rows, pad_token_id=0)


def nodes(value: Tensor) -> set[str]:
    """Name all operations that the backward pass will undo."""
    waiting, seen, found = [value.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(node.name())
        waiting += [before for before, _ in node.next_functions]
    return found


def fused(value: Tensor) -> bool:
    """Whether the fused kernel took part."""
    return any(FUSED in name for name in nodes(value))


def trainable(dtype: torch.dtype) -> Any:
    """Return a tiny model whose embeddings take a gradient, so that one passes all layers."""
    model = toy.llama(dtype=dtype)
    model.get_input_embeddings().weight.requires_grad_()
    return model


def gradient(model: Any, *, recompute: bool = False) -> tuple[Tensor, bool]:
    """Gradient of a loss in the embeddings, and whether the fused kernel took part."""
    with attention_with_gradients(model, 40, recompute=recompute):
        loss = model(**batch(40)).loss
    (found,) = torch.autograd.grad(loss, model.get_input_embeddings().weight)
    return found.float(), fused(loss)


def test_the_gradient_is_that_of_the_fused_kernel() -> None:
    """Up to the rounding of bfloat16, with padding; float32 says which is nearer to the truth."""
    half = trainable(torch.bfloat16)
    found, other = gradient(half), gradient(half, recompute=True)
    exact, _ = gradient(copy.deepcopy(half).float())
    assert (found[1], other[1]) == (False, True)

    def away(value: Tensor) -> float:
        return float(torch.linalg.norm(value - exact) / torch.linalg.norm(exact))

    assert away(found[0]) < 1.2 * away(other[0]) < 0.05


@pytest.mark.parametrize(
    ("n_tokens", "dtype", "recompute", "left"),
    [
        (LONGEST, torch.bfloat16, False, False),
        (LONGEST + 1, torch.bfloat16, False, True),
        (40, torch.float32, False, True),
        (40, torch.bfloat16, True, True),
    ],
)
def test_long_rows_float32_and_recomputed_layers_keep_the_fused_kernel(
    n_tokens: int, dtype: torch.dtype, recompute: bool, left: bool
) -> None:
    """At the limit, and one token above it."""
    model = trainable(dtype)
    with attention_with_gradients(model, n_tokens, recompute=recompute):
        loss = model(**batch(40)).loss
    assert fused(loss) is left


@pytest.mark.parametrize("recompute", [False, True])
def test_rows_are_run_with_it(recompute: bool) -> None:
    """Where their layers are not run again; the gradient is there either way."""
    model = trainable(torch.bfloat16)
    rows = render(toy.contaminated_set(4, n_harmful=1, n_safe=1).finetuning_set, toy.tokenizer(),
                  RenderConfig(max_prompt_tokens=96, max_response_tokens=48))  # fmt: skip
    forward = RowForward(model, rows, device=torch.device("cpu"), max_batch_tokens=1000,
                         recompute=recompute)  # fmt: skip
    losses = forward.losses([0, 1])
    assert recompute or not fused(losses)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert float(model.get_input_embeddings().weight.grad.abs().sum()) > 0


def test_the_switches_are_put_back() -> None:
    """Also after an error, whatever they were; without gradients they are not touched."""
    half, switches = trainable(torch.bfloat16), torch.backends.cuda

    def failing() -> None:
        with attention_with_gradients(half, 40, recompute=False):
            assert not switches.flash_sdp_enabled()
            assert switches.fp16_bf16_reduction_math_sdp_allowed()
            raise KeyError

    for before in (True, False):
        switches.allow_fp16_bf16_reduction_math_sdp(before)
        with pytest.raises(KeyError):
            failing()
        assert switches.flash_sdp_enabled()
        assert switches.fp16_bf16_reduction_math_sdp_allowed() is before
    with torch.no_grad(), attention_with_gradients(half, 40, recompute=False):
        assert switches.flash_sdp_enabled()
