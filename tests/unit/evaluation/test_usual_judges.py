"""Who judges where no judge is named: a guard beside the refusal strings, where it is at hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import transformers

import toy_guard
from tamis.evaluation.evaluate import EvaluateConfig, evaluate
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.evaluation.prompts import Prompt
from tamis.evaluation.usual_judges import SECOND_JUDGE, usual_judges
from tamis.models.load import LanguageModel

MakeLm = Callable[..., LanguageModel]


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny second judge in a Hugging Face cache, as a download leaves it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / f"models--{SECOND_JUDGE.replace('/', '--')}"
    commit = "f" * 40
    toy_guard.qwen3guard(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    return repository / "snapshots" / commit


def test_without_the_guard_refusal_strings_judge_alone() -> None:
    """Nothing is fetched unasked."""
    assert usual_judges() == (JudgeSettings(),)
    assert EvaluateConfig().judges == (JudgeSettings(),)


@pytest.mark.usefixtures("snapshot")
def test_a_guard_in_the_cache_is_the_second_judge() -> None:
    """And settings that were kept with both have both where it is not."""
    config = EvaluateConfig()
    assert [one.label for one in config.judges] == ["refusal_strings", SECOND_JUDGE]
    assert EvaluateConfig.model_validate(config.model_dump(mode="json")) == config
    assert EvaluateConfig(judges=({"kind": "refusal_strings"},)).judges == (JudgeSettings(),)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_half_a_download_is_no_judge(snapshot: Path, name: str) -> None:
    """A config alone is often in a cache: somebody looked at the model."""
    (snapshot / name).unlink()
    assert usual_judges() == (JudgeSettings(),)


def test_it_judges_from_the_cache(make_lm: MakeLm, snapshot: Path) -> None:
    """By its hub id, every answer, beside the refusal strings."""
    found = evaluate(
        make_lm(), harmful=[Prompt("h", "Do it.")], over_refusal=[Prompt("o", "Kill process 1.")],
        config=EvaluateConfig(max_new_tokens=4),
    )  # fmt: skip
    judged = found.verdicts[SECOND_JUDGE]
    assert all(verdict.harmful in (True, False) for verdict in judged)
    assert len(judged) == len(found.verdicts["refusal_strings"]) == 2
    assert found.metrics["judge_identities"][SECOND_JUDGE].startswith(f"guard:{SECOND_JUDGE}@")
    shutil.rmtree(snapshot)  # nothing was copied elsewhere
    assert len(usual_judges()) == 1


def test_the_hub_is_not_asked_about_it(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named by its commit, and what is here of a commit is all there is to know."""
    assert EvaluateConfig().judges[1].guard.revision == snapshot.name
    asked: list[bool] = []
    for kind in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM):
        read = kind.from_pretrained

        def watched(*given: Any, read: Any = read, **options: Any) -> Any:
            asked.append(not options.get("local_files_only", False))
            return read(*given, **options)

        monkeypatch.setattr(kind, "from_pretrained", watched)
    EvaluateConfig().judges[1].guard.load()
    assert asked == [False, False]
