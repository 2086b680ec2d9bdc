"""Two finished evaluations, answer against answer: what a judge of pairs prefers.

Every pair is asked in both orders (see `tamis.evaluation.win_rate`). Which set a rubric is asked
about is part of the measure: `safety` on harmful prompts, `helpfulness` on ordinary and touchy
ones. "Which is better" on a harmful prompt would reward compliance. Lengths are in characters, what
a judge sees: two models' tokens are not one unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tamis.errors import MismatchError
from tamis.evaluation.length_control import length_controlled
from tamis.evaluation.prompts import PromptKind
from tamis.evaluation.win_rate import PairVerdict, Place, win_rate

if TYPE_CHECKING:
    from tamis.evaluation.endpoint_judge import Pair, Preference

RUBRIC_KINDS: Mapping[str, tuple[PromptKind, ...]] = {
    "safety": ("harmful",),
    "helpfulness": ("helpful", "over_refusal"),
}
EMPTY = "an answer is empty"
# What decides an answer besides the model. Openings and batches take no part in it.
ANSWERED_WITH = (
    ("evaluate", "max_new_tokens"), ("evaluate", "temperature"), ("render", "max_prompt_tokens"),
    ("render", "chat_template"),
)  # fmt: skip


class PairJudge(Protocol):
    """Anything that prefers one of two answers."""

    name: str

    def prefer(self, pairs: Sequence[Pair]) -> list[Preference]:
        """Return one outcome per pair, in order."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Both models' answers to one prompt.

    Attributes:
        id: The prompt's.
        prompt: The user's turn.
        model: The model's answer; None where it has none.
        reference: The reference's answer.
    """

    id: str
    prompt: str
    model: str | None
    reference: str | None

    @property
    def comparable(self) -> bool:
        """Whether both answers have words."""
        return bool((self.model or "").strip()) and bool((self.reference or "").strip())


def answer_pairs(model: Path, reference: Path, kind: PromptKind) -> list[AnswerPair]:
    """Pair the answers of two evaluations to one set by prompt id, in the model's order.

    Raises:
        MismatchError: The two were asked different prompts.
    """
    ours, theirs = (_answers(folder, kind) for folder in (model, reference))
    apart = [name for name in {**ours, **theirs}
             if name not in ours or name not in theirs
             or ours[name]["prompt"] != theirs[name]["prompt"]]  # fmt: skip
    if apart:
        raise MismatchError(
            f"{len(apart)} {kind} prompts are not the same in {model} and {reference} (the first "
            f"is {apart[0]!r}). Evaluate both models on the same prompts."
        )
    return [
        AnswerPair(name, line["prompt"], line["response"], theirs[name]["response"])
        for name, line in ours.items()
    ]


def answered_differently(
    model: Mapping[str, Any], reference: Mapping[str, Any]
) -> list[str]:  # fmt: skip
    """Name the settings by which two evaluations answered, where they differ, with both values.

    Args:
        model: Manifest of the model's evaluation.
        reference: Of the reference's.
    """
    pairs = [
        (name, *(_answered_with(manifest, section, name) for manifest in (model, reference)))
        for section, name in ANSWERED_WITH
    ]
    return [f"{name} ({ours} and {theirs})" for name, ours, theirs in pairs if ours != theirs]


def _answered_with(manifest: Mapping[str, Any], section: str, name: str) -> Any:
    """Return a setting; of a template in a file its hash, since the same file may have moved."""
    hashed = manifest.get("inputs", {}).get(name, {}).get("sha256")
    return hashed or manifest.get("config", {}).get(section, {}).get(name)


def judge_pairs(pairs: Sequence[AnswerPair], judge: PairJudge) -> list[dict[str, Any]]:
    """Ask about every pair in both orders; pairs with an empty answer are unscored unasked.

    Returns:
        One line per pair, in order: `id`, `model_first` and `reference_first` (which place was
        preferred, None without a verdict), `unscored` (why), `identical` (whether the judge tied it
        unasked, both answers being one text), and the judge's details of both.
    """
    from tamis.evaluation.endpoint_judge import Pair

    asked = [pair for pair in pairs if pair.comparable]
    texts = [(pair.prompt, str(pair.model), str(pair.reference)) for pair in asked]
    forward = judge.prefer([Pair(prompt, ours, theirs) for prompt, ours, theirs in texts])
    backward = judge.prefer([Pair(prompt, theirs, ours) for prompt, ours, theirs in texts])
    found = {
        pair.id: (one, other) for pair, one, other in zip(asked, forward, backward, strict=True)
    }
    lines: list[dict[str, Any]] = []
    for pair in pairs:
        if pair.id not in found:
            lines.append({"id": pair.id, "model_first": None, "reference_first": None,
                          "unscored": EMPTY, "identical": False, "details": []})  # fmt: skip
            continue
        orders = found[pair.id]
        lines.append({
            "id": pair.id, "model_first": orders[0].better, "reference_first": orders[1].better,
            "unscored": next((one.unscored for one in orders if one.unscored), None),
            "identical": all(one.details.get("identical", False) for one in orders),
            "details": [dict(one.details) for one in orders],
        })  # fmt: skip
    return lines


def win_figures(pairs: Sequence[AnswerPair], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the win rate and the one at equal length, as JSON values.

    `n_identical` counts the ties of equal answers, which no judge was asked about.

    Args:
        pairs: As they were judged.
        lines: What `judge_pairs` gave, one each.
    """
    verdicts = [PairVerdict(line["id"], _place(line["model_first"]),
                            _place(line["reference_first"])) for line in lines]  # fmt: skip
    controlled = length_controlled(
        [float("nan") if v.outcome is None else v.outcome for v in verdicts],
        [len(pair.model or "") for pair in pairs], [len(pair.reference or "") for pair in pairs],
    )  # fmt: skip
    found = win_rate(verdicts)
    return {
        "win_rate": found.to_json(), "at_equal_length": controlled.to_json(),
        "n_identical": sum(line.get("identical", False) for line in lines),
    }  # fmt: skip


def _place(value: str | None) -> Place | None:
    places: dict[str, Place] = {"first": "first", "second": "second", "tie": "tie"}
    return None if value is None else places[value]


def _answers(folder: Path, kind: PromptKind) -> dict[str, dict[str, Any]]:
    with (folder / "generations.jsonl").open(encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    return {str(line["id"]): line for line in lines if line["set"] == kind}
