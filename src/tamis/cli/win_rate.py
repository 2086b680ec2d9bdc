"""`tamis win-rate`: two finished evaluations, judged answer against answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field, field_validator
from rich.console import Console

from tamis.cli.app import cli
from tamis.cli.config import Section, read_settings
from tamis.cli.options import AsJson, Config, Overwrite, RankedBy, Sets
from tamis.errors import ConfigError, JudgeError, MismatchError
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.files import json_line, write_json, write_text_atomic

_PREFERENCES = "preferences.jsonl"


class WinRateSettings(Section):
    """`tamis win-rate`."""

    judges: tuple[JudgeSettings, ...] = Field((), validate_default=True)
    """Judges of pairs: endpoints with the rubric `safety` or `helpfulness`."""
    max_unscored_share: float = Field(0.1, ge=0, le=1)
    """Share of a set's pairs of two answers with words that a judge may leave unscored; above it
    the stage fails."""
    allow_ranking_guard: bool = False
    """Let a judge be the guard that ranked the rows of either model: it agrees with itself."""
    allow_different_settings: bool = False
    """Compare answers that were made with other lengths, temperatures or prompts, and say so."""

    @field_validator("judges")
    @classmethod
    def _given(cls, judges: tuple[JudgeSettings, ...]) -> tuple[JudgeSettings, ...]:
        if not judges:
            raise ValueError(
                "none is given, and nothing judges pairs by itself: name endpoints with rubric "
                "safety or helpfulness in a file for --config, as docs/judges.md shows"
            )
        return judges


def run_win_rate(
    settings: WinRateSettings, common: Any, *, model: Path, reference: Path,
    scores: Sequence[Path] = (),
) -> dict[str, Any]:  # fmt: skip
    """`tamis win-rate`: win_rates.json, preferences.jsonl, manifest.json.

    No judge may be the guard of a ranking that chose rows of either model; `scores` as in
    `run_evaluate`.
    """
    from tamis.cli.asking import ENDPOINT_PATIENCE, n_unanswered
    from tamis.cli.inputs import stage_inputs
    from tamis.cli.judging import check_origin, renewed
    from tamis.cli.origins import origin_of
    from tamis.cli.stages import stage_config
    from tamis.evaluation.judge_settings import build_pair_judge
    from tamis.evaluation.judged import check_judges
    from tamis.evaluation.pairwise import RUBRIC_KINDS, answer_pairs, judge_pairs, win_figures
    from tamis.runs import Stage

    notes = _setting_notes(model, reference, allowed=settings.allow_different_settings)
    origin = origin_of([model, reference], scores)
    judge_notes = check_origin(settings, origin, setting="allow_ranking_guard")
    inputs = stage_inputs(model=model / "generations.jsonl",
                          reference=reference / "generations.jsonl")  # fmt: skip
    with Stage(
        common.out, "win-rate", stage_config(common, settings), inputs, seed=common.seed,
        overwrite=common.overwrite, uncompared=("max_unscored_share", "allow_ranking_guard"),
        patience=ENDPOINT_PATIENCE,
    ) as stage:  # fmt: skip
        if stage.finished:
            text = (stage.folder / _PREFERENCES).read_text(encoding="utf-8")
            found = [json.loads(line) for line in text.split("\n") if line]
            for (name, kind), mine in groupby(found, key=lambda line: (line["judge"], line["set"])):
                _refuse_unscored(name, kind, list(mine), settings.max_unscored_share)
            return renewed(stage, origin, judge_notes)
        entries, lines = [], []
        judges = [build_pair_judge(one, cache=stage.work) for one in settings.judges]
        check_judges([judge.name for judge in judges])
        for one, judge in zip(settings.judges, judges, strict=True):
            for kind in RUBRIC_KINDS[str(one.rubric)]:
                pairs = answer_pairs(model, reference, kind)
                if not pairs:
                    notes.append(f"{judge.name}: neither evaluation has {kind} prompts.")
                    continue
                found = judge_pairs(pairs, judge)
                _refuse_unscored(judge.name, kind, found, settings.max_unscored_share)
                figures = win_figures(pairs, found)
                entries.append({"judge": judge.name, "identity": judge.identity,
                                "rubric": one.rubric, "set": kind, **figures})  # fmt: skip
                lines += [{"judge": judge.name, "set": kind, **line} for line in found]
        if not entries:
            raise ConfigError(
                f"{model} and {reference} have no prompts that these judges are asked about: "
                f"{' '.join(notes)} Evaluate on such prompts, or set a judge's rubric to another."
            )
        write_json(stage.folder / "win_rates.json", entries)
        text = "".join(json_line(line) for line in lines)
        write_text_atomic(stage.folder / _PREFERENCES, text)
        return stage.finish(
            details={
                "reference": str(reference),
                "win_rates": entries,
                "notes": notes,
                "ranked_by": origin.to_json(),
                "judge_notes": judge_notes,
            },
            left_open=n_unanswered(line["unscored"] for line in lines),
        )


def _setting_notes(model: Path, reference: Path, *, allowed: bool) -> list[str]:
    """Check that both are evaluations whose models answered alike, or say how they did not."""
    from tamis.evaluation.pairwise import answered_differently
    from tamis.runs import read_manifest

    manifests = [read_manifest(folder) for folder in (model, reference)]
    for folder, manifest in zip((model, reference), manifests, strict=True):
        if manifest["stage"] != "evaluate":
            raise ConfigError(f"{folder} is no finished evaluation: give folders of evaluate.")
    differing = ", ".join(answered_differently(*manifests))
    if differing and not allowed:
        raise MismatchError(
            f"{model} and {reference} were evaluated with other settings: {differing}. A judge "
            "would compare these, not the models. Evaluate both alike, or set "
            "allow_different_settings=true to do it knowingly."
        )
    return (
        [f"the model and the reference answered with different {differing}."] if differing else []
    )


def _refuse_unscored(name: str, kind: str, lines: list[dict[str, Any]], most: float) -> None:
    """Fail where a judge left too many of the pairs that it was asked about unscored."""
    from tamis.evaluation.pairwise import EMPTY

    asked = [line for line in lines if line["unscored"] != EMPTY]
    missing = [line["unscored"] for line in asked if line["unscored"]]
    if len(missing) > most * len(asked):
        raise JudgeError(
            f"judge {name} left {len(missing)} of {len(asked)} {kind} pairs unscored (the first: "
            f"{missing[0]}), more than max_unscored_share={most:g} allows. Mend the judge, or "
            "raise the share."
        )


@cli.command(name="win-rate")
def win_rate(
    model: Annotated[Path, typer.Option("--model", help="Folder of an evaluation.")],
    reference: Annotated[Path, typer.Option("--reference", help="Folder of the evaluation to "
                                            "compare with, on the same prompts.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of this stage.")],
    scores: RankedBy = None, config: Config = None, sets: Sets = None, overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ask judges which of two models' answers is better, in both orders."""
    from tamis.cli.stages import Common

    settings = read_settings(WinRateSettings, config, sets or [])
    manifest = run_win_rate(
        settings, Common(out, overwrite=overwrite), model=model, reference=reference,
        scores=scores or (),
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(manifest["details"]["win_rates"]))
        return
    from tamis.report.terminal import terminal_summary

    Console().print(terminal_summary([out]))
    typer.echo(f"preferences: {out / _PREFERENCES}")
