"""Who must not judge: the guard that ranked the rows, under whatever name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import toy_guard
from tamis.evaluation.judge_settings import JudgeSettings, build_judge
from tamis.evaluation.judges import judge_identity
from tamis.evaluation.rankers_guard import is_rankers_guard
from tamis.methods.base import rank
from tamis.methods.guard import Guard
from toy import contaminated_set

URL = "http://127.0.0.1:1/v1"
ENDPOINT: dict[str, Any] = {"kind": "endpoint", "model": "toy", "endpoint": {"base_url": URL}}


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny classifier on disk."""
    return toy_guard.saved(toy_guard.classifier(), tmp_path_factory.mktemp("guard"))


def test_the_guard_that_ranked_is_recognised_by_its_weights(
    guard_folder: str, tmp_path: Path
) -> None:
    """Copied to another folder it is the same; another guard in a folder of that name is not."""
    ranking = rank(
        contaminated_set(4, n_harmful=1).finetuning_set,
        Guard(backend="classifier", guard=guard_folder, device="cpu", dtype="float32"),
    ).details
    copy = toy_guard.saved(toy_guard.classifier(), tmp_path / "copy")
    other = toy_guard.saved(
        toy_guard.classifier(seed=1), tmp_path / "other" / Path(guard_folder).name
    )
    found = {}
    for name in (copy, other):
        settings = JudgeSettings(kind="classifier", guard={"guard": name, "device": "cpu"})
        found[name] = is_rankers_guard(judge_identity(build_judge(settings)), ranking)
    assert found == {copy: True, other: False}


@pytest.mark.parametrize(
    ("judge", "guard", "same"),
    [
        ({"kind": "guard", "guard": {"guard": "meta/Guard-8B"}}, {"name": "meta/guard-8b"}, True),
        ({"kind": "guard", "guard": {"guard": "my/guard-8b/"}}, {"name": "meta/Guard-8B"}, True),
        ({"kind": "guard", "guard": {"guard": "meta/Guard-7B"}}, {"name": "meta/Guard-8B"}, False),
        ({**ENDPOINT, "rubric": "saft"}, {"name": "toy", "endpoint": "http://other/v1"}, True),
        ({**ENDPOINT, "rubric": "saft"}, {"name": "me/toy", "fingerprint": "00"}, True),
        ({**ENDPOINT, "rubric": "saft"}, {"name": "toy2", "endpoint": URL}, False),
        ({}, {"name": "refusal_strings"}, False),
    ],
)  # fmt: skip
def test_before_a_model_is_loaded_its_name_decides(
    judge: dict[str, Any], guard: dict[str, Any], same: bool
) -> None:
    """The last part of it, in any case and at any address."""
    assert is_rankers_guard(JudgeSettings(**judge).identity, {"guard": guard}) is same


def test_a_copy_is_recognised_before_it_is_loaded(guard_folder: str, tmp_path: Path) -> None:
    """By its weights, whatever the folder is called and whatever else lies in it."""
    copy = toy_guard.saved(toy_guard.classifier(), tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("Mine.")
    other = toy_guard.saved(toy_guard.classifier(seed=1), tmp_path / "other")
    found = {}
    for name in (copy, other):
        settings = JudgeSettings(kind="classifier", guard={"guard": name})
        found[name] = is_rankers_guard(settings.identity, {"guard": {"name": guard_folder}})
    assert found == {copy: True, other: False}
    served = JudgeSettings(**{**ENDPOINT, "model": copy, "rubric": "saft"}).identity
    assert is_rankers_guard(served, {"guard": {"name": guard_folder}})


@pytest.mark.parametrize("details", [{}, {"guard": None}, {"guard": "toy"}])
def test_a_ranking_without_a_guard_forbids_no_judge(details: dict[str, Any]) -> None:
    """Most methods have none."""
    assert not is_rankers_guard("endpoint:toy@http://x", details)
