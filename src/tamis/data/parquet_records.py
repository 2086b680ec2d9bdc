"""Parquet -> records, in batches, so that a file may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tamis.data.raw_records import RawRecord, file_name
from tamis.errors import DataError

ROWS_PER_BATCH = 1_000  # rows held as Python objects at a time


def read_parquet(path: Path) -> Iterator[RawRecord]:
    """Yield the records of a Parquet file.

    Args:
        path: A whole Parquet file.

    Yields:
        Records as dicts with their number from 1; nulls are None.

    Raises:
        DataError: The file is empty, cut, or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                for value in batch.to_pylist():
                    number += 1
                    yield RawRecord(value, file_name(path), number)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # The last two come from values that Python cannot hold: text that is not UTF-8, years
        # beyond 9999. They are met per batch, so no single record can be named.
        raise DataError(
            f"{path} is not a whole Parquet file ({str(error).rstrip('.')}): it was cut, is "
            "damaged or is something else. Copy or download it again."
        ) from error
