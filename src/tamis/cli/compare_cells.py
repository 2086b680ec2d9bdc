"""One ranking of a comparison: what is asked, whether it is there, and running it."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.cli.compare_config import Job
from tamis.cli.config import RankSettings
from tamis.cli.stages import Common, rank_stage, run_rank
from tamis.data.example import content_of
from tamis.errors import MismatchError, TamisError
from tamis.files import json_line, write_text_atomic
from tamis.rng import numpy_generator

if TYPE_CHECKING:
    from tamis.cli.compare import Prepared
    from tamis.evaluation.compare import Cell


@dataclass(frozen=True)
class _Asked:
    """What `tamis rank` is asked for one ranking, and the rows whose labels it is given.

    Attributes:
        settings: Of `run_rank`, as the next two.
        common: Likewise.
        inputs: Likewise.
        taught: Ids of the rows that it learns from, and of their copies.
        known: Ids of the rows whose copies are in the harmful set.
    """

    settings: RankSettings
    common: Common
    inputs: Mapping[str, Any]
    taught: frozenset[str]
    known: frozenset[str]


def _asked(prepared: Prepared, common: Common, job: Job, lists: Path) -> _Asked:
    """Write the lists that a ranking reads, and say what is asked."""
    config, examples = prepared.config, prepared.examples
    method = config.methods[job.method]
    lists.mkdir(parents=True, exist_ok=True)
    rows, part = None, examples
    if job.ids is not None:
        rows, part = lists / f"{job.rows}-{job.draw}.txt", examples.restrict(job.ids)
        write_text_atomic(rows, "\n".join(job.ids) + "\n")
    trusted, taught = None, frozenset[str]()
    if config.learns(job.method):
        trusted = lists / f"trusted-{job.rows}-{job.draw}.jsonl"
        by_id = {
            row: label.harmful for row, label in zip(examples.ids, prepared.truth, strict=True)
        }
        drawn = _drawn(part.ids, config.n_trusted, job.draw)
        lines = [json_line({"id": row, "harmful": by_id[row]}) for row in drawn]
        write_text_atomic(trusted, "".join(lines))
        taught = _copies(part.ids, {content_of(row) for row in drawn})
    settings = RankSettings(
        method=method, model=config.model, data=config.data,
        safe_data=config.safe_data or config.data, render=config.render,
    )  # fmt: skip
    inputs = {
        "data": config.finetuning_set, "safe_set": config.safe_set,
        "harmful_set": config.harmful_set,
        "trusted_set": config.finetuning_set if trusted else None, "trusted_labels": trusted,
        "rows": rows,
    }  # fmt: skip
    here = replace(common, out=_folder(prepared, job), seed=job.seed)
    return _Asked(settings, here, inputs, taught, _copies(part.ids, prepared.known_harmful))


def finished_cells(prepared: Prepared, common: Common) -> list[bool]:
    """Say of every ranking whether it is there and will not be replaced.

    Raises:
        MismatchError: Folders hold rankings that were asked otherwise, and are not to be
            overwritten; all are named.
    """
    finished, others = [], {}
    with tempfile.TemporaryDirectory(prefix="tamis-lists-") as lists:
        for job in prepared.jobs:
            if not (_folder(prepared, job) / "config.yaml").exists():
                finished.append(False)
                continue
            asked = _asked(prepared, common, job, Path(lists))
            stage = rank_stage(asked.settings, asked.common, **asked.inputs)
            differences = stage.differences
            finished.append(stage.finished and not differences)
            if differences:
                others[job.name] = differences
    if others and not prepared.overwrite:
        raise MismatchError(
            f"{prepared.config.out} holds {len(others):,} of these rankings with other settings or "
            f"data: {', '.join(others)}. The first: {next(iter(others.values()))}. "
            "Give another out, or --overwrite to replace them."
        )
    return finished


def run_cell(prepared: Prepared, common: Common, job: Job) -> Cell:
    """Rank one cell, or take over what is there."""
    from tamis.evaluation.compare import Cell
    from tamis.methods.scores import Scores

    config = prepared.config
    asked = _asked(prepared, common, job, config.out / "lists")
    manifest = run_rank(
        asked.settings,
        asked.common,
        **asked.inputs,
        cache=config.cache or config.out / "cache",
        model=prepared.model,
        also=prepared.also,
    )
    scores = Scores.read(asked.common.out)
    notes = list(manifest["details"].get("notes", ()))
    if np.isnan(scores.values).all():
        reasons = ", ".join(f"{name} {n:,}" for name, n in scores.rows_by_outcome().items())
        notes.append(f"no row has a score ({reasons}).")
    return Cell(
        job.rows, job.method, job.draw, scores, asked.taught | asked.known,
        seconds=float(manifest["timings"]["seconds"]),
        peak_gib=manifest["memory"].get("peak_rss_gib"),
        start_gib=manifest["memory"].get("start_rss_gib"),
        gpu_gib=manifest["memory"].get("peak_gpu_gib"),
        passes=manifest["details"].get("passes", {}),
        resumed=bool(manifest.get("resumed")),
        learned=bool(manifest["details"].get("weights_learned", True)),
        notes=notes,
    )  # fmt: skip


def reason_of(error: Exception) -> str:
    """Say why a ranking ended: a refusal in its own words, any other fault with its place."""
    if isinstance(error, TamisError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{where}{notes}"


def _folder(prepared: Prepared, job: Job) -> Path:
    return prepared.config.out / "cells" / job.name


def _copies(ids: Sequence[str], contents: set[str] | frozenset[str]) -> frozenset[str]:
    """Return the rows with one of these contents."""
    return frozenset(row for row in ids if content_of(row) in contents)


def _drawn(ids: Sequence[str], n: int, seed: int) -> list[str]:
    """Draw n rows at random, whatever the order of the file."""
    ordered = sorted(ids)
    order = numpy_generator(seed, "compare", "trusted").permutation(len(ordered))[:n]
    return [ordered[i] for i in order]
