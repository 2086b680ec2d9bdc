"""Reading labels and joining them to rows by id."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tamis.data.load import load_examples
from tamis.errors import DataError, DuplicateIdError, MismatchError
from tamis.evaluation.labels import Label, join_labels, labelled_rows, read_labels


@dataclasses.dataclass
class Rows:
    """The ids of scored rows."""

    ids: list[str]
    source_ids: list[str | None]


def file_of(folder: Path, *lines: str) -> Path:
    """Write a label file of these lines."""
    path = folder / "labels.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_labels_are_read_with_their_attributes(tmp_path: Path) -> None:
    """Optional attributes are None where absent or null; a number is an id as text."""
    path = file_of(
        tmp_path,
        '{"id": "a", "harmful": true, "kind": "harmful", "source": "s", "tier": "weak"}',
        "",
        '{"id": 7, "harmful": false, "kind": null}',
    )
    assert read_labels(path) == [Label("a", True, "harmful", "s", "weak"), Label("7", False)]


def test_source_id_is_taken_where_there_is_no_id(tmp_path: Path) -> None:
    """A label file may name the column as scores.parquet does."""
    path = file_of(tmp_path, '{"source_id": "mine", "harmful": true}')
    assert read_labels(path)[0].id == "mine"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"harmful": true}', "'source_id' is missing"),
        ('{"id": "b"}', "'harmful' is missing"),
        ('{"id": "b", "harmful": 1}', "'harmful' is 1. Write true or false"),
        ('{"id": "b", "harmful": true, "kind": 3}', "'kind' must be text, not 3"),
        ('["b", true]', "where an object"),
        ('{"id": "b", "harmful": tru', "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """The error gives the line number and what is wrong there."""
    path = file_of(tmp_path, '{"id": "a", "harmful": false}', line)
    with pytest.raises(DataError, match=rf"line 2: .*{message}"):
        read_labels(path)


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    """Two truths about one row: both lines are named."""
    path = file_of(tmp_path, '{"id": "a", "harmful": true}', '{"id": "a", "harmful": true}')
    with pytest.raises(DuplicateIdError, match="line 2: id 'a' was already used in line 1"):
        read_labels(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """No label at all is no truth."""
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(file_of(tmp_path, ""))


ROWS = Rows(["1f-0", "2f-0", "3f-0"], ["a", "b", None])


def test_labels_join_by_id_in_row_order() -> None:
    """The order of the label file does not matter, labels of other rows are passed over."""
    labels = [Label(name, name == "2f-0") for name in ("9f-0", "3f-0", "2f-0", "1f-0")]
    assert [label.id for label in join_labels(ROWS, labels)] == ROWS.ids


def test_labels_join_by_source_id() -> None:
    """The user's own ids do as well."""
    rows = Rows(ROWS.ids[:2], ROWS.source_ids[:2])
    assert [label.id for label in join_labels(rows, [Label("b", True), Label("a", False)])] == [
        "a",
        "b",
    ]


def test_rows_without_label_are_named() -> None:
    """By the user's own id where the row has one, else by ours."""
    with pytest.raises(MismatchError, match="2 of 3 scored rows have no label: b, 3f-0"):
        join_labels(ROWS, [Label("a", True)])


def test_repeated_source_ids_cannot_be_joined() -> None:
    """One label for two rows would be a guess."""
    rows = Rows(["1f-0", "2f-0"], ["a", "a"])
    with pytest.raises(DuplicateIdError):
        join_labels(rows, [Label("a", True)])


def test_labels_of_the_shared_set_are_read(test_data: Path) -> None:
    """1,900 labels of which 390 harmful, as its README says."""
    labels = read_labels(test_data / "redorca_mini" / "labels.jsonl")
    assert (len(labels), sum(label.harmful for label in labels)) == (1900, 390)


def test_a_file_may_label_some_rows(tmp_path: Path) -> None:
    """Only these are returned, in the order of the data, each with its own label."""
    rows = load_examples([{"id": name, "prompt": name, "completion": "x"} for name in "abcd"])
    path = file_of(tmp_path, '{"id": "d", "harmful": true}', '{"id": "b", "harmful": false}')
    chosen, harmful = labelled_rows(rows, path)
    assert chosen.source_ids == ["b", "d"]
    assert harmful.tolist() == [False, True]


def test_a_label_without_a_row_is_refused(tmp_path: Path) -> None:
    """Learning from fewer labels than were given would be silent."""
    rows = load_examples([{"id": "a", "prompt": "a", "completion": "x"}])
    path = file_of(tmp_path, '{"id": "a", "harmful": true}', '{"id": "q", "harmful": false}')
    with pytest.raises(MismatchError, match="q"):
        labelled_rows(rows, path)
