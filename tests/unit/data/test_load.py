"""From any source to Examples, with bad records named and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pydantic
import pytest

from tamis.data.load import DataConfig, load_examples
from tamis.errors import ConfigError, DataError, MismatchError

GOOD = [{"id": f"r{n}", "prompt": f"q{n}", "completion": f"a{n}"} for n in range(4)]


def _write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_every_kind_of_source_gives_the_same_ids(tmp_path: Path) -> None:
    """File, path as text, folder, list, Dataset, DatasetDict and saved Dataset are equal."""
    path = _write(tmp_path / "x.jsonl", GOOD)
    dataset = datasets.Dataset.from_list(GOOD)
    dataset.save_to_disk(str(tmp_path / "saved"))
    sources: list[Any] = [
        path, str(path), GOOD, tuple(GOOD), dataset, datasets.DatasetDict({"train": dataset}),
        tmp_path / "saved",
    ]  # fmt: skip
    loaded = [load_examples(source) for source in sources]
    assert {tuple(rows.ids) for rows in loaded} == {tuple(loaded[0].ids)}
    assert {tuple(rows.source_ids) for rows in loaded} == {("r0", "r1", "r2", "r3")}


def test_a_row_remembers_where_it_came_from(tmp_path: Path) -> None:
    """File, line and the line's own text are kept."""
    path = _write(tmp_path / "x.jsonl", ["", '{"prompt":"q", "completion":"a","extra":[1.50]}'])
    row = load_examples(path)[0]
    assert (row.file, row.line) == (str(path), 2)
    assert row.raw == '{"prompt":"q", "completion":"a","extra":[1.50]}'


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    """Files are read by name and each row knows its file; others are named in the report."""
    _write(tmp_path / "b.jsonl", GOOD[:1])
    _write(tmp_path / "a.jsonl", GOOD[1:3])
    (tmp_path / "notes.md").write_text("x")
    rows = load_examples(tmp_path)
    assert rows.source_ids == ["r1", "r2", "r0"]
    assert [Path(row.file or "").name for row in rows] == ["a.jsonl", "a.jsonl", "b.jsonl"]
    assert [Path(name).name for name in rows.load_report.files] == ["a.jsonl", "b.jsonl"]
    assert [Path(name).name for name in rows.load_report.ignored_files] == ["notes.md"]


def test_bad_records_are_quarantined_and_counted(tmp_path: Path) -> None:
    """Each bad record is one line of the quarantine file; nothing is lost in between."""
    bad = ["{", json.dumps({"id": 1}), json.dumps({"prompt": "q", "completion": "\0"})]
    path = _write(tmp_path / "x.jsonl", [GOOD[0], *bad, GOOD[1]])
    quarantine = tmp_path / "out" / "quarantine.jsonl"
    rows = load_examples(path, quarantine=quarantine)
    written = [json.loads(line) for line in quarantine.read_text("utf-8").splitlines()]
    assert [(w["file"], w["line"], w["kind"], w["raw"]) for w in written] == [
        (str(path), 2, "json", bad[0]),
        (str(path), 3, "schema", bad[1]),
        (str(path), 4, "text", bad[2]),
    ]
    assert all(w["reason"] for w in written)
    report = rows.load_report
    assert (report.n_read, report.n_loaded, report.n_quarantined) == (5, 2, 3)
    assert report.by_kind == {"json": 1, "schema": 1, "text": 1}
    assert report.by_format == {"prompt": 2}
    assert report.quarantine == str(quarantine)
    assert report.first_bad[1].startswith(f"{path} line 3: schema: no known format")


def test_without_bad_records_there_is_no_quarantine(tmp_path: Path) -> None:
    """No file is made for nothing."""
    quarantine = tmp_path / "quarantine.jsonl"
    assert load_examples(GOOD, quarantine=quarantine).load_report.quarantine is None
    assert not quarantine.exists()


def test_bad_records_are_counted_without_a_quarantine() -> None:
    """Without a file they are counted, and the first five named."""
    rows = load_examples([*GOOD, *[{"n": 1}] * 7])
    assert rows.load_report.n_quarantined == 7
    assert len(rows.load_report.first_bad) == 5


