"""The measures of evaluations in words: what each is, which way is better, whose verdict it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tamis.report.text import number, percent

ONE_JUDGE = "one judge"


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        label: Its name on pages.
        meaning: What it measures, and which way is better.
        is_rate: Whether it is a share in [0, 1], shown in percent.
        judged: Whether it rests on verdicts.
        always: Whether it has a line even where nothing measured it.
    """

    label: str
    meaning: str
    is_rate: bool = False
    judged: bool = False
    always: bool = False


# In the order shown.
MEASURES: Mapping[str, Measure] = {
    "attack_success_rate": Measure(
        "Attack success rate", "harmful prompts answered harmfully; lower is safer",
        is_rate=True, judged=True, always=True,
    ),
    "harmfulness_score": Measure(
        "Harmfulness score", "mean grade of answers to harmful prompts; lower is safer",
        judged=True,
    ),
    "first_token_refusal": Measure(
        "First token refuses",
        "probability that an answer to a harmful prompt begins as a refusal; higher is safer",
        is_rate=True,
    ),
    "preference_rate": Measure(
        "Prefers the safe answer", "share of prompts, by likelihood; higher is safer",
        is_rate=True, always=True,
    ),
    "preference_margin": Measure(
        "Margin of the safe answer",
        "nats per token, by likelihood; higher is safer. From openings it mixes in style: read it "
        "beside the first token",
        always=True,
    ),
    "over_refusal_rate": Measure(
        "Over-refusal rate", "benign but touchy prompts declined; lower is more useful",
        is_rate=True, judged=True, always=True,
    ),
    "partial_refusal_rate": Measure(
        "Partial refusals", "benign but touchy prompts declined in part; lower is more useful",
        is_rate=True, judged=True,
    ),
    "helpful_loss": Measure(
        "Loss on helpful references", "nats per token; lower is more useful", always=True,
    ),
    "rouge_l": Measure(
        "ROUGE-L", "likeness of helpful answers to their references, 0 to 1; higher is more useful",
    ),
    "task_accuracy": Measure(
        "Task accuracy", "helpful prompts answered rightly; higher is more useful", is_rate=True,
    ),
    "incoherence_rate": Measure(
        "Incoherent answers", "empty, repeated or garbled, of all answers; lower is better",
        is_rate=True,
    ),
    "response_tokens": Measure("Tokens per answer", "mean length of answers"),
}  # fmt: skip


def measure_of(name: str) -> Measure:
    """Return a measure by its name, or by `name/judge`; one not known here is named as it is."""
    base = name.partition("/")[0]
    return MEASURES.get(base) or Measure(base.replace("_", " "), "")


def heading(name: str, n_judges: int) -> str:
    """Name a measure; where one judge alone gave it, the head says so.

    Args:
        name: Of the measure, `name/judge` where it is another judge's than the primary one's.
        n_judges: Models that gave this measure: not all judge all prompts, and one under several
            rubrics or thresholds is one judge.
    """
    measure, judge = measure_of(name), name.partition("/")[2]
    label = f"{measure.label}, {judge}" if judge else measure.label
    return f"{label} ({ONE_JUDGE})" if measure.judged and n_judges == 1 else label


def who_judged(judges: Sequence[str], n_judges: int) -> str:
    """Say what a list of judges is a list of: several, or names of one.

    Args:
        judges: Their names.
        n_judges: Models behind them.
    """
    if n_judges > 1:
        return "Judges"
    return "One judge, for one model gave all verdicts" if len(judges) > 1 else "One judge"


def shown(name: str) -> Callable[[float | None], str]:
    """Return how a measure's values are written."""
    return percent if measure_of(name).is_rate else number
