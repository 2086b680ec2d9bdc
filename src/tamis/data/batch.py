"""Batches, padding and visiting orders, in numpy: the same on every machine for one seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tamis import rng
from tamis.data.rendered import UNTRAINED, RenderedRow
from tamis.errors import ConfigError


def pad_batch(
    rows: Sequence[RenderedRow], *, pad_token_id: int = 0
) -> dict[str, npt.NDArray[np.int64]]:
    """Pad rows on the right to one rectangle.

    Args:
        rows: At least one row.
        pad_token_id: Id in the padding; any valid id does, since it is masked.

    Returns:
        `input_ids`, `attention_mask` (1 for tokens, 0 for padding) and `labels` (-100 in the
        padding), each of shape (rows, longest row).
    """
    shape = (len(rows), max(len(row.input_ids) for row in rows))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, UNTRAINED, dtype=np.int64)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[i, :length] = row.input_ids
        attention_mask[i, :length] = 1
        labels[i, :length] = row.labels
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def token_budget_batches(
    lengths: Sequence[int] | npt.NDArray[np.int64], max_tokens: int
) -> list[list[int]]:
    """Group rows of similar length so that each padded batch stays within a token budget.

    Args:
        lengths: Tokens per row.
        max_tokens: Rows times longest row, padding included. A longer row stands alone.

    Returns:
        Positions in `lengths`, longest rows first; every position exactly once. Equal lengths keep
        their order.

    Raises:
        ConfigError: `max_tokens` is not positive.
    """
    if max_tokens < 1:
        raise ConfigError(f"a batch of {max_tokens} tokens holds nothing: set at least 1.")
    values = np.asarray(lengths, dtype=np.int64)
    batches: list[list[int]] = []
    for position in np.argsort(-values, kind="stable").tolist():
        longest = values[batches[-1][0]] if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def visiting_order(n: int, seed: int, stream: str, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order in which an epoch visits n rows, each exactly once.

    The order is one of positions. For scores that do not depend on the order of the file, count
    positions in the rows sorted by id.

    Args:
        n: Rows.
        seed: The user's seed.
        stream: Which set is visited; two sets get unrelated orders.
        epoch: From 0; each epoch has its own order.

    Returns:
        A permutation of 0..n-1.
    """
    return rng.numpy_generator(seed, "order", stream, epoch).permutation(n)
