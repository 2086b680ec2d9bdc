"""`tamis compare`: several methods on the same rows, computed once, measured alike.

Every cell (rows x method x seed) is a ranking in a folder of its own, so that a killed comparison
goes on where it stopped. All of them share one cache: what the model makes of a row is computed
once for every method and every contamination rate.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.cli.compare_config import CompareConfig, Job, jobs
from tamis.cli.config import RankSettings
from tamis.cli.stages import Common, rank_stage, run_rank, stage_model
from tamis.data.example import Examples, content_of
from tamis.data.load import load_examples
from tamis.evaluation.labels import NO_LIST_OF_ROWS, Label, join_labels, read_labels
from tamis.evaluation.row_shapes import RowShapes, row_shapes
from tamis.files import json_line, write_json, write_text_atomic
from tamis.methods import build_method
from tamis.rng import numpy_generator

if TYPE_CHECKING:
    from tamis.cli.progress import ProgressReport
    from tamis.evaluation.compare import Cell

CUES = "trivial"


@dataclass(frozen=True)
class Prepared:
    """A comparison whose data are read and whose model is loaded.

    Attributes:
        config: What to compare.
        examples: All rows.
        labels: The labels as read.
        truth: The label of every row, in row order.
        shapes: Slices by turns and length.
        jobs: Every ranking.
        finished: Whether it is there and will not be replaced.
        model: None where no method needs one.
        read_seconds: Time to read the rows.
        overwrite: Whether rankings of another request are replaced.
    """

    config: CompareConfig
    examples: Examples
    labels: Sequence[Label]
    truth: Sequence[Label]
    shapes: RowShapes
    jobs: Sequence[Job]
    finished: Sequence[bool]
    model: Any
    read_seconds: float
    overwrite: bool = False

    def lengths(self, rows: Examples) -> np.ndarray[Any, Any]:
        """Return the length of some rows: tokens, or characters where there is no model."""
        if self.model is None:
            return np.array([sum(len(m.content) for m in row.messages) for row in rows])
        from tamis.data.template import render

        return np.asarray(render(rows, self.model.tokenizer, self.config.render).lengths)


def prepare(
    config: CompareConfig, report: ProgressReport | None = None, *, overwrite: bool = False
) -> Prepared:
    """Read the data and load the model; faults of either are told now.

    With `overwrite`, rankings that are there with other settings or data are run again.
    """
    start = time.perf_counter()
    examples = load_examples(config.finetuning_set, config.data)
    seconds = time.perf_counter() - start
    labels = read_labels(config.labels)
    truth = join_labels(examples, labels, way_out=NO_LIST_OF_ROWS)
    todo = jobs(config, examples, truth)
    needs_model = any("model" in build_method(m.name, m.options).requires
                      for m in config.methods.values())  # fmt: skip
    common = _common(config, report, overwrite)
    finished = [_finished(config, common, job, examples, truth) for job in todo]
    model = stage_model(config.model, common) if needs_model else None
    shapes = row_shapes(examples)
    return Prepared(
        config, examples, labels, truth, shapes, todo, finished, model, seconds, overwrite
    )


def _common(config: CompareConfig, report: ProgressReport | None, overwrite: bool) -> Common:
    return Common(config.out, 0, config.device, config.dtype, overwrite, report)


def run_compare(
    prepared: Prepared, *, report: ProgressReport | None = None, say: Any = None
) -> dict[str, Any]:
    """Run every cell that is not there yet, measure all, write `comparison.json`.

    Args:
        prepared: What to compare.
        report: Progress.
        say: Called with lines for the user as cells finish.

    Returns:
        The content of `comparison.json`.
    """
    from tamis.evaluation.compare import cell_measures

    config, shapes = prepared.config, prepared.shapes
    common = _common(config, report, prepared.overwrite)
    cells: list[Cell] = []
    measures: list[dict[str, Any]] = []
    for number, job in enumerate(prepared.jobs, 1):
        cell = _run(config, common, job, prepared.examples, prepared.truth, prepared.model)
        cells.append(cell)
        # One seed for all: draws of a slice are paired between methods.
        measures.append(cell_measures(cell, prepared.labels, 0, shapes.slices))
        if say:
            area = measures[-1]["auroc"]["value"]
            shown = "-" if area is None else f"{area:.3f}"
            say(f"{number}/{len(prepared.jobs)}  {job.rows} {job.method}-{job.draw}: AUROC "
                f"{shown}, {cell.seconds:.1f} s")  # fmt: skip
    found = {**_summary(config, cells, measures), "length_bounds": list(shapes.length_bounds)}
    write_json(config.out / "comparison.json", found)
    return found


@dataclass(frozen=True)
class _Asked:
    """What `tamis rank` is asked for one ranking, and the rows whose labels it is given."""

    settings: RankSettings
    common: Common
    inputs: Mapping[str, Any]
    excluded: frozenset[str]


def _asked(
    config: CompareConfig, common: Common, job: Job, examples: Examples, truth: Sequence[Label],
    lists: Path,
) -> _Asked:  # fmt: skip
    """Write the lists that a ranking reads, and say what is asked."""
    method = config.methods[job.method]
    lists.mkdir(parents=True, exist_ok=True)
    rows, part = None, examples
    if job.ids is not None:
        rows, part = lists / f"{job.rows}-{job.draw}.txt", examples.restrict(job.ids)
        write_text_atomic(rows, "\n".join(job.ids) + "\n")
    trusted, excluded = None, frozenset[str]()
    requires = build_method(method.name, method.options).requires
    if "trusted_set" in requires:
        trusted = lists / f"trusted-{job.rows}-{job.draw}.jsonl"
        by_id = {row: label.harmful for row, label in zip(examples.ids, truth, strict=True)}
        drawn = _drawn(part.ids, config.n_trusted, job.draw)
        lines = [json_line({"id": row, "harmful": by_id[row]}) for row in drawn]
        write_text_atomic(trusted, "".join(lines))
        seen = {content_of(row) for row in drawn}
        excluded = frozenset(row for row in part.ids if content_of(row) in seen)
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
    here = replace(common, out=config.out / job.folder, seed=job.seed)
    return _Asked(settings, here, inputs, excluded)


def _finished(
    config: CompareConfig, common: Common, job: Job, examples: Examples, truth: Sequence[Label]
) -> bool:
    """Whether a ranking is there; not one that overwriting will replace."""
    there = (config.out / job.folder / "manifest.json").exists()
    if not there or not common.overwrite:
        return there
    with tempfile.TemporaryDirectory(prefix="tamis-lists-") as lists:
        asked = _asked(config, common, job, examples, truth, Path(lists))
        return rank_stage(asked.settings, asked.common, **asked.inputs).finished_as_asked


def _run(
    config: CompareConfig, common: Common, job: Job, examples: Examples, truth: Sequence[Label],
    model: Any,
) -> Cell:  # fmt: skip
    """Rank one cell, or take over what is there."""
    from tamis.evaluation.compare import Cell
    from tamis.methods.scores import Scores

    asked = _asked(config, common, job, examples, truth, config.out / "lists")
    manifest = run_rank(
        asked.settings,
        asked.common,
        **asked.inputs,
        cache=config.cache or config.out / "cache",
        model=model,
    )
    return Cell(
        job.rows, job.method, job.draw, Scores.read(asked.common.out), asked.excluded,
        seconds=float(manifest["timings"]["seconds"]),
        peak_gib=manifest["memory"].get("peak_rss_gib"),
        start_gib=manifest["memory"].get("start_rss_gib"),
        gpu_gib=manifest["memory"].get("peak_gpu_gib"),
        passes=manifest["details"].get("passes", {}),
    )  # fmt: skip


def _drawn(ids: Sequence[str], n: int, seed: int) -> list[str]:
    """Draw n rows at random, whatever the order of the file."""
    ordered = sorted(ids)
    order = numpy_generator(seed, "compare", "trusted").permutation(len(ordered))[:n]
    return [ordered[i] for i in order]


def _groups(cells: Sequence[Cell]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield (rows, method, places of their cells), in the order of the configuration."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, cell in enumerate(cells):
        places.setdefault((cell.rows, cell.method), []).append(place)
    for (rows, method), found in places.items():
        yield rows, method, found


def _largest(values: Sequence[float | None]) -> float | None:
    """Return the largest, None if one is not known: it might have been larger."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _summary(
    config: CompareConfig, cells: Sequence[Cell], measures: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Average cells, compare methods with one another and with the cues."""
    from tamis.evaluation.compare import agreement, averaged, cue_statements

    entries: list[dict[str, Any]] = []
    for rows, method, places in _groups(cells):
        reports = [measures[place] for place in places]
        readouts = {
            name: {
                **averaged([report["readouts"][name] for report in reports]),
                "slices": {
                    part: averaged([report["readouts"][name]["slices"][part] for report in reports])
                    for part in reports[0]["readouts"][name]["slices"]
                    if all(part in report["readouts"][name]["slices"] for report in reports)
                },
            }
            for name in reports[0]["readouts"]
        }
        mine = [cells[place] for place in places]
        entries.append({
            "rows": rows, "method": method, "config": config.methods[method].resolved(),
            "uses_labels": bool(mine[0].excluded),
            "seconds": [cell.seconds for cell in mine],
            **{name: _largest([getattr(cell, name) for cell in mine])
               for name in ("peak_gib", "start_gib", "gpu_gib")},
            "passes": mine[0].passes,
            "flagged": [report["flagged"] for report in reports if "flagged" in report],
            "readouts": readouts,
        })  # fmt: skip
    statements: dict[str, list[str]] = {}
    agreements: dict[str, list[dict[str, Any]]] = {}
    for rows in dict.fromkeys(cell.rows for cell in cells):
        here = [entry for entry in entries if entry["rows"] == rows]
        cues = [e for e in here if e["config"]["name"] == CUES]
        if cues:
            named = {name: found for name, found in cues[0]["readouts"].items() if name != "score"}
            others = {e["method"]: e["readouts"]["score"] for e in here if e not in cues}
            statements[rows] = cue_statements(others, named)
        first = {cell.method: cell for cell in reversed(cells) if cell.rows == rows}
        same = [c for c in first.values() if c.seed == min(f.seed for f in first.values())]
        agreements[rows] = agreement(list(reversed(same)), config.selection_ratio)
    return json.loads(json.dumps({  # type: ignore[no-any-return]
        "entries": entries, "cues": statements, "agreement": agreements,
        "selection_ratio": config.selection_ratio,
    }))  # fmt: skip
