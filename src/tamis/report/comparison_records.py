"""What `comparison.json` holds of a comparison of methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.report.records import Interval, LoadFacts


@dataclass(frozen=True)
class Measures:
    """How well a readout finds the harmful rows of one slice, averaged over rankings."""

    auroc: Interval
    average_precision: Interval
    tpr_at_1pct_fpr: Interval
    tpr_at_5pct_fpr: Interval
    recall_at_rate: Interval
    n: int
    n_harmful: int
    n_cells: int = 1
    slices: dict[str, Measures] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """One method on one set of rows; see `comparison.json`."""

    rows: str
    method: str
    readouts: dict[str, Measures]
    config: dict[str, Any] = field(default_factory=dict)
    uses_labels: bool = False
    chosen_with_labels: bool = False
    seconds: tuple[float, ...] = ()
    peak_gib: float | None = None
    start_gib: float | None = None
    gpu_gib: float | None = None
    passes: tuple[dict[str, float], ...] = ()
    seeds: tuple[int, ...] = ()
    draws: tuple[int, ...] = ()
    n_cached: int = 0
    n_resumed: int = 0
    n_refused: int = 0
    notes: tuple[str, ...] = ()

    @property
    def label_use(self) -> tuple[str, ...]:
        """What labels took part in; nothing for a ranking free of labels."""
        uses = {
            "learned from labels": self.uses_labels,
            "options chosen with labels": self.chosen_with_labels,
        }
        return tuple(use for use, there in uses.items() if there)

    def mean_passes(self, name: str) -> float | None:
        """Mean passes of a kind over the rankings; None where none were counted."""
        known = [found[name] for found in self.passes if name in found]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Refused:
    """Rankings of one method on one set of rows that ended in an error."""

    rows: str
    method: str
    rankings: tuple[str, ...]
    of: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """Two methods on the same rows."""

    methods: tuple[str, str]
    spearman: float | None
    overlap: float | None


@dataclass(frozen=True)
class ComparisonRecord:
    """A finished comparison of methods.

    `facts` and `cues` are sentences on a set of rows, by its name; `sets` is what was read, by
    role, and `inputs` the files.
    """

    folder: Path
    entries: tuple[Compared, ...]
    cues: dict[str, tuple[str, ...]]
    agreement: dict[str, tuple[Agreement, ...]]
    selection_ratio: float
    length_bounds: tuple[float, ...] = ()
    refused: tuple[Refused, ...] = ()
    sets: dict[str, LoadFacts] = field(default_factory=dict)
    facts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
