"""What a reader hands on for one record, and how files are opened as text, line by line."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from tamis.errors import DataError

_BOMS_OF_OTHERS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # UTF-32 LE starts the same way
_UTF8_BOM = "\ufeff"


@dataclasses.dataclass(frozen=True, slots=True)
class RawRecord:
    """One record that could be read; nothing is known yet about what it holds."""

    value: Any
    file: str | None
    line: int
    raw: str | None = None
    """The text it was read from where a record is a line; else None, and made when needed."""


@dataclasses.dataclass(frozen=True, slots=True)
class BadRecord:
    """One record that cannot be used: a line of quarantine.jsonl."""

    file: str | None
    line: int
    kind: str
    """json, csv (cannot be read), schema, roles, text (read, but no conversation)."""
    reason: str
    raw: str

    def __str__(self) -> str:
        where = f"{self.file} line {self.line}" if self.file else f"record {self.line}"
        return f"{where}: {self.kind}: {self.reason}"


def file_name(path: Path) -> str:
    """Return a path as text that can be written in UTF-8, whatever bytes the name has."""
    return str(path).encode("utf-8", "replace").decode()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text with its line end) of a UTF-8 file, plain or gzip.

    Only a line feed ends a line: other Unicode line ends may stand inside a text. A byte order
    mark is dropped.

    Raises:
        DataError: The file cannot be opened, is not UTF-8, or its gzip stream is cut.
    """
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                text = _decoded(path, number, line)
                yield number, text.removeprefix(_UTF8_BOM) if number == 1 else text
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is not a whole gzip file ({error}): it was cut or is something else. Copy or "
            "download it again; `gzip -t FILE` checks it."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _open(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def _decoded(path: Path, number: int, line: bytes) -> str:
    if number == 1:
        other = _BOMS_OF_OTHERS.get(line[:2]) or ("UTF-16 or UTF-32" if b"\0" in line[:4] else None)
        if other:
            raise DataError(
                f"{path} is not UTF-8 but {other}. Re-encode it: "
                f"iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"
            )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: line {number} has the byte 0x{line[error.start]:02X} at "
            f"{error.start + 1}. If it is Latin-1, re-encode it: "
            f"iconv -f ISO-8859-1 -t UTF-8 {path.name} > utf8-{path.name}"
        ) from error


def record_text(value: Any) -> str:
    """Write a record as one line of JSON.

    Differs from the record only where JSON cannot say it: NaN and infinities become null, dates
    and other objects their text, and lone surrogates stay escaped.

    Raises:
        RecursionError: The record is nested too deeply, or holds itself.
        TypeError: A key is no text.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_json)
    except ValueError:
        value = _without_nan(value)
        text = json.dumps(value, ensure_ascii=False, default=_as_json)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=_as_json)
    return text


def _as_json(value: Any) -> Any:
    return dict(value.pairs) if isinstance(value, ObjectWithRepeatedKey) else str(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


class ObjectWithRepeatedKey:
    """A JSON object that names a key twice: which of the two values is meant is unknown."""

    def __init__(self, pairs: list[tuple[str, Any]], key: str) -> None:
        self.pairs = pairs
        self.key = key
