"""`tamis certify` and `tamis select --rule` as a user meets them."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.cli.main import main
from tamis.data.load import DataConfig, load_examples
from tamis.methods.scores import Scores

N, N_HARMFUL, N_LABELS = 600, 150, 200


def tamis(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command's main function here: a process of its own would take seconds each time."""
    command, before = ["tamis", *map(str, arguments)], sys.argv
    out, err = io.StringIO(), io.StringIO()
    sys.argv, code = command, None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(command, int(code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of which the first quarter is harmful, and scores that put those lowest.

    Two rows have no score. The column `score_flat` is a second readout without groups.
    """
    folder = tmp_path_factory.mktemp("ranked")
    rows = [{"id": f"r{i}", "prompt": f"Question {i}?", "completion": f"Answer {i}."}
            for i in range(N)]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load_examples(str(folder / "rows.jsonl"))
    noise = np.random.default_rng(0).normal(size=N)
    values = noise + np.where(np.arange(N) < N_HARMFUL, -6.0, 0.0)
    values[-2:] = np.nan
    Scores(
        method="toy", ids=examples.ids, source_ids=examples.source_ids, values=values,
        outcome=["too_long" if np.isnan(v) else "ok" for v in values], n_trained_tokens=None,
        columns={"score_flat": noise},
    ).write(folder)  # fmt: skip
    return folder


def draw(ranked: Path, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Draw rows to label."""
    return tamis("certify", "--scores", ranked, "--data", ranked / "rows.jsonl", "--out", out,
                 "--n-labels", N_LABELS, *more)  # fmt: skip


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read JSONL."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def fill(path: Path, to: Path, *, harmful: Any = None) -> Path:
    """Answer every row of a draw, by the truth or all in one way."""
    rows = lines_of(path)
    for row in rows:
        number = int(row["messages"][0]["content"].removeprefix("Question ").removesuffix("?"))
        row["harmful"] = number < N_HARMFUL if harmful is None else harmful
    to.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return to


@pytest.fixture(scope="module")
def drawn(ranked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished draw."""
    out = tmp_path_factory.mktemp("draw") / "certify"
    result = draw(ranked, out)
    assert result.returncode == 0, result.stderr
    assert "200 of 598 scored rows drawn" in result.stdout
    return out


@pytest.fixture
def copy(drawn: Path, tmp_path: Path) -> Path:
    """A draw of one's own, to certify in."""
    out = tmp_path / "certify"
    out.mkdir()
    for name in ("config.yaml", "manifest.json", "to_label.jsonl"):
        (out / name).write_bytes((drawn / name).read_bytes())
    return out


def test_rows_to_label_show_no_score(drawn: Path, ranked: Path) -> None:
    """Ids, conversations and an empty field; neither in the scores' nor in the file's order."""
    rows = lines_of(drawn / "to_label.jsonl")
    assert {tuple(row) for row in rows} == {("id", "messages", "harmful")}
    assert {row["harmful"] for row in rows} == {None}
    scores = Scores.read(ranked)
    place = {row_id: i for i, row_id in enumerate(scores.ids)}
    places = [place[row["id"]] for row in rows]
    assert len(set(places)) == N_LABELS
    assert not np.isnan(scores.values[places]).any()
    assert abs(np.corrcoef(places, range(N_LABELS))[0, 1]) < 0.3
    assert abs(np.corrcoef(scores.values[places], range(N_LABELS))[0, 1]) < 0.3


def test_the_draw_is_decided_by_the_seed(drawn: Path, ranked: Path, tmp_path: Path) -> None:
    """The same seed draws the same rows, another one others."""
    assert draw(ranked, tmp_path / "same", "--seed", 0).returncode == 0
    assert draw(ranked, tmp_path / "other", "--seed", 1).returncode == 0
    first = (drawn / "to_label.jsonl").read_bytes()
    assert (tmp_path / "same" / "to_label.jsonl").read_bytes() == first
    assert (tmp_path / "other" / "to_label.jsonl").read_bytes() != first


def test_true_labels_certify_and_the_threshold_selects(copy: Path, tmp_path: Path) -> None:
    """Filled in place; `tamis select` as printed keeps rows as many and as clean as certified."""
    labels = fill(copy / "to_label.jsonl", copy / "to_label.jsonl")
    result = tamis("certify", "--out", copy, "--labels", labels)
    assert result.returncode == 0, result.stderr
    found = json.loads((copy / "certificate.json").read_text())
    assert found["certified"] is True
    assert (found["alpha"], found["delta"], found["n_labels"], found["seed"]) == (0.1, 0.05, 200, 0)
    assert f"at most 10% of the {found['n_kept']:,} rows" in result.stdout
    assert found["upper_bound"] <= 0.1
    assert found["walk"]["certified"]["threshold"] == found["threshold"]
    command = result.stdout.split("tamis select ")[1].replace("DIR", str(tmp_path / "s")).split()
    assert command[command.index("--certificate") + 1] == str(copy)
    selected = tamis("select", *command)
    assert selected.returncode == 0, selected.stderr
    kept = lines_of(tmp_path / "s" / "kept.jsonl")
    assert len(kept) == found["n_kept"] >= 0.5 * N
    assert sum(int(row["id"][1:]) < N_HARMFUL for row in kept) <= 0.1 * len(kept)
    page = tmp_path / "report.html"
    assert tamis("report", copy, "--out", page).returncode == 0
    assert f"Certified: at most 10% of the {found['n_kept']:,} rows" in page.read_text()


def test_the_printed_selection_works_for_a_part_of_the_data(tmp_path: Path) -> None:
    """Rows with columns of their own, half of them ranked, another readout: run as it stands."""
    rows = [{"id": f"r{i}", "q": f"Question {i}?", "a": f"Answer {i}."} for i in range(N)]
    data = tmp_path / "more rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"prompt": "q", "response": "a", "id": "id"}
    ids = load_examples(str(data), DataConfig(fields=fields)).restrict(
        [f"r{i}" for i in range(0, N, 2)]
    )
    harmless = np.arange(0, N, 2) >= N_HARMFUL
    (tmp_path / "rank").mkdir()
    Scores(
        method="toy", ids=ids.ids, source_ids=ids.source_ids, values=np.zeros(N // 2),
        outcome=["ok"] * (N // 2), n_trained_tokens=None,
        columns={"score_good": harmless + np.linspace(0, 0.1, N // 2)},
    ).write(tmp_path / "rank")  # fmt: skip
    out = tmp_path / "certify"
    drawn = tamis("certify", "--scores", tmp_path / "rank", "--data", data, "--out", out,
                  "--n-labels", 200, "--set", "readout=good", "--set",
                  f"data.fields={json.dumps(fields)}")  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    labels = fill(out / "to_label.jsonl", out / "to_label.jsonl")
    result = tamis("certify", "--out", out, "--labels", labels)
    assert result.returncode == 0, result.stderr
    command = result.stdout.split("tamis select ")[1].replace("--out DIR", "")
    selected = tamis("select", *shlex.split(command), "--out", tmp_path / "s")
    assert selected.returncode == 0, selected.stderr
    found = json.loads((out / "certificate.json").read_text())
    assert len(lines_of(tmp_path / "s" / "kept.jsonl")) == found["n_kept"]


def test_a_draw_needs_every_ranked_row(ranked: Path, tmp_path: Path) -> None:
    """A certificate is about all ranked rows: data without some of them is refused at once."""
    fewer = tmp_path / "rows.jsonl"
    fewer.write_text("".join((ranked / "rows.jsonl").read_text().splitlines(True)[:-2]))
    result = tamis("certify", "--scores", ranked, "--data", fewer, "--out", tmp_path / "c",
                   "--n-labels", 5)  # fmt: skip
    assert (result.returncode, "2 of 600 named rows are not in the data" in result.stderr) == (
        2, True,
    ), result.stderr  # fmt: skip


def test_labels_alone_may_name_the_users_ids(copy: Path, tmp_path: Path) -> None:
    """JSONL of id and harmful, in any order, by the data's own ids; the result is the same."""
    filled = fill(copy / "to_label.jsonl", tmp_path / "filled.jsonl")
    assert tamis("certify", "--out", copy, "--labels", filled).returncode == 0
    one = json.loads((copy / "certificate.json").read_text())
    own = [{"id": "r" + row["messages"][0]["content"].removeprefix("Question ")[:-1],
            "harmful": row["harmful"]} for row in lines_of(filled)]  # fmt: skip
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps(row) + "\n" for row in reversed(own)))
    result = tamis("certify", "--out", copy, "--labels", bare, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["walk"] == one["walk"]


def test_a_refusal_is_an_error_and_leaves_its_figures(copy: Path, tmp_path: Path) -> None:
    """Exit code 2, what would help, refused.json; no certificate."""
    labels = fill(copy / "to_label.jsonl", tmp_path / "l.jsonl", harmful=True)
    result = tamis("certify", "--out", copy, "--labels", labels)
    assert result.returncode == 2
    assert "no threshold is certified" in result.stderr
    assert "More labels would not help" in result.stderr
    found = json.loads((copy / "refused.json").read_text())
    assert (found["certified"], found["threshold"]) == (False, None)
    assert not (copy / "certificate.json").exists()
    shown = tamis("report", copy, "--out", tmp_path / "report.html")
    assert "Refused: no threshold is certified" in shown.stdout


def change(rows: list[dict[str, Any]], kind: str, ranked: Path) -> list[dict[str, Any]]:
    """Spoil a filled file."""
    rows = [dict(row) for row in rows]
    if kind == "missing":
        return rows[1:]
    if kind == "extra":
        known = {row["id"] for row in rows}
        other = next(i for i in Scores.read(ranked).ids if i not in known)
        return [*rows, {"id": other, "harmful": False}]
    if kind == "twice":
        return [*rows, rows[0]]
    rows[0]["harmful"] = {"null": None, "one": 1, "text": "false"}[kind]
    return rows


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "1 of 200 drawn rows have no line"),
        ("extra", "1 labelled rows in"),
        ("twice", "was already used in line 1"),
        ("null", "1 of 200 rows in"),
        ("one", "line 1: 'harmful' is 1. Write true or false"),
        ("text", "line 1: 'harmful' is 'false'. Write true or false"),
    ],
)
def test_labels_of_other_rows_are_refused(
    kind: str, said: str, copy: Path, ranked: Path, tmp_path: Path
) -> None:
    """Exactly the drawn rows, each true or false; the odd ones are named."""
    filled = lines_of(fill(copy / "to_label.jsonl", tmp_path / "f.jsonl"))
    spoiled = tmp_path / "spoiled.jsonl"
    rows = change(filled, kind, ranked)
    spoiled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = tamis("certify", "--out", copy, "--labels", spoiled)
    assert result.returncode == 2
    assert said in result.stderr
    named = rows[-1]["id"] if kind == "extra" else filled[0]["id"]
    assert named in result.stderr or kind in ("one", "text")
    assert not (copy / "certificate.json").exists()


def test_unsure_rows_may_count_as_harmful(copy: Path, tmp_path: Path) -> None:
    """Null is then the cautious answer, and counted."""
    rows = lines_of(fill(copy / "to_label.jsonl", tmp_path / "f.jsonl"))
    n_harmful = sum(row["harmful"] for row in rows)
    clean = next(row for row in rows if not row["harmful"])
    clean["harmful"] = None
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = tamis("certify", "--out", copy, "--labels", tmp_path / "f.jsonl", "--unsure",
                   "harmful", "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["n_unsure_counted_harmful"], found["n_harmful"]) == (1, n_harmful + 1)


def test_what_is_certified_is_fixed_by_the_draw(copy: Path, ranked: Path, tmp_path: Path) -> None:
    """Another alpha, seed or ranking is refused with the labels in hand; the same ones are not."""
    labels = fill(copy / "to_label.jsonl", tmp_path / "l.jsonl")
    scores = Scores.read(ranked)
    (tmp_path / "other").mkdir()
    scores.with_readout("flat").write(tmp_path / "other")
    for flags, said in (
        (("--alpha", 0.3), "alpha (0.1 there, 0.3 now)"),
        (("--seed", 4), "seed (0 there, 4 now)"),
        (("--set", "readout=flat"), "readout (None there, 'flat' now)"),
        (("--scores", tmp_path / "other"), "is not what the rows were drawn from"),
    ):
        result = tamis("certify", "--out", copy, "--labels", labels, *flags)
        assert (result.returncode, said in result.stderr) == (2, True), result.stderr
    same = draw(ranked, copy, "--labels", labels, "--seed", 0, "--alpha", 0.1)
    assert same.returncode == 0, same.stderr


def test_overwriting_a_draw_spares_its_labels(copy: Path, ranked: Path) -> None:
    """Another draw into the folder would delete what a person filled in."""
    fill(copy / "to_label.jsonl", copy / "to_label.jsonl")
    before = (copy / "to_label.jsonl").read_bytes()
    result = draw(ranked, copy, "--seed", 9, "--overwrite")
    assert result.returncode == 2
    assert "--overwrite would delete" in result.stderr
    assert (copy / "to_label.jsonl").read_bytes() == before


def test_labels_need_a_draw(ranked: Path, tmp_path: Path) -> None:
    """Labels of rows chosen in another way certify nothing; nor are more rows drawn than scored."""
    labels = tmp_path / "l.jsonl"
    labels.write_text('{"id": "r1", "harmful": false}\n')
    result = tamis("certify", "--out", tmp_path / "new", "--labels", labels)
    assert (result.returncode, "holds no draw" in result.stderr) == (2, True)
    assert not (tmp_path / "new").exists()
    result = draw(ranked, tmp_path / "all", "--set", "n_labels=599")
    assert (result.returncode, "598 rows have a score, fewer than" in result.stderr) == (2, True)
    result = tamis("certify", "--out", tmp_path / "new")
    assert (result.returncode, "give --scores and --data" in result.stderr) == (2, True)


def test_select_finds_its_threshold_by_a_rule(ranked: Path, tmp_path: Path) -> None:
    """The threshold with its figures and notes is in the manifest; the groups are 6 apart."""
    out = tmp_path / "s"
    result = tamis("select", ranked, "--data", ranked / "rows.jsonl", "--rule", "mixture",
                   "--out", out)  # fmt: skip
    assert result.returncode == 0, result.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    details = manifest["details"]
    assert (details["rule"], details["n_scored"], details["n_unscored"]) == ("mixture", 598, 2)
    assert -5 < details["threshold"] < -2
    assert manifest["cut"] >= details["threshold"]
    assert "note: the lower component" in result.stdout.replace("\n", " ")
    kept = {int(row["id"][1:]) for row in lines_of(out / "kept.jsonl")}
    assert len(kept & set(range(N_HARMFUL))) <= 3
    page = tmp_path / "report.html"
    assert tamis("report", out, "--out", page).returncode == 0
    assert "Rule: rule mixture." in page.read_text()


def test_select_refuses_where_a_rule_finds_nothing(ranked: Path, tmp_path: Path) -> None:
    """A readout of one group: exit code 2, and what to do instead."""
    result = tamis("select", ranked, "--data", ranked / "rows.jsonl", "--rule", "otsu", "--set",
                   "readout=flat", "--out", tmp_path / "s")  # fmt: skip
    assert result.returncode == 2
    assert "rule=otsu finds no threshold" in result.stderr
    assert not (tmp_path / "s" / "kept.jsonl").exists()
