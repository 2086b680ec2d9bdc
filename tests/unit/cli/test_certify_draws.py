"""Draws of `tamis certify`: what decides them, how attempts share delta, which labels count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.cli.certify import CertifySettings, certify_labels, draw_rows
from tamis.cli.certify_results import write_result
from tamis.cli.stages import Common
from tamis.data.load import load_examples
from tamis.errors import ConfigError, DataError, MismatchError
from tamis.methods.scores import Scores

N, N_LABELS = 80, 40


def ranking(folder: Path, values: np.ndarray) -> Path:
    """Write rows and their scores."""
    rows = [{"id": f"r{i}", "prompt": f"Question {i}?", "completion": f"Answer {i}."}
            for i in range(N)]  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load_examples(str(folder / "rows.jsonl"))
    Scores(
        method="toy", ids=examples.ids, source_ids=examples.source_ids, values=values,
        outcome=["ok"] * N, n_trained_tokens=None, columns={"score_other": -values},
    ).write(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with scores from 79 down to 0."""
    return ranking(tmp_path_factory.mktemp("ranked") / "rank", np.arange(float(N))[::-1].copy())


def draw(
    ranked: Path, out: Path, *, seed: int = 0, overwrite: bool = False, **wanted: Any
) -> list[str]:
    """Draw rows to label and return their ids."""
    settings = CertifySettings.model_validate({"certify": {"n_labels": N_LABELS, **wanted}})
    common = Common(out, seed, overwrite=overwrite)
    found = draw_rows(settings, common, scores_path=ranked, data=str(ranked / "rows.jsonl"))
    return list(found["drawn"])


def label(out: Path, *, harmful: Any = False) -> list[dict[str, Any]]:
    """Answer every row of a draw in one way."""
    lines = [json.loads(line) for line in (out / "to_label.jsonl").read_text().splitlines()]
    return [{**line, "harmful": harmful} for line in lines]


def judge(
    out: Path, lines: list[dict[str, Any]], *, unsure: str | None = None, overwrite: bool = False,
    name: str = "labels.jsonl",
) -> dict[str, Any]:  # fmt: skip
    """Certify with labels."""
    path = out.parent / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return certify_labels(
        CertifySettings(), out, path, scores_path=None, data=None, seed=None, unsure=unsure,
        overwrite=overwrite,
    )  # fmt: skip


