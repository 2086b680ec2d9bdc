"""What certificates, win rates and prunings say, as frozen records. Nothing here reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from tamis.report.records import Facts, Interval


@dataclass(frozen=True)
class CertificateStep:
    """One threshold of a certificate's walk; see `tamis.selection.certificate.Step`."""

    threshold: float
    n_kept: int
    n_labelled: int
    n_harmful: int
    p_value: float
    upper_bound: float


@dataclass(frozen=True)
class CertificateWalk:
    """The thresholds tried, from the smallest kept set outwards."""

    steps: tuple[CertificateStep, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the labels of a draw gave: `certificate.json` or `refused.json`.

    Attributes:
        certified: Whether a threshold was.
        alpha: Largest harmful share of the kept rows.
        delta: Largest probability that this draw's certificate is wrong.
        n_labels: Labelled rows with a score.
        n_harmful: Harmful ones among them.
        n_scored: Rows with a score.
        n_unscored: Rows without one.
        walk: The thresholds tried.
        threshold: The certified one, None for a refusal, as are the next four.
        n_kept: Rows that it keeps.
        n_labels_kept: Labelled rows among these.
        n_harmful_kept: Harmful ones among those.
        guarantee: What is certified, in words.
        refusal: Why nothing is, in words; None also in older files.
        n_unsure_counted_harmful: Rows left open, counted as harmful.
        attempt: Which draw for one purpose it is, from 1.
        delta_of_all_attempts: Delta over all of them; None in older files.
    """

    certified: bool
    alpha: float
    delta: float
    n_labels: int
    n_harmful: int
    n_scored: int
    n_unscored: int
    walk: CertificateWalk
    threshold: float | None = None
    n_kept: int | None = None
    n_labels_kept: int | None = None
    n_harmful_kept: int | None = None
    guarantee: str | None = None
    refusal: str | None = None
    n_unsure_counted_harmful: int = 0
    attempt: int = 1
    delta_of_all_attempts: float | None = None


@dataclass(frozen=True)
class CertifyRecord:
    """A draw of rows to label, and what their labels gave; None before there are any."""

    facts: Facts
    verdict: Verdict | None


@dataclass(frozen=True)
class WinFigures(Interval):
    """A win rate; see `tamis.evaluation.win_rate.WinRate`."""

    n: int = 0
    n_wins: int = 0
    n_ties: int = 0
    n_losses: int = 0
    n_inconsistent: int = 0
    n_unscored: int = 0
    detectable: float | None = None


@dataclass(frozen=True)
class EqualLength(Interval):
    """A win rate at equal length, or why there is none."""

    n: int = 0
    not_fitted: str | None = None


@dataclass(frozen=True)
class WinRate:
    """One judge's preferences on one set of prompts.

    Attributes:
        identity: What gave them.
        n_identical: Pairs of equal answers, ties that were never asked; None where not recorded.
    """

    judge: str
    rubric: str
    set: str
    win_rate: WinFigures
    at_equal_length: EqualLength
    identity: str | None = None
    n_identical: int | None = None


@dataclass(frozen=True)
class WinRateRecord:
    """Two models, answer against answer."""

    facts: Facts
    entries: tuple[WinRate, ...]


@dataclass(frozen=True)
class PrunedFactor:
    """What was taken out of one factor of an adapter."""

    name: str
    n_rows: int
    n_columns: int
    n_removed: int

    @property
    def n_weights(self) -> int:
        """Weights of it."""
        return self.n_rows * self.n_columns


@dataclass(frozen=True)
class Pruning:
    """What was taken out of an adapter, or put back.

    Attributes:
        tensors: By factor.
        notes: Of the pruning.
        restored: Folder of the pruned adapter that was restored; None for a pruning.
    """

    tensors: tuple[PrunedFactor, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)
    restored: str | None = None


@dataclass(frozen=True)
class PruneRecord:
    """A finished pruning."""

    facts: Facts
    pruning: Pruning


Proof = CertifyRecord | WinRateRecord | PruneRecord
