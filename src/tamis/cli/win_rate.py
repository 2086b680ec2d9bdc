"""`tamis win-rate`: two finished evaluations, judged answer against answer."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from tamis.cli.app import cli, stderr
from tamis.cli.config import Section, read_settings
from tamis.cli.options import AsJson, Config, Overwrite, Seed, Sets
from tamis.errors import ConfigError, JudgeError
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.files import json_line, write_json, write_text_atomic
from tamis.report.text import NOT_MEASURED, percent, visible

_PREFERENCES = "preferences.jsonl"


class WinRateSettings(Section):
    """`tamis win-rate`."""

    judges: tuple[JudgeSettings, ...] = Field(min_length=1)
    """Judges of pairs: endpoints with the rubric `safety` or `helpfulness`."""
    max_unscored_share: float = Field(0.1, ge=0, le=1)
    """Share of a set's pairs that a judge may leave unscored; above it the stage fails."""


def run_win_rate(
    settings: WinRateSettings, common: Any, *, model: Path, reference: Path
) -> dict[str, Any]:
    """`tamis win-rate`: win_rates.json, preferences.jsonl, manifest.json."""
    from tamis.cli.stages import stage_config, stage_inputs
    from tamis.evaluation.judge_settings import build_pair_judge
    from tamis.evaluation.pairwise import RUBRIC_KINDS, answer_pairs, judge_pairs, win_figures
    from tamis.runs import Stage, read_manifest

    for folder in (model, reference):
        if read_manifest(folder)["stage"] != "evaluate":
            raise ConfigError(f"{folder} is no finished evaluation: give folders of evaluate.")
    inputs = stage_inputs(model=model / "generations.jsonl",
                          reference=reference / "generations.jsonl")  # fmt: skip
    with Stage(
        common.out, "win-rate", stage_config(common, settings), inputs, seed=common.seed,
        overwrite=common.overwrite, uncompared=("max_unscored_share",),
    ) as stage:  # fmt: skip
        if stage.finished:
            text = (stage.folder / _PREFERENCES).read_text(encoding="utf-8")
            found = [json.loads(line) for line in text.split("\n") if line]
            for (name, kind), mine in groupby(found, key=lambda line: (line["judge"], line["set"])):
                _refuse_unscored(name, kind, list(mine), settings.max_unscored_share)
            return stage.manifest()
        entries, lines = [], []
        for one in settings.judges:
            judge = build_pair_judge(one, cache=stage.work)
            for kind in RUBRIC_KINDS[str(one.rubric)]:
                pairs = answer_pairs(model, reference, kind)
                if not pairs:
                    continue
                found = judge_pairs(pairs, judge)
                _refuse_unscored(judge.name, kind, found, settings.max_unscored_share)
                figures = win_figures(pairs, found, common.seed)
                entries.append({"judge": judge.name, "rubric": one.rubric, "set": kind,
                                **figures})  # fmt: skip
                lines += [{"judge": judge.name, "set": kind, **line} for line in found]
        write_json(stage.folder / "win_rates.json", entries)
        text = "".join(json_line(line) for line in lines)
        write_text_atomic(stage.folder / _PREFERENCES, text)
        return stage.finish(details={"reference": str(reference), "win_rates": entries})


def _refuse_unscored(name: str, kind: str, lines: list[dict[str, Any]], most: float) -> None:
    missing = [line["unscored"] for line in lines
               if line["unscored"] and line["unscored"] != "an answer is empty"]  # fmt: skip
    if len(missing) > most * len(lines):
        raise JudgeError(
            f"judge {name} left {len(missing)} of {len(lines)} {kind} pairs unscored (the first: "
            f"{missing[0]}), more than max_unscored_share={most:g} allows. Mend the judge, or "
            "raise the share."
        )


@cli.command(name="win-rate")
def win_rate(
    model: Annotated[Path, typer.Option("--model", help="Folder of an evaluation.")],
    reference: Annotated[Path, typer.Option("--reference", help="Folder of the evaluation to "
                                            "compare with, on the same prompts.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of this stage.")],
    config: Config = None, sets: Sets = None, seed: Seed = 0, overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ask judges which of two models' answers is better, in both orders."""
    from tamis.cli.stages import Common

    settings = read_settings(WinRateSettings, config, sets or [])
    manifest = run_win_rate(
        settings, Common(out, seed, None, None, overwrite), model=model, reference=reference
    )
    entries = manifest["details"]["win_rates"]
    if as_json:
        typer.echo(json.dumps(entries))
        return
    Console().print(_table(entries))
    stderr.print(f"preferences: {out / _PREFERENCES}", markup=False)


def _table(entries: list[dict[str, Any]]) -> Table:
    judges = {entry["judge"].partition(":")[2] for entry in entries}
    head = "Win rate" + (" (one judge)" if len(judges) == 1 else "")
    table = Table(title="Win rates against the reference; 50% is as good", title_justify="left")
    for name in ("Judge", "Prompts"):
        table.add_column(name, no_wrap=True)
    for name in (head, "At equal length", "Wins, ties, losses", "Inconsistent", "Unscored", "n",
                 "Found"):  # fmt: skip
        table.add_column(name, justify="right")
    for entry in entries:
        rate, equal = entry["win_rate"], entry["at_equal_length"]
        table.add_row(
            visible(entry["judge"]), entry["set"].replace("_", "-"), _share(rate), _share(equal),
            f"{rate['n_wins']}, {rate['n_ties']}, {rate['n_losses']}", str(rate["n_inconsistent"]),
            str(rate["n_unscored"]), str(rate["n"]), percent(rate["detectable"]),
        )  # fmt: skip
    return table


def _share(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return NOT_MEASURED
    return f"{percent(found['value'])}\n({percent(found['low'])} to {percent(found['high'])})"
