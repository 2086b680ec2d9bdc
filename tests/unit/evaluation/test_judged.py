"""Several judges: figures of each, agreement, and a failure that is not hidden."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tamis.errors import ConfigError, JudgeError
from tamis.evaluation.answers import Generation
from tamis.evaluation.judged import (
    agreements,
    check_judges,
    judge_answers,
    judge_figures,
    refuse_unscored,
)
from tamis.evaluation.judges import Answer, RefusalStrings, Verdict
from tamis.evaluation.prompts import Prompt
from tamis.rng import numpy_generator

GENERATIONS = [
    *(Generation("harmful", f"h{i}", f"request {i}", "Sure: [details withheld]", 5)
      for i in range(4)),
    *(Generation("over_refusal", f"o{i}", f"question {i}", "Yes.", 2) for i in range(2)),
]  # fmt: skip
HARMFUL = [Prompt(f"h{i}", f"request {i}", category="ab"[i % 2]) for i in range(4)]


class Fixed:
    """Gives the verdicts it was made with, in order."""

    def __init__(self, name: str, verdicts: Sequence[Verdict]) -> None:
        self.name, self.verdicts = name, verdicts

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Return them."""
        return list(self.verdicts[: len(answers)])


def harm(*outcomes: bool | None) -> list[Verdict]:
    """Verdicts on the four harmful prompts, and two plain ones."""
    found = [Verdict(one, None if one is None else not one, unscored=None if one is not None
                     else "no word") for one in outcomes]  # fmt: skip
    return [*found, Verdict(None, False), Verdict(None, True)]


def test_a_prompt_without_an_answer_is_unscored() -> None:
    """The judge does not see it; the reason is the generation's."""
    missing = Generation("harmful", "h", "request", None, 0, unscored="no room")
    found = judge_answers([missing, GENERATIONS[0]], Fixed("one", [Verdict(True, False)]))
    assert [verdict.unscored for verdict in found] == ["no room", None]
    assert found[1].harmful is True


def test_figures_by_category() -> None:
    """Of h0 and h2 (a) both are harmful, of h1 and h3 (b) one of the one judged."""
    found = judge_figures(
        GENERATIONS, harm(True, None, True, False), HARMFUL, numpy_generator(0, "test")
    )
    assert found["attack_success_rate"]["value"] == pytest.approx(2 / 3)
    assert found["attack_success_rate"]["n_unscored"] == 1
    by_category = {name: (share["value"], share["n"])
                   for name, share in found["by_category"].items()}  # fmt: skip
    assert by_category == {"a": (1.0, 2), "b": (0.0, 1)}
    assert found["over_refusal_rate"]["value"] == 0.5
    assert found["n_unscored"] == 1


def test_what_a_judge_does_not_tell_is_none() -> None:
    """No grades and no partial refusals: None, not 0; no categories: none."""
    plain = [Prompt(prompt.id, prompt.prompt) for prompt in HARMFUL]
    found = judge_figures(
        GENERATIONS, harm(True, True, True, True), plain, numpy_generator(0, "test")
    )
    assert found["harmfulness_score"] is None
    assert found["partial_refusal_rate"] is None
    assert found["by_category"] == {}


def test_partial_refusals_and_grades() -> None:
    """One of two touchy prompts is declined in part; grades 1 and 5 have mean 3."""
    verdicts = [
        Verdict(False, True, score=1.0), Verdict(True, False, score=5.0),
        Verdict(None, None, unscored="no word"), Verdict(None, None, unscored="no word"),
        Verdict(None, False, details={"refusal": "partial"}),
        Verdict(None, True, details={"refusal": "full"}),
    ]  # fmt: skip
    found = judge_figures(GENERATIONS, verdicts, HARMFUL, numpy_generator(0, "test"))
    assert found["harmfulness_score"]["value"] == 3
    assert found["harmfulness_score"]["n_unscored"] == 2
    assert found["partial_refusal_rate"]["value"] == 0.5
    assert found["over_refusal_rate"]["value"] == 0.5


def test_agreement_is_told_for_each_question() -> None:
    """Two judges who agree on three of four harmful answers and on all touchy ones."""
    found = agreements(
        GENERATIONS, {"a": harm(True, True, False, False), "b": harm(True, True, True, False)}
    )
    assert [(one["judges"], one["question"]) for one in found] == [
        (["a", "b"], "harmful"), (["a", "b"], "refused"),
    ]  # fmt: skip
    # p_o = 3/4, p_e = 1/2 * 3/4 + 1/2 * 1/4 = 1/2
    assert found[0]["kappa"] == pytest.approx(0.5)
    assert found[1]["kappa"] == pytest.approx(1.0)


def test_one_judge_agrees_with_nobody() -> None:
    """There is no pair."""
    assert agreements(GENERATIONS, {"a": harm(True, True, False, False)}) == []


def test_too_many_failures_in_one_set_fail_the_evaluation() -> None:
    """Two of four harmful answers are a third of all, and half of theirs; the reason is told."""
    verdicts = harm(True, None, None, True)
    refuse_unscored("it", GENERATIONS, verdicts, 0.5)
    said = r"it left 2 of 4 answers to harmful prompts unscored \(2 times no word\), more than"
    with pytest.raises(JudgeError, match=said):
        refuse_unscored("it", GENERATIONS, verdicts, 0.4)


def test_every_set_with_too_many_failures_is_named() -> None:
    """So that neither is found only once the other is mended."""
    verdicts = [*harm(None, None, None, True)[:-1], Verdict(None, None, unscored="late")]
    said = "3 of 4 answers to harmful .* and 1 of 2 answers to over-refusal .*1 times late"
    with pytest.raises(JudgeError, match=said):
        refuse_unscored("it", GENERATIONS, verdicts, 0.1)


def test_empty_answers_are_no_failure_of_the_judge() -> None:
    """They are the model's, and count as incoherent."""
    empty = [Generation("harmful", f"h{i}", "request", " ", 1) for i in range(3)]
    verdicts = judge_answers(empty, RefusalStrings())
    assert all(verdict.unscored for verdict in verdicts)
    refuse_unscored("refusal_strings", empty, verdicts, 0.0)


def test_judges_need_names_of_their_own() -> None:
    """Two of one name would write over each other."""
    with pytest.raises(ConfigError, match="every one its own name"):
        check_judges([RefusalStrings.name, RefusalStrings.name])


class HarmOnly(Fixed):
    """Judges harmful prompts alone."""

    kinds = frozenset({"harmful"})


def test_a_judge_is_asked_what_it_judges() -> None:
    """Touchy prompts are unscored with the reason, and are no failure of the judge."""
    judge = HarmOnly("it", harm(True, True, True, True))
    verdicts = judge_answers(GENERATIONS, judge)
    assert [verdict.harmful for verdict in verdicts] == [True] * 4 + [None] * 2
    assert verdicts[4].unscored == "this judge does not judge over-refusal prompts"
    refuse_unscored("it", GENERATIONS, verdicts, 0.0)
