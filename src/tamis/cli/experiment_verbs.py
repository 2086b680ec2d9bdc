"""`tamis experiment`: fair comparisons of ways to choose rows, by what they do to the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tamis.cli.app import cli, say, stderr
from tamis.cli.options import AsJson, Overwrite, Sets
from tamis.errors import ConfigError


@cli.command()
def experiment(
    config: Annotated[Path, typer.Argument(help="YAML file: see configs/experiment.yaml.")],
    sets: Sets = None, overwrite: Overwrite = False, as_json: AsJson = False,
    cell: Annotated[str | None, typer.Option(
        "--cell", help="Run this cell alone; its rows must be there. For schedulers."
    )] = None,
    prepare: Annotated[bool, typer.Option(
        "--prepare", help="Rank and select only; prints the names of the cells left, for --cell."
    )] = False,
) -> None:  # fmt: skip
    """Fine-tune and evaluate arms x seeds x rates on equal terms; finished cells are skipped."""
    from tamis.cli.experiment import prepare_experiment, run_experiment, run_one
    from tamis.cli.experiment_config import ExperimentConfig
    from tamis.cli.progress import ProgressReport
    from tamis.report.terminal import terminal_summary

    if overwrite and (prepare or cell is not None):
        raise ConfigError(
            "--overwrite replaces a whole experiment: leave out --prepare and --cell."
        )
    if prepare and (cell is not None or as_json):
        other = "--cell" if cell is not None else "--json"
        raise ConfigError(f"--prepare comes before cells and has no results: leave out {other}.")
    settings = ExperimentConfig.read(config, sets or [])
    with ProgressReport(stderr) as progress:
        if cell is not None:
            run_one(settings, cell, progress)
            return
        if prepare:
            left = prepare_experiment(settings, report=progress, say=say)
            typer.echo("".join(f"{name}\n" for name in left), nl=False)
            return
        command = [str(config), *(word for text in sets or [] for word in ("--set", text))]
        found = run_experiment(
            settings, command=command, overwrite=overwrite, report=progress, say=say
        )
    if as_json:
        typer.echo(json.dumps(found))
        return
    Console().print(terminal_summary([settings.out]))
    typer.echo(f"results: {settings.out / 'results.json'}")
