"""Files -> raw records, one by one; which reader a file gets, and what a folder holds."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from pathlib import Path

from tamis.data.csv_records import read_csv
from tamis.data.json_records import read_json
from tamis.data.parquet_records import read_parquet
from tamis.data.raw_records import BadRecord, RawRecord, file_name
from tamis.errors import DataError

Reader = Callable[[Path], Iterator[RawRecord | BadRecord]]

_READERS: dict[str, Reader] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".csv": lambda path: read_csv(path, ","),
    ".tsv": lambda path: read_csv(path, "\t"),
    ".parquet": read_parquet,
}
_GZIPPED = {".jsonl", ".ndjson", ".json", ".csv", ".tsv"}  # Parquet is compressed inside


@dataclasses.dataclass(frozen=True, slots=True)
class DataFiles:
    """The files of a source, in the order they are read."""

    read: tuple[Path, ...]
    ignored: tuple[str, ...]


def reader_for(path: Path) -> Reader | None:
    """Return the reader for a file by its name, None when it is no data file."""
    name = path.name.lower()
    suffix = Path(name).suffix
    if suffix == ".gz":
        inner = Path(name.removesuffix(".gz")).suffix
        return _READERS[inner] if inner in _GZIPPED else None
    return _READERS.get(suffix)


def find_files(path: Path) -> DataFiles:
    """List what will be read: the file, or all data files directly in a folder, by name.

    Raises:
        DataError: There is no such path (close names are given), the file is of an unknown type,
            or the folder holds no data file.
    """
    if path.is_dir():
        entries = sorted(path.iterdir(), key=lambda entry: entry.name)
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        read = [e for e in visible if e.is_file() and reader_for(e) is not None]
        if not read:
            raise DataError(f"the folder {path} holds no data file. {_known()}")
        ignored = [file_name(entry) for entry in visible if entry not in read]
        return DataFiles(tuple(read), tuple(ignored))
    if not path.exists():
        raise DataError(f"{path} does not exist.{_close_names(path)}")
    if reader_for(path) is None:
        raise DataError(f"{path} is of a type that tamis does not read. {_known()}")
    return DataFiles((path,), ())


def iterate_records(path: Path) -> Iterator[RawRecord | BadRecord]:
    """Yield the records of one file in order, bad ones as `BadRecord`.

    Args:
        path: A file that `find_files` accepts.

    Raises:
        DataError: The file as a whole cannot be read; says what is wrong and what to do.
    """
    reader = reader_for(path)
    if reader is None:
        raise DataError(f"{path} is of a type that tamis does not read. {_known()}")
    yield from reader(path)


def _known() -> str:
    return f"Known are {', '.join(_READERS)}, and {', '.join(sorted(f'{s}.gz' for s in _GZIPPED))}."


def _close_names(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    names = [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=3)
    return f" In that folder there is {', '.join(close)}." if close else ""
