"""JSON and JSON Lines -> records.

The suffix is not trusted, since both are found under both names. A file is read as one document
when its first line does not stand alone (an array or object over several lines) or is all there
is; else line by line, and a bad line costs only itself.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tamis.data.raw_records import (
    BadRecord,
    ObjectWithRepeatedKey,
    RawRecord,
    file_name,
    read_lines,
)
from tamis.errors import DataError

# An object with one of these is a row itself, not a wrapper around a list of rows.
_ROW_KEYS = {
    "messages", "conversations", "conversation", "prompt", "instruction", "question", "chosen",
}  # fmt: skip


def _object(pairs: list[tuple[str, Any]]) -> Any:
    built = dict(pairs)
    if len(built) == len(pairs):
        return built
    keys = [key for key, _ in pairs]
    return ObjectWithRepeatedKey(pairs, next(key for key in keys if keys.count(key) > 1))


# NaN and Infinity are let through: Python's own writer makes them, mostly in columns not used here.
_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_json(path: Path) -> Iterator[RawRecord | BadRecord]:
    """Yield the records of a JSON or JSON Lines file, plain or gzip.

    Args:
        path: UTF-8 file: one object per line; one array; or one object that is a row or holds a
            single list of rows under any key.

    Yields:
        Records in file order. `line` is the line for JSON Lines, else the record's number.

    Raises:
        DataError: The file is empty, not UTF-8, a cut array, or holds several lists.
    """
    lines = ((n, text) for n, text in read_lines(path) if text.strip())
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path} is empty: there is nothing to load. Give another file.")
    second = next(lines, None)
    if _is_document(path, first[1], alone=second is None):
        rest = [second] if second is not None else []
        text = "".join(text for _, text in itertools.chain([first], rest, lines))
        yield from _document(path, text)
        return
    start = [first] if second is None else [first, second]
    for number, line in itertools.chain(start, lines):
        text = line.strip("\r\n")
        yield _record(text, file_name(path), number)


def _is_document(path: Path, first_line: str, *, alone: bool) -> bool:
    text = first_line.strip()
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        return False
    except ValueError:
        cut_line = text.startswith("{") and text != "{" and ".json" not in path.suffixes
        return not cut_line and text[0] in "[{"
    if isinstance(value, dict):
        return alone and _wrapped_list(path, value) is not None
    return alone and isinstance(value, list)


def _record(text: str, file: str, number: int) -> RawRecord | BadRecord:
    try:
        value = _DECODER.decode(text.strip())
    except RecursionError:
        return BadRecord(file, number, "json", "the JSON is nested too deeply", text)
    except ValueError as error:
        return BadRecord(file, number, "json", f"not valid JSON: {error}", text)
    return _checked(value, file, number, text)


def _checked(value: Any, file: str, number: int, raw: str | None) -> RawRecord | BadRecord:
    if isinstance(value, ObjectWithRepeatedKey):
        text = raw if raw is not None else json.dumps(dict(value.pairs), default=str)
        return BadRecord(file, number, "json", f"the key {value.key!r} occurs twice", text)
    return RawRecord(value, file, number, raw)


def _document(path: Path, text: str) -> Iterator[RawRecord | BadRecord]:
    text = text.strip()
    file = file_name(path)
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise DataError(
            f"{path} is JSON nested too deeply to be read. Give one record per line (JSON Lines)."
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path} is not one whole JSON document ({error}): it was cut or is damaged. Copy or "
            "make it again, or give one record per line (JSON Lines), where a bad line costs only "
            "itself."
        ) from error
    if isinstance(value, dict):
        wrapped = _wrapped_list(path, value)
        if wrapped is None:
            yield RawRecord(value, file, 1)
            return
        value = wrapped
    if not isinstance(value, list):
        yield _checked(value, file, 1, text)
        return
    for number, item in enumerate(value, start=1):
        yield _checked(item, file, number, None)


def _wrapped_list(path: Path, value: dict[str, Any]) -> list[Any] | None:
    """Return the rows of an object that only wraps them; None when it is a row itself."""
    if _ROW_KEYS & value.keys():
        return None
    lists = [
        key
        for key, item in value.items()
        if isinstance(item, list) and any(isinstance(row, dict) for row in item)
    ]
    if len(lists) > 1:
        raise DataError(
            f"{path} holds several lists of records ({', '.join(map(repr, lists))}); which one is "
            "meant is not guessed. Save the one you want as its own file."
        )
    rows: list[Any] | None = value[lists[0]] if lists else None
    return rows
