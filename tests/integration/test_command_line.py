"""The command as a user meets it: help at once, errors in one line, exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = [
    {"id": f"r{i}", "prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(10)
]


def tamis(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "tamis", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small set of rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("module", ["tamis", "tamis.cli.main", "tamis.data.load", "tamis.methods"])
def test_import_needs_no_torch(module: str) -> None:
    """Importing the package, its command line or its data floor imports no torch."""
    code = (
        f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_names_every_verb() -> None:
    """`tamis --help` lists all verbs."""
    result = tamis("--help")
    verbs = ("rank", "score", "select", "finetune", "evaluate", "report", "inspect", "run", "plan",
             "demo", "compare", "methods", "safe-set", "prune", "export",
             "certify")  # fmt: skip
    assert result.returncode == 0
    assert [verb for verb in verbs if verb not in result.stdout] == []


def test_rank_then_select_keeps_the_rows_untouched(data: Path, tmp_path: Path) -> None:
    """kept.jsonl has the user's lines byte for byte, in their order; dropped.jsonl the rest."""
    assert tamis("rank", "uniform", "--data", data, "--out", tmp_path / "r").returncode == 0
    result = tamis(
        "select", tmp_path / "r", "--data", data, "--ratio", "0.75", "--out", tmp_path / "s"
    )
    assert result.returncode == 0, result.stderr
    kept = (tmp_path / "s" / "kept.jsonl").read_text().splitlines()
    dropped = [json.loads(x) for x in (tmp_path / "s" / "dropped.jsonl").read_text().splitlines()]
    assert len(kept) == 8  # floor(0.75 * 10 + 0.5)
    assert [line for line in data.read_text().splitlines() if line in kept] == kept
    assert {row["source_id"] for row in dropped} == {r["id"] for r in ROWS} - {
        json.loads(line)["id"] for line in kept
    }
    assert all(row["reason"] for row in dropped)


def test_same_request_is_skipped_and_another_refused(data: Path, tmp_path: Path) -> None:
    """A finished folder is not redone; another seed is refused until --overwrite."""
    command = ("rank", "uniform", "--data", data, "--out", tmp_path / "r")
    tamis(*command)
    before = (tmp_path / "r" / "manifest.json").read_bytes()
    assert tamis(*command).returncode == 0
    assert (tmp_path / "r" / "manifest.json").read_bytes() == before
    refused = tamis(*command, "--seed", "1")
    assert refused.returncode == 2
    assert "seed: 0 there, 1 now" in refused.stderr
    assert tamis(*command, "--seed", "1", "--overwrite").returncode == 0
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["seed"] == 1


def labels_of(path: Path, harmful: set[str]) -> Path:
    """Write labels for all rows."""
    lines = [json.dumps({"id": row["id"], "harmful": row["id"] in harmful}) for row in ROWS]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_labels_may_come_after_the_ranking(data: Path, tmp_path: Path) -> None:
    """They are measured against the scores that are there; other labels are measured again."""
    command = ("rank", "uniform", "--data", data, "--out", tmp_path / "r")
    tamis(*command)
    manifest = (tmp_path / "r" / "manifest.json").read_bytes()
    assert not (tmp_path / "r" / "ranking.json").exists()
    found = []
    for harmful in ({"r0", "r1"}, {"r0", "r1", "r2"}):
        labels = labels_of(tmp_path / "labels.jsonl", harmful)
        result = tamis(*command, "--labels", labels)
        assert result.returncode == 0, result.stderr
        found.append(json.loads((tmp_path / "r" / "ranking.json").read_text()))
    assert [ranking["readouts"]["score"]["n_harmful"] for ranking in found] == [2, 3]
    assert (tmp_path / "r" / "manifest.json").read_bytes() == manifest
    ends = [json.loads(line) for line in (tmp_path / "r" / "ends.jsonl").read_text().splitlines()]
    assert {row["source_id"] for row in ends if row["harmful"]} == {"r0", "r1", "r2"}


