"""Lists of rows by id or source id."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tamis.data.row_lists import name_some, read_row_list, resolve_ids
from tamis.errors import DataError, DuplicateIdError, MismatchError


@dataclasses.dataclass
class _Rows:
    ids: list[str]
    source_ids: list[str | None]


ROWS = _Rows(["h1-0", "h2-0", "h3-0"], ["a", "b", None])


def test_ids_stay_as_they_are() -> None:
    """Ids resolve to themselves, in the order asked for, repetition included."""
    assert resolve_ids(ROWS, ["h3-0", "h1-0", "h3-0"]) == ["h3-0", "h1-0", "h3-0"]


def test_source_ids_become_ids() -> None:
    """Source ids resolve to the ids of their rows, in the order asked for."""
    assert resolve_ids(ROWS, ["b", "a"]) == ["h2-0", "h1-0"]


def test_mixed_kinds_are_refused() -> None:
    """A list that names some rows by id and others by source id is refused."""
    with pytest.raises(MismatchError, match="mixed: h1-0 are ids"):
        resolve_ids(ROWS, ["a", "h1-0"])


def test_unknown_names_are_refused() -> None:
    """A name that is neither id nor source id is an error that shows what the data has."""
    with pytest.raises(MismatchError, match=r"1 of 2 .*: zz\. The data has 3 rows .* h1-0 .* a\."):
        resolve_ids(ROWS, ["a", "zz"])


def test_a_repeated_source_id_is_refused_when_wanted() -> None:
    """A join by a source id of two rows is ambiguous."""
    rows = _Rows(["h1-0", "h2-0", "h3-0"], ["a", "a", "c"])
    assert resolve_ids(rows, ["c"]) == ["h3-0"]
    with pytest.raises(DuplicateIdError, match="several rows: a"):
        resolve_ids(rows, ["a", "c"])


def test_five_names_are_listed_and_the_rest_counted() -> None:
    """Messages stay short however long the list is."""
    assert name_some(range(5)) == "0, 1, 2, 3, 4"
    assert name_some(range(1_007)) == "0, 1, 2, 3, 4 and 1,002 more"


@pytest.mark.parametrize(
    "text",
    ['["a", "b", 3]', '{"name": "c05", "ids": ["a", "b", 3]}', "a\n\n b \r\n3\n", "\ufeffa\nb\n3"],
)
def test_row_lists_in_every_form(tmp_path: Path, text: str) -> None:
    """A JSON list, an object with ids, and one id per line say the same."""
    path = tmp_path / "rows"
    path.write_text(text, encoding="utf-8")
    assert read_row_list(path) == ["a", "b", "3"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ('["a", ', "JSON"),
        ('{"rows": 3}', "not a list of ids"),
        ('[{"id": 1}]', "texts or whole numbers"),
        ("[true]", "texts or whole numbers"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    """Anything that names no row is an error that says which forms are read."""
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=reason):
        read_row_list(path)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    """A path that is not there is an error with the path, not a traceback."""
    with pytest.raises(DataError, match=r"nowhere\.json cannot be read"):
        read_row_list(tmp_path / "nowhere.json")
