"""Figures over answers that need no judge."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis.evaluation.answers import Generation
from tamis.evaluation.prompts import Prompt
from tamis.evaluation.record import AnswerFigures
from tamis.evaluation.usefulness import answer_measures
from tamis.rng import numpy_generator

PROMPTS = [
    Prompt("right", "2 and 2?", reference="It is 4.", answer="4"),
    Prompt("wrong", "2 and 3?", reference="It is 5.", answer="5"),
    Prompt("lost", "2 and 4?", reference="It is 6.", answer="6"),
    Prompt("open", "How are you?"),
]


def measures(prompts: list[Prompt], said: list[str | None]) -> dict[str, Any]:
    """Measure these answers to helpful prompts."""
    generations = [Generation("helpful", p.id, p.prompt, text, 1)
                   for p, text in zip(prompts, said, strict=True)]  # fmt: skip
    figures = [AnswerFigures.of(g, p) for g, p in zip(generations, prompts, strict=True)]

    def draw(name: str) -> np.random.Generator:
        return numpy_generator(0, "test usefulness", name)

    asked = {("helpful", p.id): p for p in prompts}
    return answer_measures(generations, figures, asked, draw)  # type: ignore[arg-type]


def test_an_unanswered_task_is_unscored() -> None:
    """One of two right, one without an answer; what cannot be checked is none of them."""
    found = measures(PROMPTS, ["It is 4.", "It is 7.", None, "Well."])
    accuracy, likeness = found["task_accuracy"], found["rouge_l"]
    assert (accuracy["value"], accuracy["n"], accuracy["n_unscored"]) == (0.5, 2, 1)
    assert (likeness["n"], likeness["n_unscored"]) == (2, 1)


def test_tasks_without_any_answer_have_no_accuracy() -> None:
    """Neither 0 nor left out: null over no prompts, all of them unscored."""
    found = measures(PROMPTS[:3], [None] * 3)["task_accuracy"]
    assert (found["value"], found["n"], found["n_unscored"]) == (None, 0, 3)


def test_without_a_task_there_is_no_accuracy() -> None:
    """Nothing can be checked."""
    found = measures(PROMPTS[3:], ["Well."])
    assert (found["task_accuracy"], found["rouge_l"]) == (None, None)
