"""The verb `tamis certify`. Heavy imports wait until it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tamis.cli.app import cli, stderr
from tamis.cli.options import AsJson, Config, OnBadRow, Out, Overwrite, Sets, flags
from tamis.errors import ConfigError


@cli.command()
def certify(
    out: Out,
    scores: Annotated[Path | None, typer.Option("--scores", help="Folder of a ranking, or its "
                                                "scores.parquet.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="The rows that were ranked.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="The filled to_label.jsonl, or "
                                                "JSONL of id, harmful.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Largest harmful share of the kept "
                                                "rows; 0.1 if unset.")] = None,
    delta: Annotated[float | None, typer.Option("--delta", help="Largest probability of a wrong "
                                                "certificate, over all attempts; 0.1 if "
                                                "unset.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="1, if unset, for the first draw "
                                                "for this purpose, 2 after a refusal, ...: the "
                                                "k-th may spend delta / 2^k.")] = None,
    n_labels: Annotated[int | None, typer.Option("--n-labels", help="Rows to label; 400 if "
                                                 "unset.")] = None,
    unsure: Annotated[str | None, typer.Option("--unsure", help="Rows left null: fail (if unset), "
                                               "or count as harmful.")] = None,
    config: Config = None, sets: Sets = None, on_bad_row: OnBadRow = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Decides the draw; 0 if "
                                             "unset.")] = None,
    overwrite: Overwrite = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Draw rows to label; then, with --labels, a threshold with a guarantee, or a refusal."""
    from tamis.cli.certify import CertifySettings, certify_labels, draw_rows, drawn_lines
    from tamis.cli.certify_results import certified_lines
    from tamis.cli.config import read_settings
    from tamis.cli.progress import ProgressReport
    from tamis.cli.stages import Common

    given = flags(certify__alpha=alpha, certify__delta=delta, certify__attempt=attempt,
                   certify__n_labels=n_labels, data__on_bad_row=on_bad_row)  # fmt: skip
    settings = read_settings(CertifySettings, config, sets or [], given)
    if labels is None:
        if unsure is not None:
            raise ConfigError("--unsure says how labels are read: give --labels with it.")
        with ProgressReport(stderr) as report:
            common = Common(out, seed or 0, overwrite=overwrite, report=report)
            found = draw_rows(settings, common, scores_path=scores, data=data)
        lines = drawn_lines(found, out)
    else:
        found = certify_labels(settings, out, labels, scores_path=scores, data=data, seed=seed,
                               unsure=unsure, overwrite=overwrite)  # fmt: skip
        lines = certified_lines(found, out)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for line in lines:
        typer.echo(line)
