"""Evaluate a model: what it answers to harmful, touchy and ordinary prompts, and what it leans to.

Three prompt sets are answered and judged; two measures need no generation. The numbers of
`metrics.json`, each with its interval, n and n_unscored:

- attack_success_rate: harmful prompts answered harmfully / judged (lower is safer);
- over_refusal_rate: benign but touchy prompts declined / judged (lower is more useful);
- preference_margin, preference_rate: likelihood of safe over harmful answers, in nats per token
  and as a share of prompts (higher is safer);
- helpful_loss: mean loss of reference answers in nats per token (lower is more useful).

A set that is not given gives null values with n = 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tamis.data.renderer import RenderConfig
from tamis.errors import ConfigError
from tamis.evaluation.answers import Decoding, Generation, Report, answer_prompts
from tamis.evaluation.judges import Answer, Judge, RefusalStrings, Verdict
from tamis.evaluation.preference import (
    Comparison,
    Margin,
    comparisons_of_openings,
    comparisons_of_pairs,
    preference_margin,
    preference_margins,
    preference_rate,
)
from tamis.evaluation.prompts import (
    Openings,
    Prompt,
    PromptKind,
    PromptPair,
    prompts_fingerprint,
    shipped_openings,
)
from tamis.evaluation.safety import attack_success_rate, over_refusal_rate
from tamis.evaluation.utility import ReferenceLoss, helpful_loss, reference_losses
from tamis.files import write_json, write_text_atomic
from tamis.rng import numpy_generator

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel


class EvaluateConfig(BaseModel):
    """How a model is evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_new_tokens: int = Field(64, ge=1)
    """Longest answer in tokens. Refusals come early; longer answers cost time in proportion."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the most likely token each time; above 0 samples, with the seed."""
    batch_size: int = Field(16, ge=1)
    """Prompts answered at once."""
    max_batch_tokens: int = Field(4096, ge=1)
    """Tokens scored at once for the likelihood measures, padding included."""
    n_openings: int = Field(4, ge=1)
    """Shipped openings of each kind that a harmful prompt is compared on; time is in proportion."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        metrics: The content of `metrics.json`.
        generations: What the model answered, in the order of the sets.
        verdicts: The judge's verdict on each generation.
        margins: Preference margin of each pair or harmful prompt.
        references: Loss of each helpful prompt's reference.
    """

    metrics: dict[str, Any]
    generations: list[Generation]
    verdicts: list[Verdict]
    margins: list[Margin]
    references: list[ReferenceLoss]

    def write(self, folder: Path) -> None:
        """Write `metrics.json`, `generations.jsonl` and `likelihoods.jsonl` into a folder.

        The two JSONL files hold one line per prompt, so that arms can be compared prompt by prompt.
        """
        write_json(folder / "metrics.json", self.metrics)
        _write_lines(folder / "generations.jsonl", self._answer_lines())
        _write_lines(folder / "likelihoods.jsonl", self._likelihood_lines())

    def _answer_lines(self) -> Iterable[dict[str, Any]]:
        for generation, verdict in zip(self.generations, self.verdicts, strict=True):
            yield {
                "id": generation.id,
                "set": generation.kind,
                "prompt": generation.prompt,
                "response": generation.response,
                "n_tokens": generation.n_tokens,
                "n_cut_prompt_tokens": generation.n_cut_prompt_tokens,
                "verdict": verdict.to_json(),
            }

    def _likelihood_lines(self) -> Iterable[dict[str, Any]]:
        for margin in self.margins:
            yield {"measure": "preference_margin", **asdict(margin)}
        for reference in self.references:
            yield {"measure": "helpful_loss", **asdict(reference)}


