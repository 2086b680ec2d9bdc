"""Rows' tensors in memory and in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tamis.data.rendered import OK, RenderedRow
from tamis.errors import MismatchError
from tamis.models.checkpoint import save_checkpoint
from tamis.models.row_store import RowStore, row_key

KEYS = [bytes([i]) * 16 for i in range(4)]


def values(length: int, first: float) -> torch.Tensor:
    """A ramp of `length` vectors of width 3."""
    return first + torch.arange(3.0 * length).reshape(length, 3)


def row(ids: list[int], labels: list[int]) -> RenderedRow:
    """A rendered row."""
    return RenderedRow("x", ids, labels, OK, 0, 0, 0, 0, 0, "")


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RowStore:
    """A store with three rows of 2, 1 and 4 vectors, in two parts."""
    found = RowStore(tmp_path / "s" if request.param == "files" else None)
    found.append(KEYS[:2], [values(2, 0.0), values(1, 50.0)])
    found.append(KEYS[2:3], [values(4, 100.0)])
    return found


def test_rows_come_back_as_they_were(store: RowStore) -> None:
    """Each with its own number of vectors."""
    assert len(store) == 3
    for key, length, first in zip(KEYS, (2, 1, 4), (0.0, 50.0, 100.0), strict=False):
        assert torch.equal(store[key], values(length, first))
    assert KEYS[3] not in store


def test_parts_are_found_again(tmp_path: Path) -> None:
    """By another process, in the same type."""
    RowStore(tmp_path).append(KEYS[:1], [values(2, 0.0).to(torch.bfloat16)])
    again = RowStore(tmp_path)
    assert again[KEYS[0]].dtype == torch.bfloat16
    assert torch.equal(again[KEYS[0]].float(), values(2, 0.0))


def test_a_torn_part_is_named(tmp_path: Path) -> None:
    """No traceback, and what to do."""
    (tmp_path / "part-0.safetensors").write_bytes(b"half")
    with pytest.raises(MismatchError, match=r"part-0.safetensors is not a feature file .* Remove"):
        RowStore(tmp_path)


def test_a_part_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    """Two keys, one length."""
    tensors = {"keys": torch.zeros(32, dtype=torch.uint8), "lengths": torch.tensor([1]),
               "values": torch.zeros(1, 3)}  # fmt: skip
    save_checkpoint(tmp_path / "part-0.safetensors", tensors, {})
    with pytest.raises(MismatchError, match=r"part-0.safetensors is not a feature file"):
        RowStore(tmp_path)


def test_equal_tokens_have_equal_keys() -> None:
    """Ids of rows play no part; tokens and labels do."""
    assert row_key(row([1, 2], [-100, 2])) == row_key(row([1, 2], [-100, 2]))
    others = [row([1, 3], [-100, 3]), row([1, 2], [1, 2]), row([1], [2, -100])]
    keys = {row_key(row([1, 2], [-100, 2])), *map(row_key, others)}
    assert len(keys) == 4
