"""Settings of judges: what they build, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy_guard
from tamis.errors import ConfigError
from tamis.evaluation.endpoint_judge import EndpointJudge, Pair
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.guard_judge import GuardJudge
from tamis.evaluation.judge_settings import (
    JudgeSettings,
    build_judge,
    build_pair_judge,
)
from tamis.evaluation.judges import Answer, RefusalStrings
from tamis.models.endpoint_settings import EndpointSettings
from toy_endpoint import Script, Server, says

Serve = Callable[[Script], Server]
URL = "http://127.0.0.1:1/v1"
ENDPOINT: dict[str, Any] = {"kind": "endpoint", "model": "toy", "endpoint": {"base_url": URL}}


@pytest.fixture
def policy(tmp_path: Path) -> str:
    """A policy file."""
    path = tmp_path / "policy.txt"
    path.write_text("S1: no locks.\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny classifier on disk."""
    return toy_guard.saved(toy_guard.classifier(), tmp_path_factory.mktemp("guard"))


# What they build


def test_without_settings_refusal_strings_judge() -> None:
    """The published keywords need nothing."""
    assert isinstance(build_judge(JudgeSettings()), RefusalStrings)


def test_an_endpoint_judges_with_its_rubric_policy_and_threshold(
    serve: Serve, policy: str, tmp_path: Path
) -> None:
    """The policy's text is asked, grade 4 is harmful at threshold 4, replies are kept."""
    server = serve(lambda *_: says("grade: 4"))
    settings = JudgeSettings(
        kind="endpoint", model="toy", rubric="hexphi", policy=policy, threshold=4, name="grader",
        endpoint={"base_url": server.url},
    )  # fmt: skip
    judge = build_judge(settings, cache=tmp_path / "cache")
    assert isinstance(judge, EndpointJudge)
    (verdict,) = judge.judge([Answer("harmful", "q", "Sure.")])
    assert (judge.name, verdict.harmful) == ("grader", True)
    assert "S1: no locks." in server.requests[0]["messages"][0]["content"]
    again = build_judge(settings, cache=tmp_path / "cache")
    assert again.judge([Answer("harmful", "q", "Sure.")]) == [verdict]
    assert len(server.requests) == 1


@pytest.mark.parametrize(("rubric", "tokens"), [("strongreject", 512), ("xstest", 32)])
def test_requests_ask_for_as_much_as_the_rubric_needs(rubric: str, tokens: int) -> None:
    """Unless the request is set; the usual 16 tokens would cut a verdict with reasons off."""
    assert JudgeSettings(**ENDPOINT, rubric=rubric).endpoint.request == {
        "max_tokens": tokens, "temperature": 0,
    }  # fmt: skip
    own = {"base_url": URL, "request": {"max_completion_tokens": 9}}
    for given in (own, EndpointSettings(**own)):  # type: ignore[arg-type]
        settings = JudgeSettings(kind="endpoint", model="toy", rubric=rubric, endpoint=given)  # type: ignore[arg-type]
        assert settings.endpoint.request == {"max_completion_tokens": 9}


@pytest.mark.parametrize(
    "given",
    [
        {}, {**ENDPOINT, "rubric": "strongreject", "threshold": 0.25},
        {"kind": "classifier", "guard": {"guard": "g", "unsafe": ["bad"], "multi_label": True}},
        {"kind": "guard", "guard": {"guard": "g"}, "threshold": 1.5},
    ],
)  # fmt: skip
def test_written_settings_read_back_the_same(given: dict[str, Any]) -> None:
    """What a manifest records repeats the judge."""
    settings = JudgeSettings(**given)
    assert JudgeSettings(**settings.model_dump(mode="json")) == settings


def test_a_classifier_judges_with_its_own_settings(guard_folder: str, tmp_path: Path) -> None:
    """Threshold, name and cache reach it; kind says which backend."""
    settings = JudgeSettings(
        kind="classifier", name="toy", threshold=1e9,
        guard={"guard": guard_folder, "device": "cpu", "dtype": "float32"},
    )  # fmt: skip
    assert settings.guard.backend == "classifier"
    judge = build_judge(settings, cache=tmp_path)
    assert isinstance(judge, GuardJudge)
    (verdict,) = judge.judge([Answer("harmful", "q", "Sure.")])
    assert (judge.name, verdict.harmful) == ("toy", False)
    assert list((tmp_path / "guard").rglob("*.safetensors"))


def test_a_guard_is_generative(guard_folder: str) -> None:
    """A classifier given as one is refused by what it is."""
    settings = JudgeSettings(kind="guard", guard={"guard": guard_folder, "device": "cpu"})
    assert settings.guard.backend == "generative"
    with pytest.raises(ConfigError, match=r"is a classifier .* set backend to classifier"):
        build_judge(settings)


