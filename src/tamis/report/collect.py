"""Find the stages in the folders that were given, read them, and say what does not fit together.

A folder is a stage, a comparison or an experiment, or holds stages one level
down (what `tamis run` and `tamis demo` write).
Stages may be given in any order and number; what is missing is absent, what cannot be read is
named with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tamis.errors import ConfigError, DataError
from tamis.files import file_sha256
from tamis.methods.scores import SCORES_FILE
from tamis.report.comparison_records import ComparisonRecord
from tamis.report.experiment_records import ExperimentRecord
from tamis.report.proof_records import CertifyRecord, Proof
from tamis.report.records import (
    EvaluateRecord,
    FinetuneRecord,
    RankRecord,
    Record,
    SelectRecord,
)
from tamis.report.stages import COMPARISON, READERS, RESULTS, WHOLE, read_facts, read_stage

_CONFIG, _MANIFEST = "config.yaml", "manifest.json"
_NAMED_KEYS = 4  # differing settings told by name


@dataclass(frozen=True)
class Problem:
    """A folder that the report cannot show, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and its place in the comparison: "before", "after", or one of several."""

    role: str
    record: EvaluateRecord


@dataclass(frozen=True)
class Collected:
    """Everything a report shows.

    Attributes:
        ranks: Rankings, those that a selection was made from first, else in the order given.
        selects: Selections, in the order given.
        finetunes: Fine-tunings, in the order given.
        evaluations: Before first.
        problems: What could not be read.
        mismatches: What does not belong together, in sentences.
        comparisons: Of methods, in the order given.
        experiments: Arms of fine-tuning, in the order given.
        proofs: Certificates, win rates and prunings, in the order given.
    """

    ranks: tuple[RankRecord, ...]
    selects: tuple[SelectRecord, ...]
    finetunes: tuple[FinetuneRecord, ...]
    evaluations: tuple[Evaluated, ...]
    problems: tuple[Problem, ...]
    mismatches: tuple[str, ...]
    comparisons: tuple[ComparisonRecord, ...] = ()
    experiments: tuple[ExperimentRecord, ...] = ()
    proofs: tuple[Proof, ...] = ()

    @property
    def records(self) -> tuple[Record | Proof, ...]:
        """Every stage, in the order of the work."""
        evaluated = [evaluation.record for evaluation in self.evaluations]
        return (*self.ranks, *self.selects, *self.finetunes, *evaluated, *self.proofs)

    def ranking_of(self, selection: SelectRecord) -> RankRecord | None:
        """Return the ranking that a selection was made from, None when it is not among these."""
        return next((rank for rank in self.ranks if _same_scores(rank, selection)), None)


def collect(folders: Sequence[Path]) -> Collected:
    """Read stage folders.

    Args:
        folders: Stage folders, or folders that hold them, in any order.

    Returns:
        What was found; folders that cannot be read are in `problems`.

    Raises:
        ConfigError: Not one finished stage could be read.
    """
    records: list[Record | Proof] = []
    comparisons: list[ComparisonRecord] = []
    experiments: list[ExperimentRecord] = []
    problems: list[Problem] = []
    for folder in dict.fromkeys(path.resolve() for given in folders for path in _stages(given)):
        found = _read(folder)
        if isinstance(found, Problem):
            problems.append(found)
        elif isinstance(found, ComparisonRecord):
            comparisons.append(found)
        elif isinstance(found, ExperimentRecord):
            experiments.append(found)
        else:
            records.append(found)
    if not (records or comparisons or experiments):
        reasons = "".join(f"\n  {p.folder}: {p.reason}" for p in problems)
        raise ConfigError(
            f"none of the {len(folders)} folders holds a finished stage, so there is nothing to "
            f"report:{reasons or ' no folder was given'}\nGive the folders of finished stages."
        )
    selects = tuple(r for r in records if isinstance(r, SelectRecord))
    ranks = [r for r in records if isinstance(r, RankRecord)]
    # The rankings that decided come first; the others are controls.
    ranks.sort(key=lambda rank: not any(_same_scores(rank, chosen) for chosen in selects))
    collected = Collected(
        tuple(ranks),
        selects,
        tuple(r for r in records if isinstance(r, FinetuneRecord)),
        _compared([r for r in records if isinstance(r, EvaluateRecord)]),
        tuple(problems),
        (),
        tuple(comparisons),
        tuple(experiments),
        tuple(r for r in records if isinstance(r, Proof)),
    )
    return replace(collected, mismatches=tuple(_mismatches(collected)))


def _stages(folder: Path) -> list[Path]:
    """Return the folder itself if it is a stage or a whole of them, else those one level down."""
    if any((folder / name).exists() for name in WHOLE):
        return [folder]
    if _read_mapping(folder / _MANIFEST).get("stage") in READERS or not folder.is_dir():
        return [folder]
    below = [p for p in sorted(folder.iterdir()) if p.is_dir() and _looks_like_stage(p)]
    # In the order of the work, so that an evaluation before fine-tuning stands before one after.
    below.sort(key=lambda path: str(_read_mapping(path / _MANIFEST).get("started", "")))
    return below or [folder]


def _looks_like_stage(folder: Path) -> bool:
    return any((folder / name).exists() for name in (_MANIFEST, _CONFIG, *WHOLE))


def _read_mapping(path: Path) -> dict[str, Any]:
    """Read a manifest or config, empty when it cannot be read; `_read` then says why."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.name == _MANIFEST else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _read(folder: Path) -> Record | Proof | ComparisonRecord | ExperimentRecord | Problem:
    if not folder.is_dir():
        return Problem(folder, "there is no such folder")
    for name, read in WHOLE.items():
        if (folder / name).exists():
            try:
                return read(folder)
            except DataError as error:
                return Problem(folder, str(error))
    if (folder / "rows").is_dir() and not (folder / _MANIFEST).exists():
        return Problem(folder, f"the experiment is not finished (it has no {RESULTS} yet)")
    if (folder / "cells").is_dir():
        return Problem(folder, f"the comparison is not finished (it has no {COMPARISON} yet)")
    if not (folder / _MANIFEST).exists():
        if not (folder / _CONFIG).exists():
            return Problem(folder, "it holds no stage")
        name = _read_mapping(folder / _CONFIG).get("stage", "the stage")
        return Problem(folder, f"{name} is not finished (it has no {_MANIFEST} yet)")
    try:
        facts = read_facts(folder)
        if facts.stage not in READERS:
            return Problem(folder, f"stage {facts.stage!r} is not one that reports show")
        return read_stage(facts)
    except DataError as error:
        return Problem(folder, str(error))