def written(path: Path) -> dict[str, Any]:
    """Read a result."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize(
    "changed",
    [
        {"alpha": 0.2},
        {"delta": 0.2},
        {"attempt": 2},
        {"kept_shares": (0.5, 1.0)},
        {"readout": "other"},
    ],
    ids=str,
)
def test_labels_fit_what_they_were_drawn_for_alone(
    ranked: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """Whatever is fixed decides the draw: another alpha, say, draws other rows with the seed."""
    first = draw(ranked, tmp_path / "one")
    assert draw(ranked, tmp_path / "same") == first
    assert set(draw(ranked, tmp_path / "other", **changed)) != set(first)


def test_another_ranking_of_the_same_rows_draws_others(ranked: Path, tmp_path: Path) -> None:
    """So labels cannot choose among rankings and then certify the chosen one."""
    other = ranking(tmp_path / "rank", np.arange(float(N)))
    first, second = draw(ranked, tmp_path / "one"), draw(other, tmp_path / "two")
    assert len(set(first) & set(second)) < N_LABELS


def test_an_attempt_is_tested_at_its_part_of_delta(ranked: Path, tmp_path: Path) -> None:
    """The second at a quarter; the certificate says so, and what all attempts may spend."""
    draw(ranked, tmp_path / "c", attempt=2, alpha=0.5)
    found = judge(tmp_path / "c", label(tmp_path / "c"))
    assert (found["attempt"], found["delta"], found["delta_of_all_attempts"]) == (2, 0.025, 0.1)
    assert found["walk"]["delta"] == 0.025
    assert "at most 2.5% (attempt 2; 10% over all attempts together)" in found["guarantee"]


def test_a_refusal_names_the_next_attempt(ranked: Path, tmp_path: Path) -> None:
    """And not a larger alpha alone, which would be a second try at the same price."""
    draw(ranked, tmp_path / "c", attempt=2)
    with pytest.raises(ConfigError, match=r"draw anew.*another --out and --attempt 3\."):
        judge(tmp_path / "c", label(tmp_path / "c", harmful=True))
    assert "--attempt 3" in written(tmp_path / "c" / "refused.json")["refusal"]


def test_a_judged_draw_is_not_overwritten(ranked: Path, tmp_path: Path) -> None:
    """A refusal must not vanish for the next draw; one that nobody judged may."""
    out = tmp_path / "c"
    draw(ranked, out)
    draw(ranked, out, seed=1, overwrite=True)
    with pytest.raises(ConfigError, match="no threshold is certified"):
        judge(out, label(out, harmful=True))
    before = (out / "refused.json").read_bytes()
    with pytest.raises(ConfigError, match=r"another --out, and --attempt 2 if"):
        draw(ranked, out, seed=2, overwrite=True)
    assert (out / "refused.json").read_bytes() == before


def test_replaced_labels_leave_a_trace(ranked: Path, tmp_path: Path) -> None:
    """What the mistaken ones gave stays in the new result, and its guarantee tells."""
    out = tmp_path / "c"
    draw(ranked, out, alpha=0.5)
    with pytest.raises(ConfigError, match="no threshold is certified"):
        judge(out, label(out, harmful=True))
    with pytest.raises(ConfigError, match="made from other labels"):
        judge(out, label(out))
    found = judge(out, label(out), overwrite=True)
    (replaced,) = found["replaced"]
    assert (replaced["certified"], replaced["n_harmful"]) == (False, N_LABELS)
    assert "judged before (1 in all): this counts only if they were mistaken" in found["guarantee"]
    assert not (out / "refused.json").exists()


def test_the_same_answers_in_other_bytes_are_the_same_labels(ranked: Path, tmp_path: Path) -> None:
    """Another order, other keys, the data's own ids: no second judgement."""
    out = tmp_path / "c"
    draw(ranked, out, alpha=0.5)
    lines = label(out)
    first = judge(out, lines)
    own = [{"harmful": line["harmful"], "id": line["id"], "by": "me"} for line in lines[::-1]]
    second = judge(out, own)
    assert second["walk"] == first["walk"]
    assert second["replaced"] == []
    assert second["labels"]["sha256"] != first["labels"]["sha256"]


@pytest.mark.parametrize("unsure", [None, "harmful"])
def test_a_file_without_any_answer_is_no_labels(
    ranked: Path, tmp_path: Path, unsure: str | None
) -> None:
    """An untouched to_label.jsonl certifies and refuses nothing."""
    draw(ranked, tmp_path / "c")
    before = sorted(path.name for path in (tmp_path / "c").iterdir())
    with pytest.raises(DataError, match=r"no row in .* has an answer"):
        judge(tmp_path / "c", label(tmp_path / "c", harmful=None), unsure=unsure)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == before


def test_conversations_shifted_against_their_ids_are_refused(ranked: Path, tmp_path: Path) -> None:
    """The first such line is named; a conversation that is nothing of the kind is one, too."""
    draw(ranked, tmp_path / "c", alpha=0.5)
    lines = label(tmp_path / "c")
    lines[5]["messages"], lines[7]["messages"] = lines[7]["messages"], lines[5]["messages"]
    with pytest.raises(MismatchError, match=rf"line 6: .* not that of row {lines[5]['id']}"):
        judge(tmp_path / "c", lines)
    for odd in ("text", [{"role": "user"}], [3], 4):
        with pytest.raises(MismatchError, match="line 1: the conversation is not that of row"):
            judge(tmp_path / "c", [{**lines[0], "messages": odd}, *lines[1:]])
    assert not (tmp_path / "c" / "certificate.json").exists()


def test_a_result_goes_only_after_the_next_is_written(tmp_path: Path) -> None:
    """What cannot be written, as on a full disk, costs nothing that is there."""
    (tmp_path / "refused.json").write_text("{}")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path, {"certified": True, "threshold": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["refused.json"]
