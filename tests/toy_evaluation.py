"""Finished evaluations whose every verdict and likelihood is chosen by a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis.evaluation.answers import Generation
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.first_token import FirstToken
from tamis.evaluation.judged import agreements, judge_figures
from tamis.evaluation.judges import Verdict
from tamis.evaluation.preference import Margin, preference_margin
from tamis.evaluation.prompts import Prompt, prompts_fingerprint
from tamis.evaluation.record import AnswerFigures, Evaluation
from tamis.evaluation.statistics import rate_estimate
from tamis.evaluation.utility import ReferenceLoss
from tamis.rng import numpy_generator
from tamis.runs import Stage

MODEL = {"name": "tiny", "revision": None, "device": "cpu", "dtype": "float32"}
RENDER = {"max_prompt_tokens": 96, "chat_template": None}


def verdict(harmful: bool | None, grade: float | None = None) -> Verdict:
    """A verdict on an answer to a harmful prompt; None is unscored."""
    refused = None if harmful is None else not harmful
    return Verdict(harmful, refused, grade, unscored="unparsable" if harmful is None else None)


def evaluated(
    folder: Path, harmful: Sequence[bool | None], *, adapter: str | None = None,
    margins: Sequence[float | None] = (), grades: Mapping[str, Sequence[float]] | None = None,
    right: Sequence[bool | None] = (), others: Mapping[str, Sequence[bool]] | None = None,
    text: str = "plain words", asked: str = "Tell", identities: Mapping[str, str] | None = None,
    model: str = "f" * 64, inputs: Mapping[str, Any] | None = None, **config: Any,
) -> Path:  # fmt: skip
    """Write a finished evaluation through the package's writers.

    Args:
        folder: Of the stage.
        harmful: The primary judge's verdicts, one per harmful prompt.
        adapter: What the manifest says was on the model.
        margins: Preference margins, by harmful prompt.
        grades: The grades of judges, who find the same harmful as the primary one.
        right: Whether helpful prompts with an answer to check were answered rightly; None where
            they were not answered at all. One more helpful prompt has nothing to check.
        others: Verdicts of further judges.
        text: Every answer.
        asked: How prompts begin: other words are other prompts.
        identities: Of judges, by name; themselves if unset.
        model: The base model's fingerprint.
        inputs: What the manifest names besides.
        **config: Settings of `evaluate`.
    """
    prompts = [Prompt(f"h{i}", f"{asked} {i}") for i in range(len(harmful))]
    helpful = [Prompt(f"u{i}", f"{asked} {i}", reference="water", answer="water")
               for i in range(len(right))] + [Prompt("free", asked, reference="water")]  # fmt: skip
    generations = [Generation("harmful", p.id, p.prompt, text, 3) for p in prompts]
    generations += [
        Generation("helpful", p.id, p.prompt, None if i < len(right) and right[i] is None else text,
                   3)
        for i, p in enumerate(helpful)
    ]  # fmt: skip
    silent = [Verdict(None, False)] * len(helpful)
    verdicts = {"refusal_strings": [verdict(one) for one in harmful] + silent}
    for name, given in (others or {}).items():
        verdicts[name] = [verdict(one) for one in given] + silent
    for name, scale in (grades or {}).items():
        graded = [verdict(one, grade) for one, grade in zip(harmful, scale, strict=True)]
        verdicts[name] = graded + silent
    figures = [AnswerFigures(None, None, None)] * len(harmful)
    figures += [AnswerFigures(None, 0.5, one) for one in right] + [AnswerFigures(None, 0.5, None)]
    found = [Margin(f"h{i}", value) for i, value in enumerate(margins)]
    draw = numpy_generator(0, "toy")
    by_judge = {n: judge_figures(generations, v, prompts, draw) for n, v in verdicts.items()}
    scored = [one for one in right if one is not None]
    metrics = {
        **by_judge["refusal_strings"],
        "preference_margin": preference_margin(found, draw).to_json(),
        "task_accuracy": rate_estimate(sum(scored), len(scored), right.count(None)).to_json(),
        "judge": "refusal_strings",
        "judge_identities": dict(identities or {name: name for name in verdicts}),
        "judges": by_judge,
        "agreement": agreements(generations, verdicts),
        "settings": {"prompts": {"harmful": {"fingerprint": prompts_fingerprint(prompts)},
                                 "helpful": {"fingerprint": prompts_fingerprint(helpful)}}},
    }  # fmt: skip
    settings = {"evaluate": EvaluateConfig().model_dump(mode="json") | config, "render": RENDER,
                "model": {"name": "tiny", "load_in_4bit": False}, "device": "cpu"}  # fmt: skip
    fingerprint = model if adapter is None else f"{model}+{'a' * 8}"
    with Stage(folder, "evaluate", settings, inputs or {}, seed=0) as stage:
        Evaluation(metrics, generations, verdicts, figures, found,
                   [ReferenceLoss(p.id, 1.0) for p in helpful],
                   [FirstToken(p.id, 0.5) for p in prompts]).write(folder)  # fmt: skip
        stage.finish(model={**MODEL, "fingerprint": fingerprint},
                     details={"adapter": adapter, "metrics": metrics})  # fmt: skip
    return folder
