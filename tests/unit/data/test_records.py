"""Which files are read, and by which reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.data.raw_records import RawRecord
from tamis.data.records import find_files, iterate_records, reader_for
from tamis.errors import DataError


@pytest.mark.parametrize(
    "name",
    ["x.jsonl", "x.ndjson", "X.JSON", "x.csv", "x.tsv", "x.parquet", "x.jsonl.gz", "x.json.gz",
     "x.csv.gz", "x.tsv.gz"],
)  # fmt: skip
def test_known_names_have_a_reader(name: str) -> None:
    """Every promised type has a reader, whatever the case of its name."""
    assert reader_for(Path(name)) is not None


@pytest.mark.parametrize("name", ["x.txt", "x.xlsx", "x", "x.parquet.gz", "x.gz", "x.jsonl.zst"])
def test_other_names_have_none(name: str) -> None:
    """Other types are not tried."""
    assert reader_for(Path(name)) is None


def test_a_folder_is_its_data_files_by_name(tmp_path: Path) -> None:
    """Data files are read sorted by name; anything else is reported, hidden files apart."""
    for name in ("b.jsonl", "a.csv", "notes.md", ".hidden.jsonl"):
        (tmp_path / name).write_text("x")
    (tmp_path / "sub").mkdir()
    files = find_files(tmp_path)
    assert [path.name for path in files.read] == ["a.csv", "b.jsonl"]
    assert [Path(name).name for name in files.ignored] == ["notes.md", "sub"]


def test_a_folder_without_data_is_an_error(tmp_path: Path) -> None:
    """The message says what would be read."""
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"holds no data file\. Known are \.jsonl"):
        find_files(tmp_path)


def test_a_missing_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    """A misspelt name is answered with close ones of that folder."""
    (tmp_path / "train.jsonl").write_text("x")
    with pytest.raises(DataError, match=r"trian\.jsonl does not exist\. .* train\.jsonl"):
        find_files(tmp_path / "trian.jsonl")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Where the folder is missing too, that is said."""
    with pytest.raises(DataError, match=r"There is no folder .*nowhere either"):
        find_files(tmp_path / "nowhere" / "x.jsonl")


def test_an_unknown_type_is_an_error(tmp_path: Path) -> None:
    """A spreadsheet is refused with the list of what is read."""
    path = tmp_path / "x.xlsx"
    path.write_bytes(b"PK")
    for refuse in (find_files, lambda p: list(iterate_records(p))):
        with pytest.raises(DataError, match="type that tamis does not read"):
            refuse(path)


def test_records_come_from_the_right_reader(tmp_path: Path) -> None:
    """A .tsv file is split at tabs."""
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n1\t2\n")
    assert list(iterate_records(path)) == [RawRecord({"a": "1", "b": "2"}, str(path), 2)]