def test_labels_given_at_once_are_the_same_as_later(data: Path, tmp_path: Path) -> None:
    """One command or two: the same figures."""
    labels = labels_of(tmp_path / "labels.jsonl", {"r3", "r4"})
    tamis("rank", "uniform", "--data", data, "--out", tmp_path / "one", "--labels", labels)
    for more in ((), ("--labels", labels)):
        tamis("rank", "uniform", "--data", data, "--out", tmp_path / "two", *more)
    one, two = (tmp_path / name / "ranking.json" for name in ("one", "two"))
    assert one.read_text() == two.read_text()


def test_overwriting_spares_labels_and_cache(data: Path, tmp_path: Path) -> None:
    """They are no part of the request, but they are the user's."""
    out = tmp_path / "r"
    tamis("rank", "uniform", "--data", data, "--out", out)
    labels = labels_of(out / "labels.jsonl", {"r0"})
    command = ("rank", "uniform", "--data", data, "--out", out, "--seed", 1, "--overwrite")
    for flag, path in (("--labels", labels), ("--cache", out / "cache")):
        result = tamis(*command, flag, path)
        assert result.returncode == 2
        assert f"--overwrite would delete {path}" in result.stderr
    assert labels.exists()


def test_other_peoples_files_are_never_deleted(data: Path, tmp_path: Path) -> None:
    """--overwrite does not touch a folder that tamis did not write."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = tamis("rank", "uniform", "--data", data, "--out", tmp_path / "mine", "--overwrite")
    assert result.returncode == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rank", "sael"), "Did you mean 'seal'"),
        (("rank", "seal"), "give --safe-set"),
        (("rank", "seal", "--set", "epcohs=3"), "Did you mean 'method.epochs'"),
        (("rank", "seal", "--set", "epochs=0"), "epochs"),
        (("rank", "uniform", "--set", "data.side=left"), "data.side"),
        (("rank", "uniform", "--rows", "nothing.txt"), "nothing.txt"),
    ],
)
def test_user_errors_are_one_line_with_exit_code_2(
    arguments: tuple[str, ...], said: str, data: Path, tmp_path: Path
) -> None:
    """A mistake gives exit code 2 and one line that says what to change, never a traceback."""
    result = tamis(*arguments, "--data", data, "--out", tmp_path / "r")
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")


def test_row_without_a_score_is_named(data: Path, tmp_path: Path) -> None:
    """Selecting from data that was not ranked is refused and names the missing rows."""
    tamis("rank", "uniform", "--data", data, "--out", tmp_path / "r")
    more = tmp_path / "more.jsonl"
    extra = {"id": "new", "prompt": "New?", "completion": "New."}
    more.write_text(data.read_text() + json.dumps(extra) + "\n")
    result = tamis("select", tmp_path / "r", "--data", more, "--count", 3, "--out", tmp_path / "s")
    assert result.returncode == 2
    assert "1 of 11 rows of the data are not in the scores" in result.stderr


def test_bad_rows_are_quarantined_and_counted(tmp_path: Path) -> None:
    """A bad record is left out, told on the terminal and kept in quarantine.jsonl."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"prompt": "cut\n')
    result = tamis("rank", "uniform", "--data", path, "--out", tmp_path / "r")
    assert result.returncode == 0
    assert "1 bad records left out" in result.stdout
    (line,) = (tmp_path / "r" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == 11
    refused = tamis(
        "rank", "uniform", "--data", path, "--out", tmp_path / "f", "--on-bad-row", "fail"
    )
    assert refused.returncode == 2


def test_methods_lists_every_method_with_its_needs() -> None:
    """As a table for people and as JSON for programs; costs and sources, whole."""
    shown = tamis("methods")
    assert shown.returncode == 0, shown.stderr
    listed = {found["method"]: found for found in json.loads(tamis("methods", "--json").stdout)}
    from tamis.methods import METHODS

    assert list(listed) == list(METHODS)
    assert listed["seal"]["needs"] == ["model", "safe set"]
    assert all(found["what"] and found["source"] and found["cost"] for found in listed.values())
    assert listed["guard"]["needs"] == ["a guard, in `guard`"]
    assert listed["saft"]["cost"] == "one forward pass"
    assert "Source: RHO-loss, Mindermann et al. 2022" in shown.stdout


def test_a_safe_set_can_be_built_and_read(data: Path, tmp_path: Path) -> None:
    """Rows of the data and shipped refusals at the share that was asked for; said in counts."""
    result = tamis("safe-set", "--from", data, "--share", "0.5", "--out", tmp_path / "safe.jsonl")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "safe.jsonl").read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert (kinds.count("ordinary"), kinds.count("demonstration")) == (10, 10)
    assert "20 rows, 10 of them demonstrations" in result.stdout
    assert all(row["id"].startswith(f"{row['kind']}/") for row in rows)
    again = tamis("safe-set", "--from", data, "--out", data)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    ranked = tamis("rank", "uniform", "--data", tmp_path / "safe.jsonl", "--out", tmp_path / "r")
    assert ranked.returncode == 0, ranked.stderr


