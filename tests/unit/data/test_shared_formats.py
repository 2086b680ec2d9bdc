"""The shared folder of 30 rows in all formats, and its 21 damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.data.example import Examples
from tamis.data.load import DataConfig, load_examples
from tamis.errors import ConfigError, DataError, DuplicateIdError

SAME_AS_CANONICAL = (
    "alpaca.csv", "alpaca.json", "alpaca.jsonl", "alpaca.parquet", "alpaca.tsv", "dolly.jsonl",
    "messages.jsonl", "messages.jsonl.gz", "messages.parquet", "messages_unicode_escaped.jsonl",
    "prompt_completion.jsonl", "prompt_completion_chat.jsonl", "sharegpt.json", "sharegpt.jsonl",
)  # fmt: skip
WHOLE_FILE_FAULTS = {
    "latin1.jsonl": "not UTF-8.*iconv",
    "utf16.jsonl": "UTF-16.*iconv",
    "empty.jsonl": "is empty",
    "truncated.json": "not one whole JSON document",
    "truncated.jsonl.gz": "not a whole gzip file",
    "truncated.parquet": "not a whole Parquet file",
}
ROW_FAULTS = (
    "truncated_line.jsonl", "truncated_middle.jsonl", "missing_keys.jsonl", "null_content.jsonl",
    "roles_out_of_order.jsonl", "odd_values.jsonl", "mixed_schema.jsonl", "bad_csv.csv",
    "control_chars.jsonl",
)  # fmt: skip
LOAD_WHOLE = (
    "bom.jsonl", "blank_lines.jsonl", "huge_row.jsonl", "object_not_list.json", "array_in.jsonl",
)  # fmt: skip
TEXT_PARTS = ("odd_values.jsonl", 6)  # the one listed line that may be accepted, and is


@pytest.fixture
def formats(test_data: Path) -> Path:
    """The folder of formats."""
    return test_data / "formats"


@pytest.fixture
def expected(formats: Path) -> dict[str, Any]:
    """What is wrong with each damaged file."""
    loaded: dict[str, Any] = json.loads((formats / "bad" / "expected.json").read_text("utf-8"))
    return loaded


def _turns(rows: Examples) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in row.messages] for row in rows]


@pytest.mark.parametrize("name", SAME_AS_CANONICAL)
def test_every_format_gives_the_canonical_rows(formats: Path, name: str) -> None:
    """The 30 rows have the same turns and ids in every format."""
    canonical, rows = load_examples(formats / "canonical.jsonl"), load_examples(formats / name)
    assert _turns(rows) == _turns(canonical)
    assert rows.ids == canonical.ids
    assert rows.load_report.n_quarantined == 0


def test_openorca_keeps_its_system_prompts(formats: Path) -> None:
    """Every third row has a system turn before the canonical turns, the others none."""
    canonical = _turns(load_examples(formats / "canonical.jsonl"))
    rows = _turns(load_examples(formats / "openorca.jsonl"))
    assert [turns[-2:] for turns in rows] == canonical
    assert [turns[0][0] == "system" for turns in rows] == [n % 3 == 0 for n in range(30)]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_hh_pairs_load_with_a_side(formats: Path, side: Any) -> None:
    """Each of the 15 pairs gives the asked side's dialogue, whose texts are in the record."""
    rows = load_examples(formats / "hh_rlhf.jsonl.gz", DataConfig(side=side))
    assert len(rows) == 15
    for row in rows:
        dialogue = json.loads(row.raw)[side]
        assert dialogue.rstrip().endswith(row.messages[-1].content)
        assert dialogue.count("\n\nHuman:") == sum(m.role == "user" for m in row.messages)


def test_hh_pairs_need_a_side(formats: Path) -> None:
    """Without a side the pairs are a question to the user."""
    with pytest.raises(ConfigError, match="side=chosen"):
        load_examples(formats / "hh_rlhf.jsonl.gz")


def test_multi_turn_rows_load(formats: Path) -> None:
    """All 25 multi-turn rows load, 10 of them with a system turn."""
    rows = load_examples(formats / "chat_multiturn.jsonl")
    assert len(rows) == 25
    assert sum(row.messages[0].role == "system" for row in rows) == 10


