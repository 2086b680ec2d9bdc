"""A growing table that lives in a temporary Arrow file, not in Python objects.

Rows are collected to batches, written, and read back through a memory map: a million rows cost
the memory of one batch while they are written and none while they are read.
"""

from __future__ import annotations

import bisect
import os
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tamis.errors import DataError

ROWS_PER_BATCH = 1_000  # rows held as Python objects at a time
TEXT_PER_BATCH = 32 * 2**20  # characters after which a batch is written early: rows may be huge


class ArrowRows:
    """Rows in a memory-mapped Arrow file that disappears with this object.

    Args:
        path: A finished Arrow IPC file; this object owns it.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._map = pa.memory_map(str(path), "r")
        reader = pa.ipc.open_file(self._map)
        self.schema = reader.schema
        self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._starts = [0]
        for batch in self.batches:
            self._starts.append(self._starts[-1] + batch.num_rows)
        try:
            # The mapping keeps the bytes alive; without a name, not even a killed process leaves
            # the file behind.
            path.unlink()
        except OSError:  # Windows refuses while the file is mapped
            weakref.finalize(self, _remove, path)

    def __len__(self) -> int:
        return self._starts[-1]

    def locate(self, row: int) -> tuple[Any, int]:
        """Return the record batch that holds a row and the row's place in it."""
        which = bisect.bisect_right(self._starts, row) - 1
        return self.batches[which], row - self._starts[which]

    def column(self, name: str) -> Any:
        """Return one whole column as a pyarrow ChunkedArray, without copying."""
        import pyarrow as pa

        field = self.schema.field(name)
        return pa.chunked_array([batch.column(name) for batch in self.batches], type=field.type)

    def table(self, names: list[str]) -> Any:
        """Return some columns as a pyarrow Table, without copying."""
        import pyarrow as pa

        return pa.table({name: self.column(name) for name in names})


def write_rows(schema: Any, rows: Iterable[tuple[Mapping[str, Any], int]]) -> ArrowRows:
    """Write rows to a temporary Arrow file, batch by batch, and map it.

    Args:
        schema: The pyarrow schema; every row holds each of its columns.
        rows: Each row with its size in characters (or any other measure of its memory).

    Returns:
        The rows, in the order given.

    Raises:
        DataError: The temporary folder is full or cannot be written.
    """
    import pyarrow as pa

    handle, name = tempfile.mkstemp(prefix="tamis-", suffix=".arrow")
    os.close(handle)
    path = Path(name)
    try:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            held: list[Mapping[str, Any]] = []
            held_size = 0
            for row, size in rows:
                if held and held_size + size > TEXT_PER_BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(held, schema=schema))
                    held, held_size = [], 0
                held.append(row)
                held_size += size
                if len(held) == ROWS_PER_BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(held, schema=schema))
                    held, held_size = [], 0
            if held:
                writer.write_batch(pa.RecordBatch.from_pylist(held, schema=schema))
        return ArrowRows(path)
    except OSError as error:
        _remove(path)
        if error.errno is None:
            raise
        raise DataError(
            f"cannot write the temporary copy of the rows to {path.parent} ({error.strerror}). "
            "Free some space there, or set TMPDIR to a folder with room."
        ) from error
    except BaseException:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
