"""`tamis experiment`: fair comparisons of ways to choose rows, by what they do to the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tamis.cli.app import cli, say, stderr
from tamis.cli.options import AsJson, Overwrite, Sets


@cli.command()
def experiment(
    config: Annotated[Path, typer.Argument(help="YAML file: see configs/experiment.yaml.")],
    sets: Sets = None, overwrite: Overwrite = False, as_json: AsJson = False,
    cell: Annotated[str | None, typer.Option(
        "--cell", help="Run this cell alone; its rows must be there. For schedulers."
    )] = None,
) -> None:  # fmt: skip
    """Fine-tune and evaluate arms x seeds x rates on equal terms; finished cells are skipped."""
    from tamis.cli.experiment import run_experiment, run_one
    from tamis.cli.experiment_config import ExperimentConfig
    from tamis.cli.progress import ProgressReport
    from tamis.report.terminal import terminal_summary

    settings = ExperimentConfig.read(config, sets or [])
    with ProgressReport(stderr) as progress:
        if cell is not None:
            run_one(settings, cell, progress)
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
