"""Padding, token budgets and visiting orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tamis.data.batch import pad_batch, token_budget_batches, visiting_order
from tamis.data.rendered import RenderedRow
from tamis.errors import ConfigError


def _row(ids: list[int], n_prompt: int) -> RenderedRow:
    labels = [-100] * n_prompt + ids[n_prompt:]
    return RenderedRow("x", ids, labels, "ok", n_prompt, len(ids) - n_prompt, 1, 0, 0, "")


def test_rows_are_padded_on_the_right() -> None:
    """Ids, mask and labels form rectangles; padding is masked and untrained."""
    batch = pad_batch([_row([5, 6, 7], 1), _row([8, 9], 1)], pad_token_id=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, 9, -100]]
    assert all(array.dtype == np.int64 for array in batch.values())


def test_batches_hold_every_row_once_within_the_budget() -> None:
    """Rows times longest row stays within the budget, and no row is lost or doubled."""
    lengths = [(7 * n) % 50 + 1 for n in range(200)]
    batches = token_budget_batches(lengths, 120)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(200))
    assert all(len(b) * max(lengths[i] for i in b) <= 120 for b in batches)


def test_long_rows_come_first_and_ties_in_order() -> None:
    """Lengths 2, 5, 2, 5 within 10 tokens: the two fives, then the two twos."""
    assert token_budget_batches([2, 5, 2, 5], 10) == [[1, 3], [0, 2]]


def test_a_row_beyond_the_budget_stands_alone() -> None:
    """A row longer than the budget is a batch of its own, not an endless loop."""
    assert token_budget_batches(np.array([50, 3, 3]), 6) == [[0], [1, 2]]


def test_no_rows_are_no_batches() -> None:
    """Nothing gives nothing; a budget of nothing is refused."""
    assert token_budget_batches([], 10) == []
    with pytest.raises(ConfigError, match="0 tokens"):
        token_budget_batches([1], 0)


def test_an_epoch_visits_every_row_once() -> None:
    """The order is a permutation."""
    assert sorted(visiting_order(17, 0, "safe", 3).tolist()) == list(range(17))


def test_orders_depend_on_seed_stream_and_epoch_alone() -> None:
    """The same request gives the same order; another seed, stream or epoch another one."""
    requests = [(0, "safe", 0), (1, "safe", 0), (0, "finetuning", 0), (0, "safe", 1)]
    orders = [tuple(visiting_order(50, *request).tolist()) for request in requests]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(visiting_order(50, *requests[0]).tolist())
