"""Read one finished stage's folder into its record. Nothing is measured again here.

Every reader checks what it reads and raises `DataError` with the file's name, so that a damaged
folder is named in the report instead of ending it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tamis.errors import DataError, TamisError
from tamis.evaluation.statistics import Estimate
from tamis.files import read_json_object
from tamis.methods.scores import Scores
from tamis.report.comparison_records import ComparisonRecord
from tamis.report.experiment_records import ExperimentRecord
from tamis.report.judge_records import AnswerFigures
from tamis.report.measures import MEASURES
from tamis.report.proof_records import (
    CertifyRecord,
    Proof,
    PruneRecord,
    Pruning,
    Verdict,
    WinRate,
    WinRateRecord,
)
from tamis.report.records import (
    EndRow,
    EvaluateRecord,
    Facts,
    FinetuneRecord,
    Generation,
    RankingQuality,
    RankRecord,
    Record,
    SelectRecord,
    Training,
)

COMPARISON = "comparison.json"
RESULTS = "results.json"
_BY_SET = "response_tokens"  # a figure per set of prompts, not one
_NAMED_FAULTS = 3  # faults of one file told in words


def read_facts(folder: Path) -> Facts:
    """Read a finished stage's manifest.

    Raises:
        DataError: It is no manifest.
    """
    values = read_json_object(folder / "manifest.json")
    facts: Facts = _checked(Facts, {**values, "folder": folder}, folder / "manifest.json")
    return facts


def read_comparison(folder: Path) -> ComparisonRecord:
    """Read what `tamis compare` wrote.

    Raises:
        DataError: `comparison.json` is damaged, or a method in it has no score.
    """
    path = folder / COMPARISON
    found: ComparisonRecord = _checked(
        ComparisonRecord, {**read_json_object(path), "folder": folder}, path
    )
    if found.refused and not found.entries:
        first = found.refused[0]
        raise DataError(
            f"{path} has no figures, every ranking was refused; {first.method}: {first.reasons[0]}"
        )
    bare = [entry.method for entry in found.entries if "score" not in entry.readouts]
    if bare or not found.entries:
        raise DataError(f"{path} has no score of {', '.join(bare) or 'any method'}")
    return found


def read_experiment(folder: Path) -> ExperimentRecord:
    """Read what `tamis experiment` wrote.

    Raises:
        DataError: `results.json` is damaged, or holds no group of arms.
    """
    path = folder / RESULTS
    found: ExperimentRecord = _checked(
        ExperimentRecord, {**read_json_object(path), "folder": folder}, path
    )
    if not found.groups or not found.judges:
        raise DataError(f"{path} has no {'judges' if found.groups else 'arms'}")
    return found


WHOLE: Mapping[str, Callable[[Path], ComparisonRecord | ExperimentRecord]] = {
    COMPARISON: read_comparison,
    RESULTS: read_experiment,
}
"""Folders that are a whole of many stages, by the file that holds their figures."""


def read_stage(facts: Facts) -> Record | Proof:
    """Read the results of a finished stage.

    Raises:
        DataError: A file is missing, damaged, or not what this stage writes.
    """
    import pyarrow as pa

    try:
        return READERS[facts.stage](facts)
    except (OSError, pa.ArrowException, TamisError, ValueError) as error:
        raise DataError(str(error)) from error


def _read_rank(facts: Facts) -> RankRecord:
    quality_path, ends_path = facts.folder / "ranking.json", facts.folder / "ends.jsonl"
    quality = read_json_object(quality_path) if quality_path.exists() else None
    ends = list(_read_lines(ends_path)) if ends_path.exists() else None
    return RankRecord(
        facts,
        Scores.read(facts.folder),
        None if quality is None else _checked(RankingQuality, quality, quality_path),
        None if ends is None else _checked(tuple[EndRow, ...], ends, ends_path),
    )


def _read_select(facts: Facts) -> SelectRecord:
    import pyarrow.parquet as pq

    path = facts.folder / "selection.parquet"
    table = pq.read_table(path)
    missing = {"id", "score", "kept", "reason"} - set(table.column_names)
    if missing:
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}")
    kept = np.asarray(table["kept"].to_numpy(), dtype=bool)
    names, counts = np.unique(
        np.asarray([r or "" for r in table["reason"].to_pylist()], dtype=object)[~kept].astype(str),
        return_counts=True,
    )
    reasons = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda p: (-p[1], p[0]))
    scores = table["score"].to_numpy().astype(np.float64)
    return SelectRecord(facts, tuple(table["id"].to_pylist()), scores, kept, dict(reasons))


def _read_finetune(facts: Facts) -> FinetuneRecord:
    training = _checked(Training, dict(facts.details), facts.folder / "manifest.json")
    return FinetuneRecord(facts, training)


def _read_evaluate(facts: Facts) -> EvaluateRecord:
    path, answers = facts.folder / "metrics.json", facts.folder / "generations.jsonl"
    values = read_json_object(path)
    metrics = {name: found for name in MEASURES if name != _BY_SET and (found := values.get(name))}
    adapter = facts.details.get("adapter")
    if isinstance(adapter, Mapping):
        adapter = adapter.get("path")
    return EvaluateRecord(
        facts,
        _checked(dict[str, Estimate], metrics, path),
        _checked(dict[str, Estimate], values.get("first_64_characters") or {}, path),
        str(values.get("judge") or "not named"),
        _checked(tuple[Generation, ...], list(_read_lines(answers)), answers),
        None if adapter is None else str(adapter),
        "adapter" in facts.details,
        _checked(AnswerFigures, values, path),
    )


def _read_certify(facts: Facts) -> CertifyRecord:
    for name in ("certificate.json", "refused.json"):
        path = facts.folder / name
        if path.exists():
            return CertifyRecord(facts, _checked(Verdict, read_json_object(path), path))
    return CertifyRecord(facts, None)  # the labels are not there yet


def _read_win_rate(facts: Facts) -> WinRateRecord:
    path = facts.folder / "manifest.json"
    found = _checked(tuple[WinRate, ...], facts.details.get("win_rates"), path)
    return WinRateRecord(facts, found)


def _read_prune(facts: Facts) -> PruneRecord:
    path = facts.folder / "manifest.json"
    return PruneRecord(facts, _checked(Pruning, dict(facts.details), path))


READERS: Mapping[str, Callable[[Facts], Record | Proof]] = {
    "rank": _read_rank,
    "select": _read_select,
    "finetune": _read_finetune,
    "evaluate": _read_evaluate,
    "certify": _read_certify,
    "win-rate": _read_win_rate,
    "prune": _read_prune,
}


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: {error}") from error


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(kind: Any, values: Any, path: Path) -> Any:
    """Build a record from JSON values; unknown keys are passed over."""
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors()[:_NAMED_FAULTS]
        ]
        raise DataError(f"{path} is not as expected: {'; '.join(faults)}") from error
