"""Settings of `tamis experiment`, and the cells that follow from them.

An arm is a way to choose rows, followed by the same fine-tuning and the same evaluation. Arms cross
with parts (rows, or a rate of harmful rows), selection ratios, budgets and seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from tamis.cli.config import MethodConfig, PromptPaths, Section, read_settings
from tamis.cli.settings_paths import placed
from tamis.data.load import DataConfig
from tamis.data.renderer import RenderConfig
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.experiment import MEASURES
from tamis.models.config import ModelConfig
from tamis.training.config import FinetuneConfig, PruneConfig

ALL_ROWS = "all"
Choice = Literal["ranked", "everything", "oracle", "nothing"]
Budget = Literal["steps", "epochs"]


class MixConfig(Section):
    """Rows that are trained on besides the selected ones."""

    share: float = Field(gt=0, lt=1)
    """Of all rows trained on. Selected rows make room: the arm is as large as the others."""
    rows: str | None = None
    """Where they are drawn from: file, folder or hub id; None is the safe set."""


class ArmConfig(Section):
    """How an arm chooses its rows."""

    choice: Choice | None = None
    """`ranked` by a method, `everything`, `oracle` (labels; harmless rows only) or `nothing` (no
    fine-tuning). None is `ranked` where a method is given, else the arm's own name."""
    method: MethodConfig | None = None
    """Of a ranked arm."""
    readout: str | None = None
    """Which score of the ranking decides; None is the method's own."""
    mix: MixConfig | None = None
    """SafeInstruct and its like: safe rows trained on besides."""
    prune: PruneConfig | None = None
    """Take weights that matter to harmful rows out of the adapter after fine-tuning."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, values: Any) -> Any:
        """Accept `method: seal` for `method: {name: seal}`."""
        method = values.get("method") if isinstance(values, Mapping) else None
        return {**values, "method": {"name": method}} if isinstance(method, str) else values


class PartConfig(Section):
    """Rows that every arm chooses from."""

    rows: Path | None = None
    """List of ids."""
    rate: float | None = Field(None, ge=0, lt=1)
    """Or: plant harmful rows among the others at this rate."""
    n_rows: int | None = Field(None, ge=2)
    """As many of them, drawn at the same rate; None is all."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.rows is not None and (self.rate is not None or self.n_rows is not None):
            raise ValueError("a part takes rows, or rate and n_rows, not both")
        return self


