"""Logits of a guard's verdict for many rows: of its labels, or of words behind each row.

Rows are padded on the right whatever the tokenizer prefers: a causal model's last token sees
nothing behind it, an encoder's positions stay as they are, and both heads read the row's own last
(or first) token. So a row's logits do not depend on its batch but for rounding. The last projection
runs in float32: in bfloat16 the logits of a sure verdict tie.

Shapes: B rows of a batch, L labels, W words, V vocabulary, n rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tamis.data.batch import token_budget_batches
from tamis.models.batches import batch_tokens
from tamis.models.load import LanguageModel
from tamis.models.loss import has_plain_head
from tamis.models.row_store import KEY_BYTES, RowStore

Progress = Callable[[int, int, dict[str, float]], None]
Tokens = np.ndarray[Any, np.dtype[np.int32]]
Run = Callable[[LanguageModel, Sequence[Tokens]], Tensor]
PART_ROWS = 256  # saved at once: what a killed pass repeats at most, and no flood of files


def log_odds(logits: Tensor, safe: Sequence[int], unsafe: Sequence[int]) -> Tensor:
    """Return log sum_{safe} e^z - log sum_{unsafe} e^z in nats (float64, n) from n x W logits."""
    z = logits.double()
    return z[:, list(safe)].logsumexp(1) - z[:, list(unsafe)].logsumexp(1)


def worst_label(logits: Tensor, unsafe: Sequence[int]) -> Tensor:
    """-max_{unsafe} z: minus the log-odds of the likeliest unsafe label (float64, n)."""
    return -logits.double()[:, list(unsafe)].amax(1)


def word_probability(logits: Tensor) -> Tensor:
    """Probability that the next token is one of the words (float64, n), from n x (W + 1) logits."""
    z = logits.double()
    return (z[:, :-1].logsumexp(1) - z[:, -1]).exp().clamp(max=1.0)


def make_head_precise(model: Any) -> None:
    """Let a classifier's last projection compute in float32."""
    heads = [module for module in model.modules() if isinstance(module, torch.nn.Linear)
             and module.out_features == model.config.num_labels]  # fmt: skip
    if heads:
        heads[-1].float()
        heads[-1].register_forward_pre_hook(lambda _module, args: (args[0].float(), *args[1:]))


@torch.no_grad()
def label_logits(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    """Logits of every label (float32, B x L)."""
    config = lm.model.config.get_text_config()
    own = config.pad_token_id
    pad = own
    if own is None and len(rows) > 1:  # any token none of these rows has: heads look for the last
        used = set(np.concatenate(rows).tolist())
        pad = next((i for i in range(config.vocab_size) if i not in used), None)
        if pad is None:
            return torch.cat([label_logits(lm, [row]) for row in rows])
    try:
        config.pad_token_id = pad
        logits: Tensor = lm.model(**_padded(rows, pad or 0, lm.device)).logits
        return logits.float().cpu()
    finally:
        config.pad_token_id = own


def word_logits(words: Sequence[int]) -> Run:
    """Return a function from rows to the logits of tokens behind them and of all together.

    The function's result is float32, B x (W + 1); the last column is the log of the sum of e^z
    over the vocabulary.
    """

    @torch.no_grad()
    def run(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
        head = lm.model.get_output_embeddings()
        plain = has_plain_head(lm.model)
        last = torch.tensor([len(row) - 1 for row in rows], device=lm.device)
        seen: list[Tensor] = []

        def gather(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            seen.append(args[0][torch.arange(len(rows), device=lm.device), last])
            return (seen[-1].unsqueeze(0), *args[1:])  # the vocabulary at one position per row

        handle = head.register_forward_pre_hook(gather)
        try:
            batch = _padded(rows, lm.tokenizer.pad_token_id or 0, lm.device)
            logits = lm.model(**batch, use_cache=False).logits[0].float()
        finally:
            handle.remove()
        if plain:
            bias = getattr(head, "bias", None)
            chosen = functional.linear(
                seen[0].float(), head.weight[list(words)].float(),
                None if bias is None else bias[list(words)].float(),
            )  # fmt: skip
            logits[:, list(words)] = chosen  # not their rounded values: shares would exceed one
        else:  # the model does something to its logits afterwards
            chosen = logits[:, list(words)]
        return torch.cat([chosen, logits.logsumexp(1, keepdim=True)], dim=1).cpu()

    return run


def logits_of_rows(
    lm: LanguageModel, rows: Sequence[Tokens], run: Run, *, folder: Path | None = None,
    max_batch_tokens: int | None = None, progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """Run a guard over rows of tokens in batches of similar length.

    Args:
        lm: The guard.
        rows: Token ids; their order decides the batches, so give them in an order of their own.
        run: `label_logits`, or what `word_logits` returns.
        folder: Where finished rows are kept; a killed pass goes on there with the same batches.
        max_batch_tokens: Tokens run at once, padding included; None is chosen by the device.
        progress: Called with rows done.

    Returns:
        What `run` gives for each row (float32, n x ...).
    """
    kind = f"{lm.fingerprint}-{str(lm.dtype).removeprefix('torch.')}-{lm.device.type}"
    store = RowStore(None if folder is None else folder / kind)
    keys = [hashlib.blake2b(row.tobytes(), digest_size=KEY_BYTES).digest() for row in rows]
    first: dict[bytes, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    distinct = list(first.values())
    pending: dict[bytes, Tensor] = {}
    done = 0
    size = max_batch_tokens or batch_tokens(lm.device)
    for batch in token_budget_batches([len(rows[place]) for place in distinct], size):
        places = [distinct[i] for i in batch if keys[distinct[i]] not in store]
        if places:
            found = run(lm, [rows[place] for place in places])
            pending |= {keys[place]: row[None] for place, row in zip(places, found, strict=True)}
        if len(pending) >= PART_ROWS:
            store.append(list(pending), list(pending.values()))
            pending.clear()
        done += len(batch)
        if progress:
            progress(done, len(distinct), {})
    if pending:
        store.append(list(pending), list(pending.values()))
    return torch.cat([store[key] for key in keys])


def _padded(rows: Sequence[Tokens], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Pad rows on the right to one rectangle."""
    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
