"""What a finished stage's folder says, as frozen records. Nothing here reads or measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tamis.evaluation.statistics import Estimate
from tamis.methods.scores import Scores
from tamis.report.judge_records import AnswerFigures


@dataclass(frozen=True)
class LoadFacts:
    """What happened to the records of one set while it was read."""

    n_read: int
    n_loaded: int
    n_quarantined: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    first_bad: tuple[str, ...] = ()
    n_repeated_rows: int = 0
    n_repeated_source_ids: int = 0
    quarantine: str | None = None


@dataclass(frozen=True)
class DataFacts:
    """A set that a stage read, and what happened to its records."""

    n_rows: int
    fingerprint: str | None = None
    load: LoadFacts | None = None


@dataclass(frozen=True)
class Facts:
    """What every stage's manifest says.

    Attributes:
        folder: Where the stage's files are.
        stage: The verb.
        seed: The user's seed.
        config: The resolved settings.
        inputs: What the stage read, by role.
        versions: Of Python and of the packages that decide a result.
        git_sha: Commit of the source tree, None when installed.
        model: Name, revision, fingerprint, device, dtype; None for a stage without a model.
        started: ISO time, UTC.
        finished: ISO time, UTC.
        timings: Seconds by name; `seconds` is the whole stage.
        memory: GiB by name; None where it could not be measured.
        rows_by_outcome: Rows per rendering outcome.
        data: The main set: `n_rows`, `fingerprint`, `load`; None for a stage without one.
        safe_set: The same of the safe set.
        harmful_set: And of the harmful set.
        trusted_set: And of the trusted set, before it is restricted to rows with labels.
        details: What else the stage recorded.
    """

    folder: Path
    stage: str
    seed: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    git_sha: str | None = None
    model: Mapping[str, Any] | None = None
    started: str | None = None
    finished: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float | None] = field(default_factory=dict)
    rows_by_outcome: Mapping[str, int] = field(default_factory=dict)
    data: DataFacts | None = None
    safe_set: DataFacts | None = None
    harmful_set: DataFacts | None = None
    trusted_set: DataFacts | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the stage told its user, of itself and of its judges."""
        told = [self.details.get(name) for name in ("notes", "judge_notes")]
        return tuple(note for notes in told if isinstance(notes, list)
                     for note in notes if isinstance(note, str))  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A measured number and its 95% interval; None was not measured."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Detection:
    """How well one readout finds the harmful rows of one slice."""

    auroc: Interval
    average_precision: Interval
    tpr_at_1pct_fpr: Interval
    tpr_at_5pct_fpr: Interval
    n: int
    n_harmful: int
    n_unscored: int
    slices: dict[str, Detection] = field(default_factory=dict)


@dataclass(frozen=True)
class RankingQuality:
    """`ranking.json`: every readout against the labels."""

    primary: str
    readouts: dict[str, Detection]


@dataclass(frozen=True)
class Turn:
    """One message of a row."""

    role: str
    content: str


@dataclass(frozen=True)
class EndRow:
    """A row at one end of the ranking."""

    id: str
    score: float
    end: Literal["lowest", "highest"]
    messages: tuple[Turn, ...]
    source_id: str | None = None
    harmful: bool | None = None


@dataclass(frozen=True)
class RankRecord:
    """A finished ranking."""

    facts: Facts
    scores: Scores
    quality: RankingQuality | None
    ends: tuple[EndRow, ...] | None


@dataclass(frozen=True)
class SelectRecord:
    """A finished selection; rows in the data's order.

    Attributes:
        facts: The manifest.
        ids: Row ids.
        scores: float64 [n], NaN = unscored.
        kept: bool [n].
        reasons: Dropped rows per reason, most frequent first.
    """

    facts: Facts
    ids: tuple[str, ...]
    scores: np.ndarray
    kept: np.ndarray
    reasons: Mapping[str, int]

    @property
    def cut(self) -> float | None:
        """Lowest score that was kept, None where no scored row was."""
        kept = self.scores[self.kept & ~np.isnan(self.scores)]
        return float(kept.min()) if len(kept) else None


@dataclass(frozen=True)
class Training:
    """What a fine-tuning did; losses in nats per trained token, one per optimiser step."""

    steps: int
    n_rows: int
    losses: tuple[float, ...] = ()
    epochs: float | None = None
    n_tokens: int | None = None
    resumed_at: int | None = None
    note: str = ""


@dataclass(frozen=True)
class FinetuneRecord:
    """A finished fine-tuning."""

    facts: Facts
    training: Training


@dataclass(frozen=True)
class Judgement:
    """A judge's verdict; None where the judge does not say."""

    harmful: bool | None = None
    refused: bool | None = None
    unscored: str | None = None


@dataclass(frozen=True)
class Generation:
    """One answer and what the judge made of it."""

    id: str
    set: str
    prompt: str
    response: str | None
    n_tokens: int | None = None
    verdict: Judgement = field(default_factory=Judgement)


@dataclass(frozen=True)
class EvaluateRecord:
    """A finished evaluation.

    Attributes:
        facts: The manifest.
        metrics: By name; those that the file has.
        in_openings: The judge's rates over the first 64 characters of each answer, by name; empty
            for other judges than refusal strings.
        judge: Who judged first: the metrics are of these verdicts.
        generations: All answers, in file order.
        adapter: What was put on the model; None is the model as it was.
        adapter_known: Whether the manifest says anything about an adapter.
        figures: What else is known of the answers, and of other judges than the first.
    """

    facts: Facts
    metrics: Mapping[str, Estimate]
    in_openings: Mapping[str, Estimate]
    judge: str
    generations: tuple[Generation, ...]
    adapter: str | None
    adapter_known: bool
    figures: AnswerFigures = field(default_factory=AnswerFigures)

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of the judges, the first one first."""
        return (self.judge, *(name for name in self.figures.judges if name != self.judge))


Record = RankRecord | SelectRecord | FinetuneRecord | EvaluateRecord