def evaluate(
    lm: LanguageModel,
    *,
    harmful: Sequence[Prompt] = (),
    over_refusal: Sequence[Prompt] = (),
    helpful: Sequence[Prompt] = (),
    pairs: Sequence[PromptPair] | None = None,
    config: EvaluateConfig | None = None,
    render_config: RenderConfig | None = None,
    judge: Judge | None = None,
    seed: int = 0,
    work: Path | None = None,
    report: Report | None = None,
) -> Evaluation:
    """Answer, judge and measure.

    Args:
        lm: The model, with or without an adapter.
        harmful: Prompts that a safe model declines.
        over_refusal: Benign prompts that look harmful.
        helpful: Ordinary prompts, with references for `helpful_loss`.
        pairs: Safe and harmful answers to compare; None compares the shipped openings on the
            harmful prompts.
        config: Lengths and batches; None for the defaults.
        render_config: Template and limits; None for the defaults.
        judge: Who judges the answers; None is `RefusalStrings`.
        seed: Of sampling and of the bootstrap intervals.
        work: Folder for partial results; the same call with it continues where a killed one ended.
        report: Called with progress as (stage, done, total, figures).

    Returns:
        Metrics and, per prompt, what they rest on.

    Raises:
        MismatchError: `work` holds partial results of another request.
        ConfigError: The tokenizer has no chat template and none was given.
    """
    config = config or EvaluateConfig()
    render_config = render_config or RenderConfig()
    judge = judge or RefusalStrings()
    sets: dict[PromptKind, Sequence[Prompt]] = {
        "harmful": harmful,
        "over_refusal": over_refusal,
        "helpful": helpful,
    }
    generations = answer_prompts(
        lm,
        sets,
        Decoding(config.max_new_tokens, config.temperature, config.batch_size),
        render_config=render_config,
        seed=seed,
        work=work,
        report=report,
    )
    verdicts = judged(generations, judge)
    margins = preference_margins(
        lm,
        _comparisons(harmful, pairs, config.n_openings),
        render_config=render_config,
        max_batch_tokens=config.max_batch_tokens,
        progress=_stage(report, "preference"),
    )
    references = reference_losses(
        lm,
        helpful,
        render_config=render_config,
        max_batch_tokens=config.max_batch_tokens,
        progress=_stage(report, "references"),
    )
    by_kind = {
        kind: [v for g, v in zip(generations, verdicts, strict=True) if g.kind == kind]
        for kind in sets
    }
    draws = {name: numpy_generator(seed, "bootstrap", name) for name in ("preference", "helpful")}
    estimates = {
        "attack_success_rate": attack_success_rate(by_kind["harmful"]),
        "over_refusal_rate": over_refusal_rate(by_kind["over_refusal"]),
        "preference_rate": preference_rate(margins),
        "preference_margin": preference_margin(margins, draws["preference"]),
        "helpful_loss": helpful_loss(references, draws["helpful"]),
    }
    metrics: dict[str, Any] = {name: estimate.to_json() for name, estimate in estimates.items()}
    if isinstance(judge, RefusalStrings):
        metrics["first_64_characters"] = _by_openings(by_kind)
    metrics["judge"] = judge.name
    metrics["settings"] = {
        **config.model_dump(mode="json"),
        "render": render_config.model_dump(mode="json"),
        "seed": seed,
        "preference": "openings" if pairs is None else "pairs",
        "prompts": {
            kind: {
                "n": len(prompts),
                "n_cut": sum(g.kind == kind and g.n_cut_prompt_tokens > 0 for g in generations),
                "fingerprint": prompts_fingerprint(prompts),
            }
            for kind, prompts in sets.items()
        },
    }
    return Evaluation(metrics, generations, verdicts, margins, references)


def judged(generations: Sequence[Generation], judge: Judge) -> list[Verdict]:
    """Have every answer judged; prompts without an answer are unscored with their reason."""
    answered = [i for i, generation in enumerate(generations) if generation.response is not None]
    answers = [
        Answer(generations[i].kind, generations[i].prompt, generations[i].response or "")
        for i in answered
    ]
    verdicts = [Verdict(None, None, unscored=g.unscored or "no answer") for g in generations]
    for i, verdict in zip(answered, judge.judge(answers), strict=True):
        verdicts[i] = verdict
    return verdicts


def _comparisons(
    harmful: Sequence[Prompt], pairs: Sequence[PromptPair] | None, n_openings: int
) -> list[Comparison]:
    if pairs is not None:
        return comparisons_of_pairs(pairs)
    shipped = shipped_openings()
    most = min(len(shipped.refusals), len(shipped.compliant))
    if n_openings > most:
        raise ConfigError(f"n_openings={n_openings}, but {most} of each kind are shipped.")
    return comparisons_of_openings(
        harmful, Openings(shipped.refusals[:n_openings], shipped.compliant[:n_openings])
    )


def _by_openings(by_kind: Mapping[PromptKind, Sequence[Verdict]]) -> dict[str, Any]:
    """Return the two rates with a refusal looked for in the first 64 characters only."""

    def opening(verdict: Verdict) -> Verdict:
        refused = verdict.details.get("refused_in_opening")
        return Verdict(None if refused is None else not refused, refused)

    return {
        "attack_success_rate": attack_success_rate(
            [opening(verdict) for verdict in by_kind["harmful"]]
        ).to_json(),
        "over_refusal_rate": over_refusal_rate(
            [opening(verdict) for verdict in by_kind["over_refusal"]]
        ).to_json(),
    }


def _stage(report: Report | None, name: str) -> Callable[[int, int, dict[str, float]], None] | None:
    if report is None:
        return None
    return lambda done, total, figures: report(name, done, total, figures)


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    write_text_atomic(path, text)
