"""`tamis run` and `tamis demo`: every verb in order, one subfolder each, finished ones skipped."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tamis.cli.begun_judges import begun_judges
from tamis.cli.config import (
    EvaluateSettings,
    FinetuneSettings,
    RankSettings,
    RunConfig,
    SelectSettings,
    read_settings,
)
from tamis.cli.judging import read_questions, refuse_ranking_guard
from tamis.cli.model_stages import judge_identities, run_evaluate, run_finetune
from tamis.cli.progress import ProgressReport
from tamis.cli.stages import Common, run_rank, run_select
from tamis.errors import ConfigError
from tamis.selection.calibrate_labelled import LABEL_RULES

STAGES = ("rank", "select", "evaluate-before", "finetune", "evaluate-after")


def run_pipeline(
    config: RunConfig, *, overwrite: bool = False, report: ProgressReport | None = None
) -> Path:
    """Rank, select, evaluate, fine-tune, evaluate again, report.

    Args:
        config: Everything; paths are used as they are.
        overwrite: Replace stages that were run with other settings.
        report: Progress.

    Returns:
        The report's path.
    """
    common = Common(config.out, config.seed, config.device, config.dtype, overwrite, report)

    def stage(name: str) -> Common:
        return replace(common, out=config.out / name)

    if config.select.rule in LABEL_RULES:
        raise ConfigError(
            f"select.rule={config.select.rule} goes by labels, and `tamis run` selects without: "
            "`tamis rank`, then `tamis select` with --labels; or set select.ratio or another rule."
        )
    if not overwrite:
        judged = begun_judges(config.evaluate, config.out / "evaluate-before")
        config = config.model_copy(update={"evaluate": judged})
    refuse_ranking_guard(config.evaluate, config.method.resolved())
    read_questions(config.evaluate, config.prompts)  # faults are told before the ranking
    ranking_model = config.ranking_model or config.model
    ranked = run_rank(
        RankSettings(method=config.method, model=ranking_model, data=config.data,
                     safe_data=config.safe_data, render=config.render,
                     cache_gib=config.cache_gib),
        stage("rank"), data=config.finetuning_set, safe_set=config.safe_set,
        harmful_set=config.harmful_set, trusted_set=config.trusted_set,
        trusted_labels=config.trusted_labels, labels=config.labels, rows=config.rows,
        cache=config.cache,
    )  # fmt: skip
    refuse_ranking_guard(config.evaluate, ranked["details"])
    run_select(
        SelectSettings(select=config.select, data=config.data), stage("select"),
        scores_path=config.out / "rank", data=config.finetuning_set, rows=config.rows,
    )  # fmt: skip
    evaluation = EvaluateSettings(
        evaluate=config.evaluate, model=config.model, render=config.render
    )
    before = run_evaluate(evaluation, stage("evaluate-before"), prompts=config.prompts)
    refuse_ranking_guard(config.evaluate, ranked["details"], judge_identities(before))
    run_finetune(
        FinetuneSettings(finetune=config.finetune, model=config.model, data=config.data,
                         render=config.render),
        stage("finetune"), data=str(config.out / "select" / "kept.jsonl"),
    )  # fmt: skip
    run_evaluate(
        evaluation, stage("evaluate-after"), prompts=config.prompts,
        adapter=config.out / "finetune" / "adapter",
    )  # fmt: skip
    from tamis.report.render import write_report

    return write_report([config.out / name for name in STAGES], config.out / "report.html")


def demo_config(out: Path, sets: Sequence[str] = ()) -> RunConfig:
    """Return the settings of the demo: the shipped set, the embedded model, minutes on a CPU."""
    folder = Path(str(importlib.resources.files("tamis") / "assets" / "demo"))
    strings = [{"kind": "refusal_strings"}]  # one judge: the same minutes on every machine
    values: dict[str, Any] = {
        "finetuning_set": str(folder / "train.jsonl"),
        "safe_set": str(folder / "safe.jsonl"),
        "labels": str(folder / "labels.jsonl"),
        "out": str(out),
        "method": {"name": "seal", "preset": "fast", "epochs": 1},
        "render": {"max_prompt_tokens": 96, "max_response_tokens": 96},
        "select": {"ratio": 0.8},
        "finetune": {"max_steps": 12},
        "evaluate": {"max_new_tokens": 24, "n_openings": 2, "judges": strings},
    }
    return read_settings(RunConfig, None, sets, values)
