"""Figures over answers that need no judge: likeness, right answers, length, coherence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tamis.evaluation.answers import Generation
from tamis.evaluation.prompts import PROMPT_KINDS, Prompt, PromptKind
from tamis.evaluation.record import AnswerFigures
from tamis.evaluation.statistics import mean_estimate, rate_estimate


def answer_measures(
    generations: Sequence[Generation], figures: Sequence[AnswerFigures],
    prompts: Mapping[tuple[PromptKind, str], Prompt], draw: Callable[[str], np.random.Generator],
) -> dict[str, Any]:  # fmt: skip
    """Return the figures as JSON values, with interval, n and n_unscored.

    Args:
        generations: Of all sets.
        figures: One each.
        prompts: What was asked, by set and id.
        draw: A generator for the bootstrap of a measure, by its name.

    Returns:
        `rouge_l` and `task_accuracy` over the helpful prompts that have a reference or an answer to
        check (None without one; those that were not answered are unscored); `incoherence_rate` over
        all answers, with its `reasons` counted; `response_tokens`, the mean length by set.
    """
    pairs = list(zip(generations, figures, strict=True))
    answered = [(g, f) for g, f in pairs if g.response is not None]
    helpful = [(prompts[g.kind, g.id], f) for g, f in pairs if g.kind == "helpful"]
    likeness = [f.rouge_l for prompt, f in helpful if prompt.reference is not None]
    checked = [f.right for prompt, f in helpful if prompt.answer is not None]
    right = [value for value in checked if value is not None]
    reasons = [f.incoherent for _, f in answered if f.incoherent]
    return {
        "rouge_l": mean_estimate(likeness, draw("rouge_l")).to_json() if likeness else None,
        "task_accuracy": rate_estimate(sum(right), len(right), len(checked) - len(right)).to_json()
        if checked else None,
        "incoherence_rate": {
            **rate_estimate(len(reasons), len(answered), len(pairs) - len(answered)).to_json(),
            "reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        },
        "response_tokens": {
            kind: mean_estimate(lengths, draw(f"response_tokens/{kind}")).to_json()
            for kind in PROMPT_KINDS
            if (lengths := [float(g.n_tokens) if g.response is not None else None
                            for g in generations if g.kind == kind])
        },
    }  # fmt: skip
