"""`tamis select --certificate`: the certified rows, or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tamis.cli.certify import CertifySettings, certify_labels, draw_rows
from tamis.cli.main import cli
from tamis.cli.stages import Common
from tamis.data.load import load_examples
from tamis.errors import ConfigError, MismatchError
from tamis.files import file_sha256
from tamis.methods.scores import Scores

N = 40


def write_scores(folder: Path, values: np.ndarray) -> None:
    """Write scores of all rows, and another readout."""
    examples = load_examples(str(folder / "rows.jsonl"))
    Scores(
        method="toy", ids=examples.ids, source_ids=examples.source_ids, values=values,
        outcome=["too_long" if np.isnan(v) else "ok" for v in values], n_trained_tokens=None,
        columns={"score_other": np.where(np.isnan(values), values, 1.0)},
    ).write(folder)  # fmt: skip


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    """A ranking in `rank`, and in `certify` a certificate that keeps the better half of 38."""
    rank, out = tmp_path / "rank", tmp_path / "certify"
    rank.mkdir()
    rows = [{"id": f"r{i}", "prompt": f"Question {i}?", "completion": f"Answer {i}."}
            for i in range(N)]  # fmt: skip
    (rank / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_scores(rank, np.array([*range(N - 2), np.nan, np.nan], dtype=float))
    settings = CertifySettings.model_validate(
        {"certify": {"n_labels": 38, "kept_shares": (0.5,)}}
    )  # all scored rows
    draw_rows(settings, Common(out), scores_path=rank, data=str(rank / "rows.jsonl"))
    lines = [json.loads(line) for line in (out / "to_label.jsonl").read_text().splitlines()]
    (tmp_path / "labels.jsonl").write_text(
        "".join(json.dumps({"id": line["id"], "harmful": False}) + "\n" for line in lines)
    )
    certify_labels(
        settings, out, tmp_path / "labels.jsonl", scores_path=None, data=None, seed=None,
        unsure=None, overwrite=False,
    )  # fmt: skip
    return tmp_path


def select(folder: Path, *more: object, scores: str = "rank") -> dict[str, Any]:
    """Run the command line in this process; errors are raised as they are."""
    command = ["select", folder / scores, "--data", folder / "rank" / "rows.jsonl",
               "--certificate", folder / "certify", "--out", folder / "s", *more]  # fmt: skip
    result = CliRunner().invoke(cli, [str(part) for part in command], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((folder / "s" / "manifest.json").read_text())
    return found


def test_the_manifest_names_the_certificate(certified: Path) -> None:
    """Threshold, alpha, delta, path and hash: a reader sees that this was the certified one."""
    found, file = select(certified), certified / "certify" / "certificate.json"
    assert (found["n_kept"], found["cut"]) == (19, 19.0)
    assert found["config"]["select"]["threshold"] == 19.0
    details = found["details"]
    assert (details["alpha"], details["delta"], details["attempt"]) == (0.1, 0.05, 1)
    named = {"path": str(file.resolve()), "sha256": file_sha256(file)}
    assert details["certificate"] == found["inputs"]["certificate"] == named
    assert details["notes"][0].startswith("certified: at most 10% of the 19 rows")


def test_the_file_alone_may_be_given(certified: Path) -> None:
    """Wherever it was copied to."""
    copy = shutil.copy(certified / "certify" / "certificate.json", certified / "my.json")
    assert select(certified, "--certificate", copy)["n_kept"] == 19


def test_another_ranking_is_refused(certified: Path) -> None:
    """The scores at the same path were replaced after the certificate."""
    write_scores(certified / "rank", np.array([np.nan, np.nan, *range(N - 2)], dtype=float))
    with pytest.raises(MismatchError, match=r"other scores \(.*rank.* is not what the rows"):
        select(certified)
    assert not (certified / "s").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("select.threshold=3", r"threshold \(19\.0 certified, 3\.0 now\)"),
        ("select.readout=other", r"readout \(None certified, 'other' now\)"),
        ("select.unscored=keep", "19 rows were certified and 21 would be kept"),
    ],
)
def test_settings_that_keep_other_rows_are_refused(
    certified: Path, setting: str, said: str
) -> None:
    """Each by name; nothing is written that looks certified."""
    with pytest.raises(MismatchError, match=said):
        select(certified, "--set", setting)
    assert not (certified / "s" / "kept.jsonl").exists()


def test_a_part_of_the_certified_rows_is_refused(certified: Path) -> None:
    """Half of a certified set may be the harmful half."""
    (certified / "part.txt").write_text("\n".join(f"r{i}" for i in range(30)))
    with pytest.raises(MismatchError, match="19 rows were certified and 11 would be kept"):
        select(certified, "--rows", certified / "part.txt")


@pytest.mark.parametrize("flag", [("--ratio", 0.5), ("--threshold", 1.0), ("--rule", "mad")])
def test_no_flag_says_otherwise_where_to_cut(certified: Path, flag: tuple[str, object]) -> None:
    """The certificate does."""
    with pytest.raises(ConfigError, match=f"says where to cut: leave out {flag[0]}"):
        select(certified, *flag)


def test_a_refusal_is_no_certificate(certified: Path) -> None:
    """Nor is a folder without labels, nor another file."""
    folder = certified / "certify"
    (folder / "certificate.json").rename(folder / "refused.json")
    with pytest.raises(ConfigError, match="certify nothing: there is no threshold"):
        select(certified)
    (folder / "refused.json").unlink()
    with pytest.raises(ConfigError, match=r"certificate\.json cannot be read"):
        select(certified)
    (folder / "certificate.json").write_text('{"certified": false}')
    with pytest.raises(ConfigError, match="is no certificate that"):
        select(certified)
