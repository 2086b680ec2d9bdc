"""Evaluate a model: what it answers to harmful, touchy and ordinary prompts, and what it leans to.

Three prompt sets are answered and judged; three measures need no generation. The numbers of
`metrics.json`, each with its interval, n and n_unscored:

- attack_success_rate: harmful prompts answered harmfully / judged (lower is safer); by_category;
- harmfulness_score: mean grade on harmful prompts, where the judge grades (lower is safer);
- over_refusal_rate, partial_refusal_rate: benign but touchy prompts declined in full, in part /
  judged (lower is more useful);
- preference_margin, preference_rate: likelihood of safe over harmful answers, in nats per token
  and as a share of prompts (higher is safer);
- first_token_refusal: probability that an answer to a harmful prompt begins as a refusal (higher is
  safer);
- helpful_loss: mean loss of reference answers in nats per token (lower is more useful); rouge_l and
  task_accuracy on them (higher is more useful);
- incoherence_rate: broken answers / answers of all sets; response_tokens: mean length by set.

Figures that rest on verdicts are the first judge's; `judges` has every judge's own, `agreement`
how far two of them agree. A set that is not given gives null values with n = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tamis.data.renderer import RenderConfig
from tamis.evaluation.answers import Decoding, Report, answer_prompts
from tamis.evaluation.first_token import first_token_refusals
from tamis.evaluation.judge_settings import JudgeSettings, build_judge, check_judges_apart
from tamis.evaluation.judged import (
    agreements,
    check_judges,
    judge_answers,
    judge_figures,
    refuse_unscored,
    verdicts_by_kind,
)
from tamis.evaluation.judges import Judge, RefusalStrings, Verdict, judge_identity
from tamis.evaluation.overlap import repeated_prompts
from tamis.evaluation.preference import (
    chosen_comparisons,
    preference_margin,
    preference_margins,
    preference_rate,
)
from tamis.evaluation.prompts import (
    Prompt,
    PromptKind,
    PromptPair,
    prompts_fingerprint,
    shipped_openings,
)
from tamis.evaluation.record import AnswerFigures, Evaluation
from tamis.evaluation.safety import attack_success_rate, over_refusal_rate
from tamis.evaluation.statistics import mean_estimate
from tamis.evaluation.usefulness import answer_measures
from tamis.evaluation.usual_judges import usual_judges
from tamis.evaluation.utility import helpful_loss, reference_losses
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
    judges: tuple[JudgeSettings, ...] = Field(default_factory=usual_judges)
    """Who judges the answers, the primary first: two that are independent of each other, and of
    what ranked the rows. Left out, refusal strings, and Qwen3Guard-Gen-0.6B where the Hugging Face
    cache has it."""
    allow_ranking_guard: bool = False
    """Let a guard judge that ranked the rows: it agrees with itself."""
    max_unscored_share: float = Field(0.1, ge=0, le=1)
    """Share of a prompt set's answers that a judge may leave unscored; above it in any set the
    evaluation fails instead of reporting on the rest."""

    @field_validator("judges")
    @classmethod
    def _apart(cls, judges: tuple[JudgeSettings, ...]) -> tuple[JudgeSettings, ...]:
        if not judges:
            raise ValueError("no judge is named: leave judges out for the usual ones")
        check_judges_apart(judges)
        return judges


def evaluate(
    lm: LanguageModel,
    *,
    harmful: Sequence[Prompt] = (),
    over_refusal: Sequence[Prompt] = (),
    helpful: Sequence[Prompt] = (),
    pairs: Sequence[PromptPair] | None = None,
    config: EvaluateConfig | None = None,
    render_config: RenderConfig | None = None,
    judges: Sequence[Judge] = (),
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
        judges: Who judges the answers, the primary first; without one those of `config`, whose
            replies and logits are kept in `work`.
        seed: Of sampling and of the bootstrap intervals.
        work: Folder for partial results; the same call with it continues where a killed one ended.
        report: Called with progress as (stage, done, total, figures).

    Returns:
        Metrics and, per prompt, what they rest on.

    Raises:
        MismatchError: `work` holds partial results of another request.
        ConfigError: The tokenizer has no chat template and none was given, or more openings are
            asked for than are shipped.
        JudgeError: A judge left more than `max_unscored_share` of a set's answers unscored.
    """
    config = config or EvaluateConfig()
    render_config = render_config or RenderConfig()
    comparisons = chosen_comparisons(harmful, pairs, config.n_openings)
    judges = judges or [build_judge(one, cache=work) for one in config.judges]
    check_judges([judge.name for judge in judges])
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
    verdicts = {}
    for number, judge in enumerate(judges, 1):
        verdicts[judge.name] = judge_answers(generations, judge)
        refuse_unscored(judge.name, generations, verdicts[judge.name], config.max_unscored_share)
        if report is not None:
            report("judges", number, len(judges), {})
    margins = preference_margins(
        lm,
        comparisons,
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
    first_tokens = first_token_refusals(lm, harmful, shipped_openings(), render_config)
    prompts = {(kind, prompt.id): prompt for kind in sets for prompt in sets[kind]}
    figures = [AnswerFigures.of(g, prompts[g.kind, g.id]) for g in generations]

    draw = partial(numpy_generator, seed, "bootstrap")
    by_judge = {
        name: judge_figures(generations, found, harmful, draw(f"judge/{name}"))
        for name, found in verdicts.items()
    }
    primary = judges[0].name
    estimates = {
        "preference_rate": preference_rate(margins),
        "preference_margin": preference_margin(margins, draw("preference")),
        "first_token_refusal": mean_estimate([t.value for t in first_tokens], draw("first_token")),
        "helpful_loss": helpful_loss(references, draw("helpful")),
    }
    metrics: dict[str, Any] = {
        **by_judge[primary],
        **{name: estimate.to_json() for name, estimate in estimates.items()},
        **answer_measures(generations, figures, prompts, draw),
        "judge": primary,
        "judge_identities": {judge.name: judge_identity(judge) for judge in judges},
        "judges": by_judge,
        "agreement": agreements(generations, verdicts),
    }
    if RefusalStrings.name in verdicts:
        by_kind = verdicts_by_kind(generations, verdicts[RefusalStrings.name])
        metrics["first_64_characters"] = _by_openings(by_kind)
    metrics["settings"] = {
        **config.model_dump(mode="json"),
        "render": render_config.model_dump(mode="json"),
        "seed": seed,
        "preference": "openings" if pairs is None else "pairs",
        "prompts": {
            kind: {
                "n": len(prompts),
                "n_cut": sum(g.kind == kind and g.n_cut_prompt_tokens > 0 for g in generations),
                "n_repeated": len(repeated := repeated_prompts(prompts)),
                "repeated": repeated,
                "fingerprint": prompts_fingerprint(prompts),
            }
            for kind, prompts in sets.items()
        },
    }
    return Evaluation(
        metrics, generations, verdicts, figures, margins, references, first_tokens
    )  # fmt: skip


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
