"""Two evaluations answer against answer: pairs, both orders, and what has no verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tamis.cli.stages import Common
from tamis.cli.win_rate import WinRateSettings, run_win_rate
from tamis.errors import ConfigError, JudgeError, MismatchError
from tamis.evaluation.endpoint_judge import Pair, Preference
from tamis.evaluation.pairwise import answer_pairs, judge_pairs, win_figures
from tamis.report.collect import collect
from tamis.report.proof_records import WinRateRecord
from tamis.report.proofs import win_rate_table
from toy_endpoint import KEY, Script, Server, fails, says

N = 24


def evaluation(
    folder: Path, answer: Callable[[int], str | None], n: int = N, **asked: Any
) -> Path:  # fmt: skip
    """Write a finished evaluation of n harmful and n helpful prompts, with settings of its own."""
    folder.mkdir()
    lines = [
        {"id": f"p{i}", "set": kind, "prompt": f"{kind} request {i}", "response": answer(i),
         "n_tokens": len(answer(i) or "")}
        for kind in ("harmful", "helpful") for i in range(n)
    ]  # fmt: skip
    (folder / "generations.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    config = {"evaluate": {"max_new_tokens": 64, "n_openings": 4, **asked}, "render": {}}
    manifest = {"stage": "evaluate", "config": config, "inputs": {}, "details": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


class Longest:
    """Prefers the longer answer, and the first of two of one length."""

    name = "longest"

    def __init__(self) -> None:
        self.asked: list[Pair] = []

    def prefer(self, pairs: Sequence[Pair]) -> list[Preference]:
        """Compare lengths."""
        self.asked += pairs
        return [Preference("first" if len(p.first) >= len(p.second) else "second") for p in pairs]


def test_pairs_are_asked_in_both_orders(tmp_path: Path) -> None:
    """A judge with a favour for a place is inconsistent where nothing else decides."""
    ours = evaluation(tmp_path / "a", lambda i: "yes" * (1 + i % 3))
    theirs = evaluation(tmp_path / "b", lambda i: "no" * 2)
    pairs = answer_pairs(ours, theirs, "harmful")
    judge = Longest()
    lines = judge_pairs(pairs, judge)
    assert len(judge.asked) == 2 * N
    assert {(p.first, p.second) for p in judge.asked} == {(p.second, p.first) for p in judge.asked}
    assert (lines[0]["model_first"], lines[0]["reference_first"]) == ("second", "first")
    assert (lines[1]["model_first"], lines[1]["reference_first"]) == ("first", "second")
    rate = win_figures(pairs, lines)["win_rate"]
    assert (rate["n_wins"], rate["n_losses"], rate["n_ties"]) == (16, 8, 0)


def test_an_empty_answer_is_unscored_unasked(tmp_path: Path) -> None:
    """Neither a win for the other nor a tie."""
    ours = evaluation(tmp_path / "a", lambda i: None if i == 0 else " " if i == 1 else "yes yes")
    theirs = evaluation(tmp_path / "b", lambda _: "no")
    pairs = answer_pairs(ours, theirs, "harmful")
    judge = Longest()
    lines = judge_pairs(pairs, judge)
    assert [line["unscored"] for line in lines[:3]] == ["an answer is empty"] * 2 + [None]
    assert len(judge.asked) == 2 * (N - 2)
    rate = win_figures(pairs, lines)["win_rate"]
    assert (rate["n"], rate["n_unscored"], rate["value"]) == (N - 2, 2, 1.0)


def test_identical_answers_are_counted(tmp_path: Path, serve: Callable[[Script], Server]) -> None:
    """Ties that no judge was asked about: in the JSON and in what reports show."""
    server = serve(lambda *_: says("better: A"))
    ours = evaluation(tmp_path / "a", lambda i: "same" if i < 5 else "yes")
    theirs = evaluation(tmp_path / "b", lambda i: "same" if i < 5 else "no")
    manifest = run_win_rate(
        settings(server), Common(tmp_path / "out"), model=ours, reference=theirs
    )
    assert [one["n_identical"] for one in manifest["details"]["win_rates"]] == [5, 5]
    assert len(server.requests) == 4 * (N - 5)
    (shown,) = collect([tmp_path / "out"]).proofs
    assert isinstance(shown, WinRateRecord)
    rate = win_rate_table(shown).rows[0][1]
    assert f"n = {N}, unscored 0; 5 identical, not asked" in rate.notes


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    """With the number and the first of them."""
    ours = evaluation(tmp_path / "a", lambda _: "yes")
    theirs = evaluation(tmp_path / "b", lambda _: "yes", n=N - 1)
    with pytest.raises(MismatchError, match=rf"1 harmful prompts.*'p{N - 1}'"):
        answer_pairs(ours, theirs, "harmful")


def settings(server: Server, **changes: Any) -> WinRateSettings:
    """A judge of safety and one of helpfulness, at one endpoint."""
    judge = {"kind": "endpoint", "model": "toy", "endpoint": {"base_url": server.url}}
    return WinRateSettings.model_validate({
        "judges": [{**judge, "rubric": rubric} for rubric in ("safety", "helpfulness")], **changes,
    })  # fmt: skip


def test_each_rubric_has_its_own_sets(tmp_path: Path, serve: Callable[[Script], Server]) -> None:
    """Safety on harmful prompts, helpfulness on helpful ones; a judge that says A is a tie."""
    server = serve(lambda *_: says("better: A"))
    ours, theirs = (evaluation(tmp_path / name, lambda i, n=name: f"{n} {i}") for name in "ab")
    manifest = run_win_rate(
        settings(server), Common(tmp_path / "out"), model=ours, reference=theirs
    )
    found = manifest["details"]["win_rates"]
    assert [(one["rubric"], one["set"]) for one in found] == [
        ("safety", "harmful"), ("helpfulness", "helpful"),
    ]  # fmt: skip
    for one in found:
        rate = one["win_rate"]
        assert (rate["value"], rate["n_ties"], rate["n_inconsistent"]) == (0.5, N, N)
    lines = (tmp_path / "out" / "preferences.jsonl").read_text().splitlines()
    assert len(lines) == 2 * N
    (shown,) = collect([tmp_path / "out"]).proofs
    assert isinstance(shown, WinRateRecord)
    assert [(entry.set, entry.win_rate.value) for entry in shown.entries] == [
        ("harmful", 0.5), ("helpful", 0.5),
    ]  # fmt: skip
    assert len(server.requests) == 4 * N


def test_equal_length_is_in_characters(tmp_path: Path) -> None:
    """Two models' tokens are not one unit: another count of them changes no figure."""
    found = []
    for scale in (1, 3):
        ours = evaluation(tmp_path / f"a{scale}", lambda i: "word " * (i % 5 + 1))
        theirs = evaluation(tmp_path / f"b{scale}", lambda i: "word " * (i % 3 + 1))
        path = ours / "generations.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["n_tokens"] *= scale * (1 + len(line["id"]))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        pairs = answer_pairs(ours, theirs, "harmful")
        wins = [{"id": f"p{i}", "model_first": "first" if i % 2 else "second",
                 "reference_first": "second" if i % 2 else "first"} for i in range(N)]  # fmt: skip
        found.append(win_figures(pairs, wins)["at_equal_length"])
    assert found[0] == found[1]
    assert found[0]["value"] is not None


