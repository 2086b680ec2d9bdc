"""What is kept of the transfer between sittings, perhaps on other machines: scores and outcomes.

    results/transfer_rankings.json  by arm, the scores of the 600 rows and what was kept of them
    results/transfer_cells.json     by cell, the outcome of every prompt; ids, no texts

A cell that stands there is not run again. A ranking that stands there is taken as it is
(`Recorded`), so that every cell of an arm trains on the same rows wherever it runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from environment import RESULTS

from tamis.cli.experiment import CellFolders, folders
from tamis.cli.experiment_config import Cell, ExperimentConfig, cells
from tamis.cli.experiment_results import KEPT
from tamis.cli.experiment_rows import ranking_folder, read_data, selection_figures
from tamis.evaluation.experiment import Values, read_values, summarise
from tamis.evaluation.prompts import chosen_prompts
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores
from tamis.runs import read_manifest

RANKINGS, CELLS = "transfer_rankings.json", "transfer_cells.json"
PROMPTS = "prompts"  # in CELLS: ids by measure, in the order of every cell's values
DIGITS = 6  # significant ones of an outcome
RANKING = ("auroc", "average_precision", "n", "n_harmful", "n_unscored")  # of all its figures


class Recorded(Method):
    """Scores of an earlier ranking of the same rows."""

    requires: ClassVar[frozenset[str]] = frozenset()

    arm: str
    """Whose scores."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Look every row up by the id of its record; one that was not ranked is an error."""
        examples = inputs.finetuning_set
        scores = read(RANKINGS)[self.arm]["scores"]
        values = [scores[str(name)] for name in examples.source_ids]
        return Scores(
            "recorded", examples.ids, examples.source_ids,
            np.array(values, dtype=np.float64),
            ["no score in the record" if value is None else "ok" for value in values], None,
        )  # fmt: skip


def read(name: str) -> dict[str, Any]:
    """Return what was recorded, {} before the first time."""
    path = RESULTS / name
    found: dict[str, Any] = {}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(name: str, found: Mapping[str, Any]) -> None:
    """Record, a line for every cell or arm."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(found.items())]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def record_rankings(config: ExperimentConfig, environment: Mapping[str, Any]) -> None:
    """Add the scores of arms that were ranked here, and what every arm keeps."""
    found, data = read(RANKINGS), read_data(config)
    for cell in cells(config):
        where = folders(config, cell)
        if where.rows is None or cell.arm in found:
            continue
        manifest = read_manifest(where.rows)
        entry = {
            "environment": environment,
            **{name: manifest[name] for name in ("n_rows", "n_kept", "n_mixed", "n_trained_on")},
            "kept": selection_figures(data, where.rows, cell.part, manifest["n_mixed"]),
        }
        arm = config.arms[cell.arm]
        if arm.method is not None:
            folder = ranking_folder(config, cell.part, cell.arm)
            scores = Scores.read(folder)
            figures = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))
            values = [None if np.isnan(value) else float(value) for value in scores.values]
            entry |= {
                "method": arm.method.model_dump(mode="json"),
                "ranking": {name: figures[name] for name in RANKING},
                "scores": dict(zip(map(str, scores.source_ids), values, strict=True)),
            }
        found[cell.arm] = entry
    write(RANKINGS, found)


def record_cell(config: ExperimentConfig, cell: Cell, environment: Mapping[str, Any]) -> None:
    """Add the outcomes of a finished cell."""
    where = folders(config, cell)
    helpful = chosen_prompts(config.prompts.by_kind())["helpful"]
    values = read_values(where.evaluate, {p.id for p in helpful if p.answer is not None})
    stored = read(CELLS)
    prompts = {measure: sorted(found) for measure, found in values.items()}
    if stored.setdefault(PROMPTS, prompts) != prompts:
        raise SystemExit(f"{cell.name} was asked other prompts than the cells of {CELLS}")
    stored[cell.name] = {
        "environment": environment,
        "training": _training(where),
        "values": {measure: [_rounded(found[prompt]) for prompt in prompts[measure]]
                   for measure, found in values.items()},
    }  # fmt: skip
    write(CELLS, stored)


def together(config: ExperimentConfig, seed: int) -> dict[str, Any]:
    """Put arms side by side, as `tamis experiment` does."""
    found = read(CELLS)
    prompts = found.pop(PROMPTS, {})
    arms: dict[str, list[Values]] = {}
    for cell in cells(config):
        if cell.name in found:
            arms.setdefault(cell.arm, []).append({
                measure: dict(zip(prompts[measure], values, strict=True))
                for measure, values in found[cell.name]["values"].items()
            })  # fmt: skip
    without = {name: {key: value for key, value in entry.items() if key != "scores"}
               for name, entry in read(RANKINGS).items()}  # fmt: skip
    return {
        "primary": config.primary,
        "references": config.compared_with,
        "measures": summarise(arms, config.compared_with, seed),
        "selections": without,
        "cells": {name: {key: entry[key] for key in ("environment", "training")}
                  for name, entry in found.items()},
    }  # fmt: skip


def _training(where: CellFolders) -> dict[str, Any] | None:
    if where.finetune is None:
        return None
    details = read_manifest(where.finetune)["details"]
    return {**{name: details[name] for name in KEPT}, "last_loss": details["losses"][-1]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