def _compared(records: list[EvaluateRecord]) -> tuple[Evaluated, ...]:
    """Tell before from after by the adapter; by order where no manifest mentions one."""
    if any(record.adapter_known for record in records):
        before = [r for r in records if r.adapter is None]
        after = [r for r in records if r.adapter is not None]
    else:
        before, after = records[:1], records[1:]

    def named(role: str, group: list[EvaluateRecord]) -> Iterator[Evaluated]:
        folders = [record.facts.folder.resolve() for record in group]
        # As short as tells them apart: runs have folders of the same names.
        names = next(
            (found for found in ([folder.name for folder in folders],
                                 [f"{folder.parent.name}/{folder.name}" for folder in folders])
             if len(set(found)) == len(group)),
            [str(folder) for folder in folders],
        )  # fmt: skip
        for name, record in zip(names, group, strict=True):
            yield Evaluated(f"{role} ({name})" if len(group) > 1 else role, record)

    return (*named("before", before), *named("after", after))


def _same_scores(rank: RankRecord, selection: SelectRecord) -> bool:
    """Whether every selected row has, under some readout, exactly the ranking's score."""
    place = {row_id: i for i, row_id in enumerate(rank.scores.ids)}
    found = [place.get(row_id, -1) for row_id in selection.ids]
    if not found or min(found) < 0:
        return False
    chosen = np.asarray(found, dtype=np.int64)
    return any(
        np.array_equal(values[chosen], selection.scores, equal_nan=True)
        for values in rank.scores.readouts().values()
    )


def _mismatches(found: Collected) -> Iterator[str]:
    for selection in found.selects:
        if found.ranks and found.ranking_of(selection) is None:
            yield (
                f"The selection in {selection.facts.folder.name} was made from other scores than "
                "those of the rankings shown here."
            )
    ranked = {file_sha256(rank.facts.folder / SCORES_FILE) for rank in found.ranks}
    for proof in found.proofs:
        if isinstance(proof, CertifyRecord) and ranked:
            scores = proof.facts.inputs.get("scores")
            if isinstance(scores, Mapping) and scores.get("sha256") not in ranked:
                yield (
                    f"The draw in {proof.facts.folder.name} was made from other scores than those "
                    "of the rankings shown here."
                )
    for tuning in found.finetunes:
        used = tuning.facts.inputs.get("data")
        digest = used.get("sha256") if isinstance(used, Mapping) else None
        kept = [s.facts.folder / "kept.jsonl" for s in found.selects]
        known = {file_sha256(path) for path in kept if path.is_file()}
        if digest and known and digest not in known:
            yield (
                f"The model in {tuning.facts.folder.name} was fine-tuned on other rows than those "
                "kept by the selections shown here."
            )
    if len(found.evaluations) > 1:
        first = found.evaluations[0]
        for other in found.evaluations[1:]:
            yield from _differences(first, other)


def _differences(first: Evaluated, other: Evaluated) -> Iterator[str]:
    a, b = first.record, other.record
    pair = f"{first.role} and {other.role}".capitalize()
    if {(g.set, g.id, g.prompt) for g in a.generations} != {
        (g.set, g.id, g.prompt) for g in b.generations
    }:
        yield f"{pair} answered different prompts: their numbers are not comparable."
    if a.judge != b.judge:
        yield f"{pair} had different judges ({a.judge}, {b.judge})."
    # A fingerprint with an adapter is the base model's, a plus and the adapter's.
    models = [str((r.facts.model or {}).get("fingerprint", "")).partition("+")[0] for r in (a, b)]
    if all(models) and models[0] != models[1]:
        yield f"{pair} rest on different base models."
    settings = [flat_settings(r.facts.config) for r in (a, b)]
    keys = [
        key for key in sorted({*settings[0], *settings[1]})
        if settings[0].get(key) != settings[1].get(key) and "adapter" not in key
    ]  # fmt: skip
    if keys:
        more = f" and {len(keys) - _NAMED_KEYS} more" if len(keys) > _NAMED_KEYS else ""
        yield f"{pair} had different settings: {', '.join(keys[:_NAMED_KEYS])}{more}."


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested values by their path, as `--set` does: {"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat_settings(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
