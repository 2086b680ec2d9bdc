"""One verb per stage. Heavy imports wait until a verb runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tamis.cli.app import cli, stderr
from tamis.cli.options import (
    AsJson,
    Config,
    Data,
    Device,
    Dtype,
    Harmful,
    Helpful,
    Model,
    OnBadRow,
    OnTooLong,
    Out,
    OverRefusal,
    Overwrite,
    Pairs,
    RankedBy,
    Rows,
    Seed,
    Sets,
    flags,
)
from tamis.errors import ConfigError

if TYPE_CHECKING:
    from tamis.cli.stages import Common


@contextmanager
def _common(
    out: Path, seed: int, device: str | None, dtype: str | None, overwrite: bool
) -> Iterator[Common]:
    from tamis.cli.progress import ProgressReport
    from tamis.cli.stages import Common

    with ProgressReport(stderr) as report:
        yield Common(out, seed, device, dtype, overwrite, report)


def _show(manifest: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(manifest, ensure_ascii=False))
        return
    from tamis.cli.show import stage_summary

    Console().print(stage_summary(manifest, out))


@cli.command()
def rank(
    method: Annotated[str, typer.Argument(help="Method key, or module:Class.")],
    data: Data, out: Out,
    safe_set: Annotated[str | None, typer.Option("--safe-set", help="Trusted rows.")] = None,
    harmful_set: Annotated[str | None, typer.Option("--harmful-set", help="Rows known to be "
                                                    "harmful.")] = None,
    trusted_set: Annotated[str | None, typer.Option("--trusted-set", help="Hand-checked rows; may "
                                                    "be the data.")] = None,
    trusted_labels: Annotated[Path | None, typer.Option("--trusted-labels", help="JSONL of id, "
                                                        "harmful, for some of them.")] = None,
    model: Model = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="JSONL of id, harmful.")] = None,
    rows: Rows = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder of what the model makes of "
                                               "rows; rankings that share it save work.")] = None,
    config: Config = None, sets: Sets = None, on_bad_row: OnBadRow = None,
    on_too_long: OnTooLong = None, seed: Seed = 0, device: Device = None, dtype: Dtype = None,
    overwrite: Overwrite = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Give every row a score: higher = keep."""
    from tamis.cli.config import RankSettings, read_settings
    from tamis.cli.stages import run_rank

    given = flags(method__name=method, model__name=model, data__on_bad_row=on_bad_row,
                   render__on_too_long=on_too_long)  # fmt: skip
    settings = read_settings(RankSettings, config, sets or [], given)
    with _common(out, seed, device, dtype, overwrite) as common:
        manifest = run_rank(
            settings, common, data=data, safe_set=safe_set, harmful_set=harmful_set,
            trusted_set=trusted_set, trusted_labels=trusted_labels, labels=labels, rows=rows,
            cache=cache,
        )  # fmt: skip
    _show(manifest, out, as_json)


