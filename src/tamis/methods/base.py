"""What every ranking method takes and gives: `RankingInputs` in, `Scores` out.

A method is one file: its maths as functions, then a frozen settings class with a `rank` method.
Scores are higher = keep, always. Anything with `requires` and `rank(inputs) -> Scores` works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, model_validator

from tamis.data.example import Examples
from tamis.data.template import RenderConfig, RenderedRows, render
from tamis.errors import ConfigError, DataError, DuplicateIdError, MismatchError
from tamis.files import atomic_path

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel

Report = Callable[[str, int, int, dict[str, float]], None]  # stage, done, total, figures
SCORES_FILE = "scores.parquet"
_FIXED = ("id", "source_id", "score", "outcome", "n_trained_tokens")


@dataclass(frozen=True)
class RankingInputs:
    """Everything a method may use.

    Attributes:
        finetuning_set: The rows to rank, D_ft.
        safe_set: Trusted rows with safe answers, D_safe; None if not given.
        model: The ranking model; None if not given.
        render: How rows become tokens; the same for every set.
        seed: The user's seed.
        work: Folder for checkpoints and partial results; None keeps none.
        report: Called with progress; None is silent.
    """

    finetuning_set: Examples
    safe_set: Examples | None = None
    model: LanguageModel | None = None
    render: RenderConfig = field(default_factory=RenderConfig)
    seed: int = 0
    work: Path | None = None
    report: Report | None = None

    def rendered(self, which: str = "finetuning_set") -> RenderedRows:
        """Render one of the sets with the ranking model's tokenizer."""
        examples = self.finetuning_set if which == "finetuning_set" else self.safe_set
        if examples is None or self.model is None:
            raise ConfigError(f"rendering {which} needs that set and a model.")
        return render(examples, self.model.tokenizer, self.render)

    def progress(self, stage: str) -> Callable[[int, int, dict[str, float]], None] | None:
        """Return a progress callback for one named stage of the work."""
        if self.report is None:
            return None
        report = self.report
        return lambda done, total, figures: report(stage, done, total, figures)


