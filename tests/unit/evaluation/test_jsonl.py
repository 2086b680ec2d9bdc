"""Strict JSONL names the file and the line of whatever it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.errors import DataError
from tamis.evaluation.jsonl import read_lines


def written(folder: Path, content: bytes) -> Path:
    """Write a file of these bytes."""
    path = folder / "set.jsonl"
    path.write_bytes(content)
    return path


def test_blank_lines_and_bom_are_passed_over_and_counted(tmp_path: Path) -> None:
    """Line numbers are those of an editor."""
    path = written(tmp_path, b'\xef\xbb\xbf\r\n{"id": "a"}\r\n\r\n{"id": "b"}\r\n')
    assert [(line.number, line.fields["id"]) for line in read_lines(path)] == [(2, "a"), (4, "b")]


def test_a_line_separator_inside_text_does_not_end_the_line(tmp_path: Path) -> None:
    """U+2028 is legal within a JSON string."""
    path = written(tmp_path, '{"id": "a\u2028b"}'.encode())
    assert [line.fields["id"] for line in read_lines(path)] == ["a\u2028b"]


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """Latin-1 is named with its line instead of read as other letters."""
    path = written(tmp_path, b'{"id": "a"}\n{"id": "caf\xe9"}\n')
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        list(read_lines(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The path stands in the message."""
    with pytest.raises(DataError, match=r"absent\.jsonl cannot be read"):
        list(read_lines(tmp_path / "absent.jsonl"))


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    """A line that would exhaust the stack is a bad line like any other."""
    with pytest.raises(DataError, match="line 1: not JSON"):
        list(read_lines(written(tmp_path, b"[" * 100_000)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "  "}', "'text' is empty"),
        (b'{"text": 5}', "'text' must be text, not 5"),
        (b'{"other": "x"}', "'text' is missing. Found: 'other'"),
        (rb'{"text": "ab\ud83d"}', "half of a surrogate pair at character 2"),
    ],
)
def test_text_fields_are_checked(tmp_path: Path, content: bytes, message: str) -> None:
    """Blank, mistyped, absent or unencodable text is named."""
    (line,) = read_lines(written(tmp_path, content))
    with pytest.raises(DataError, match=message):
        line.text("text")


def test_ids_may_be_whole_numbers_but_not_truth_values(tmp_path: Path) -> None:
    """1 is the id "1"; true is no id although Python counts it as 1."""
    number, truth = read_lines(written(tmp_path, b'{"id": 1}\n{"id": true}'))
    assert number.identifier("id") == "1"
    with pytest.raises(DataError, match="'id' must be text, not true"):
        truth.identifier("id")
