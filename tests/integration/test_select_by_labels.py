"""`tamis select` by what is known of some rows, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tamis.cli.main import cli
from tamis.data.load import load_examples
from tamis.errors import ConfigError, MismatchError
from tamis.files import file_sha256
from tamis.methods.scores import Scores
from tamis.runs import Stage

N, N_HARMFUL = 200, 50


def scores(ids: list[str], source_ids: list[str | None], values: np.ndarray) -> Scores:
    """A readout of its own beside the score."""
    return Scores("toy", ids, source_ids, values, ["ok"] * len(ids), None,
                  columns={"score_other": -values})  # fmt: skip


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    """Rows scored by their number, the first quarter harmful; the ranking saved a selector."""
    rows = [{"id": f"r{i}", "prompt": f"Question {i}?", "completion": f"Answer {i}."}
            for i in range(N)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load_examples(str(tmp_path / "rows.jsonl"))
    folder = tmp_path / "rank"
    (folder / "selector").mkdir(parents=True)
    (folder / "selector" / "plane.json").write_text("{}")
    scores(examples.ids, examples.source_ids, np.arange(float(N))).write(folder)
    return folder


def labels(path: Path, rows: range) -> Path:
    """Label rows by the data's own ids."""
    path.write_text("".join(
        json.dumps({"id": f"r{i}", "harmful": i < N_HARMFUL}) + "\n" for i in rows
    ))  # fmt: skip
    return path


def trusted(folder: Path, selector: Path) -> Path:
    """What `tamis score` writes of a hundred other rows."""
    inputs = {"selector": {"path": str(selector), "sha256": file_sha256(selector)}}
    with Stage(folder, "score", {}, inputs, seed=0) as stage:
        ids = [f"{i:016x}-0" for i in range(100)]
        scores(ids, [None] * 100, np.arange(100.0, 200.0)).write(stage.folder)
        stage.finish()
    return folder


def select(ranked: Path, *options: object) -> dict[str, Any]:
    """Run the verb; errors are raised as they are."""
    data, out = ranked.parent / "rows.jsonl", ranked.parent / "select"
    arguments = ["select", ranked, "--data", data, "--out", out, "--json", *options]
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return found


def test_f_beta_goes_by_labels(ranked: Path) -> None:
    """Half of the rows are labelled, and ten that are not there: these are counted."""
    file = labels(ranked.parent / "labels.jsonl", range(1, N + 20, 2))
    found = select(ranked, "--rule", "f_beta", "--labels", file, "--set", "beta=2")
    assert found["details"]["rule"] == "f_beta"
    assert (found["cut"], found["details"]["n_labelled"]) == (51, 100)
    assert found["details"]["notes"] == [
        "10 of 110 labels are of rows that are not there, and count for nothing."
    ]
    assert found["inputs"]["labels"]["sha256"] == file_sha256(file)


def test_a_false_positive_rate_goes_by_trusted_rows(ranked: Path) -> None:
    """Scored from 100 to 199: a tenth of them lies below 110."""
    folder = trusted(ranked.parent / "score", ranked / "selector")
    found = select(ranked, "--rule", "false_positive_rate", "--trusted-scores", folder, "--set",
                   "rate=0.1")  # fmt: skip
    assert (found["cut"], found["details"]["n_harmless"]) == (110, 100)


def test_scores_by_another_ranking_are_refused(ranked: Path, tmp_path: Path) -> None:
    """Their scale is another; the readout is followed too."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plane.json").write_text("[]")
    folder = trusted(tmp_path / "score", tmp_path / "other")
    with pytest.raises(MismatchError, match="does not hold scores by the ranking"):
        select(ranked, "--rule", "false_positive_rate", "--trusted-scores", folder)
    same = trusted(tmp_path / "same", ranked / "selector")
    found = select(ranked, "--rule", "false_positive_rate", "--trusted-scores", same, "--set",
                   "rate=0.1", "--set", "readout=other")  # fmt: skip
    assert found["details"]["threshold"] == -189


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ratio", "0.5", "--labels"], "--labels say where to cut: set --rule"),
        (["--rule", "otsu", "--labels"], "set --rule to f_beta or false_positive_rate"),
        (["--rule", "f_beta"], "rule=f_beta needs labels"),
        (["--rule", "f_beta", "--trusted-scores"], "are of harmless rows"),
    ],
)
def test_what_does_not_go_together_is_refused(
    ranked: Path, options: list[object], said: str
) -> None:
    """The option is named, and nothing is kept."""
    given = {"--labels": labels(ranked.parent / "l.jsonl", range(N)), "--trusted-scores": ranked}
    with pytest.raises(ConfigError, match=said):
        select(ranked, *options, *([given[str(options[-1])]] if options[-1] in given else []))
    assert not (ranked.parent / "select" / "kept.jsonl").exists()


def test_labels_of_other_rows_are_refused(ranked: Path) -> None:
    """Most likely the wrong file."""
    file = labels(ranked.parent / "labels.jsonl", range(N, N + 9))
    with pytest.raises(MismatchError, match="none of the 9 labels"):
        select(ranked, "--rule", "f_beta", "--labels", file)
