"""The memory-mapped table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis.data import arrow_rows
from tamis.data.arrow_rows import write_rows
from tamis.errors import DataError

_SCHEMA = pa.schema({"n": pa.int64(), "text": pa.string()})


def _rows(count: int, text: str = "x") -> Iterator[tuple[dict[str, Any], int]]:
    return (({"n": n, "text": text}, len(text)) for n in range(count))


def test_rows_come_back_in_order_across_batches() -> None:
    """2,500 rows are three batches of at most 1,000, and row i is row i."""
    rows = write_rows(_SCHEMA, _rows(2_500))
    assert [batch.num_rows for batch in rows.batches] == [1_000, 1_000, 500]
    found = [
        (lambda batch, i: batch.column("n")[i].as_py())(*rows.locate(i))
        for i in (0, 999, 1000, 2499)
    ]
    assert found == [0, 999, 1000, 2499]


def test_huge_rows_are_written_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch ends before its text exceeds the budget: 10 characters hold two rows of 4, not 3."""
    monkeypatch.setattr(arrow_rows, "TEXT_PER_BATCH", 10)
    rows = write_rows(_SCHEMA, _rows(5, "abcd"))
    assert [batch.num_rows for batch in rows.batches] == [2, 2, 1]


def test_no_rows_are_an_empty_table() -> None:
    """Nothing written is a table of no rows, not an error."""
    rows = write_rows(_SCHEMA, _rows(0))
    assert len(rows) == 0
    assert rows.column("n").to_pylist() == []


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file has no name while it is used, so nothing remains of a killed process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = write_rows(_SCHEMA, _rows(3))
    assert list(tmp_path.iterdir()) == []
    assert rows.column("n").to_pylist() == [0, 1, 2]


def test_a_failing_source_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while rows are made removes the half-written file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def broken() -> Iterator[tuple[dict[str, Any], int]]:
        yield {"n": 1, "text": "x"}, 1
        raise DataError("bad")

    with pytest.raises(DataError, match="bad"):
        write_rows(_SCHEMA, broken())
    assert list(tmp_path.iterdir()) == []
