"""`tamis score`, `tamis finetune` and `tamis evaluate`: verbs that use what others made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tamis.cli.asking import ENDPOINT_PATIENCE, n_unanswered
from tamis.cli.begun_judges import begun_judges
from tamis.cli.config import EvaluateSettings, FinetuneSettings, PromptPaths, ScoreSettings
from tamis.cli.inputs import model_inputs, stage_inputs
from tamis.cli.judging import check_origin, read_questions, renewed
from tamis.cli.origins import origin_of
from tamis.cli.stages import Common, data_facts, load_set, stage_config, stage_model
from tamis.runs import Stage


def run_score(
    settings: ScoreSettings, common: Common, *, selector: Path, data: str, rows: Path | None = None
) -> dict[str, Any]:
    """`tamis score`: scores.parquet, manifest.json, by a selector that a ranking saved."""
    from tamis.models.state_selector import StateSelector

    folder = selector / "selector" if (selector / "selector").is_dir() else selector
    found = StateSelector.load(folder)
    config = stage_config(common, settings)
    inputs = stage_inputs(
        selector=folder, data=data, rows=rows, **model_inputs(settings.model, settings.render)
    )
    with Stage(
        common.out, "score", config, inputs, seed=common.seed, overwrite=common.overwrite
    ) as stage:
        if stage.finished:
            return stage.manifest()
        examples = load_set(stage, "data", data, settings.data, rows)
        model = stage_model(settings.model, common)
        from tamis.data.template import render
        from tamis.methods.base import RankingInputs
        from tamis.methods.scores import row_scores

        rendered = render(examples, model.tokenizer, settings.render)
        report = common.report
        values = found.score(model, rendered, None if report is None else partial(report, "scores"))
        scores = row_scores(
            found.method, RankingInputs(examples, model=model), rendered,
            values[rendered.id_order],
        )  # fmt: skip
        scores.write(stage.folder)
        return stage.finish(
            method=found.method, model=model.describe(), n_rows=len(scores),
            rows_by_outcome=scores.rows_by_outcome(), data=data_facts(examples),
            details={"selector": str(folder), "states": list(found.names)},
        )  # fmt: skip


def run_finetune(
    settings: FinetuneSettings, common: Common, *, data: str, rows: Path | None = None,
    model: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """`tamis finetune`: adapter/, manifest.json; `model` where it is loaded already."""
    config = stage_config(common, settings)
    inputs = stage_inputs(data=data, rows=rows, **model_inputs(settings.model, settings.render))
    with Stage(
        common.out, "finetune", config, inputs, seed=common.seed, overwrite=common.overwrite
    ) as stage:
        if stage.finished:
            return stage.manifest()
        examples = load_set(stage, "data", data, settings.data, rows)
        model = stage_model(settings.model, common) if model is None else model
        from tamis.training.sft import finetune

        report = common.report
        result = finetune(
            model, examples, settings.finetune, settings.render, out=stage.folder / "adapter",
            work=stage.work, seed=common.seed,
            progress=None if report is None else partial(report, "fine-tuning"),
        )  # fmt: skip
        details = result.to_json()
        return stage.finish(
            model=model.describe(), rows_by_outcome=details.pop("rows_by_outcome"),
            n_rows=len(examples), data=data_facts(examples), details=details,
        )  # fmt: skip


def run_evaluate(
    settings: EvaluateSettings, common: Common, *, prompts: PromptPaths,
    adapter: Path | None = None, scores: Sequence[Path] = (), model: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """`tamis evaluate`: metrics.json, generations.jsonl, likelihoods.jsonl, manifest.json.

    No judge may be the guard of the ranking that chose the adapter's rows, found by the manifests
    or named by `scores`. These are no part of the request: an evaluation that is finished is
    checked again.

    `model` is the model of the settings where it is loaded already; it is left as it was.

    Raises:
        ConfigError: A judge is, and `allow_ranking_guard` is not set.
    """
    from tamis.evaluation.evaluate import evaluate
    from tamis.evaluation.finished import refuse_unscored_in
    from tamis.models.load import adapter_folder

    if not common.overwrite:
        judged = begun_judges(settings.evaluate, common.out)
        settings = settings.model_copy(update={"evaluate": judged})
    config = stage_config(common, settings)
    if adapter is not None:
        adapter = adapter_folder(adapter)  # before a model is loaded for it
    origin = origin_of([] if adapter is None else [adapter], scores)
    check_origin(settings.evaluate, origin)
    inputs = stage_inputs(
        **prompts.model_dump(), adapter=adapter, **model_inputs(settings.model, settings.render),
        **{f"judge_{i}_{role}": file for i, judge in enumerate(settings.evaluate.judges)
           for role, file in judge.files.items()},
    )  # fmt: skip
    with Stage(
        common.out, "evaluate", config, inputs, seed=common.seed, overwrite=common.overwrite,
        uncompared=("evaluate.max_unscored_share", "evaluate.allow_ranking_guard"),
        patience=ENDPOINT_PATIENCE,
    ) as stage:  # fmt: skip
        if stage.finished:
            refuse_unscored_in(stage.folder, settings.evaluate.max_unscored_share)
            manifest = stage.manifest()
            notes = check_origin(settings.evaluate, origin, judge_identities(manifest))
            return renewed(stage, origin, notes)
        asked = read_questions(settings.evaluate, prompts)
        model = stage_model(settings.model, common) if model is None else model
        adapted = model
        if adapter is not None:
            from tamis.models.load import with_adapter

            adapted = with_adapter(model, adapter)
        found = evaluate(
            adapted, harmful=asked.prompts["harmful"], over_refusal=asked.prompts["over_refusal"],
            helpful=asked.prompts["helpful"], pairs=asked.pairs,
            config=settings.evaluate, render_config=settings.render, seed=common.seed,
            work=stage.work, report=common.report,
        )  # fmt: skip
        # Only now it is known what was loaded. Answers stay for the same request, allowed.
        identities = found.metrics["judge_identities"].values()
        notes = check_origin(settings.evaluate, origin, list(identities))
        found.write(stage.folder)
        described_as = adapted.describe()
        if adapter is not None:
            from tamis.models.lora import detach_adapters

            detach_adapters(adapted.model)  # it had wrapped the model in place
        return stage.finish(
            model=described_as,
            left_open=n_unanswered(
                one.unscored for verdicts in found.verdicts.values() for one in verdicts
            ),
            details={"adapter": None if adapter is None else str(adapter),
                     "ranked_by": origin.to_json(), "judge_notes": notes,
                     "metrics": found.metrics},
        )  # fmt: skip


def judge_identities(evaluation: Mapping[str, Any]) -> list[str]:
    """Return what gave the verdicts of a finished evaluation, by its manifest."""
    return list(evaluation["details"]["metrics"].get("judge_identities", {}).values())
