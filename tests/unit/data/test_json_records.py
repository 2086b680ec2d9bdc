"""JSON and JSON Lines files, whole and damaged."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tamis.data.json_records import read_json
from tamis.data.raw_records import BadRecord, RawRecord
from tamis.errors import DataError

ROWS = [{"n": 1}, {"n": 2}, {"n": 3}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def _read(folder: Path, content: str | bytes, name: str = "x.jsonl") -> list[RawRecord | BadRecord]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_json(path))


def _values(records: list[RawRecord | BadRecord]) -> list[object]:
    return [r.value if isinstance(r, RawRecord) else r.kind for r in records]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.ndjson"])
@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.rstrip("\n"),
        LINES.replace("\n", "\r\n"),
        LINES.replace("\n", "\n\n  \n"),
        "\ufeff" + LINES,
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\ufeff\n\n" + json.dumps(ROWS, indent=1),
        json.dumps({"version": 1, "data": ROWS, "tags": ["a"]}),
        json.dumps({"data": ROWS}, indent=2),
    ],
)
def test_the_same_rows_in_every_shape(tmp_path: Path, content: str, name: str) -> None:
    """Lines, arrays and wrapped lists give the same rows, whichever suffix the file has."""
    assert _values(_read(tmp_path, content, name)) == ROWS


def test_gzip_holds_the_same(tmp_path: Path) -> None:
    """A packed file gives the same rows."""
    assert _values(_read(tmp_path, gzip.compress(LINES.encode()), "x.jsonl.gz")) == ROWS


def test_a_line_is_kept_as_it_stood(tmp_path: Path) -> None:
    """The raw text of a row is its line without the line end: spaces, escapes and all."""
    line = ' {"b":1,  "a": "\\u00fc"}'
    first = _read(tmp_path, f"{line}\r\n{LINES}")[0]
    assert isinstance(first, RawRecord)
    assert (first.raw, first.line) == (line, 1)


def test_lines_are_counted_with_blank_ones(tmp_path: Path) -> None:
    """The line number is that of the file."""
    assert [record.line for record in _read(tmp_path, '\n{"n": 1}\n\n\n{"n": 2}\n')] == [2, 5]


def test_a_single_row_is_a_row(tmp_path: Path) -> None:
    """One object that is itself a row is not searched for lists of rows."""
    row = {"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "t"}]}
    assert _values(_read(tmp_path, json.dumps(row))) == [row]
    assert _values(_read(tmp_path, json.dumps(row, indent=2), "x.json")) == [row]


def test_several_lists_are_not_chosen_from(tmp_path: Path) -> None:
    """An object with two lists of records is a question to the user."""
    with pytest.raises(DataError, match=r"several lists of records .'train', 'test'."):
        _read(tmp_path, json.dumps({"train": ROWS, "test": ROWS}), "x.json")


def test_a_bad_line_costs_only_itself(tmp_path: Path) -> None:
    """Cut lines are bad records of kind json; the others are read."""
    found = _read(tmp_path, '{"n": 1}\n{"n": \n{"n": 3}\n{"n"')
    assert _values(found) == [{"n": 1}, "json", {"n": 3}, "json"]
    assert [record.line for record in found] == [1, 2, 3, 4]


def test_a_bad_first_line_costs_only_itself(tmp_path: Path) -> None:
    """A cut first line does not make a document of the file."""
    assert _values(_read(tmp_path, '{"n": 1, "x\n' + LINES)) == ["json", *ROWS]


def test_a_list_on_the_first_line_is_one_record(tmp_path: Path) -> None:
    """A line that is a whole list is a record like the lines after it, not the file's array."""
    assert _values(_read(tmp_path, '["q", "a"]\n{"n": 1}\n')) == [["q", "a"], {"n": 1}]


@pytest.mark.parametrize("opening", ["[", '{"n":'])
def test_deep_nesting_is_a_bad_record(tmp_path: Path, opening: str) -> None:
    """JSON nested beyond any parser's stack is a bad record, not a crash."""
    found = _read(tmp_path, f"{LINES}{opening * 200_000}\n")
    assert _values(found) == [*ROWS, "json"]
    assert _values(_read(tmp_path, f"{opening * 200_000}\n{LINES}")) == ["json", *ROWS]


def test_deep_nesting_of_a_document_is_an_error(tmp_path: Path) -> None:
    """A whole document nested too deeply is refused with the way out."""
    with pytest.raises(DataError, match=r"nested too deeply.*JSON Lines"):
        _read(tmp_path, "[\n" + "[" * 200_000, "x.json")


def test_a_huge_number_is_a_bad_record(tmp_path: Path) -> None:
    """A number of more digits than Python converts is a bad record, not a crash."""
    assert _values(_read(tmp_path, '{"n": ' + "9" * 5_000 + "}\n" + LINES)) == ["json", *ROWS]


def test_a_repeated_key_is_a_bad_record(tmp_path: Path) -> None:
    """Which of two values was meant is not guessed, in lines as in arrays."""
    for content in ('{"a": 1, "a": 2}\n{"a": 3}\n', '[{"a": 1, "a": 2}, {"a": 3}]'):
        bad, good = _read(tmp_path, content)
        assert isinstance(bad, BadRecord)
        assert bad.reason == "the key 'a' occurs twice"
        assert isinstance(good, RawRecord)


def test_nan_in_a_column_is_let_through(tmp_path: Path) -> None:
    """Python writes NaN into JSON; a row is not lost for a column that is not used."""
    record = _read(tmp_path, '{"n": 1, "score": NaN}\n{"n": 2}\n')[0]
    assert isinstance(record, RawRecord)
    assert record.raw == '{"n": 1, "score": NaN}'


def test_a_raw_control_character_is_a_bad_record(tmp_path: Path) -> None:
    """JSON allows no bare control character in a text."""
    assert _values(_read(tmp_path, '{"a": "x\ty"}\n{"n": 1}\n')) == ["json", {"n": 1}]


@pytest.mark.parametrize("content", ["", "\n\n", " \r\n", "\ufeff"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    """A file of nothing, or of nothing but blank lines, is refused."""
    with pytest.raises(DataError, match=r"x\.jsonl is empty"):
        _read(tmp_path, content)


@pytest.mark.parametrize("cut", [20, -1])
def test_a_cut_array_is_an_error(tmp_path: Path, cut: int) -> None:
    """An array without its end is a fault of the whole file."""
    for content in (json.dumps(ROWS, indent=2), json.dumps(ROWS)):
        with pytest.raises(DataError, match="not one whole JSON document"):
            _read(tmp_path, content[:cut], "x.json")


def test_a_huge_row_is_whole(tmp_path: Path) -> None:
    """A row of 200,000 characters is neither cut nor refused."""
    record = _read(tmp_path, json.dumps({"t": "x" * 200_000}) + "\n" + LINES)[0]
    assert isinstance(record, RawRecord)
    assert record.value == {"t": "x" * 200_000}
