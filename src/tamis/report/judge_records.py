"""What `metrics.json` says of judges and answers, as frozen records. Nothing here measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tamis.evaluation.statistics import Estimate


def model_behind(judge: str, identities: Mapping[str, str]) -> str:
    """Return what gives a judge's verdicts: one model under two rubrics or thresholds is one.

    Args:
        judge: Its name, which stands for it where its identity is not known, as in older files.
        identities: Of judges by name, see `judge_identity`. Of a loaded guard the fingerprint
            decides: two names of equal weights are one.
    """
    identity = identities.get(judge, judge)
    kind, _, rest = identity.partition(":")
    fingerprint = rest.rpartition("@")[2] if kind == "guard" else ""
    return fingerprint or identity


def count_judges(judges: Iterable[str], identities: Mapping[str, str]) -> int:
    """Count what gave verdicts, not the names under which it did."""
    return len({model_behind(judge, identities) for judge in judges})


@dataclass(frozen=True)
class JudgeFigures:
    """One judge's own figures; None where the judge does not give them."""

    attack_success_rate: Estimate | None = None
    harmfulness_score: Estimate | None = None
    over_refusal_rate: Estimate | None = None
    partial_refusal_rate: Estimate | None = None


@dataclass(frozen=True)
class JudgeAgreement:
    """Cohen's kappa of two judges on one question.

    Attributes:
        judges: Their names.
        question: "harmful", of answers to harmful prompts, or "refused", to touchy ones.
        kappa: In [-1, 1]; None without answers, or where all got the same one verdict.
        low: Lower end of the interval, None without one.
        high: Upper end.
        observed: Share of answers on which they agree.
        n: Answers judged by both.
        n_unscored: Answers that one of them left unscored.
        n_prompts: Prompts that the answers belong to; None where each has one.
    """

    judges: tuple[str, str]
    question: str
    kappa: float | None = None
    low: float | None = None
    high: float | None = None
    observed: float | None = None
    n: int = 0
    n_unscored: int = 0
    n_prompts: int | None = None


@dataclass(frozen=True)
class Incoherence:
    """Why answers were incoherent: answers by reason."""

    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedSet:
    """A set of prompts: ids of those that stand in it before, up to case and punctuation."""

    repeated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What was asked, by set."""

    prompts: dict[str, AskedSet] = field(default_factory=dict)


@dataclass(frozen=True)
class AnswerFigures:
    """What `metrics.json` says beside its named measures; all empty in older files.

    Attributes:
        judges: Every judge's own figures, by name.
        judge_identities: What gives their verdicts, by name.
        agreement: How far every two of them agree.
        by_category: Attack success by category of the harmful prompts, by the primary judge.
        incoherence_rate: Why answers were incoherent.
        response_tokens: Mean length of answers, by set of prompts.
        settings: What was asked.
    """

    judges: dict[str, JudgeFigures] = field(default_factory=dict)
    judge_identities: dict[str, str] = field(default_factory=dict)
    agreement: tuple[JudgeAgreement, ...] = ()
    by_category: dict[str, Estimate] = field(default_factory=dict)
    incoherence_rate: Incoherence | None = None
    response_tokens: dict[str, Estimate] = field(default_factory=dict)
    settings: Asked = field(default_factory=Asked)
