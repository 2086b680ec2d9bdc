"""CSV and TSV -> records, with strict quotes and the line each record starts on."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tamis.data.raw_records import BadRecord, RawRecord, file_name, read_lines
from tamis.errors import DataError

# A longer field is taken for an unclosed quote that swallows the rest of the file.
MAX_FIELD_CHARACTERS = 16 * 2**20


def read_csv(path: Path, delimiter: str) -> Iterator[RawRecord | BadRecord]:
    """Yield the records of a CSV or TSV file, plain or gzip.

    The first record names the columns. Every value stays text: empty stays "", nothing becomes a
    number or NaN.

    Args:
        path: UTF-8 file with double quotes around fields that need them.
        delimiter: "," or a tab.

    Yields:
        Records as dicts; `line` is the line of the file on which the record starts.

    Raises:
        DataError: The file is empty or not UTF-8, or the header cannot be right.
    """
    rows = _rows(path, delimiter)
    header: list[str] | None = None
    for line, cells, text in rows:
        if isinstance(cells, BadRecord):
            if header is None:
                raise DataError(f"{path} has no readable header: {cells.reason}. Correct line 1.")
            yield cells
        elif header is None:
            header = _checked_header(path, cells, delimiter)
        elif len(cells) != len(header):
            reason = f"{len(cells)} fields where the header names {len(header)}"
            yield BadRecord(file_name(path), line, "csv", reason, text)
        else:
            yield RawRecord(dict(zip(header, cells, strict=True)), file_name(path), line)
    if header is None:
        raise DataError(f"{path} is empty: there is nothing to load. Give another file.")


def _checked_header(path: Path, header: list[str], delimiter: str) -> list[str]:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path} names the column {repeated[0]!r} twice. Rename one of them.")
    other = next((mark for mark in ";\t,|" if mark != delimiter and mark in header[0]), None)
    if len(header) == 1 and other:
        raise DataError(
            f"{path} has one column, {header[0]!r}: its fields seem to be separated by {other!r}, "
            f"not {delimiter!r}. Save it with {delimiter!r}, or name a tab-separated file .tsv."
        )
    return header


class _Lines:
    """The file's lines for csv.reader, which can be given back after a failed record."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self._lines = lines
        self._returned: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        numbered = self._returned.popleft() if self._returned else next(self._lines)
        self.taken.append(numbered)
        return numbered[1]

    def give_back_all_but_first(self) -> None:
        self._returned.extendleft(reversed(self.taken[1:]))


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str] | BadRecord, str]]:
    """Yield (first line, cells, text) per record, or the bad record in place of the cells.

    An unclosed quote makes the parser run on into later records, so after any failure reading
    starts again on the line after the one where the record began: one bad line, not many.
    """
    lines = _Lines(read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.taken.clear()
        cells = _next_cells(reader)
        if cells is None:
            return
        line, text = lines.taken[0]
        if isinstance(cells, csv.Error):
            lines.give_back_all_but_first()
            text = text.rstrip("\r\n")
            yield line, BadRecord(file_name(path), line, "csv", str(cells), text), text
        elif cells:  # a blank line is no record
            yield line, cells, "".join(text for _, text in lines.taken).rstrip("\r\n")


def _next_cells(reader: Iterator[list[str]]) -> list[str] | csv.Error | None:
    """Read one record; None at the end. The field limit is the process's: raised, then put back."""
    limit = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        return next(reader, None)
    except csv.Error as error:
        return error
    finally:
        csv.field_size_limit(limit)
