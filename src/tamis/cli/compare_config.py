"""Settings of `tamis compare`, and the rankings that follow from them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from tamis.cli.config import MethodConfig, Section, read_settings
from tamis.cli.inputs import methods_within
from tamis.cli.settings_paths import placed
from tamis.data.contaminate import planted_ids
from tamis.data.example import Examples
from tamis.data.load import DataConfig
from tamis.data.renderer import RenderConfig
from tamis.data.row_lists import read_row_list
from tamis.errors import ConfigError
from tamis.evaluation.labels import Label
from tamis.methods import build_method, method_class
from tamis.models.config import ModelConfig

ALL_ROWS = "all"


class RowsConfig(Section):
    """A part of the rows that methods are compared on besides all of them."""

    rows: Path | None = None
    """List of ids."""
    rate: float | None = Field(None, ge=0, lt=1)
    """Or: plant harmful rows among all others at this rate."""
    draws: int = Field(1, ge=1)
    """Plantings at that rate, averaged."""
    methods: list[str] | None = None
    """Labels of the methods to compare there; None is all."""


class ComparedMethod(MethodConfig):
    """A method to compare."""

    chosen_with_labels: bool = False
    """Whether its settings, defaults of ours included, were chosen with labels of these rows in
    sight: it is marked, and its figures are the same."""
    give_labels: bool = False
    """Whether it is given labels though it can do without, as `auto` can, which learns weights from
    them. What needs labels, or is made of a method that does, is given them anyhow."""


class CompareConfig(Section):
    """`tamis compare`. Paths are relative to the file."""

    finetuning_set: str
    """File, folder or hub id of the rows to rank."""
    labels: Path
    """JSONL of `id` and `harmful`, with `kind`, `source`, `tier` where known."""
    safe_set: str | None = None
    """Trusted rows."""
    harmful_set: str | None = None
    """Rows known to be harmful, for methods that use them."""
    methods: dict[str, ComparedMethod] = Field(min_length=1)
    """What to compare, by a label of your choice."""
    parts: dict[str, RowsConfig] = Field(default_factory=dict)
    """Further sets of rows, by name."""
    seeds: list[NonNegativeInt] = Field([0], min_length=1)
    """Every method runs once with each, on all rows."""
    n_trusted: int = Field(100, ge=1)
    """Labels that methods which learn from labels are given, drawn at random."""
    selection_ratio: float = Field(0.8, gt=0, le=1)
    """Where kept sets are compared."""
    cache: Path | None = None
    """Folder of what the model makes of rows; None is a folder in `out`."""
    out: Path
    device: str | None = None
    dtype: str | None = None
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    safe_data: DataConfig | None = None
    render: RenderConfig = RenderConfig()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        """A method without a name has its label as its name."""
        methods = values.get("methods") if isinstance(values, Mapping) else None
        if not isinstance(methods, Mapping):
            return values
        named = {label: {"name": label, **(found or {})} if isinstance(found, Mapping | None)
                 else found for label, found in methods.items()}  # fmt: skip
        return {**values, "methods": named}

    @model_validator(mode="after")
    def _named_plainly(self) -> Self:
        for name in (*self.methods, *self.parts):
            if not name.strip() or name.startswith(".") or set(name) & set("/\\"):
                raise ValueError(f"{name!r} cannot name a folder: leave out slashes and first dots")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat one: it would count twice")
        return self

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        """Wrong options and missing sets are told before any work."""
        for label, method in self.methods.items():
            requires = build_method(method.name, method.options).requires
            for needed in ("safe_set", "harmful_set"):
                if needed in requires and getattr(self, needed) is None:
                    raise ValueError(f"methods.{label} needs {needed}: set it")
        return self

    def learns(self, method: str) -> bool:
        """Whether the method of a label is given labels of some of the rows."""
        return self.methods[method].give_labels or self.needs_labels(method)

    def needs_labels(self, method: str) -> bool:
        """Whether the method of a label cannot do without labels, or is made of one that cannot."""
        found = self.methods[method]
        if "trusted_set" in build_method(found.name, found.options).requires:
            return True
        for name in methods_within(found.options):
            with contextlib.suppress(ConfigError):  # a text of an outside method's own
                if "trusted_set" in method_class(name).requires:
                    return True
        return False

    @classmethod
    def read(cls, path: Path, sets: Sequence[str] = ()) -> Self:
        """Read a YAML file; paths in it are relative to it."""
        return placed(read_settings(cls, path, sets), path.parent)


@dataclass(frozen=True)
class Job:
    """One ranking to do.

    Attributes:
        rows: Name of the set of rows.
        ids: Its rows; None is all.
        method: Label of the method.
        seed: The method's.
        draw: Number of the planting, which decides the rows and which of them have labels given;
            the seed for all rows. The method's seed stays, so that what does not depend on the
            rows is computed once for all plantings.
    """

    rows: str
    ids: tuple[str, ...] | None
    method: str
    seed: int
    draw: int

    @property
    def name(self) -> str:
        """What it is called, and where it lies below `cells`."""
        return f"{self.rows}/{self.method}-{self.draw}"


def jobs(config: CompareConfig, examples: Examples, truth: Sequence[Label]) -> list[Job]:
    """List every ranking, all rows first.

    Raises:
        ConfigError: A part names no rows, or a method that is not compared, or there are no more
            rows than labels to learn from.
    """
    harmful = np.array([label.harmful for label in truth], dtype=bool)
    found = [
        Job(ALL_ROWS, None, method, seed, seed)
        for seed in config.seeds
        for method in config.methods
    ]
    for name, part in config.parts.items():
        if name == ALL_ROWS:
            raise ConfigError(f"parts.{name}: {name!r} is the name of all rows. Take another.")
        if (part.rows is None) == (part.rate is None):
            given = "neither" if part.rows is None else "both"
            raise ConfigError(f"parts.{name}: give rows or rate, one of them; {given} is given.")
        unknown = sorted(set(part.methods or ()) - set(config.methods))
        if unknown:
            raise ConfigError(f"parts.{name}.methods names {unknown}, which methods does not have.")
        for draw in range(part.draws if part.rate is not None else 1):
            ids = (
                examples.restrict(read_row_list(part.rows)).ids if part.rows is not None else
                planted_ids(examples.ids, harmful, part.rate or 0.0, seed=0, draw=draw)
            )  # fmt: skip
            chosen = part.methods or list(config.methods)
            found += [Job(name, tuple(ids), method, config.seeds[0], draw) for method in chosen]
    for job in found:
        n = len(examples if job.ids is None else job.ids)
        if n <= config.n_trusted and config.learns(job.method):
            raise ConfigError(
                f"n_trusted is {config.n_trusted:,}, and {job.rows!r} has {n:,} rows: {job.method} "
                "would learn from all of them and be measured on none. Lower n_trusted."
            )
    return found