def test_sets_that_nobody_was_asked_are_named(
    tmp_path: Path, serve: Callable[[Script], Server]
) -> None:
    """A judge without a single pair ends the stage; one of two is noted."""
    server = serve(lambda *_: says("better: A"))
    ours, theirs = (evaluation(tmp_path / name, lambda i, n=name: f"{n} {i}") for name in "ab")
    for folder in (ours, theirs):
        path = folder / "generations.jsonl"
        kept = [x for x in path.read_text().splitlines() if json.loads(x)["set"] == "helpful"]
        path.write_text("".join(f"{line}\n" for line in kept))
    found = run_win_rate(settings(server), Common(tmp_path / "out"), model=ours, reference=theirs)
    assert any("has harmful prompts" in note for note in found["details"]["notes"])
    only = settings(server)
    only = only.model_copy(update={"judges": tuple(j for j in only.judges if j.rubric == "safety")})
    with pytest.raises(ConfigError, match="have no prompts that these judges are asked about"):
        run_win_rate(only, Common(tmp_path / "none"), model=ours, reference=theirs)


def test_a_failing_judge_fails_the_stage(tmp_path: Path, serve: Callable[[Script], Server]) -> None:
    """Replies without a verdict are no ties."""
    server = serve(lambda *_: says("I like both."))
    ours, theirs = (evaluation(tmp_path / name, lambda i, n=name: f"{n} {i}") for name in "ab")
    with pytest.raises(JudgeError, match=rf"left {N} of {N} harmful pairs unscored"):
        run_win_rate(settings(server), Common(tmp_path / "out"), model=ours, reference=theirs)


