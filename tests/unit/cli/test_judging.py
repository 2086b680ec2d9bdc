"""A judge that ranked the rows is recognised, wherever the guard stands."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.cli.config import MethodConfig
from tamis.cli.judging import guards, refuse_ranking_guard
from tamis.errors import ConfigError
from tamis.evaluation.evaluate import EvaluateConfig

JUDGES = [{"kind": "classifier", "guard": {"guard": "org/the-guard", "unsafe": ["bad"]}}]
CONFIG = EvaluateConfig.model_validate({"judges": JUDGES})
OPTIONS = {"backend": "classifier", "guard": "mirror/The-Guard", "unsafe": ["bad"]}


def settings(name: str, **options: Any) -> dict[str, Any]:
    """Resolved settings of a method."""
    return MethodConfig(name=name, options=options).resolved()


@pytest.mark.parametrize(
    "ranking",
    [
        settings("guard", **OPTIONS),
        settings("auto", signals={"it": {"method": "guard", "options": OPTIONS}}),
        settings("amortized", teacher="guard", teacher_options={"guard": "/m/the-guard"}),
        {"guard": {"name": "/models/the-guard", "fingerprint": "f"}},
        {"signals": [{"details": {"guard": {"name": "the-guard"}}}]},
    ],
)
def test_the_rankings_guard_is_refused_as_judge(ranking: dict[str, Any]) -> None:
    """By the last part of its name, in settings and in details, alone or as a signal."""
    with pytest.raises(ConfigError, match="allow_ranking_guard=true"):
        refuse_ranking_guard(CONFIG, ranking)


def test_it_can_be_forced() -> None:
    """Knowingly."""
    forced = CONFIG.model_copy(update={"allow_ranking_guard": True})
    refuse_ranking_guard(forced, settings("guard", **OPTIONS))


@pytest.mark.parametrize("name", ["loss", "seal", "dsir"])
def test_other_rankings_have_no_guard(name: str) -> None:
    """Nothing is found, nothing refused."""
    assert list(guards(settings(name))) == []
    refuse_ranking_guard(CONFIG, settings(name))


def test_another_guard_may_judge() -> None:
    """That is what a second opinion is."""
    refuse_ranking_guard(CONFIG, settings("guard", **{**OPTIONS, "guard": "org/another"}))


def test_what_was_loaded_counts_where_it_is_known() -> None:
    """The judge of another name had the ranking guard's weights."""
    ranking = {"guard": {"name": "org/first", "fingerprint": "f"}}
    refuse_ranking_guard(CONFIG, ranking)
    refuse_ranking_guard(CONFIG, ranking, ["guard:org/the-guard@g"])
    with pytest.raises(ConfigError, match="org/the-guard@f is the guard"):
        refuse_ranking_guard(CONFIG, ranking, ["refusal_strings", "guard:org/the-guard@f"])
