"""`tamis evaluate` and `tamis win-rate` refuse a judge that ranked the rows, found by manifests."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import toy
import toy_guard
from tamis.cli.config import (
    EvaluateSettings,
    FinetuneSettings,
    PromptPaths,
    RankSettings,
    SelectSettings,
)
from tamis.cli.main import cli
from tamis.cli.model_stages import run_evaluate, run_finetune
from tamis.cli.show import stage_summary
from tamis.cli.stages import Common, run_rank, run_select
from tamis.cli.win_rate import WinRateSettings, run_win_rate
from tamis.errors import ConfigError
from tamis.runs import read_manifest
from toy_endpoint import Script, Server, says

Serve = Callable[[Script], Server]
CPU = {"device": "cpu", "dtype": "float32"}


@dataclass(frozen=True)
class Tuned:
    """Rows ranked by a guard, selected and fine-tuned on.

    Attributes:
        root: Folder of it all.
        guard: The guard's folder.
        prompts: One prompt of each kind.
    """

    root: Path
    guard: str
    prompts: PromptPaths

    @property
    def adapter(self) -> Path:
        """Folder of the fine-tuning."""
        return self.root / "tuned"

    def judged(self, out: str, guard: str | None = None, *, adapter: Path | None = None,
               scores: tuple[Path, ...] = (), **evaluate: Any) -> dict[str, Any]:  # fmt: skip
        """Evaluate the adapter, judged by a guard or by refusal strings."""
        judge = {"kind": "classifier", "guard": {"guard": guard, **CPU}}
        judges = {"judges": [judge]} if guard else {}
        settings = EvaluateSettings.model_validate(
            {"evaluate": {"max_new_tokens": 2, **judges, **evaluate}}
        )
        return run_evaluate(
            settings, Common(self.root / out, **CPU), prompts=self.prompts,
            adapter=adapter or self.adapter, scores=scores, model=toy.tiny_lm(),
        )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Made as the verbs make it."""
    root = tmp_path_factory.mktemp("tuned")
    guard = toy_guard.saved(toy_guard.classifier(), root / "the-guard")
    rows = [{"id": f"r{i}", "prompt": f"lamp {i}", "completion": "water"} for i in range(4)]
    data = root / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    method = {"name": "guard", "options": {"backend": "classifier", "guard": guard, **CPU}}
    run_rank(RankSettings.model_validate({"method": method}), Common(root / "rank", **CPU),
             data=str(data))  # fmt: skip
    run_select(SelectSettings.model_validate({"select": {"ratio": 0.5}}), Common(root / "select"),
               scores_path=root / "rank", data=str(data))  # fmt: skip
    run_finetune(FinetuneSettings.model_validate({"finetune": {"max_steps": 1}}),
                 Common(root / "tuned", **CPU), data=str(root / "select" / "kept.jsonl"),
                 model=toy.tiny_lm())  # fmt: skip
    prompt = root / "prompts.jsonl"
    prompt.write_text(json.dumps({"id": "p", "prompt": "Say more.", "reference": "water"}))
    return Tuned(root, guard, PromptPaths(harmful=prompt, over_refusal=prompt, helpful=prompt))


def said(manifest: dict[str, Any]) -> str:
    """What the terminal says of an evaluation's judges."""
    return "\n".join(manifest["details"]["judge_notes"])


def test_the_rankings_guard_does_not_judge_its_own_rows(tuned: Tuned) -> None:
    """Told before anything is answered; another model of another name may judge."""
    with pytest.raises(ConfigError, match=r"the-guard.*evaluate\.allow_ranking_guard=true"):
        tuned.judged("refused", tuned.guard)
    assert not (tuned.root / "refused").exists()
    other = toy_guard.saved(toy_guard.classifier(seed=1), tuned.root / "another")
    manifest = tuned.judged("other", other)
    assert said(manifest) == ""
    assert [Path(e["path"]).parent.name for e in manifest["details"]["ranked_by"]] == ["rank"]


def test_weights_decide_once_they_are_loaded(tuned: Tuned) -> None:
    """The same weights in several files, under another name, have the guard's fingerprint."""
    copy = tuned.root / "copy"
    toy_guard.saved(toy_guard.classifier(), copy)
    (copy / "model.safetensors").unlink()
    toy_guard.classifier().save_pretrained(copy, max_shard_size="20KB")
    with pytest.raises(ConfigError, match=r"copy@\w+ is the guard that ranks the rows"):
        tuned.judged("copied", str(copy))
    assert not (tuned.root / "copied" / "metrics.json").exists()


def test_it_is_forced_knowingly_and_said(tuned: Tuned) -> None:
    """In the manifest, for all who read the figures."""
    manifest = tuned.judged("forced", tuned.guard, allow_ranking_guard=True)
    assert "is the guard that ranked the rows" in said(manifest)
    assert "evaluate.allow_ranking_guard permits" in said(manifest)


@pytest.fixture
def moved(tuned: Tuned, tmp_path: Path) -> Path:
    """The adapter alone, as it is handed on."""
    return Path(shutil.copytree(tuned.root / "tuned" / "adapter", tmp_path / "moved"))


