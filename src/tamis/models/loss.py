"""Causal language-model loss per row: negative log-likelihood of its trained tokens, in nats.

The output projection runs only on positions whose next token is trained, in chunks, and its
gradient is taken on the way: no logits are kept, and no float32 copy of them all exists. Models
that post-process logits (soft-capping, scaling) run their own projection on the same positions.

Shapes: B rows, T tokens, K trained tokens of the batch, D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tamis.data.rendered import UNTRAINED

# Logits held at once, 4 bytes each.
CPU_CHUNK = 2**25  # smaller chunks re-pack the projection too often
GPU_CHUNK = 2**27  # large enough to keep the cores busy
UNDERFLOW = 80.0  # nats: exp(-80) is still an ordinary float32

_plain_heads: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """-log softmax(h W^T + b)[y] per token; keeps d/dh = (softmax - onehot) W for the backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
    ) -> Tensor:
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        budget = GPU_CHUNK if hidden.is_cuda else CPU_CHUNK
        size = max(1, budget // weight.shape[0])
        for start in range(0, len(labels), size):
            chunk = slice(start, start + size)
            logits = functional.linear(hidden[chunk], weight, bias).float()
            targets = labels[chunk, None]
            # In place: a second buffer of this size costs more time than the softmax itself.
            p = torch.softmax(logits, dim=1, out=logits)
            losses[chunk] = -p.gather(1, targets).squeeze(1).log()
            lost = (losses[chunk] > UNDERFLOW).nonzero()[:, 0]  # their p is 0 or close to it
            if len(lost):
                again = functional.linear(hidden[chunk][lost], weight, bias).float()
                losses[chunk][lost] = functional.cross_entropy(
                    again, labels[chunk][lost], reduction="none"
                )
            if gradient is not None:
                # Exact zero-sum residuals before the rounding to the weight's type: near p = 1 the
                # difference of two rounded products would be noise.
                residual = p.scatter_add_(1, targets, p.new_full(targets.shape, -1.0))
                gradient[chunk] = residual.to(weight.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return outputs[0].unsqueeze(1).to(gradient.dtype) * gradient, None, None, None


def has_plain_head(model: Any) -> bool:
    """Whether the logits are x W^T + b of the output projection and nothing more.

    A wrapped projection (an adapter on it) is not: its weight says only what lies beneath.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return False
    if head not in _plain_heads:
        seen: list[Tensor] = []
        handle = head.register_forward_hook(lambda _m, _a, output: seen.append(output))
        try:
            ids = torch.zeros((1, 2), dtype=torch.int64, device=head.weight.device)
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
        _plain_heads[head] = len(seen) == 1 and torch.equal(seen[0], logits)
    return _plain_heads[head] and not head.weight.requires_grad


@contextlib.contextmanager
def _gathering(head: Any, keep: Tensor, *, project: bool) -> Iterator[None]:
    """Let the output projection see only positions in `keep` (bool, B x T), or skip it."""

    def gather(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][keep].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(gather)
    if not project:
        head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        handle.remove()
        if not project:
            del head.forward


def token_losses(
    model: Any, batch: Mapping[str, Tensor], adapters: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every trained token.

    -log P(y_t | x, y_<t), with log-softmax in float32 whatever the model's type: bfloat16 logits
    would quantise a row's loss to three digits, and rows would tie (spec fault F24).

    Args:
        model: A causal language model (PEFT-wrapped or not) whose output projection is frozen.
        batch: `input_ids`, `attention_mask`, `labels` (B x T, -100 where not trained), on the
            model's device.
        adapters: The adapter of each row (B); None takes the active one for all.

    Returns:
        Losses in nats (float32, K) and the row of each (int64, K).
    """
    targets = batch["labels"][:, 1:]
    keep = torch.zeros_like(batch["labels"], dtype=torch.bool)
    keep[:, :-1] = targets != UNTRAINED
    labels, rows = targets[targets != UNTRAINED], keep.nonzero()[:, 0]
    head = model.get_output_embeddings()
    plain = has_plain_head(model)
    mixed = {} if adapters is None else {"adapter_names": list(adapters)}
    with _gathering(head, keep, project=not plain):
        output = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False,
            **mixed,
        ).logits.squeeze(0)  # fmt: skip
    if plain:
        bias = getattr(head, "bias", None)
        losses: Tensor = _ChunkedCrossEntropy.apply(output, head.weight, bias, labels)  # type: ignore[no-untyped-call]
        return losses, rows
    return functional.cross_entropy(output.float(), labels, reduction="none"), rows


def row_losses(
    model: Any, batch: Mapping[str, Tensor], adapters: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of a row's token losses, and how many tokens it sums; arguments as `token_losses`.

    Returns:
        Sums in nats (float32, B) and counts (int64, B); the mean is l(theta; z) of SEAL, Eq. 1.
        A row without trained tokens has sum 0 and count 0: its mean does not exist.
    """
    losses, rows = token_losses(model, batch, adapters)
    n_rows = batch["labels"].shape[0]
    sums = torch.zeros(n_rows, device=losses.device).index_add(0, rows, losses)
    return sums, torch.bincount(rows, minlength=n_rows)
