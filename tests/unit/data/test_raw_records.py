"""Lines of text files, and records as JSON text."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path

import pytest

from tamis.data.raw_records import BadRecord, file_name, read_lines, record_text
from tamis.errors import DataError


def _lines(path: Path, content: bytes) -> list[tuple[int, str]]:
    path.write_bytes(content)
    return list(read_lines(path))


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    """Unicode line separators stand inside texts; the last line needs no end."""
    found = _lines(tmp_path / "x.jsonl", "a\u2028b\u0085\r\n\nc".encode())
    assert found == [(1, "a\u2028b\u0085\r\n"), (2, "\n"), (3, "c")]


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    """A UTF-8 byte order mark is no part of the first line."""
    assert _lines(tmp_path / "x.csv", b"\xef\xbb\xbfa\nb") == [(1, "a\n"), (2, "b")]


def test_gzip_is_read_by_its_name(tmp_path: Path) -> None:
    """A .gz file is unpacked while it is read."""
    assert _lines(tmp_path / "x.jsonl.gz", gzip.compress(b"a\nb\n")) == [(1, "a\n"), (2, "b\n")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_unicode_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    """UTF-16 and UTF-32 are told apart from UTF-8, with the command that re-encodes them."""
    with pytest.raises(DataError, match=r"x\.jsonl is not UTF-8 but UTF-16.*iconv -f UTF-16"):
        _lines(tmp_path / "x.jsonl", '{"a": 1}\n'.encode(encoding))


def test_a_byte_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    """The message names line and byte of Latin-1 text, and the command that re-encodes it."""
    with pytest.raises(DataError, match=r"line 2 has the byte 0xE9 at 4.*iconv -f ISO-8859-1"):
        _lines(tmp_path / "x.jsonl", b"ok\ncaf\xe9\n")


def test_a_cut_gzip_is_refused(tmp_path: Path) -> None:
    """A gzip stream without its end is a fault of the whole file."""
    content = gzip.compress(bytes(range(256)).hex().encode() * 50)
    with pytest.raises(DataError, match="not a whole gzip file"):
        _lines(tmp_path / "x.jsonl.gz", content[: len(content) // 2])


def test_what_is_no_gzip_is_refused(tmp_path: Path) -> None:
    """Plain text under a .gz name is a fault of the whole file."""
    with pytest.raises(DataError, match="not a whole gzip file"):
        _lines(tmp_path / "x.jsonl.gz", b'{"a": 1}\n')


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """What the system cannot open is an error with the system's reason."""
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        list(read_lines(tmp_path))


def test_records_are_written_as_json() -> None:
    """Text stays readable and other values stay as they are."""
    assert (
        record_text({"a": "ü", "b": [1, 2.5, None, True]})
        == '{"a": "ü", "b": [1, 2.5, null, true]}'
    )


def test_what_json_cannot_say_is_said_otherwise() -> None:
    """NaN is null, a date its text, half a surrogate pair stays escaped."""
    assert record_text({"x": float("nan"), "y": [float("inf")]}) == '{"x": null, "y": [null]}'
    assert record_text({"d": datetime.date(2026, 1, 2)}) == '{"d": "2026-01-02"}'
    assert record_text({"s": "\ud800"}) == '{"s": "\\ud800"}'


def test_a_record_that_holds_itself_is_an_error() -> None:
    """A circle ends in an error, never in an endless text."""
    record: dict[str, object] = {}
    record["self"] = record
    with pytest.raises(RecursionError):
        record_text(record)


def test_a_file_name_of_any_bytes_can_be_written() -> None:
    """A name that is not UTF-8 becomes text that is."""
    assert file_name(Path("caf\udce9.jsonl")) == "caf?.jsonl"


def test_a_bad_record_names_its_place() -> None:
    """In words, a bad record is file, line, kind and reason."""
    bad = BadRecord("f.jsonl", 3, "json", "cut", "{")
    assert str(bad) == "f.jsonl line 3: json: cut"
    assert json.dumps(str(BadRecord(None, 3, "json", "cut", "{"))) == '"record 3: json: cut"'
