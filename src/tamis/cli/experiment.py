"""`tamis experiment`: arms x seeds x rates, each arm followed by the same training and evaluation.

Below the experiment's folder:

    beforehand.json                        what was fixed before the first cell was run
    rankings/, rows/                       see experiment_rows
    cells/<part>/<arm>-.../finetune/       a `tamis finetune`; prune/ where the arm asks for it
    cells/<part>/<arm>-.../evaluate/       a `tamis evaluate`
    results.parquet, results.json          one table of all figures, and what follows from it

Every piece is a stage of its own, so that a killed experiment goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tamis.cli.begun_judges import settled_judges
from tamis.cli.config import EvaluateSettings, FinetuneSettings
from tamis.cli.experiment_beforehand import refuse_silent_primary, write_entry
from tamis.cli.experiment_config import Cell, ExperimentConfig, cells
from tamis.cli.experiment_rows import Data, ranking_folder, read_data, run_ranking, run_rows
from tamis.cli.experiment_workers import run_in_processes
from tamis.cli.judging import read_questions, refuse_ranking_guard
from tamis.cli.model_stages import judge_identities, run_evaluate, run_finetune
from tamis.cli.progress import ProgressReport
from tamis.cli.prune import PruneSettings, run_prune
from tamis.cli.stages import Common, stage_model
from tamis.data.load import DataConfig
from tamis.errors import ConfigError
from tamis.methods import build_method
from tamis.runs import locked, read_manifest
from tamis.selection.select import count_for_ratio
from tamis.training.config import FinetuneConfig


@dataclass(frozen=True)
class CellFolders:
    """Where a cell lies.

    Attributes:
        cell: Which.
        rows: Its rows' stage; None without fine-tuning.
        finetune: None without fine-tuning.
        evaluate: Its evaluation's stage.
    """

    cell: Cell
    rows: Path | None
    finetune: Path | None
    evaluate: Path

    @property
    def finished(self) -> bool:
        """Whether its last stage is done."""
        return (self.evaluate / "manifest.json").exists()


def folders(config: ExperimentConfig, cell: Cell) -> CellFolders:
    """Return where a cell's stages lie."""
    base = config.out / "cells" / cell.name
    trained = cell.seed is not None
    return CellFolders(
        cell, config.out / "rows" / cell.selection if trained else None,
        base / "finetune" if trained else None, base / "evaluate",
    )  # fmt: skip


def finetune_config(config: ExperimentConfig, cell: Cell, n_rows: int) -> FinetuneConfig:
    """Return a cell's recipe: equal optimiser steps for all arms, or equal passes.

    Args:
        config: The experiment.
        cell: Its budget counts.
        n_rows: Rows of its part; `steps` without `finetune.max_steps` is as many as `epochs` passes
            over the largest selection of them take.
    """
    if cell.budget == "epochs":
        return config.finetune.model_copy(update={"max_steps": None})
    largest = count_for_ratio(max(config.selection_ratios), n_rows)
    return config.finetune.model_copy(update={"max_steps": config.finetune.steps(largest)})


