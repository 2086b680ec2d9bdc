"""The results of an experiment: one table of all cells, and what follows from it.

results.parquet   one row per cell and measure, with interval and n
results.json      the same rows, arms side by side with paired differences, how far judges agree,
                  what every selection kept, and what every fine-tuning did
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.cli.experiment_beforehand import beforehand, read_entries
from tamis.cli.experiment_config import Cell, ExperimentConfig
from tamis.cli.experiment_rows import ranking_folder, rows_in_reach, selection_figures
from tamis.data.anchors import shipped_anchors
from tamis.data.load import load_examples
from tamis.errors import MismatchError
from tamis.evaluation.experiment import arm_mean, of_verdicts, read_values, summarise, table
from tamis.evaluation.experiment_judges import judge_agreement
from tamis.evaluation.overlap import repeated_prompts, rows_with_prompts
from tamis.evaluation.prompts import Prompt, PromptKind, chosen_prompts
from tamis.files import atomic_path, read_json_object, write_json
from tamis.rng import numpy_generator
from tamis.runs import read_manifest

if TYPE_CHECKING:
    from tamis.cli.experiment import CellFolders
    from tamis.cli.experiment_rows import Data

FIGURES = ("value", "low", "high", "n", "n_unscored")
KEPT = ("steps", "epochs", "n_rows", "n_tokens", "seconds")


def write_results(
    config: ExperimentConfig, data: Data, found: Sequence[CellFolders]
) -> dict[str, Any]:
    """Read finished cells, write `results.parquet` and `results.json`, return the latter."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts = chosen_prompts(config.prompts.by_kind())
    checkable = {prompt.id for prompt in prompts["helpful"] if prompt.answer is not None}
    values = {where.cell: read_values(where.evaluate, checkable) for where in found}
    rows = [row for where in found for row in _rows(where.cell, values[where.cell])]
    judges = _judges(found[0])
    results = {
        "primary": config.primary,
        "references": config.compared_with,
        "beforehand": beforehand(read_entries(config.out)),
        "judges": judges,
        "judge_identities": judge_identities_of([where.evaluate for where in found]),
        "agreement": judge_agreement(list(values.values()), judges, config.ranking_seed),
        "cells": rows,
        "groups": [
            {
                "part": part, "ratio": ratio, "budget": budget,
                "measures": summarise(
                    {arm: [values[cell] for cell in cells] for arm, cells in arms.items()},
                    config.compared_with, config.ranking_seed,
                ),
            }
            for (part, ratio, budget), arms in _groups(config, [where.cell for where in found])
        ],
        "rows_with_prompts": rows_with_prompts(
            rows_in_reach(config, data, _most_mixed(found)), prompts
        ),
        "pruning_rows_with_prompts": pruning_overlap(config, prompts),
        "repeated_prompts": {kind: repeated_prompts(those) for kind, those in prompts.items()},
        "n_without_check": len(prompts["helpful"]) - len(checkable),
        "selections": _selections(data, found),
        "trainings": [_training(where) for where in found if where.finetune is not None],
        "sets": sets_read(config, data, found),
    }  # fmt: skip
    with atomic_path(config.out / "results.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    whole: dict[str, Any] = json.loads(json.dumps(results))
    write_json(config.out / "results.json", whole)
    return whole


def _rows(cell: Cell, values: Any) -> Iterator[dict[str, Any]]:
    """One row per measure: the mean over prompts of this cell alone."""
    for measure in values:
        array = table([values], measure, sorted(values[measure]))
        draw = numpy_generator(0, "experiment", "cell", measure)
        found = arm_mean(array, draw, of_verdicts(measure))
        yield {"part": cell.part, "arm": cell.arm, "ratio": cell.ratio, "budget": cell.budget,
               "seed": cell.seed, "measure": measure,
               **{name: found[name] for name in FIGURES}}  # fmt: skip


def _groups(
    config: ExperimentConfig, cells: Sequence[Cell]
) -> Iterator[tuple[tuple[str, float, str], dict[str, list[Cell]]]]:
    """Yield the arms that are compared with each other: one part, ratio and budget."""
    for part in config.parts:
        for ratio in config.selection_ratios:
            for budget in config.budgets:
                arms: dict[str, list[Cell]] = {}
                for cell in cells:
                    untrained = cell.seed is None  # belongs to every part
                    here = cell.part == part and cell.budget == budget
                    if untrained or (here and cell.ratio in (None, ratio)):
                        arms.setdefault(cell.arm, []).append(cell)
                yield (part, ratio, budget), arms


def _judges(where: CellFolders) -> list[str]:
    """Names of the judges, the primary first."""
    metrics = read_json_object(where.evaluate / "metrics.json")
    return [metrics["judge"], *(name for name in metrics["judges"] if name != metrics["judge"])]


def pruning_overlap(
    config: ExperimentConfig, prompts: Mapping[PromptKind, Sequence[Prompt]]
) -> dict[str, dict[str, int]]:
    """Count the rows that pruning goes by which ask an evaluation prompt, or nearly so.

    Returns:
        By role, `harmful_set` (the shipped anchors where none is set) and `safe_set`, and by set of
        prompts, as `rows_with_prompts`; empty where no arm prunes.
    """
    if not any(arm.prune for arm in config.arms.values()):
        return {}
    rows = {
        "harmful_set": shipped_anchors().complied if config.harmful_set is None
        else load_examples(config.harmful_set, config.data)
    }  # fmt: skip
    if config.safe_set is not None:
        rows["safe_set"] = load_examples(config.safe_set, config.safe_data or config.data)
    return {role: rows_with_prompts(found, prompts) for role, found in rows.items()}


def judge_identities_of(evaluations: Sequence[Path]) -> dict[str, str]:
    """Return what gave the verdicts of finished evaluations, by judge: the same for all of them.

    Evaluations that do not say it are passed over; if none does, it is not known.

    Raises:
        MismatchError: A judge was another model in some of them.
    """
    found: dict[str, tuple[str, Path]] = {}
    for folder in evaluations:
        metrics = read_json_object(folder / "metrics.json")
        for judge, identity in metrics.get("judge_identities", {}).items():
            first, where = found.setdefault(judge, (identity, folder))
            if first != identity:
                raise MismatchError(
                    f"judge {judge!r} was {first} in {where} and {identity} in {folder}: verdicts "
                    "of two models are not compared. Remove the evaluations by one of them and "
                    "run the experiment again."
                )
    return {judge: identity for judge, (identity, _) in found.items()}


def _most_mixed(found: Sequence[CellFolders]) -> dict[str, int]:
    """Return the most rows that each arm mixes in, by arm; arms without any are left out."""
    most: dict[str, int] = {}
    for where in found:
        n = 0 if where.rows is None else read_manifest(where.rows)["n_mixed"]
        if n > most.get(where.cell.arm, 0):
            most[where.cell.arm] = n
    return most


def _selections(data: Data, found: Sequence[CellFolders]) -> list[dict[str, Any]]:
    """Say what every selection kept, once."""
    entries: dict[str, dict[str, Any]] = {}
    for where in found:
        if where.rows is None or where.cell.selection in entries:
            continue
        manifest = read_manifest(where.rows)
        entries[where.cell.selection] = {
            "part": where.cell.part, "arm": where.cell.arm, "ratio": where.cell.ratio,
            **{name: manifest[name] for name in ("n_rows", "n_kept", "n_mixed", "n_trained_on")},
            "kept": selection_figures(data, where.rows, where.cell.part, manifest["n_mixed"]),
            **manifest["details"],
        }  # fmt: skip
    return list(entries.values())


def sets_read(
    config: ExperimentConfig, data: Data, found: Sequence[CellFolders]
) -> dict[str, dict[str, Any]]:
    """Say of every set that was read what happened to its records, by role."""
    sets = {"data": data.examples.load_report.to_dict()}
    for where in found:
        cell = where.cell
        if where.rows is None or where.finetune is None:
            continue
        names = {name: name for name in ("safe_set", "harmful_set", "trusted_set")}
        names["mixed_from"] = f"mixed into {cell.arm}"
        read = [where.rows]
        if config.arms[cell.arm].method is not None:
            read.append(ranking_folder(config, cell.part, cell.arm))
        if config.arms[cell.arm].prune is not None:
            read.append(where.finetune.with_name("prune"))
        for folder in read:
            manifest = read_manifest(folder)
            for role, name in names.items():
                if (facts := manifest.get(role)) and facts.get("load"):
                    sets.setdefault(name, facts["load"])
    return sets


def _training(where: CellFolders) -> dict[str, Any]:
    assert where.finetune is not None, "asked for fine-tuned cells only"
    details = read_manifest(where.finetune)["details"]
    cell = where.cell
    return {"part": cell.part, "arm": cell.arm, "ratio": cell.ratio, "budget": cell.budget,
            "seed": cell.seed, **{name: details[name] for name in KEPT},
            "last_loss": details["losses"][-1] if details["losses"] else None}  # fmt: skip
