"""What `results.json` says of an experiment, as frozen records. Nothing here reads or measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tamis.evaluation.statistics import Estimate
from tamis.report.judge_records import JudgeAgreement
from tamis.report.records import LoadFacts


@dataclass(frozen=True)
class ArmMean:
    """An arm's mean of one measure over prompts and seeds.

    Attributes:
        value: None without a score.
        low: Lower end of the interval over prompts, seeds nested.
        high: Upper end.
        n: Prompts.
        n_seeds: Models.
        n_unscored: Prompts that no seed has a score for.
        n_missing: Scores missing among the others.
        seed_sd: Standard deviation between seeds; None with one.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_seeds: int = 1
    n_unscored: int = 0
    n_missing: int = 0
    seed_sd: float | None = None


@dataclass(frozen=True)
class ArmDifference:
    """An arm minus a reference, prompt by prompt.

    Attributes:
        arm: Which.
        reference: What it is compared with.
        value: None where no prompt has both, like all that follows.
        low: Lower end of the interval.
        high: Upper end.
        n: Prompts with a score in both.
        n_unpaired: Prompts left out because one has no score.
        n_unscored: Scores missing among the n prompts.
        p: Of a sign-flip test over prompts or, with several seeds and where it is larger, Student's
            over prompts and seeds.
        p_holm: The same, adjusted over the arms of one reference.
        detectable: Smallest difference that would have been found with 80% probability, at .05 /
            `n_compared`; None where the prompts are too few to find anything, or nothing varied in
            a measure that is no verdict.
        n_compared: Arms compared with this reference; None in results of earlier versions, whose
            `detectable` is 2.80 standard errors.
    """

    arm: str
    reference: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    n_unpaired: int = 0
    n_unscored: int = 0
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    n_compared: int | None = None


@dataclass(frozen=True)
class Measured:
    """One measure of all arms."""

    better: Literal["higher", "lower"] | None
    arms: dict[str, ArmMean]
    differences: tuple[ArmDifference, ...] = ()


@dataclass(frozen=True)
class Group:
    """Arms that are compared with each other: one part, ratio and budget."""

    part: str
    ratio: float
    budget: str
    measures: dict[str, Measured]


@dataclass(frozen=True)
class Kept:
    """What a selection did to the rows; None without labels, or without such rows."""

    residual_contamination_rate: Estimate | None = None
    harmful_kept: Estimate | None = None
    harmless_kept: Estimate | None = None
    safe_answers_kept: Estimate | None = None
    refusals_kept: Estimate | None = None
    kept_by_source: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmRows:
    """Rows of one arm; `ratio` is None where it takes all of them."""

    part: str
    arm: str
    ratio: float | None
    n_rows: int
    n_kept: int
    n_mixed: int
    n_trained_on: int
    kept: Kept
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArmTraining:
    """One fine-tuning; loss in nats per trained token."""

    part: str
    arm: str
    ratio: float | None
    budget: str
    seed: int
    steps: int
    n_rows: int
    epochs: float | None = None
    n_tokens: int | None = None
    seconds: float | None = None
    last_loss: float | None = None


@dataclass(frozen=True)
class Change:
    """A setting that is not as it was fixed before any cell was finished.

    Attributes:
        setting: Which.
        removed: What it held.
        added: What it holds instead, or besides.
        at: Time of the run that changed it last, in UTC, ISO 8601.
        n_finished: Cells that were finished then.
        n_cells: Of so many.
    """

    setting: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    at: str
    n_finished: int
    n_cells: int


@dataclass(frozen=True)
class Beforehand:
    """When it was recorded what an experiment fixes, and what was changed since.

    Attributes:
        at: Time of the first record, in UTC, ISO 8601.
        n_finished: Cells that were finished by then: 0 where it was recorded beforehand.
        changes: What is different by now.
    """

    at: str
    n_finished: int
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class ExperimentRecord:
    """A finished experiment; see `results.json`.

    Attributes:
        folder: Where it is.
        primary: The measure that counts; `beforehand` says whether it was fixed beforehand.
        judges: Their names, the primary first.
        judge_identities: What gives their verdicts, by name; empty in older files, where names
            stand for it.
        groups: Arms side by side.
        rows_with_prompts: Rows whose request is an evaluation prompt, by set of prompts.
        pruning_rows_with_prompts: The same of rows that pruning went by, by role; empty without.
        repeated_prompts: Ids of prompts that stand in their set before, by set.
        selections: What every arm trained on.
        trainings: Every fine-tuning.
        agreement: How far every two judges agree, over the answers of all cells.
        n_without_check: Helpful prompts without an answer to check, which are no task.
        sets: What was read, by role; `mixed into ARM` where an arm mixes rows in.
        beforehand: None where nothing was recorded.
    """

    folder: Path
    primary: str
    judges: tuple[str, ...]
    groups: tuple[Group, ...]
    judge_identities: dict[str, str] = field(default_factory=dict)
    rows_with_prompts: dict[str, int] = field(default_factory=dict)
    pruning_rows_with_prompts: dict[str, dict[str, int]] = field(default_factory=dict)
    repeated_prompts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    selections: tuple[ArmRows, ...] = ()
    trainings: tuple[ArmTraining, ...] = ()
    agreement: tuple[JudgeAgreement, ...] = ()
    n_without_check: int = 0
    sets: dict[str, LoadFacts] = field(default_factory=dict)
    beforehand: Beforehand | None = None