class ExperimentConfig(Section):
    """`tamis experiment`. Paths are relative to the file."""

    finetuning_set: str
    """File, folder or hub id of the rows to choose from."""
    safe_set: str | None = None
    """Trusted rows."""
    harmful_set: str | None = None
    """Rows known to be harmful, for methods that use them."""
    trusted_set: str | None = None
    """Hand-checked rows, for methods that learn from labels."""
    trusted_labels: Path | None = None
    """Their labels."""
    labels: Path | None = None
    """JSONL of `id` and `harmful`; needed for `oracle` arms and for rates."""
    arms: dict[str, ArmConfig] = Field(min_length=2)
    """By a label of your choice."""
    references: list[str] | None = None
    """Arms that every other is compared with; None is the first."""
    primary: str = "first_token_refusal"
    """The measure that was fixed beforehand; all others are secondary."""
    parts: dict[str, PartConfig] = Field(default_factory=lambda: {ALL_ROWS: PartConfig()})
    """Rows to choose from, by name."""
    selection_ratios: list[float] = Field([0.8], min_length=1)
    """Shares of the rows that ranked and oracle arms keep."""
    budgets: list[Budget] = Field(["steps"], min_length=1)
    """`steps`: every arm takes as many optimiser steps as the largest selection would (or
    `finetune.max_steps`). `epochs`: as many passes, so smaller selections take fewer steps."""
    seeds: list[NonNegativeInt] = Field([0, 1, 2], min_length=1)
    """Of fine-tuning: the order of the rows and the adapter's start."""
    ranking_seed: int = Field(0, ge=0)
    """Rankings and draws of rows are made once, with this seed."""
    workers: int = Field(1, ge=1)
    """Cells at once, each in a process of its own."""
    gpus: list[int] | None = None
    """GPUs to deal the processes to; None leaves the choice to each."""
    cache: Path | None = None
    """Folder of what the ranking model makes of rows; None is a folder in `out`."""
    out: Path
    device: str | None = None
    dtype: str | None = None
    model: ModelConfig = ModelConfig()
    """The model to fine-tune and evaluate."""
    ranking_model: ModelConfig | None = None
    """The model to rank with; None is `model`."""
    data: DataConfig = DataConfig()
    safe_data: DataConfig | None = None
    render: RenderConfig = RenderConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    prompts: PromptPaths = PromptPaths()

    @model_validator(mode="before")
    @classmethod
    def _resolved_arms(cls, values: Any) -> Any:
        """Say of every arm how it chooses."""
        arms = values.get("arms") if isinstance(values, Mapping) else None
        if not isinstance(arms, Mapping):
            return values
        found = {}
        for name, arm in arms.items():
            given = dict(arm) if isinstance(arm, Mapping) else {} if arm is None else arm
            if isinstance(given, dict) and given.get("choice") is None:
                given["choice"] = "ranked" if given.get("method") else name
            found[name] = given
        return {**values, "arms": found}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in (*self.arms, *self.parts):
            if not name.strip() or name.startswith(".") or set(name) & set("/\\"):
                raise ValueError(f"{name!r} cannot name a folder: leave out slashes and first dots")
        for name, arm in self.arms.items():
            if (arm.choice == "ranked") != (arm.method is not None):
                raise ValueError(f"arms.{name}: choice=ranked and a method belong together")
            if arm.choice == "oracle" and self.labels is None:
                raise ValueError(f"arms.{name}: an oracle needs labels")
            if arm.choice == "nothing" and (arm.mix or arm.prune):
                raise ValueError(
                    f"arms.{name}: nothing is trained on, so nothing can be mixed in or pruned"
                )
            if arm.prune and arm.prune.benign_weight and self.safe_set is None:
                raise ValueError(f"arms.{name}.prune spares what a safe_set needs: give one")
            if arm.mix is not None and arm.mix.rows is None and self.safe_set is None:
                raise ValueError(f"arms.{name}.mix: give mix.rows, or a safe_set to draw from")
        rated = [name for name, part in self.parts.items() if part.rate is not None]
        if rated and self.labels is None:
            raise ValueError(f"parts {rated}: a rate needs labels")
        unknown = sorted(set(self.references or ()) - set(self.arms))
        if unknown:
            raise ValueError(f"references names {unknown}, which arms does not have")
        if self.primary.partition("/")[0] not in MEASURES:
            raise ValueError(f"primary {self.primary!r} is none of {', '.join(MEASURES)}")
        if not self.parts:
            raise ValueError("parts is empty: leave it out for all rows")
        for name, values in (("seeds", self.seeds), ("selection_ratios", self.selection_ratios),
                             ("budgets", self.budgets),
                             ("references", self.references or ())):  # fmt: skip
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} repeat one: it would count twice")
        if self.references is not None and not self.references:
            raise ValueError("references is empty: name arms, or leave it out for the first arm")
        wrong = [ratio for ratio in self.selection_ratios if not 0 < ratio <= 1]
        if wrong:
            raise ValueError(f"selection_ratios {wrong} are no shares in (0, 1], such as 0.8")
        self._refuse_shared_folders()
        return self

    def _refuse_shared_folders(self) -> None:
        """Names are joined by dashes, so two cells may come to lie in one folder."""
        owners: dict[str, tuple[str, float | None]] = {}
        for cell in cells(self):
            trained_on = [] if cell.seed is None else [f"rows/{cell.selection}"]
            for folder in (*trained_on, f"cells/{cell.name}"):
                first, ratio = owners.setdefault(folder, (cell.arm, cell.ratio))
                if (first, ratio) != (cell.arm, cell.ratio):
                    shown = [
                        name if share is None else f"{name} at ratio {share}"
                        for name, share in ((first, ratio), (cell.arm, cell.ratio))
                    ]
                    raise ValueError(
                        f"arms {shown[0]} and {shown[1]} would share the folder {folder}: give "
                        "one of them another name, or ratios that differ in six digits"
                    )

    @property
    def compared_with(self) -> list[str]:
        """The arms that others are compared with."""
        return self.references or [next(iter(self.arms))]

    @classmethod
    def read(cls, path: Path, sets: Sequence[str] = ()) -> Self:
        """Read a YAML file; paths in it are relative to it."""
        return placed(read_settings(cls, path, sets), path.parent)


@dataclass(frozen=True)
class Cell:
    """One fine-tuned and evaluated model.

    Attributes:
        part: Rows it chose from; the first part where there is no fine-tuning.
        arm: How.
        ratio: Share kept; None where the arm keeps everything or nothing.
        budget: Equal steps or equal epochs; None without fine-tuning.
        seed: Of fine-tuning; None without.
    """

    part: str
    arm: str
    ratio: float | None
    budget: Budget | None
    seed: int | None

    @property
    def selection(self) -> str:
        """Name of the folder of its rows: what does not depend on budget and seed."""
        return f"{self.part}/{self.arm}" + ("" if self.ratio is None else f"-{self.ratio:g}")

    @property
    def name(self) -> str:
        """Folder below `cells`, and the name by which one cell is asked for."""
        tail = [str(value) for value in (self.budget, self.seed) if value is not None]
        return "-".join([self.selection, *tail])


def cells(config: ExperimentConfig) -> list[Cell]:
    """List every cell, parts first; an arm without fine-tuning is one cell for all parts."""
    return list(_cells(config))


def _cells(config: ExperimentConfig) -> Iterator[Cell]:
    for number, part in enumerate(config.parts):
        for arm, settings in config.arms.items():
            if settings.choice == "nothing":
                if not number:
                    yield Cell(part, arm, None, None, None)
                continue
            every = settings.choice == "everything"
            for ratio in [None] if every else config.selection_ratios:
                for budget in config.budgets:
                    for seed in config.seeds:
                        yield Cell(part, arm, ratio, budget, seed)