def test_pairs_have_judges_of_their_own(serve: Serve) -> None:
    """Safety and helpfulness, as settings of the same form."""
    server = serve(lambda *_: says("better: B"))
    settings = JudgeSettings(
        kind="endpoint", model="toy", rubric="helpfulness", endpoint={"base_url": server.url}
    )
    (found,) = build_pair_judge(settings).prefer([Pair("q", "one", "two")])
    assert found.better == "second"
    with pytest.raises(ConfigError, match=r"compares two answers.*hexphi, strongreject"):
        build_judge(settings)
    with pytest.raises(ConfigError, match=r"compares no answers: .*safety, helpfulness"):
        build_pair_judge(JudgeSettings(**ENDPOINT, rubric="saft"))


# What they refuse


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"kind": "endpoint", "rubric": "saft"}, "needs model"),
        ({"kind": "endpoint", "model": "m", "rubric": "saft"}, r"needs endpoint\.base_url"),
        (ENDPOINT, "needs a rubric: helpfulness, hexphi, safety, saft, strongreject, xstest"),
        ({**ENDPOINT, "rubric": "hexfi"}, "rubric 'hexfi' is unknown. Did you mean 'hexphi'"),
        ({**ENDPOINT, "rubric": "hexphi"}, "set policy to a file"),
        ({**ENDPOINT, "rubric": "saft", "policy": "p.txt"}, "policy means nothing to rubric saft"),
        ({**ENDPOINT, "rubric": "xstest", "threshold": 1}, "threshold means nothing to rubric"),
        ({**ENDPOINT, "rubric": "strongreject", "threshold": 2}, r"set it from 0\.125 to 1"),
        ({**ENDPOINT, "rubric": "hexphi", "policy": "p", "threshold": 1}, "set it from 2 to 5"),
        ({**ENDPOINT, "rubric": "saft", "guard": {"guard": "g"}}, "guard means nothing to kind"),
        ({"kind": "guard"}, r"set guard\.guard"),
        ({"kind": "classifier", "guard": {"guard": "g"}, "rubric": "saft"}, "rubric means nothing"),
        ({"kind": "classifier", "guard": {"guard": "g", "backend": "endpoint"}},
         "needs endpoint.base_url|leave it out"),
        ({"kind": "guard", "guard": {"guard": "g", "backend": "classifier"}},
         r"guard\.backend=generative: leave it out"),
        ({"kind": "guard", "guard": {"guard": "g"}, "threshold": float("nan")}, "finite"),
        ({"threshold": 1}, "threshold means nothing to kind=refusal_strings"),
        ({"kind": "oracle"}, "refusal_strings"),
        ({"polisy": "x"}, "Extra inputs"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], match: str) -> None:
    """With what to set, before anything is read or asked."""
    with pytest.raises(ValueError, match=match):
        JudgeSettings(**given)


@pytest.mark.parametrize(("content", "match"), [(None, "cannot be read"), (" \n", "is empty")])
def test_a_policy_that_says_nothing_is_refused_before_anything_is_asked(
    tmp_path: Path, content: str | None, match: str
) -> None:
    """A missing file, and an empty one."""
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_text(content)
    settings = JudgeSettings(**ENDPOINT, rubric="hexphi", policy=str(path))
    with pytest.raises(ConfigError, match=match):
        build_judge(settings)


def test_a_guards_policy_is_read_before_the_guard(tmp_path: Path) -> None:
    """Neither exists: the policy is named."""
    settings = JudgeSettings(
        kind="guard", guard={"guard": str(tmp_path / "none"), "policy": str(tmp_path / "p.txt")}
    )
    with pytest.raises(ConfigError, match=r"policy .*p\.txt' cannot be read"):
        build_judge(settings)


TWICE: dict[str, Any] = {**ENDPOINT, "rubric": "saft"}


@pytest.mark.parametrize(
    ("judges", "match"),
    [
        ([{}, {}], "judges have 'refusal_strings' twice.* Leave one out"),
        ([TWICE, {**TWICE, "name": "another"}], "judges have 'another' twice"),
        ([TWICE, {**TWICE, "name": "patient",
                  "endpoint": {**ENDPOINT["endpoint"], "timeout_seconds": 600}}],
         "judges have 'patient' twice"),
        ([{**TWICE, "name": "it"}, {**TWICE, "name": "it", "model": "toy2"}], "give one of them"),
        ([{"kind": "guard", "guard": {"guard": "g"}},
          {"kind": "guard", "guard": {"guard": "g", "question": "{prompt} {response}?"}}],
         "'g' twice.* another name"),
        ([{**ENDPOINT, "rubric": "safety"}], "compares two answers.*hexphi"),
    ],
)  # fmt: skip
def test_judges_that_cannot_judge_side_by_side_are_refused_with_the_settings(
    judges: list[dict[str, Any]], match: str
) -> None:
    """The same one twice, under whatever names; two of one name; one that compares answers."""
    with pytest.raises(ValueError, match=match):
        EvaluateConfig.model_validate({"judges": judges})


def test_one_model_may_be_asked_two_rubrics() -> None:
    """They stand under their rubrics' names."""
    both = [{**ENDPOINT, "rubric": "saft"}, {**ENDPOINT, "rubric": "strongreject"}]
    found = EvaluateConfig.model_validate({"judges": both}).judges
    assert [judge.label for judge in found] == ["saft:toy", "strongreject:toy"]
