"""`tamis compare`: several methods on the same rows, computed once, measured alike.

Every cell (rows x method x seed) is a ranking in a folder of its own, so that a killed comparison
goes on where it stopped. All of them share one cache: what the model makes of a row is computed
once for every method and every contamination rate, in one reading of those that name what they
read: whichever comes first takes what the others will ask for. A ranking that ends in an error is
recorded with its reason, and the others run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.cli.compare_cells import finished_cells, reason_of, run_cell
from tamis.cli.compare_config import CompareConfig, Job, jobs
from tamis.cli.compare_facts import rows_facts
from tamis.cli.compare_reading import features_of_all
from tamis.cli.compare_results import summary
from tamis.cli.inputs import stage_inputs
from tamis.cli.stages import Common, stage_model
from tamis.data.example import Examples, content_of
from tamis.data.load import load_examples
from tamis.errors import DataError, TamisError
from tamis.evaluation.labels import NO_LIST_OF_ROWS, Label, join_labels, read_labels
from tamis.evaluation.row_shapes import RowShapes, row_shapes
from tamis.files import read_json_object, write_json
from tamis.methods import build_method
from tamis.stage_files import empty_quarantine
from tamis.versions import git_sha, versions

if TYPE_CHECKING:
    from tamis.cli.progress import ProgressReport
    from tamis.evaluation.compare import Cell


RESULT = "comparison.json"


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
        facts: What is odd about a set of rows, in sentences by its name.
        known_harmful: Contents of the harmful set; no measure counts rows that have them.
        sets: What happened to the records of every set, by role.
        read_seconds: Time to read the rows.
        overwrite: Whether rankings of another request are replaced.
        finished: Whether each ranking is there and will not be replaced.
        model: None where no method needs one.
        also: Features of each set that the rankings to do ask for: whoever reads a row takes all.
    """

    config: CompareConfig
    examples: Examples
    labels: Sequence[Label]
    truth: Sequence[Label]
    shapes: RowShapes
    jobs: Sequence[Job]
    facts: Mapping[str, Sequence[str]]
    known_harmful: frozenset[str]
    sets: Mapping[str, Any]
    read_seconds: float
    overwrite: bool = False
    finished: Sequence[bool] = ()
    model: Any = None
    also: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def lengths(self, rows: Examples) -> np.ndarray[Any, Any]:
        """Return the length of some rows: tokens, or characters where it cannot render them."""
        if self.model is not None:
            with contextlib.suppress(TamisError):  # its rankings will say so; others need none
                return np.asarray(self.model.renderings.render(rows, self.config.render).lengths)
        return np.array([sum(len(m.content) for m in row.messages) for row in rows])


def prepare(
    config: CompareConfig, report: ProgressReport | None = None, *, overwrite: bool = False
) -> Prepared:
    """Read the data and load the model; faults of either are told now.

    With `overwrite`, rankings that are there with other settings or data are run again.

    Raises:
        MismatchError: There are such rankings, and `overwrite` is not set.
    """
    start = time.perf_counter()
    examples = load_examples(config.finetuning_set, config.data)
    seconds = time.perf_counter() - start
    labels = read_labels(config.labels)
    truth = join_labels(examples, labels, way_out=NO_LIST_OF_ROWS)
    trusted = {
        role: load_examples(given, config.safe_data or config.data)
        for role in ("safe_set", "harmful_set") if (given := getattr(config, role)) is not None
    }  # fmt: skip
    read = {"data": examples, **trusted}
    known = trusted["harmful_set"].ids if "harmful_set" in trusted else ()
    every = jobs(config, examples, truth)
    known_contents = frozenset(content_of(row) for row in known)
    prepared = Prepared(
        config, examples, labels, truth, row_shapes(examples), every,
        rows_facts(config, examples, truth, every, known_contents), known_contents,
        {role: rows.load_report.to_dict() for role, rows in read.items()}, seconds, overwrite,
    )  # fmt: skip
    common = _common(config, report, overwrite)
    finished = finished_cells(prepared, common)
    needs_model = any("model" in build_method(m.name, m.options).requires
                      for m in config.methods.values())  # fmt: skip
    model = stage_model(config.model, common) if needs_model else None
    left = {job.method for job, there in zip(prepared.jobs, finished, strict=True) if not there}
    also = {} if model is None else features_of_all(config, left, model)
    return replace(prepared, finished=finished, model=model, also=also)


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
        The content of `comparison.json`. Rankings that ended in an error are under `refused`, with
        the reason; the same call tries them again.
    """
    from tamis.evaluation.compare import cell_measures

    config, shapes = prepared.config, prepared.shapes
    common = _common(config, report, prepared.overwrite)
    say = say or (lambda line: None)
    if prepared.also:
        with contextlib.suppress(TamisError):  # every ranking says so by itself, or has other rows
            prepared.model.renderings.render(prepared.examples, config.render)  # parts are of it
    asked = _asked(config)
    if not all(prepared.finished) or _held(config) != asked:
        # What it holds is of other rankings, labels or slices, should this be killed.
        (config.out / RESULT).unlink(missing_ok=True)
    cells: list[Cell] = []
    measures: list[dict[str, Any]] = []
    refused: dict[Job, str] = {}
    for number, job in enumerate(prepared.jobs, 1):
        name = f"{number}/{len(prepared.jobs)}  {job.rows} {job.method}-{job.draw}"
        try:
            cell = run_cell(prepared, common, job)
            # One seed for all: draws of a slice are paired between methods.
            measured = cell_measures(cell, prepared.labels, 0, shapes.slices)
        except Exception as error:  # whatever a method stops with, the others have their figures
            refused[job] = reason_of(error)
            say(f"{name}: refused. {refused[job]}")
            continue
        cells.append(cell)
        measures.append(measured)
        area = measures[-1]["auroc"]["value"]
        shown = "-" if area is None else f"{area:.3f}"
        say(f"{name}: AUROC {shown}, {cell.seconds:.1f} s")
    found = summary(config, cells, measures, refused)
    for rows, sentences in prepared.facts.items():
        found["facts"].setdefault(rows, [])[:0] = sentences
    found |= {"length_bounds": list(shapes.length_bounds), "sets": _sets(prepared), **asked,
              "versions": versions(), "git_sha": git_sha()}  # fmt: skip
    write_json(config.out / RESULT, found)
    return found


def _asked(config: CompareConfig) -> dict[str, Any]:
    """Return the settings and what identifies the files that decide the figures."""
    sets = {name: getattr(config, name)
            for name in ("finetuning_set", "labels", "safe_set", "harmful_set")}  # fmt: skip
    return {"config": config.model_dump(mode="json"), "inputs": stage_inputs(**sets)}


def _held(config: CompareConfig) -> dict[str, Any]:
    """Return what the figures that are there were asked for; nothing where there are none."""
    with contextlib.suppress(DataError, FileNotFoundError):
        held = read_json_object(config.out / RESULT)
        return {name: held.get(name) for name in ("config", "inputs")}
    return {}


def _sets(prepared: Prepared) -> dict[str, Any]:
    """Return what happened to the records of every set, its bad ones kept in a file of `out`."""
    config, found = prepared.config, dict(prepared.sets)
    for role, load in prepared.sets.items():
        path = empty_quarantine(config.out, role)
        if load["n_quarantined"]:
            source = config.finetuning_set if role == "data" else getattr(config, role)
            settings = config.data if role == "data" else config.safe_data or config.data
            found[role] = load_examples(source, settings, quarantine=path).load_report.to_dict()
    return found