def run_experiment(
    config: ExperimentConfig, *, command: Sequence[str] = (), overwrite: bool = False,
    report: ProgressReport | None = None, say: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run what is missing, and put the results together.

    Args:
        config: The experiment.
        command: Arguments after `tamis experiment` by which a process of its own runs one cell with
            `--cell NAME`; needed with more than one worker.
        overwrite: Replace stages that were run with other settings.
        report: Progress.
        say: Called with a line as each piece finishes.

    Returns:
        The content of `results.json`.

    Raises:
        ConfigError: Another process runs the experiment, or cells failed; the others are done, and
            are kept.
    """
    from tamis.cli.experiment_results import write_results

    say = say or (lambda line: None)
    common = Common(config.out, config.ranking_seed, config.device, config.dtype, overwrite, report)
    config = _with_judges(config)
    with locked(config.out):
        data = read_data(config)
        order, left = _prepared(config, data, common, say)
        if config.workers > 1 and len(left) > 1:
            run_in_processes(config, left, command, overwrite, say)
        else:
            model = _Loaded(config, common)
            for number, cell in enumerate(order, 1):
                run_cell(config, data, common, cell, model.get() if cell in left else None)
                say(f"{number}/{len(order)}  {cell.name}")
        return write_results(config, data, [folders(config, cell) for cell in cells(config)])


def prepare_experiment(
    config: ExperimentConfig, *, report: ProgressReport | None = None,
    say: Callable[[str], None] | None = None,
) -> list[str]:  # fmt: skip
    """Rank and select for every arm and record what is fixed, so that cells can run one by one.

    Args:
        config: The experiment.
        report: Progress.
        say: Called with a line as each ranking finishes.

    Returns:
        Names of the cells that are not finished, seed by seed; `run_one` runs one.

    Raises:
        ConfigError: Another process runs the experiment.
        MismatchError: Rankings, rows or finished cells are of other settings.
    """
    common = Common(config.out, config.ranking_seed, config.device, config.dtype, False, report)
    config = _with_judges(config)
    with locked(config.out):
        data = read_data(config)
        return [cell.name for cell in _prepared(config, data, common, say or (lambda _: None))[1]]


def _prepared(
    config: ExperimentConfig, data: Data, common: Common, say: Callable[[str], None]
) -> tuple[list[Cell], list[Cell]]:
    """Do what comes before the first cell; return all cells and those left, in order."""
    prepare_rows(config, data, common, say)
    _refuse_rankers(config)
    write_entry(config)
    # Seed by seed: an experiment that is stopped early has compared all arms.
    order = sorted(cells(config), key=lambda cell: (cell.seed is not None, cell.seed or 0))
    left = [cell for cell in order if common.overwrite or not folders(config, cell).finished]
    for cell in order:
        if cell not in left:  # refused if it was run with other settings
            run_cell(config, data, common, cell)
    return order, left


def prepare_rows(
    config: ExperimentConfig, data: Data, common: Common, say: Callable[[str], None]
) -> None:
    """Rank and select for every arm, with one ranking model."""
    ranker = _Loaded(config, common, ranking=True)
    done: set[Path] = set()
    for cell in cells(config):
        if cell.seed is None:
            continue
        arm = config.arms[cell.arm]
        if arm.method is not None:
            folder = ranking_folder(config, cell.part, cell.arm)
            if folder not in done:
                finished = (folder / "manifest.json").exists() and not common.overwrite
                needs = "model" in getattr(
                    build_method(arm.method.name, arm.method.options), "requires", ())  # fmt: skip
                model = ranker.get() if needs and not finished else None
                run_ranking(config, data, common, cell.part, cell.arm, model)
                done.add(folder)
                say(f"ranked  {cell.part}/{cell.arm}")
        run_rows(config, data, common, cell)


def run_cell(
    config: ExperimentConfig, data: Data, common: Common, cell: Cell, model: Any = None
) -> None:
    """Fine-tune, prune where asked for, and evaluate one cell, unless that is done."""
    where = folders(config, cell)
    adapter = None
    if where.finetune is not None and where.rows is not None and cell.seed is not None:
        run_finetune(
            FinetuneSettings(
                finetune=finetune_config(config, cell, len(data.parts[cell.part])),
                model=config.model, data=DataConfig(), render=config.render,
            ),
            replace(common, out=where.finetune, seed=cell.seed),
            data=str(where.rows / "train.jsonl"), model=model,
        )  # fmt: skip
        adapter = where.finetune / "adapter"
        prune = config.arms[cell.arm].prune
        if prune is not None:
            folder = where.finetune.with_name("prune")
            run_prune(
                PruneSettings(prune=prune, model=config.model, data=config.data,
                              safe_data=config.safe_data, render=config.render),
                replace(common, out=folder, seed=0), adapter=adapter,
                harmful_set=config.harmful_set, safe_set=config.safe_set, model=model,
            )  # fmt: skip
            adapter = folder / "adapter"
    found = run_evaluate(
        EvaluateSettings(evaluate=config.evaluate, model=config.model, render=config.render),
        # One seed for all: what is sampled, if anything, is sampled alike.
        replace(common, out=where.evaluate, seed=0), prompts=config.prompts, adapter=adapter,
        model=model,
    )  # fmt: skip
    _refuse_rankers(config, judge_identities(found))


def run_one(config: ExperimentConfig, name: str, report: ProgressReport | None = None) -> None:
    """Run the cell of a name in this process; its rows must be there.

    Raises:
        ConfigError: There is no such cell.
    """
    found = {cell.name: cell for cell in cells(config)}
    if name not in found:
        raise ConfigError(f"there is no cell {name!r}. Cells: {', '.join(found)}.")
    config = _with_judges(config)
    _refuse_rankers(config)
    common = Common(config.out, config.ranking_seed, config.device, config.dtype, False, report)
    data = read_data(config)
    write_entry(config, only_first=True)
    run_cell(config, data, common, found[name])


def _with_judges(config: ExperimentConfig) -> ExperimentConfig:
    """Settle who judges; refuse a judge that ranks, and what cannot be asked or told."""
    evaluate = settled_judges(config.evaluate, config.out)
    config = config.model_copy(update={"evaluate": evaluate})
    refuse_silent_primary(config, read_questions(config.evaluate, config.prompts))
    for arm in config.arms.values():
        refuse_ranking_guard(config.evaluate, arm.method and arm.method.resolved())
    return config


def _refuse_rankers(config: ExperimentConfig, identities: Sequence[str] = ()) -> None:
    """Refuse judges by what finished rankings say of their guards."""
    for part in config.parts:
        for name, arm in config.arms.items():
            folder = None if arm.method is None else ranking_folder(config, part, name)
            if folder is not None and (folder / "manifest.json").exists():
                refuse_ranking_guard(config.evaluate, read_manifest(folder)["details"], identities)


class _Loaded:
    """A model that is loaded when it is first needed."""

    def __init__(self, config: ExperimentConfig, common: Common, *, ranking: bool = False) -> None:
        self._config = (config.ranking_model if ranking else None) or config.model
        self._common = common
        self._model: Any = None

    def get(self) -> Any:
        if self._model is None:
            self._model = stage_model(self._config, self._common)
        return self._model