def test_every_damaged_file_is_covered(expected: dict[str, Any]) -> None:
    """No file of the folder is missing from these tests."""
    covered = {*WHOLE_FILE_FAULTS, *ROW_FAULTS, *LOAD_WHOLE, "duplicate_ids.jsonl"}
    assert covered == expected.keys()
    assert len(covered) == 21


@pytest.mark.parametrize(("name", "reason"), WHOLE_FILE_FAULTS.items())
def test_whole_file_faults_are_refused(formats: Path, name: str, reason: str) -> None:
    """A file that cannot be trusted as a whole raises DataError with its name."""
    with pytest.raises(DataError, match=reason) as caught:
        load_examples(formats / "bad" / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ROW_FAULTS)
def test_row_faults_are_quarantined(
    formats: Path, expected: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """Exactly the bad lines are quarantined, with their kind; all other rows load."""
    want = expected[name]
    bad_lines = [line for line in want["bad_lines"] if (name, line) != TEXT_PARTS]
    quarantine = tmp_path / "quarantine.jsonl"
    rows = load_examples(formats / "bad" / name, quarantine=quarantine)
    written = [json.loads(line) for line in quarantine.read_text("utf-8").splitlines()]
    assert [bad["line"] for bad in written] == bad_lines
    assert {bad["kind"] for bad in written} == {want["kind"]}
    assert all(Path(bad["file"]).name == name and bad["reason"] for bad in written)
    header = name.endswith(".csv")
    assert len(rows) == want["lines"] - header - len(bad_lines)


@pytest.mark.parametrize("name", ["truncated_line.jsonl", "odd_values.jsonl", "bad_csv.csv"])
def test_quarantined_text_is_as_it_stood(formats: Path, tmp_path: Path, name: str) -> None:
    """The raw text of a bad record is the file's own line."""
    quarantine = tmp_path / "quarantine.jsonl"
    load_examples(formats / "bad" / name, quarantine=quarantine)
    lines = (formats / "bad" / name).read_text("utf-8").split("\n")
    for text in quarantine.read_text("utf-8").splitlines():
        bad = json.loads(text)
        assert bad["raw"] == lines[bad["line"] - 1]


@pytest.mark.parametrize("name", LOAD_WHOLE)
def test_odd_but_sound_files_load_whole(formats: Path, expected: dict[str, Any], name: str) -> None:
    """BOM, blank lines, a huge row, a wrapped list and an array in .jsonl lose nothing."""
    rows = load_examples(formats / "bad" / name)
    assert (len(rows), rows.load_report.n_quarantined) == (expected[name]["lines"], 0)


def test_the_huge_row_is_not_cut(formats: Path) -> None:
    """Line 5 keeps its 200,000 characters."""
    rows = load_examples(formats / "bad" / "huge_row.jsonl")
    assert max(len(m.content) for m in rows[4].messages) >= 200_000


def test_repeated_ids_are_kept_and_counted(formats: Path) -> None:
    """Lines 4, 8 and 10 repeat an id, line 10 its row: all load and a join by them is refused."""
    rows = load_examples(formats / "bad" / "duplicate_ids.jsonl")
    report = rows.load_report
    assert (len(rows), report.n_repeated_source_ids, report.n_repeated_rows) == (12, 3, 1)
    assert len(set(rows.ids)) == 12
    with pytest.raises(DuplicateIdError, match="fmt-00"):
        rows.restrict(["fmt-00"])


def test_the_folder_of_formats_loads_as_one(formats: Path) -> None:
    """A folder of mixed formats is one set; its subfolder is named as ignored."""
    rows = load_examples(formats, DataConfig(side="chosen"))
    assert len(rows.load_report.files) == 18
    assert [Path(name).name for name in rows.load_report.ignored_files] == ["bad"]
    assert len(rows) == 16 * 30 + 25 + 15


@pytest.mark.parametrize("name", ["c05", "c10", "c20", "c30"])
def test_variants_restrict_the_pool(test_data: Path, name: str) -> None:
    """The id lists of the contamination variants name rows of the training file."""
    from tamis.data.row_lists import read_row_list

    folder = test_data / "redorca_mini"
    wanted = read_row_list(folder / "variants" / f"{name}.json")
    rows = load_examples(folder / "train.jsonl", rows=wanted)
    assert set(rows.source_ids) == set(wanted)