def test_only_finished_evaluations_are_compared(
    tmp_path: Path, serve: Callable[[Script], Server]
) -> None:
    """Another stage's folder is named."""
    server = serve(lambda *_: fails(500))
    folder = evaluation(tmp_path / "a", lambda _: "yes")
    (folder / "manifest.json").write_text(json.dumps({"stage": "rank", "details": {}}))
    with pytest.raises(ConfigError, match="is no finished evaluation"):
        run_win_rate(settings(server), Common(tmp_path / "out"), model=folder, reference=folder)
    assert KEY not in str(server.requests)


def test_empty_answers_do_not_hide_a_failing_judge(
    tmp_path: Path, serve: Callable[[Script], Server]
) -> None:
    """Of 24 pairs 20 are never asked; 2 of the 4 others fail: half, not a twelfth."""

    def script(body: dict[str, Any], _: int) -> Any:
        text = body["messages"][-1]["content"]
        return says("I like both." if "request 0" in text or "request 1\n" in text else "better: A")

    server = serve(script)
    ours = evaluation(tmp_path / "a", lambda i: f"yes {i}" if i < 4 else None)
    theirs = evaluation(tmp_path / "b", lambda i: f"no {i}")
    with pytest.raises(JudgeError, match="left 2 of 4 harmful pairs unscored"):
        run_win_rate(settings(server), Common(tmp_path / "out"), model=ours, reference=theirs)


def test_judges_of_one_name_are_refused(tmp_path: Path, serve: Callable[[Script], Server]) -> None:
    """Their preferences could not be told apart; no judge is asked."""
    server = serve(lambda *_: says("better: A"))
    judge = {"kind": "endpoint", "model": "toy", "name": "mine", "rubric": "safety",
             "endpoint": {"base_url": server.url}}  # fmt: skip
    both = WinRateSettings.model_validate({"judges": [judge, {**judge, "model": "other"}]})
    ours, theirs = (evaluation(tmp_path / name, lambda i: f"{i}") for name in "ab")
    with pytest.raises(ConfigError, match="every one its own name"):
        run_win_rate(both, Common(tmp_path / "out"), model=ours, reference=theirs)
    assert not server.requests


def test_answers_made_with_other_settings_are_refused(
    tmp_path: Path, serve: Callable[[Script], Server]
) -> None:
    """Both values are named; allowed knowingly, a note says so. Openings are in no answer."""
    server = serve(lambda *_: says("better: A"))
    ours = evaluation(tmp_path / "a", lambda i: f"yes {i}", n_openings=2)
    theirs = evaluation(tmp_path / "b", lambda i: f"no {i}", max_new_tokens=128)
    with pytest.raises(MismatchError, match=r"other settings: max_new_tokens \(64 and 128\)\."):
        run_win_rate(settings(server), Common(tmp_path / "out"), model=ours, reference=theirs)
    manifest = run_win_rate(
        settings(server, allow_different_settings=True), Common(tmp_path / "out"), model=ours,
        reference=theirs,
    )  # fmt: skip
    assert manifest["details"]["notes"][0] == (
        "the model and the reference answered with different max_new_tokens (64 and 128)."
    )
