"""How patiently an endpoint is asked: more of it goes on with what was answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy
from tamis.cli.asking import n_unanswered_rows
from tamis.cli.config import EvaluateSettings, PromptPaths, RankSettings, read_settings
from tamis.cli.model_stages import run_evaluate
from tamis.cli.stages import Common, run_rank
from tamis.cli.win_rate import WinRateSettings, run_win_rate
from tamis.errors import ConfigError, JudgeError, MismatchError
from tamis.evaluation.prompts import PROMPT_KINDS
from tamis.files import write_json
from tamis.models.endpoint_settings import PATIENCE, EndpointSettings
from toy_endpoint import Script, Server, says

Serve = Callable[[Script], Server]
N_ROWS = 4


def ranked(folder: Path, url: str, *, guard: str = "toy", **patience: Any) -> dict[str, Any]:
    """Have an endpoint rank four rows."""
    rows = [{"id": f"r{i}", "prompt": f"Say {i}.", "completion": "water"} for i in range(N_ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    method = {"name": "guard", "backend": "endpoint", "guard": guard,
              "endpoint": {"base_url": url, **patience}}  # fmt: skip
    settings = RankSettings.model_validate({"method": method})
    return run_rank(settings, Common(folder / "out"), data=str(folder / "rows.jsonl"))


def evaluated(folder: Path, url: str, *, share: float = 0.1, **patience: Any) -> dict[str, Any]:
    """Have an endpoint judge the tiny model's answers to two prompts of each kind."""
    files = {kind: folder / f"{kind}.jsonl" for kind in PROMPT_KINDS}
    for kind, file in files.items():
        lines = [{"id": verb, "prompt": f"{verb} {kind}.", "reference": "water"}
                 for verb in ("Say", "Write")]  # fmt: skip
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    judge = {"kind": "endpoint", "model": "toy", "rubric": "saft",
             "endpoint": {"base_url": url, **patience}}  # fmt: skip
    settings = EvaluateSettings.model_validate({
        "evaluate": {"max_new_tokens": 3, "judges": [judge], "max_unscored_share": share}
    })  # fmt: skip
    return run_evaluate(
        settings, Common(folder / "out", device="cpu", dtype="float32"),
        prompts=PromptPaths.model_validate(files), model=toy.tiny_lm(),
    )  # fmt: skip


def test_settings_of_an_endpoint_decide_answers_or_are_patience() -> None:
    """What is neither the address nor the request is patience."""
    assert set(EndpointSettings.model_fields) - set(PATIENCE) == {"base_url", "request"}


def test_a_larger_budget_ranks_the_rest(serve: Serve, tmp_path: Path) -> None:
    """What was answered is not asked again; the folder tells the budget that was enough."""
    server = serve(lambda *_: says("No"))
    first = ranked(tmp_path, server.url, max_calls=3)
    assert first["rows_by_outcome"] == {"ok": 3, "budget": 1}
    found = ranked(tmp_path, server.url, max_calls=100)
    assert found["rows_by_outcome"] == {"ok": N_ROWS}
    assert len(server.requests) == N_ROWS
    assert found["config"]["method"]["endpoint"]["max_calls"] == 100
    assert "max_calls: 100" in (tmp_path / "out" / "config.yaml").read_text()
    assert not (tmp_path / "out" / "work").exists()


def test_the_same_budget_asks_nothing_more(serve: Serve, tmp_path: Path) -> None:
    """A finished ranking is skipped, rows without a verdict and all."""
    server = serve(lambda *_: says("No"))
    first = ranked(tmp_path, server.url, max_calls=3)
    assert ranked(tmp_path, server.url, max_calls=3) == first
    assert len(server.requests) == 3


def test_patience_that_nothing_waited_for_runs_nothing(serve: Serve, tmp_path: Path) -> None:
    """Every row has its verdict: the ranking stays as it is."""
    server = serve(lambda *_: says("No"))
    first = ranked(tmp_path, server.url)
    assert ranked(tmp_path, server.url, timeout_seconds=5, parallel_calls=1) == first
    assert len(server.requests) == N_ROWS


def test_another_guard_is_another_ranking(serve: Serve, tmp_path: Path) -> None:
    """Refused, whatever the budget."""
    server = serve(lambda *_: says("No"))
    ranked(tmp_path, server.url, max_calls=3)
    with pytest.raises(MismatchError, match="guard: 'toy' there, 'other' now") as refused:
        ranked(tmp_path, server.url, guard="other", max_calls=100)
    assert "max_calls" not in str(refused.value)


def test_a_failed_evaluation_goes_on_with_more_calls(serve: Serve, tmp_path: Path) -> None:
    """The answers that were judged are not judged again."""
    server = serve(lambda *_: says("no"))
    with pytest.raises(JudgeError, match="times budget"):
        evaluated(tmp_path, server.url, max_calls=1)
    found = evaluated(tmp_path, server.url, max_calls=100)
    assert found["details"]["metrics"]["attack_success_rate"]["n_unscored"] == 0
    asked = [json.dumps(request["messages"]) for request in server.requests]
    assert len(asked) == len(set(asked)) > 1


def test_a_finished_evaluation_asks_what_was_left_open(serve: Serve, tmp_path: Path) -> None:
    """Only with another patience: another share alone has nobody asked."""
    server = serve(lambda *_: says("no"))
    first = evaluated(tmp_path, server.url, share=0.5, max_calls=5)
    assert first["left_open"] == 1
    assert evaluated(tmp_path, server.url, share=1.0, max_calls=5) == first
    found = evaluated(tmp_path, server.url, share=1.0, max_calls=100)
    assert found["left_open"] == 0
    asked = [json.dumps(request["messages"]) for request in server.requests]
    assert len(asked) == len(set(asked)) == 6


def test_a_win_rate_goes_on_with_more_calls(serve: Serve, tmp_path: Path) -> None:
    """Each pair is asked once in each order, over both runs."""
    server = serve(lambda *_: says("better: A"))
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "manifest.json", {"stage": "evaluate"})
        line = {"id": "p", "set": "helpful", "prompt": "Say.", "response": name, "n_tokens": 1}
        (tmp_path / name / "generations.jsonl").write_text(json.dumps(line) + "\n")

    def rate(most: int) -> dict[str, Any]:
        judge = {"kind": "endpoint", "model": "toy", "rubric": "helpfulness",
                 "endpoint": {"base_url": server.url, "max_calls": most}}  # fmt: skip
        settings = WinRateSettings.model_validate({"judges": [judge], "max_unscored_share": 1})
        return run_win_rate(settings, Common(tmp_path / "out"), model=tmp_path / "ours",
                            reference=tmp_path / "theirs")  # fmt: skip

    assert rate(1)["left_open"] == 1
    assert rate(2)["left_open"] == 0
    assert len(server.requests) == 2


def test_rows_left_open_are_found_in_methods_within_methods() -> None:
    """Wherever in a ranking's details a guard counts them."""
    guard = {"guard": {"name": "toy"}, "n_unanswered": 2}
    assert n_unanswered_rows({"signals": {"a": {"teacher": guard}, "b": guard}, "notes": []}) == 4


def test_without_judges_of_pairs_a_win_rate_says_how_to_name_them() -> None:
    """The usual judges say nothing about pairs."""
    with pytest.raises(ConfigError, match=r"settings\.judges: none is given.*docs/judges\.md"):
        read_settings(WinRateSettings, None, [])
