"""Verbs over whole runs: plan, run, demo, compare. Heavy imports wait until a verb runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tamis.cli.app import cli, say, stderr
from tamis.cli.options import (
    AsJson,
    Config,
    Harmful,
    Helpful,
    OnBadRow,
    Out,
    OverRefusal,
    Overwrite,
    Pairs,
    Seed,
    Sets,
    flags,
)


@cli.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML file: see configs/.")],
    sets: Sets = None, overwrite: Overwrite = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run every verb in order from one file; finished stages are skipped."""
    from tamis.cli.config import RunConfig
    from tamis.cli.pipeline import run_pipeline

    _pipeline(lambda: RunConfig.read(config, sets or []), run_pipeline, overwrite, as_json)


@cli.command()
def plan(
    config: Annotated[Path, typer.Argument(help="YAML file: as for `tamis run`.")],
    sets: Sets = None,
    max_minutes: Annotated[float | None, typer.Option("--max-minutes", help="Refuse a run that "
                                                      "takes longer.")] = None,
    max_memory_gib: Annotated[float | None, typer.Option("--max-memory-gib", help="Refuse a run "
                                                         "that needs more.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure a few rows, and say what a run will take, before anything long starts."""
    from tamis.cli.config import RunConfig
    from tamis.cli.plan import plan_run
    from tamis.cli.progress import ProgressReport
    from tamis.cli.show import plan_table

    settings = RunConfig.read(config, sets or [])
    with ProgressReport(stderr) as progress:
        found = plan_run(settings, progress)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        Console().print(plan_table(found))
    found.refuse_above(max_minutes, max_memory_gib)


@cli.command()
def demo(
    out: Out = Path("runs/demo"), sets: Sets = None, overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run everything on the shipped demo set with the embedded model."""
    from tamis.cli.pipeline import demo_config, run_pipeline

    _pipeline(lambda: demo_config(out, sets or []), run_pipeline, overwrite, as_json)


def _pipeline(
    read: Callable[[], Any], run_pipeline: Callable[..., Path], overwrite: bool, as_json: bool
) -> None:
    from tamis.cli.progress import ProgressReport
    from tamis.report.render import terminal_summary

    config = read()
    with ProgressReport(stderr) as progress:
        page = run_pipeline(config, overwrite=overwrite, report=progress)
    if as_json:
        typer.echo(json.dumps({"out": str(config.out), "report": str(page)}))
        return
    Console().print(terminal_summary([config.out], page))
    typer.echo(f"report: {page}")


@cli.command()
def compare(
    config: Annotated[Path, typer.Argument(help="YAML file: see configs/compare.yaml.")],
    sets: Sets = None,
    plan: Annotated[bool | None, typer.Option(
        "--plan/--no-plan", help="Print the expected time and stop, or do not measure it; by "
        "default it is printed first."
    )] = None,
    overwrite: Annotated[bool, typer.Option(
        "--overwrite", help="Run rankings again whose settings or data have changed."
    )] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare ranking methods on the same labelled rows; finished rankings are skipped."""
    from tamis.cli.compare import prepare, run_compare
    from tamis.cli.compare_config import CompareConfig
    from tamis.cli.plan_compare import plan_compare
    from tamis.cli.progress import ProgressReport
    from tamis.cli.show_comparison import comparison_tables, forecast_table, refusal_summary
    from tamis.errors import TamisError
    from tamis.runs import locked

    settings = CompareConfig.read(config, sets or [])
    # Two at once would refuse each other's rankings; an expected time alone writes nothing.
    alone = nullcontext() if plan else locked(settings.out)
    with alone, ProgressReport(stderr) as progress:
        prepared = prepare(settings, progress, overwrite=overwrite)
        expected = None if plan is False else plan_compare(prepared, progress)
        if expected and not plan:
            stderr.print(forecast_table(expected))
        found = None if plan else run_compare(prepared, report=progress, say=say)
    if expected and found is None:
        if as_json:
            typer.echo(json.dumps(expected.to_json()))
        else:
            Console().print(forecast_table(expected))
        return
    assert found is not None
    if as_json:
        typer.echo(json.dumps(found))
    else:
        console = Console()
        console.print(comparison_tables(found, console.width))
        typer.echo(f"comparison: {settings.out / 'comparison.json'}")
    if refused := refusal_summary(found):
        raise TamisError(refused)


@cli.command(name="safe-set")
def safe_set(
    source: Annotated[str, typer.Option("--from", help="Trusted ordinary rows of your domain; "
                                        "the settings under data say how they are read.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write.")],
    demonstrations: Annotated[str | None, typer.Option(
        "--demonstrations", help="Safe answers to unsafe requests, read as --from unless "
        "demonstration_data is set; a few ship with tamis."
    )] = None,
    share: Annotated[float, typer.Option("--share", min=0.0, max=0.99,
                                         help="Share of demonstrations.")] = 0.4,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Rows in all; as many as keep "
                                              "the share if unset.")] = None,
    exclude: Annotated[list[Path] | None, typer.Option(
        "--exclude", help="Evaluation prompts (JSONL with id and prompt) to stay clear of, "
        "besides the shipped ones."
    )] = None,
    config: Config = None, sets: Sets = None, on_bad_row: OnBadRow = None, seed: Seed = 0,
) -> None:  # fmt: skip
    """Build a safe set from trusted rows and safe answers to unsafe requests."""
    from tamis.cli.config import read_settings
    from tamis.cli.safe_set import SafeSetSettings, write_safe_set

    given = flags(data__on_bad_row=on_bad_row)
    settings = read_settings(SafeSetSettings, config, sets or [], given)
    for line in write_safe_set(settings, source, demonstrations, exclude or [], out, share=share,
                               count=count, seed=seed):  # fmt: skip
        typer.echo(line)


@cli.command()
def export(
    to: Annotated[str, typer.Option("--to", help="jsonl, lm-eval or inspect.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    evaluation: Annotated[Path | None, typer.Argument(help="Folder of a finished evaluation; "
                                                      "without one, prompts alone.")] = None,
    harmful: Harmful = None, over_refusal: OverRefusal = None, helpful: Helpful = None,
    pairs: Pairs = None,
) -> None:  # fmt: skip
    """Write prompts, answers and verdicts as JSONL, or as tasks for other evaluation programs."""
    from tamis.cli.config import PromptPaths
    from tamis.cli.export import write_export

    paths = PromptPaths(harmful=harmful, over_refusal=over_refusal, helpful=helpful, pairs=pairs)
    for line in write_export(evaluation, to, out, paths):
        typer.echo(line)


@cli.command()
def methods(as_json: AsJson = False) -> None:
    """List the ranking methods: what each is, what it needs, where it is from."""
    from tamis.cli.show_comparison import method_table, methods_known

    known = methods_known()
    if as_json:
        typer.echo(json.dumps(known, ensure_ascii=False))
        return
    Console().print(method_table(known))