def test_an_adapter_of_unknown_origin_is_said_to_be_one(
    tuned: Tuned, moved: Path, tmp_path: Path
) -> None:  # fmt: skip
    """One line; refusal strings rank nothing, so there is nothing to check."""
    manifest = tuned.judged(str(tmp_path / "out"), tuned.guard, adapter=moved)
    assert "could not be checked" in said(manifest)
    assert "moved is of no stage" in said(manifest)
    assert len(manifest["details"]["judge_notes"]) == 1
    terminal = Console(file=io.StringIO(), width=500)
    terminal.print(stage_summary(manifest, tmp_path / "out"))
    assert terminal.file.getvalue().count("whether a judge is the guard") == 1
    assert "note: one judge, which no second one checks. `hf download" in terminal.file.getvalue()
    assert said(tuned.judged(str(tmp_path / "strings"), adapter=moved)) == ""


def test_the_user_may_name_the_ranking(tuned: Tuned, moved: Path, tmp_path: Path) -> None:
    """It then decides, also of an evaluation that is finished, which remembers it."""
    rank, out = (tuned.root / "rank",), str(tmp_path / "out")
    with pytest.raises(ConfigError, match="is the guard that ranks the rows"):
        tuned.judged(out, tuned.guard, adapter=moved, scores=rank)
    other = toy_guard.saved(toy_guard.classifier(seed=1), tmp_path / "another")
    assert "could not be checked" in said(tuned.judged(out, other, adapter=moved))
    assert said(tuned.judged(out, other, adapter=moved, scores=rank)) == ""
    manifest = read_manifest(tmp_path / "out")
    assert said(manifest) == ""
    assert len(manifest["details"]["ranked_by"]) == 1
    tuned.judged(str(tmp_path / "late"), tuned.guard, adapter=moved)
    with pytest.raises(ConfigError, match="is the guard that ranks the rows"):
        tuned.judged(str(tmp_path / "late"), tuned.guard, adapter=moved, scores=rank)


def test_a_base_model_was_not_chosen_for(tuned: Tuned, tmp_path: Path) -> None:
    """Without an adapter any guard judges, and no note is needed."""
    judge = {"kind": "classifier", "guard": {"guard": tuned.guard, **CPU}}
    settings = EvaluateSettings.model_validate(
        {"evaluate": {"max_new_tokens": 2, "judges": [judge]}}
    )
    manifest = run_evaluate(settings, Common(tmp_path / "base", **CPU), prompts=tuned.prompts,
                            model=toy.tiny_lm())  # fmt: skip
    assert said(manifest) == ""


def test_a_win_rate_is_not_judged_by_the_rankings_guard(
    tuned: Tuned, serve: Serve, tmp_path: Path
) -> None:  # fmt: skip
    """Behind an endpoint it has the guard's name; both models' rankings count."""
    server = serve(lambda *_: says("who knows"))
    tuned.judged("strings")
    bare = tuned.judged(str(tmp_path / "bare"), adapter=tuned.adapter)
    assert bare["details"]["ranked_by"]

    def rate(model: str, **settings: Any) -> dict[str, Any]:
        judge = {"kind": "endpoint", "model": model, "rubric": "helpfulness",
                 "endpoint": {"base_url": server.url}}  # fmt: skip
        return run_win_rate(
            WinRateSettings.model_validate(
                {"judges": [judge], "max_unscored_share": 1.0, **settings}
            ),
            Common(tmp_path / f"wins-{model}"), model=tuned.root / "strings",
            reference=tmp_path / "bare",
        )  # fmt: skip

    with pytest.raises(ConfigError, match=r"the-guard.* Set another judge, or allow_ranking_guard"):
        rate("the-guard")
    assert not server.requests
    assert said(rate("another")) == ""
    assert "which allow_ranking_guard permits" in said(rate("the-guard", allow_ranking_guard=True))
    assert said(rate("the-guard", allow_ranking_guard=True)) != ""  # finished, checked again


@pytest.mark.parametrize("verb", ["evaluate", "win-rate"])
def test_the_flag_reaches_the_check(
    tuned: Tuned, moved: Path, tmp_path: Path, verb: str
) -> None:  # fmt: skip
    """`--scores` on the command line, before a model is loaded or a judge is asked."""
    settings = tmp_path / "judges.yaml"
    if verb == "evaluate":
        judge = {"kind": "classifier", "guard": {"guard": tuned.guard, **CPU}}
        settings.write_text(json.dumps({"evaluate": {"judges": [judge]}}))
        given = ["--adapter", str(moved)]
    else:
        judge = {"kind": "endpoint", "model": "the-guard", "rubric": "safety",
                 "endpoint": {"base_url": "http://127.0.0.1:9/v1"}}  # fmt: skip
        settings.write_text(json.dumps({"judges": [judge]}))
        for name in ("ours", "theirs"):
            tuned.judged(str(tmp_path / name), adapter=moved)
        given = ["--model", str(tmp_path / "ours"), "--reference", str(tmp_path / "theirs")]
    told = CliRunner().invoke(cli, [
        verb, *given, "--config", str(settings), "--scores", str(tuned.root / "rank"),
        "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    assert isinstance(told.exception, ConfigError)
    assert "is the guard that ranks the rows" in str(told.exception)
    assert not (tmp_path / "out").exists()
