"""`Scores`: one number per row, higher = keep; the only thing that leaves a ranking method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.data.rendered import USABLE_OUTCOMES
from tamis.errors import ConfigError, DataError, DuplicateIdError
from tamis.files import atomic_path

if TYPE_CHECKING:
    from tamis.data.rendered import RenderedRows
    from tamis.methods.base import RankingInputs
    from tamis.models.state_selector import StateSelector

SCORES_FILE = "scores.parquet"
_FIXED = ("id", "source_id", "score", "outcome", "n_trained_tokens")


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
        selector: Scores rows that were not ranked, where the method can; not part of the table.
    """

    method: str
    ids: list[str]
    source_ids: list[str | None]
    values: np.ndarray
    outcome: Sequence[str]
    n_trained_tokens: np.ndarray | None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    selector: StateSelector | None = None

    def __post_init__(self) -> None:
        """Check the promises above.

        Raises:
            DuplicateIdError: An id occurs twice.
            DataError: Lengths differ, a score or a readout is no float or infinite, NaN has no
                reason, a further column has the name of a fixed one, or JSON cannot hold the
                details.
        """
        n = len(self.ids)
        taken = sorted(set(_FIXED) & set(self.columns))
        if taken:
            raise DataError(f"{self.method} gave further columns named {', '.join(taken)}: these "
                            "names are the table's own. Call a readout score_<name>.")  # fmt: skip
        tokens = () if self.n_trained_tokens is None else (self.n_trained_tokens,)
        columns = (self.source_ids, self.values, self.outcome, *tokens, *self.columns.values())
        sizes = {len(column) for column in columns}
        if sizes - {n}:
            raise DataError(f"{self.method} gave columns of lengths {sorted(sizes)} for {n} ids.")
        if len(set(self.ids)) != n:
            raise DuplicateIdError(f"{self.method} gave {n} scores for {len(set(self.ids))} ids.")
        readouts = {key: self.columns[key] for key in self.columns if key.startswith("score_")}
        for key, found in {"values": self.values, **readouts}.items():
            numbers = np.asarray(found)
            if numbers.ndim != 1 or numbers.dtype.kind not in "fiu":
                raise DataError(
                    f"{self.method} gave {key} of type {numbers.dtype} and shape {numbers.shape}; "
                    f"scores are {n} numbers."
                )
            if np.isinf(numbers).any():
                raise DataError(f"{self.method} gave an infinite number in {key}; scores are "
                                "finite or NaN.")  # fmt: skip
        try:
            json.dumps(dict(self.details), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{self.method} gave details that JSON cannot hold ({error}). Put plain numbers, "
                "texts, lists and dicts there; None is what is missing."
            ) from error
        scored = ~np.isnan(self.values)
        bare = [i for i, ok, why in zip(self.ids, scored, self.outcome, strict=True)
                if not ok and why in USABLE_OUTCOMES]  # fmt: skip
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

    def order_notes(self) -> list[str]:
        """Say where the scores order nothing: all scored rows, two or more, have one score."""
        scored = self.values[~np.isnan(self.values)]
        if len(scored) < 2 or np.ptp(scored) > 0:
            return []
        return [f"all {len(scored):,} scored rows have one score: their order is that of their ids "
                "and says nothing of them."]  # fmt: skip

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
        outcome = [why if not np.isnan(value) or why not in USABLE_OUTCOMES else "unscored"
                   for why, value in zip(self.outcome, readouts[name], strict=True)]  # fmt: skip
        return Scores(self.method, self.ids, self.source_ids, readouts[name], outcome,
                      self.n_trained_tokens, self.columns, self.details)  # fmt: skip

    def write(self, folder: Path) -> Path:
        """Write `scores.parquet` into a folder and return its path."""
        import pyarrow as pa
        import pyarrow.parquet as pq

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
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = path / SCORES_FILE if path.is_dir() else path
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            why = f"cannot be read as scores: {error}" if file.exists() else "does not exist"
            raise DataError(
                f"{file} {why}. Give the folder of a finished `tamis rank`, or its scores.parquet."
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


def row_scores(
    method: str, inputs: RankingInputs, rows: RenderedRows, values: np.ndarray, *,
    columns: Mapping[str, np.ndarray] | None = None, details: Mapping[str, Any] | None = None,
    selector: StateSelector | None = None,
) -> Scores:  # fmt: skip
    """Put scores of usable rows, in the order of their ids, back to where the rows stand.

    Args:
        method: The method's key.
        inputs: What was ranked.
        rows: The fine-tuning set as rendered.
        values: One score per usable row, in the order of `rows.id_order`.
        columns: Further columns in that order.
        details: See `Scores`.
        selector: Likewise.

    Returns:
        Scores of all rows; NaN, with the outcome of their rendering, where not usable.
    """

    def spread(found: np.ndarray) -> np.ndarray:
        whole = np.full(len(rows), np.nan)
        whole[rows.id_order] = found
        return whole

    return Scores(
        method=method,
        ids=inputs.finetuning_set.ids,
        source_ids=inputs.finetuning_set.source_ids,
        values=spread(values),
        outcome=[str(outcome) for outcome in rows.column("outcome")],
        n_trained_tokens=rows.column("n_trained_tokens"),
        columns={name: spread(found) for name, found in (columns or {}).items()},
        details=details or {},
        selector=selector,
    )