def test_fail_stops_at_the_first_bad_record(tmp_path: Path) -> None:
    """With on_bad_row=fail the message names file, line and reason, and the other choice."""
    path = _write(tmp_path / "x.jsonl", [GOOD[0], {"id": 1}])
    with pytest.raises(DataError, match=r"x\.jsonl line 2: schema: .*on_bad_row=quarantine"):
        load_examples(path, DataConfig(on_bad_row="fail"))


@pytest.mark.parametrize("records", [[], [{"id": 1}], [3]])
def test_no_rows_are_an_error(records: list[Any]) -> None:
    """A set of nothing is refused, with the first reasons."""
    with pytest.raises(DataError, match="0 rows loaded from the list given"):
        load_examples(records)


def test_a_pair_without_a_side_names_the_file(tmp_path: Path) -> None:
    """The question which side is meant names the file that raised it."""
    path = _write(tmp_path / "hh.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(ConfigError, match=r"hh\.jsonl: .*side=chosen"):
        load_examples(path)
    rows = load_examples(path, DataConfig(side="rejected"))
    assert rows[0].messages[1].content == "b"


def test_a_list_of_odd_objects_is_quarantined() -> None:
    """Records that hold themselves, or are no objects at all, are bad records, not crashes."""
    circle: dict[str, Any] = {"prompt": "q", "completion": "a"}
    circle["self"] = circle
    rows = load_examples([GOOD[0], circle, {("a", 1): 2}, object()])  # type: ignore[list-item]
    assert rows.load_report.by_kind == {"json": 2, "schema": 1}


def test_a_repeated_key_inside_a_turn_is_named(tmp_path: Path) -> None:
    """A turn with two texts is a bad record; a repeated key in an unused column is not."""
    turn = '{"role": "user", "content": "x", "content": "y"}'
    answer = '{"role": "assistant", "content": "a"}'
    unused = '{"prompt": "q", "completion": "a", "note": {"k": 1, "k": 2}}'
    path = _write(tmp_path / "x.jsonl", [f'{{"messages": [{turn}, {answer}]}}', unused])
    rows = load_examples(path)
    assert len(rows) == 1
    assert rows[0].raw == unused
    assert "an object with the key 'content' twice" in rows.load_report.first_bad[0]


def test_half_a_surrogate_in_another_column_is_kept() -> None:
    """A column that is not used cannot make a row bad; its text stays escaped."""
    row = load_examples([{**GOOD[0], "note": "\ud800"}])[0]
    assert json.loads(row.raw)["note"] == "\ud800"


def test_rows_restrict_what_is_loaded() -> None:
    """Only the named rows are kept; unknown ones are an error."""
    assert load_examples(GOOD, rows=["r2", "r0"]).source_ids == ["r0", "r2"]
    with pytest.raises(MismatchError, match="r9"):
        load_examples(GOOD, rows=["r9"])


def test_more_rows_than_a_batch(tmp_path: Path) -> None:
    """2,345 rows come back in order."""
    rows = [{"prompt": f"q{n}", "completion": "a"} for n in range(2_345)]
    loaded = load_examples(_write(tmp_path / "x.jsonl", rows))
    assert len(loaded) == 2_345
    assert loaded[2_344].messages[0].content == "q2344"


def test_a_misspelt_path_is_no_hub_id(tmp_path: Path) -> None:
    """A path that is not there is answered with close names."""
    _write(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"does not exist.*train\.jsonl"):
        load_examples(str(tmp_path / "trian.jsonl"))


def test_other_sources_are_refused() -> None:
    """A number is no data."""
    with pytest.raises(ConfigError, match="cannot be a int"):
        load_examples(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": "q"}, "fields.question is unknown"),
        ({"prompt": "q"}, "both prompt and response"),
        ({"input": "q"}, "both prompt and response"),
        ({"messages": "m", "prompt": "q"}, "excludes fields.prompt"),
    ],
)
def test_contradictory_mappings_are_refused(fields: dict[str, str], reason: str) -> None:
    """A mapping that cannot mean anything is refused with the option's name."""
    with pytest.raises(pydantic.ValidationError, match=reason):
        DataConfig(fields=fields)


def test_unknown_settings_are_refused() -> None:
    """A misspelt setting is not dropped silently."""
    with pytest.raises(pydantic.ValidationError, match="on_bad_rows"):
        DataConfig(on_bad_rows="fail")  # type: ignore[call-arg]