@dataclass(frozen=True)
class Scores:
    """One score per row; the only thing that leaves a method.

    Attributes:
        method: Key of the method that made them.
        ids: Row ids, in the data's order; unique.
        source_ids: The user's own ids, None where there are none.
        values: float64 [n], higher = keep; finite, or NaN with the reason in `outcome`.
        outcome: "ok" or "truncated" for scored rows, else why there is no score.
        n_trained_tokens: int64 [n], tokens the loss is computed on; None where no model was used.
        columns: Further columns of n values; `score_<name>` is another readout of the same run.
        details: What the manifest should say of the run.
    """

    method: str
    ids: list[str]
    source_ids: list[str | None]
    values: np.ndarray
    outcome: Sequence[str]
    n_trained_tokens: np.ndarray | None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the promises above.

        Raises:
            DuplicateIdError: An id occurs twice.
            DataError: Lengths differ, a score is infinite, or NaN has no reason.
        """
        n = len(self.ids)
        tokens = () if self.n_trained_tokens is None else (self.n_trained_tokens,)
        columns = (self.source_ids, self.values, self.outcome, *tokens, *self.columns.values())
        sizes = {len(column) for column in columns}
        if sizes - {n}:
            raise DataError(f"{self.method} gave columns of lengths {sorted(sizes)} for {n} ids.")
        if len(set(self.ids)) != n:
            raise DuplicateIdError(f"{self.method} gave {n} scores for {len(set(self.ids))} ids.")
        if np.isinf(self.values).any():
            raise DataError(f"{self.method} gave an infinite score; scores are finite or NaN.")
        scored = ~np.isnan(self.values)
        bare = [i for i, ok, why in zip(self.ids, scored, self.outcome, strict=True)
                if not ok and why in ("ok", "truncated")]  # fmt: skip
        if bare:
            raise DataError(f"{self.method} left {len(bare)} rows unscored without a reason: "
                            f"{', '.join(bare[:5])}.")  # fmt: skip

    def __len__(self) -> int:
        return len(self.ids)

    def rows_by_outcome(self) -> dict[str, int]:
        """Count rows by outcome, most frequent first."""
        names, counts = np.unique(np.asarray(self.outcome, dtype=str), return_counts=True)
        pairs = sorted(
            zip(names.tolist(), counts.tolist(), strict=True), key=lambda p: (-p[1], p[0])
        )
        return dict(pairs)

    def readouts(self) -> dict[str, np.ndarray]:
        """Return every score of this run by name: "score" and each `score_<name>` column."""
        others = {key.removeprefix("score_"): np.asarray(value, dtype=np.float64)
                  for key, value in self.columns.items() if key.startswith("score_")}  # fmt: skip
        return {"score": self.values, **others}

    def with_readout(self, name: str) -> Scores:
        """Return the same rows with another readout as the score.

        Raises:
            ConfigError: The run has no such readout.
        """
        readouts = self.readouts()
        if name not in readouts:
            raise ConfigError(
                f"readout {name!r} is not among this run's: {', '.join(readouts)}. Set readout to "
                "one of them, or leave it out."
            )
        outcome = [why if not np.isnan(value) or why not in ("ok", "truncated") else "unscored"
                   for why, value in zip(self.outcome, readouts[name], strict=True)]  # fmt: skip
        return Scores(self.method, self.ids, self.source_ids, readouts[name], outcome,
                      self.n_trained_tokens, self.columns, self.details)  # fmt: skip

    def write(self, folder: Path) -> Path:
        """Write `scores.parquet` into a folder and return its path."""
        table = pa.table({
            "id": pa.array(self.ids, pa.string()),
            "source_id": pa.array(self.source_ids, pa.string()),
            "score": pa.array(np.asarray(self.values, dtype=np.float64), from_pandas=False),
            "outcome": pa.array(self.outcome, pa.string()),
            "n_trained_tokens": pa.nulls(len(self), pa.int64())
            if self.n_trained_tokens is None
            else pa.array(np.asarray(self.n_trained_tokens, dtype=np.int64)),
            **{name: pa.array(np.asarray(column)) for name, column in self.columns.items()},
        }).replace_schema_metadata({"tamis_method": self.method})  # fmt: skip
        path = folder / SCORES_FILE
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)
        return path

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Read scores from a file or from a stage's folder.

        Raises:
            DataError: The file is missing, unreadable or has no `id` and `score`.
        """
        file = path / SCORES_FILE if path.is_dir() else path
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{file} cannot be read as scores: {error}. Give the folder of a finished `tamis "
                "rank`, or its scores.parquet."
            ) from error
        missing = {"id", "score"} - set(table.column_names)
        if missing:
            raise DataError(f"{file} has no column {sorted(missing)}: it is no scores.parquet.")
        n = table.num_rows
        try:
            values = table["score"].to_numpy().astype(np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(f"{file}: column 'score' holds no numbers ({error}).") from error

        def column(name: str, default: Any) -> list[Any]:
            return table[name].to_pylist() if name in table.column_names else [default] * n

        outcome = column("outcome", None)
        filled = [
            w or ("unscored" if np.isnan(v) else "ok") for w, v in zip(outcome, values, strict=True)
        ]
        metadata = table.schema.metadata or {}
        return cls(
            method=metadata.get(b"tamis_method", b"unknown").decode(),
            ids=table["id"].to_pylist(),
            source_ids=column("source_id", None),
            values=values,
            outcome=filled,
            n_trained_tokens=None
            if None in (tokens := column("n_trained_tokens", None))
            else np.asarray(tokens, dtype=np.int64),
            columns={
                name: table[name].to_numpy() for name in table.column_names if name not in _FIXED
            },
        )


@runtime_checkable
class Ranker(Protocol):
    """Anything that gives one score per row.

    `requires` names what must be given ("model", "safe_set", ...), so that a missing input is
    refused before a large model is loaded.
    """

    requires: ClassVar[frozenset[str]]

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row of `inputs.finetuning_set`, in its order."""
        ...


class Method(BaseModel):
    """Base of the shipped methods: frozen settings, unknown keys refused, presets by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    requires: ClassVar[frozenset[str]] = frozenset()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        """Start from the preset's values; those given beside it win."""
        preset = values.get("preset") if isinstance(values, Mapping) else None
        return {**cls.presets.get(preset, {}), **values} if preset else values


def check_inputs(ranker: Ranker, inputs: RankingInputs, name: str) -> None:
    """Refuse missing inputs and unusable sets before any work.

    Raises:
        ConfigError: A required input is missing, or the fine-tuning set is empty.
        DuplicateIdError: The fine-tuning set repeats an id.
    """
    missing = sorted(need for need in ranker.requires if getattr(inputs, need, None) is None)
    if missing:
        flags = ", ".join(f"--{need.replace('_', '-')}" for need in missing)
        raise ConfigError(f"method {name!r} needs {' and '.join(missing)}: give {flags}.")
    n = len(inputs.finetuning_set)
    if n == 0:
        raise ConfigError("the fine-tuning set is empty: there is nothing to rank.")
    if len(set(inputs.finetuning_set.ids)) != n:
        raise DuplicateIdError("the fine-tuning set repeats an id; load it with load_examples.")


def rank(
    finetuning_set: Examples, method: Ranker, *, safe_set: Examples | None = None,
    model: LanguageModel | None = None, render: RenderConfig | None = None, seed: int = 0,
    work: Path | None = None, report: Report | None = None, name: str | None = None,
) -> Scores:  # fmt: skip
    """Rank fine-tuning rows with one method.

    Args:
        finetuning_set: The rows to rank.
        method: A method's object, such as `SEAL(epochs=2)`, or anything with `requires` and `rank`.
        safe_set: Trusted rows with safe answers, for methods that need them.
        model: The ranking model, for methods that need one.
        render: How rows become tokens.
        seed: Decides every random draw.
        work: Folder for checkpoints; a killed ranking with the same folder goes on from there.
        report: Called with (stage, done, total, figures).
        name: What errors call the method; None is its class's name.

    Returns:
        One score per row, higher = keep, in the order of the rows.

    Raises:
        ConfigError: A required input is missing.
        MismatchError: The method did not score exactly these rows.
    """
    inputs = RankingInputs(
        finetuning_set, safe_set, model, render or RenderConfig(), seed, work, report
    )
    name = name or type(method).__name__
    check_inputs(method, inputs, name)
    scores = method.rank(inputs)
    if list(scores.ids) != list(finetuning_set.ids):
        raise MismatchError(
            f"method {name!r} returned scores for other rows than it was given, or in another "
            "order. A ranker returns one score per row, in the order of the rows."
        )
    return scores
