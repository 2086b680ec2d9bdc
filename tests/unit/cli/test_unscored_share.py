"""The share of unscored answers judges a result: another share is no other evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy
from tamis.cli.config import EvaluateSettings, PromptPaths
from tamis.cli.model_stages import run_evaluate
from tamis.cli.stages import Common
from tamis.cli.win_rate import WinRateSettings, run_win_rate
from tamis.errors import JudgeError, MismatchError
from tamis.files import write_json
from toy_endpoint import Script, Server, says

Serve = Callable[[Script], Server]


def evaluated(folder: Path, url: str, share: float, **more: Any) -> dict[str, Any]:
    """Evaluate the tiny model on one prompt of each kind, judged at an endpoint."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "p", "prompt": "Say more.", "reference": "water"}))
    judge = {"kind": "endpoint", "model": "toy", "rubric": "saft", "endpoint": {"base_url": url}}
    settings = EvaluateSettings.model_validate({
        "evaluate": {"max_new_tokens": 3, "judges": [judge], "max_unscored_share": share, **more}
    })  # fmt: skip
    return run_evaluate(
        settings, Common(folder / "out", device="cpu", dtype="float32"),
        prompts=PromptPaths(harmful=prompts, over_refusal=prompts, helpful=prompts),
        model=toy.tiny_lm(),
    )  # fmt: skip


def test_a_larger_share_goes_on_with_what_was_kept(serve: Serve, tmp_path: Path) -> None:
    """No answer is judged again; the folder's settings are those that worked."""
    server = serve(lambda *_: says("who knows"))
    with pytest.raises(JudgeError, match=r"max_unscored_share=0\.1"):
        evaluated(tmp_path, server.url, 0.1)
    asked = len(server.requests)
    assert asked
    manifest = evaluated(tmp_path, server.url, 1.0)
    assert len(server.requests) == asked
    assert manifest["config"]["evaluate"]["max_unscored_share"] == 1.0
    assert "max_unscored_share: 1.0" in (tmp_path / "out" / "config.yaml").read_text()


def test_a_finished_evaluation_is_held_to_the_share_of_now(serve: Serve, tmp_path: Path) -> None:
    """A smaller one fails; the evaluation stays, for the share it passes."""
    server = serve(lambda *_: says("who knows"))
    first = evaluated(tmp_path, server.url, 1.0)
    with pytest.raises(
        JudgeError, match=r"1 of 1 answers to over-refusal prompts.*max_unscored_share=0\.5"
    ):
        evaluated(tmp_path, server.url, 0.5)
    assert evaluated(tmp_path, server.url, 1.0) == first


def test_other_settings_are_another_evaluation(serve: Serve, tmp_path: Path) -> None:
    """And the share is not named as the difference."""
    server = serve(lambda *_: says("no"))
    evaluated(tmp_path, server.url, 0.1)
    with pytest.raises(MismatchError, match="max_new_tokens") as refused:
        evaluated(tmp_path, server.url, 0.2, max_new_tokens=4)
    assert "max_unscored_share" not in str(refused.value)


def test_the_share_of_unscored_pairs_judges_a_win_rate(serve: Serve, tmp_path: Path) -> None:
    """As that of answers does: raised it goes on unasked, lowered it refuses what is finished."""
    server = serve(lambda *_: says("who knows"))
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "manifest.json", {"stage": "evaluate"})
        line = {"id": "p", "set": "helpful", "prompt": "Say.", "response": name, "n_tokens": 1}
        (tmp_path / name / "generations.jsonl").write_text(json.dumps(line) + "\n")

    def rate(share: float) -> None:
        judge = {"kind": "endpoint", "model": "toy", "rubric": "helpfulness",
                 "endpoint": {"base_url": server.url}}  # fmt: skip
        settings = WinRateSettings.model_validate({"judges": [judge], "max_unscored_share": share})
        run_win_rate(settings, Common(tmp_path / "out"), model=tmp_path / "ours",
                     reference=tmp_path / "theirs")  # fmt: skip

    with pytest.raises(JudgeError, match=r"max_unscored_share=0\.1"):
        rate(0.1)
    asked = len(server.requests)
    rate(1.0)
    assert len(server.requests) == asked == 2
    with pytest.raises(JudgeError, match=r"max_unscored_share=0\.5"):
        rate(0.5)