@cli.command()
def score(
    selector: Annotated[Path, typer.Option("--selector", help="Folder of a ranking that saved "
                                           "one, or its selector/.")],
    data: Data, out: Out, model: Model = None, rows: Rows = None, config: Config = None,
    sets: Sets = None, on_bad_row: OnBadRow = None, on_too_long: OnTooLong = None, seed: Seed = 0,
    device: Device = None, dtype: Dtype = None, overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Score rows that were not ranked, by what a ranking learned; settings as in that ranking."""
    from tamis.cli.config import ScoreSettings, read_settings
    from tamis.cli.model_stages import run_score

    given = flags(model__name=model, data__on_bad_row=on_bad_row, render__on_too_long=on_too_long)
    settings = read_settings(ScoreSettings, config, sets or [], given)
    with _common(out, seed, device, dtype, overwrite) as common:
        manifest = run_score(settings, common, selector=selector, data=data, rows=rows)
    _show(manifest, out, as_json)


@cli.command()
def select(
    scores: Annotated[Path, typer.Argument(help="Folder of a ranking, or its scores.parquet.")],
    data: Data, out: Out,
    ratio: Annotated[float | None, typer.Option("--ratio", help="Share of rows to keep.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="Number of rows to keep.")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Lowest score.")] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="Find the threshold: mixture, otsu or "
                                             "mad; with labels f_beta or "
                                             "false_positive_rate.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="JSONL of id, harmful, for some "
                                                "rows: what f_beta and false_positive_rate go "
                                                "by.")] = None,
    trusted_scores: Annotated[Path | None, typer.Option(
        "--trusted-scores", help="Folder of `tamis score` of harmless rows by the same ranking, "
        "for false_positive_rate."
    )] = None,
    certificate: Annotated[Path | None, typer.Option(
        "--certificate", help="Folder in which `tamis certify` certified a threshold, or its "
        "certificate.json: select by it, for the very ranking that was certified."
    )] = None,
    unscored: Annotated[str | None, typer.Option("--unscored", help="drop, keep or fail.")] = None,
    subset: Annotated[bool, typer.Option("--subset", help="Allow scores of absent rows.")] = False,
    rows: Rows = None, config: Config = None, sets: Sets = None, on_bad_row: OnBadRow = None,
    seed: Seed = 0, overwrite: Overwrite = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Keep the best-scored rows, with a reason for every dropped one."""
    from tamis.cli.config import SelectSettings, read_settings
    from tamis.cli.select_certified import certified_flags
    from tamis.cli.stages import run_select

    given = flags(select__ratio=ratio, select__count=count, select__threshold=threshold,
                   select__rule=rule, select__unscored=unscored,
                   data__on_bad_row=on_bad_row)  # fmt: skip
    given.setdefault("select", {})  # so that a missing rule is refused by its names
    if certificate is not None:
        given["select"] = certified_flags(certificate, given["select"])
    settings = read_settings(SelectSettings, config, sets or [], given)
    with _common(out, seed, None, None, overwrite) as common:
        manifest = run_select(
            settings, common, scores_path=scores, data=data, rows=rows, subset=subset,
            labels=labels, trusted_scores=trusted_scores, certificate=certificate,
        )  # fmt: skip
    _show(manifest, out, as_json)


@cli.command()
def finetune(
    data: Data, out: Out, model: Model = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Optimiser steps.")] = None,
    rows: Rows = None, config: Config = None, sets: Sets = None, on_bad_row: OnBadRow = None,
    on_too_long: OnTooLong = None, seed: Seed = 0, device: Device = None, dtype: Dtype = None,
    overwrite: Overwrite = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fine-tune a LoRA adapter on rows."""
    from tamis.cli.config import FinetuneSettings, read_settings
    from tamis.cli.model_stages import run_finetune

    given = flags(model__name=model, finetune__max_steps=max_steps, data__on_bad_row=on_bad_row,
                   render__on_too_long=on_too_long)  # fmt: skip
    settings = read_settings(FinetuneSettings, config, sets or [], given)
    with _common(out, seed, device, dtype, overwrite) as common:
        manifest = run_finetune(settings, common, data=data, rows=rows)
    _show(manifest, out, as_json)


@cli.command()
def prune(
    adapter: Annotated[Path, typer.Option("--adapter", help="Folder of a fine-tuned adapter.")],
    out: Out,
    harmful_set: Annotated[str | None, typer.Option("--harmful-set", help="Rows known to be "
                                                    "harmful; shipped anchors if unset.")] = None,
    safe_set: Annotated[str | None, typer.Option("--safe-set", help="Rows whose weights "
                                                 "stay.")] = None,
    restore: Annotated[bool, typer.Option("--restore", help="Undo it: --adapter is a folder that "
                                          "this verb wrote.")] = False,
    model: Model = None, config: Config = None, sets: Sets = None, on_bad_row: OnBadRow = None,
    on_too_long: OnTooLong = None, device: Device = None, dtype: Dtype = None,
    overwrite: Overwrite = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Take the weights most active on harmful text out of an adapter, with a way back."""
    from tamis.cli.config import read_settings
    from tamis.cli.prune import PruneSettings, run_prune, run_restore

    given = flags(model__name=model, data__on_bad_row=on_bad_row, render__on_too_long=on_too_long)
    settings = read_settings(PruneSettings, config, sets or [], given)
    if restore and (harmful_set or safe_set or config or sets):
        raise ConfigError(
            "--restore takes back what --adapter's mask holds: leave out --harmful-set, "
            "--safe-set, --config and --set."
        )
    with _common(out, 0, device, dtype, overwrite) as common:  # nothing is drawn
        if restore:
            manifest = run_restore(common, adapter=adapter)
        else:
            manifest = run_prune(
                settings, common, adapter=adapter, harmful_set=harmful_set, safe_set=safe_set
            )
    _show(manifest, out, as_json)


@cli.command()
def evaluate(
    out: Out, model: Model = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Folder of an adapter.")] = None,
    harmful: Harmful = None, over_refusal: OverRefusal = None, helpful: Helpful = None,
    pairs: Pairs = None, scores: RankedBy = None,
    config: Config = None, sets: Sets = None, seed: Seed = 0, device: Device = None,
    dtype: Dtype = None, overwrite: Overwrite = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure safety and usefulness of a model or adapter; unset prompts are the shipped ones."""
    from tamis.cli.config import EvaluateSettings, PromptPaths, read_settings
    from tamis.cli.model_stages import run_evaluate

    settings = read_settings(EvaluateSettings, config, sets or [], flags(model__name=model))
    prompts = PromptPaths(harmful=harmful, over_refusal=over_refusal, helpful=helpful, pairs=pairs)
    with _common(out, seed, device, dtype, overwrite) as common:
        manifest = run_evaluate(
            settings, common, prompts=prompts, adapter=adapter, scores=scores or ()
        )
    _show(manifest, out, as_json)


@cli.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished stages.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file.")],
) -> None:
    """Write one offline HTML report and print its tables; of evaluations also their differences."""
    from tamis.report.render import terminal_summary, write_report

    write_report(folders, out)
    Console().print(terminal_summary(folders, out))
    typer.echo(f"report: {out}")


@cli.command()
def inspect(
    data: Annotated[str, typer.Argument(help="File, folder or hub id.")],
    model: Model = None, rows: Rows = None,
    show: Annotated[int, typer.Option("--show", help="Rows shown token by token.")] = 2,
    config: Config = None, sets: Sets = None, on_bad_row: OnBadRow = None,
    on_too_long: OnTooLong = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show what a model would be trained on: outcomes, lengths, cuts, trained tokens."""
    from tamis.cli.config import InspectSettings, read_settings
    from tamis.cli.show import inspect_data

    given = flags(model__name=model, data__on_bad_row=on_bad_row, render__on_too_long=on_too_long)
    settings = read_settings(InspectSettings, config, sets or [], given)
    inspect_data(settings, data, rows=rows, n_shown=show, as_json=as_json, console=Console())
