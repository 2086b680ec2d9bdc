"""CSV and TSV files, whole and damaged."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from tamis.data import csv_records
from tamis.data.csv_records import read_csv
from tamis.data.raw_records import BadRecord, RawRecord
from tamis.errors import DataError


def _read(folder: Path, content: str, delimiter: str = ",") -> list[RawRecord | BadRecord]:
    path = folder / "x.csv"
    path.write_bytes(content.encode())
    return list(read_csv(path, delimiter))


def _values(records: list[RawRecord | BadRecord]) -> list[object]:
    return [list(r.value.values()) if isinstance(r, RawRecord) else r.line for r in records]


def test_fields_stay_text(tmp_path: Path) -> None:
    """Numbers, NA and empty fields stay the text they are."""
    assert _values(_read(tmp_path, "a,b,c\n1,,NA\nnan,null,TRUE\n")) == [
        ["1", "", "NA"], ["nan", "null", "TRUE"],
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_fields_hold_anything(tmp_path: Path, end: str) -> None:
    """Quotes, delimiters and line ends inside quotes belong to the field."""
    content = f'a,b{end}"x ""y"", z","1\n2\r\n3"{end}'
    assert _values(_read(tmp_path, content)) == [['x "y", z', "1\n2\r\n3"]]


def test_tabs_separate_in_tsv(tmp_path: Path) -> None:
    """With a tab as delimiter, a comma is text."""
    assert _values(_read(tmp_path, "a\tb\nx, y\tz\n", "\t")) == [["x, y", "z"]]


def test_no_final_line_end_and_blank_lines(tmp_path: Path) -> None:
    """A file may end without a line end; blank lines are no records."""
    assert _values(_read(tmp_path, "\ufeffa,b\n\n1,2\n\n3,4")) == [["1", "2"], ["3", "4"]]


def test_a_record_names_the_line_it_starts_on(tmp_path: Path) -> None:
    """Lines inside quotes count."""
    found = _read(tmp_path, 'a,b\n"1\n1",2\n3,4\n')
    assert [record.line for record in found] == [2, 4]


def test_short_and_long_rows_are_bad_records(tmp_path: Path) -> None:
    """A row with another number of fields than the header costs only itself."""
    found = _read(tmp_path, "a,b\nonly\n1,2\n1,2,3\n3,4\n")
    assert _values(found) == [2, ["1", "2"], 4, ["3", "4"]]
    assert isinstance(found[0], BadRecord)
    assert (found[0].kind, found[0].raw) == ("csv", "only")
    assert found[0].reason == "1 fields where the header names 2"


def test_the_raw_text_of_a_bad_row_is_as_it_stood(tmp_path: Path) -> None:
    """A bad row over two lines is quarantined with both, quotes included."""
    bad = _read(tmp_path, 'a,b\n"x\ny"\n1,2\n')[0]
    assert isinstance(bad, BadRecord)
    assert bad.raw == '"x\ny"'


def test_an_unclosed_quote_costs_one_line(tmp_path: Path) -> None:
    """The rows after an unclosed quote are read, not swallowed by it."""
    content = 'a,b\n1,2\n"open,x\n3,4\n"5","6"\n7,8\n'
    assert _values(_read(tmp_path, content)) == [["1", "2"], 3, ["3", "4"], ["5", "6"], ["7", "8"]]


def test_text_behind_a_closing_quote_is_a_bad_record(tmp_path: Path) -> None:
    """Quotes are strict: text may not follow the closing one."""
    assert _values(_read(tmp_path, 'a,b\n"1"x,2\n3,4\n')) == [2, ["3", "4"]]


def test_a_field_that_never_ends_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field beyond the limit is taken for an unclosed quote, and reading goes on behind it."""
    monkeypatch.setattr(csv_records, "MAX_FIELD_CHARACTERS", 50)
    content = 'a,b\n"open,x\n' + "12345678,9\n" * 8
    assert _values(_read(tmp_path, content)) == [2, *[["12345678", "9"]] * 8]


def test_a_huge_field_is_whole_and_the_process_limit_untouched(tmp_path: Path) -> None:
    """200,000 characters are above Python's default limit, which other code keeps."""
    limit = csv.field_size_limit()
    assert _values(_read(tmp_path, f"a,b\n{'x' * 200_000},y\n")) == [["x" * 200_000, "y"]]
    assert csv.field_size_limit() == limit


def test_gzip_is_read(tmp_path: Path) -> None:
    """A packed file gives the same rows."""
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert _values(list(read_csv(path, ","))) == [["1", "2"]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b,a\n1,2,3\n", "names the column 'a' twice"),
        ("a;b\n1;2\n", "separated by ';'"),
        ("a\tb\n1\t2\n", r"separated by '\\t'"),
        ('"a\n1,2\n', "no readable header"),
    ],
)
def test_headers_that_cannot_be_right(tmp_path: Path, content: str, reason: str) -> None:
    """Without a usable header no row has names: the whole file is refused."""
    with pytest.raises(DataError, match=reason):
        _read(tmp_path, content)
