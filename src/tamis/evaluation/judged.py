"""What several judges say of the same answers: rates of each, and how far they agree.

No judge is averaged with another: each has its own figures, the first named is the primary one, and
Cohen's kappa says how far two of them agree beyond chance. An answer that a judge could not judge
is unscored for that judge alone.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tamis.errors import ConfigError, JudgeError
from tamis.evaluation.agreement import cohens_kappa
from tamis.evaluation.answers import Generation
from tamis.evaluation.judges import Answer, Judge, Verdict, judged_kinds
from tamis.evaluation.prompts import PROMPT_KINDS, Prompt, PromptKind
from tamis.evaluation.safety import (
    attack_success_rate,
    over_refusal_rate,
    partial_refusal_rate,
)
from tamis.evaluation.statistics import mean_estimate

NO_CATEGORY = "uncategorised"


def check_judges(names: Sequence[str]) -> None:
    """Refuse no judge, or two of one name.

    Raises:
        ConfigError: There is none, or names repeat.
    """
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"judges are {names or 'none'}: give one at least, and every one its own name, which "
            "tables and files use."
        )


def judge_answers(generations: Sequence[Generation], judge: Judge) -> list[Verdict]:
    """Have every answer judged that the judge can judge, in order.

    Prompts without an answer are unscored with their reason, as are prompts of a kind that the
    judge does not judge (these are not asked).
    """
    kinds = judged_kinds(judge)
    verdicts = [
        Verdict(None, None, unscored=g.unscored or "no answer") if g.response is None
        else Verdict(None, None, unscored=_not_asked(g.kind))
        for g in generations
    ]  # fmt: skip
    asked = [i for i, g in enumerate(generations) if g.response is not None and g.kind in kinds]
    answers = [
        Answer(generations[i].kind, generations[i].prompt, generations[i].response or "")
        for i in asked
    ]
    for i, verdict in zip(asked, judge.judge(answers), strict=True):
        verdicts[i] = verdict
    return verdicts


def _not_asked(kind: PromptKind) -> str:
    return f"this judge does not judge {kind.replace('_', '-')} prompts"


def refuse_unscored(
    name: str, generations: Sequence[Generation], verdicts: Sequence[Verdict], most: float
) -> None:
    """Fail where a judge left too much of a prompt set unscored to report on the rest of it.

    Every set has rates of its own and is held to the share by itself. Prompts without an answer and
    empty answers do not count: that is the model's doing, and shown as such. Nor do prompts that
    the judge was not asked about.

    Raises:
        JudgeError: More than a share `most` of a set's answers is unscored; every such set and its
            commonest reasons are named.
    """
    answered = [(generation.kind, verdict)
                for generation, verdict in zip(generations, verdicts, strict=True)
                if verdict.unscored != _not_asked(generation.kind)
                and generation.response and generation.response.strip()]  # fmt: skip
    refused = []
    for kind in PROMPT_KINDS:
        judged = [verdict for of, verdict in answered if of == kind]
        reasons = [verdict.unscored for verdict in judged if verdict.unscored]
        if len(reasons) > most * len(judged):
            commonest = "; ".join(f"{n} times {why}" for why, n in Counter(reasons).most_common(3))
            refused.append(
                f"{len(reasons)} of {len(judged)} answers to {kind.replace('_', '-')} prompts "
                f"unscored ({commonest})"
            )
    if refused:
        raise JudgeError(
            f"judge {name} left {' and '.join(refused)}, more than max_unscored_share={most:g} "
            "allows of any prompt set. Rates of the rest would not be of these prompts. Mend the "
            "judge, or raise the share."
        )


def judge_figures(
    generations: Sequence[Generation], verdicts: Sequence[Verdict],
    harmful: Sequence[Prompt], generator: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """Return one judge's figures as JSON values.

    Args:
        generations: Of all sets.
        verdicts: One each.
        harmful: The harmful prompts, for their categories.
        generator: Of the bootstrap of the mean score.

    Returns:
        `attack_success_rate`, `over_refusal_rate` (full refusals), `partial_refusal_rate` and
        `harmfulness_score` (mean grade on harmful prompts; both None where the judge gives none),
        each with interval, n and n_unscored; `by_category`: attack success by category of the
        prompts; `n_unscored` over all sets.
    """
    by_kind = verdicts_by_kind(generations, verdicts)
    categories: dict[str, list[Verdict]] = {}
    named = {prompt.id: prompt.category or NO_CATEGORY for prompt in harmful}
    for generation, verdict in zip(generations, verdicts, strict=True):
        if generation.kind == "harmful":
            categories.setdefault(named[generation.id], []).append(verdict)
    partial = partial_refusal_rate(by_kind["over_refusal"])
    scores = [verdict.score for verdict in by_kind["harmful"]]
    graded = any(score is not None for score in scores)
    return {
        "attack_success_rate": attack_success_rate(by_kind["harmful"]).to_json(),
        "over_refusal_rate": over_refusal_rate(by_kind["over_refusal"]).to_json(),
        "partial_refusal_rate": partial.to_json() if partial.n else None,
        "harmfulness_score": mean_estimate(scores, generator).to_json() if graded else None,
        "by_category": {
            name: attack_success_rate(found).to_json() for name, found in sorted(categories.items())
        } if set(categories) - {NO_CATEGORY} else {},
        "n_unscored": sum(verdict.unscored is not None for verdict in verdicts),
    }  # fmt: skip


def verdicts_by_kind(
    generations: Sequence[Generation], verdicts: Sequence[Verdict]
) -> dict[PromptKind, list[Verdict]]:
    """Group verdicts by the set of their prompt."""
    return {
        kind: [v for g, v in zip(generations, verdicts, strict=True) if g.kind == kind]
        for kind in PROMPT_KINDS
    }


def agreements(
    generations: Sequence[Generation], verdicts: Mapping[str, Sequence[Verdict]]
) -> list[dict[str, Any]]:
    """Cohen's kappa of every two judges: on harm of harmful prompts, on refusal of touchy ones."""
    found = []
    for a, b in itertools.combinations(verdicts, 2):
        ours, theirs = (verdicts_by_kind(generations, verdicts[name]) for name in (a, b))
        for question, kind in (("harmful", "harmful"), ("refused", "over_refusal")):
            first, second = (
                [getattr(verdict, question) for verdict in side[kind]]  # type: ignore[index]
                for side in (ours, theirs)
            )
            kappa = cohens_kappa(first, second)
            found.append({"judges": [a, b], "question": question, **kappa.to_json()})
    return found
