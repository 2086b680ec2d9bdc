"""Parquet files, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.data.parquet_records import read_parquet
from tamis.errors import DataError


def test_rows_come_in_order_with_their_types(tmp_path: Path) -> None:
    """Nested values, nulls and numbers come back as Python values, over several row groups."""
    rows = [
        {"n": n, "turns": [{"role": "user", "content": f"q{n}"}], "none": None}
        for n in range(2_500)
    ]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    found = list(read_parquet(path))
    assert [record.value for record in found] == rows
    assert (found[0].line, found[-1].line) == (1, 2_500)


@pytest.mark.parametrize("keep", [0, 3, 200])
def test_a_cut_file_is_an_error(tmp_path: Path, keep: int) -> None:
    """A file without its end cannot be read at all, and the message names it."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": list(range(1_000))}), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"x\.parquet is not a whole Parquet file"):
        list(read_parquet(path))


def test_text_that_is_no_utf8_is_an_error(tmp_path: Path) -> None:
    """Bytes in a text column that are not UTF-8 are a fault of the file, not a crash."""
    path = tmp_path / "x.parquet"
    table = pa.table({"a": pa.array([b"caf\xe9"], pa.binary())})
    pq.write_table(table.cast(pa.schema({"a": pa.string()}), safe=False), path)
    with pytest.raises(DataError, match="not a whole Parquet file"):
        list(read_parquet(path))


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    """A page that cannot be unpacked is a fault of the file, met while rows are read."""
    path = tmp_path / "x.parquet"
    texts = [f"text number {n}" for n in range(1_000)]
    pq.write_table(pa.table({"a": texts}), path, compression="gzip", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a whole Parquet file"):
        list(read_parquet(path))
