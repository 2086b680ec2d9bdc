"""Ids, fingerprints and the memory-mapped sequence."""

from __future__ import annotations

import hashlib
import json

import pytest

from tamis.data.example import Examples, Message, ParsedRow, content_hash
from tamis.data.load import load_examples
from tamis.errors import DuplicateIdError, MismatchError


def _row(text: str, source_id: str | None = None) -> ParsedRow:
    turns = (Message("user", f"ask {text}"), Message("assistant", f"answer {text}"))
    return ParsedRow(turns, source_id, json.dumps({"text": text}), "f.jsonl", 1)


def _examples(*texts: str) -> Examples:
    return Examples.from_records([_row(text, f"s-{text}") for text in texts])


def test_content_hash_is_the_documented_one() -> None:
    """The hash is the first 16 hex digits of SHA-256 over compact JSON of [role, content] pairs."""
    text = '[["user","Ünïcode?"],["assistant","yes"]]'
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert content_hash([Message("user", "Ünïcode?"), Message("assistant", "yes")]) == expected


def test_content_hash_knows_where_turns_end() -> None:
    """Moving a character from one turn to the next is other content."""
    one = content_hash([Message("user", "ab"), Message("assistant", "c")])
    other = content_hash([Message("user", "a"), Message("assistant", "bc")])
    assert one != other


def test_repeated_content_is_numbered() -> None:
    """The second of two equal rows has the same hash and occurrence 1."""
    first, _, again = _examples("a", "b", "a").ids
    assert first.endswith("-0")
    assert again == first.removesuffix("-0") + "-1"


def test_ids_survive_shuffling() -> None:
    """Rows in another order have the same ids, and the set has the same fingerprint."""
    rows, shuffled = _examples("a", "b", "c"), _examples("c", "a", "b")
    assert set(rows.ids) == set(shuffled.ids)
    assert rows.fingerprint == shuffled.fingerprint


def test_ids_survive_dropping_rows() -> None:
    """Rows keep their ids when others are gone, and the fingerprint tells that some are."""
    rows, fewer = _examples("a", "b", "c"), _examples("a", "c")
    assert fewer.ids == [rows.ids[0], rows.ids[2]]
    assert rows.fingerprint != fewer.fingerprint


def test_rows_come_back_as_given() -> None:
    """Every field of a row is read back from the file as it was written."""
    row = ParsedRow((Message("system", ""), Message("user", "ü\n"), Message("assistant", "\u202e")))
    example = Examples.from_records([row])[0]
    assert example.messages == row.messages
    assert (example.source_id, example.raw, example.file, example.line) == (None, "", None, None)


def test_indexing_is_that_of_a_sequence() -> None:
    """Negative indices count from the end and an index too large ends an iteration."""
    rows = _examples("a", "b")
    assert rows[-1].id == rows.ids[1]
    assert [row.id for row in rows] == rows.ids
    with pytest.raises(IndexError, match="row 2 of 2"):
        rows[2]


def test_slices_are_refused() -> None:
    """A slice is no row; parts are taken by id."""
    with pytest.raises(TypeError):
        _examples("a", "b")[0:1]  # type: ignore[index]


def test_restrict_keeps_the_sets_own_order() -> None:
    """The order and repetition of the wanted ids do not matter."""
    rows = _examples("a", "b", "c")
    part = rows.restrict([rows.ids[2], rows.ids[0], rows.ids[2]])
    assert part.ids == [rows.ids[0], rows.ids[2]]
    assert [row.messages for row in part] == [rows[0].messages, rows[2].messages]
    assert part.source_ids == ["s-a", "s-c"]


def test_restrict_takes_source_ids_too() -> None:
    """Source ids name rows as well, on a part as on the whole."""
    rows = _examples("a", "b", "c").restrict(["s-a", "s-c"])
    assert rows.restrict(["s-c"]).ids == [rows.ids[1]]


def test_restrict_names_unknown_rows() -> None:
    """Unknown names are an error that lists at most five of them."""
    with pytest.raises(MismatchError, match=r"7 of 8 .* u0, u1, u2, u3, u4 and 2 more"):
        _examples("a").restrict(["s-a", *(f"u{i}" for i in range(7))])


def test_restrict_refuses_repeated_source_ids() -> None:
    """A source id that belongs to two rows does not say which one is meant."""
    rows = Examples.from_records([_row("a", "same"), _row("b", "same"), _row("c", "other")])
    with pytest.raises(DuplicateIdError, match="same"):
        rows.restrict(["same"])
    assert len(rows.restrict(["other"])) == 1


def test_repeats_are_kept_and_counted() -> None:
    """Rows that repeat content or source id are loaded and counted."""
    rows = Examples.from_records([_row("a", "x"), _row("a", "x"), _row("b", "x"), _row("c")])
    report = rows.load_report
    assert (len(rows), report.n_repeated_rows, report.n_repeated_source_ids) == (4, 1, 2)


def test_to_dataset_and_back() -> None:
    """A Dataset made from the set loads to the same ids, source ids and turns."""
    rows = Examples.from_records([_row("a", "x"), _row("b"), _row("a")])
    dataset = rows.to_dataset()
    assert dataset.column_names == ["id", "source_id", "messages"]
    back = load_examples(dataset)
    assert (back.ids, back.source_ids) == (rows.ids, rows.source_ids)
    assert [row.messages for row in back] == [row.messages for row in rows]


def test_to_dataset_of_a_part() -> None:
    """A restricted set gives a Dataset of its own rows only."""
    rows = _examples("a", "b", "c").restrict(["s-c"])
    assert rows.to_dataset()["source_id"][:] == ["s-c"]


def test_the_report_is_plain_json() -> None:
    """A manifest can hold the report."""
    report = _examples("a").load_report.to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["n_loaded"] == 1