def test_a_safe_set_is_built_from_mapped_rows_and_pairs(tmp_path: Path) -> None:
    """Columns are named for the ordinary rows, a side for the demonstrations; --set or a file."""
    ordinary, pairs = tmp_path / "ordinary.jsonl", tmp_path / "pairs.jsonl"
    ordinary.write_text(
        "".join(json.dumps({"q": f"Q{i}?", "a": f"A{i}."}) + "\n" for i in range(3))
    )
    pairs.write_text("".join(
        json.dumps({"prompt": f"P{i}", "chosen": f"No {i}.", "rejected": f"Sure {i}."}) + "\n"
        for i in range(2)
    ))  # fmt: skip
    config = tmp_path / "safe.yaml"
    config.write_text("data: {fields: {prompt: q, response: a}}\n")
    result = tamis(
        "safe-set", "--from", ordinary, "--demonstrations", pairs, "--config", config,
        "--set", "demonstration_data.side=chosen", "--out", tmp_path / "safe.jsonl",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "safe.jsonl").read_text().splitlines()]
    answers = sorted(row["messages"][-1]["content"] for row in rows)
    assert answers == ["A0.", "A1.", "A2.", "No 0.", "No 1."]


def test_a_safe_set_of_pairs_takes_the_setting_that_its_error_names(tmp_path: Path) -> None:
    """Without a side it is refused with what to set; set, it is the answers' side."""
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "Whatever."}
    pairs.write_text(json.dumps(row) + "\n")
    command = ("safe-set", "--from", pairs, "--share", "0", "--out", tmp_path / "safe.jsonl")
    refused = tamis(*command)
    assert (refused.returncode, "--set side=chosen" in refused.stderr) == (2, True)
    assert tamis(*command, "--set", "side=chosen").returncode == 0
    (built,) = map(json.loads, (tmp_path / "safe.jsonl").read_text().splitlines())
    assert built["messages"][-1]["content"] == "Because."


def test_a_safe_set_refuses_a_bad_record_where_asked(data: Path, tmp_path: Path) -> None:
    """--on-bad-row fail, as for every verb that reads rows; by default it is left out."""
    data.write_text(data.read_text() + '{"prompt": "cut\n')
    command = ("safe-set", "--from", data, "--share", "0", "--out", tmp_path / "safe.jsonl")
    refused = tamis(*command, "--on-bad-row", "fail")
    assert (refused.returncode, "line 11" in refused.stderr) == (2, True)
    assert "--from: 1 bad records left out" in tamis(*command).stdout


def test_a_way_to_read_demonstrations_needs_some(data: Path, tmp_path: Path) -> None:
    """The shipped ones are read as they are: the setting would change nothing."""
    result = tamis("safe-set", "--from", data, "--set", "demonstration_data.side=chosen",
                   "--out", tmp_path / "safe.jsonl")  # fmt: skip
    assert (result.returncode, "give --demonstrations" in result.stderr) == (2, True)
