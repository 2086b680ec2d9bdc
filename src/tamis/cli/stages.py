"""One function per verb: open the stage's folder, read inputs, call the floor below, write files.

Each returns the stage's manifest. A finished stage with the same request is not run again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis.cli.asking import ENDPOINT_PATIENCE, n_unanswered_rows
from tamis.cli.config import MethodConfig, RankSettings, RunConfig, SelectSettings
from tamis.cli.inputs import method_inputs, model_inputs, stage_inputs
from tamis.cli.measure import measure, measured_with, write_ends
from tamis.cli.progress import ProgressReport
from tamis.cli.select_certified import certificate_file, read_certificate
from tamis.cli.select_known import known_rows
from tamis.data.example import Examples
from tamis.data.load import DataConfig, load_examples
from tamis.data.row_lists import read_row_list
from tamis.errors import ConfigError
from tamis.evaluation.labels import join_labels, labelled_rows, read_labels
from tamis.evaluation.safe_set import safe_set_notes, sharing_notes
from tamis.files import atomic_path, json_line
from tamis.methods import build_method
from tamis.models.config import ModelConfig
from tamis.runs import Stage
from tamis.stage_files import empty_quarantine

CACHE_NOTE = (
    "features of rows were shared through a cache: the last digits of a score depend on what was "
    "in it, since rows are run in batches with others."
)


@dataclass(frozen=True)
class Common:
    """What every verb takes."""

    out: Path
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    overwrite: bool = False
    report: ProgressReport | None = None


def stage_config(common: Common, settings: Any, **resolved: Any) -> dict[str, Any]:
    """Return the settings that are part of a stage's request."""
    values = {**settings.model_dump(mode="json"), **resolved}
    return {**values, "device": common.device, "dtype": common.dtype}


def load_set(
    stage: Stage, role: str, source: str, config: DataConfig, rows: Path | None = None
) -> Examples:
    """Load a set; its bad records go to a file in the stage's folder."""
    wanted = None if rows is None else read_row_list(rows)
    quarantine = empty_quarantine(stage.folder, role)
    return load_examples(source, config, quarantine=quarantine, rows=wanted)


def rank_stage(
    settings: RankSettings, common: Common, *, data: str, trusted_labels: Path | None = None,
    rows: Path | None = None, protected: Sequence[Path | None] = (), **trusted: str | None,
) -> Stage:  # fmt: skip
    """Return the stage of a `tamis rank`; `trusted` are its sets by name, the rest as `run_rank`.

    Raises:
        ConfigError: The method lacks an input.
    """
    requires = refuse_missing(settings.method, trusted, trusted_labels)
    config = stage_config(common, settings, method=settings.method.resolved())
    del config["cache_gib"]  # changes no score
    inputs = stage_inputs(
        data=data, **trusted, trusted_labels=trusted_labels, rows=rows,
        **method_inputs(settings.method),
        **(model_inputs(settings.model, settings.render) if "model" in requires else {}),
    )  # fmt: skip
    return Stage(
        common.out, "rank", config, inputs, seed=common.seed, overwrite=common.overwrite,
        protected=protected, patience=ENDPOINT_PATIENCE,
    )  # fmt: skip


def refuse_missing(
    method: MethodConfig, trusted: Mapping[str, str | None], trusted_labels: Path | None
) -> frozenset[str]:
    """Refuse a ranking whose method lacks a set; return what the method requires.

    Raises:
        ConfigError: It does, or labels or rows of the trusted set come without the other.
    """
    built = build_method(method.name, method.options)
    requires = frozenset(getattr(built, "requires", ()))
    for name in ("safe_set", "harmful_set", "trusted_set"):
        if name in requires and trusted.get(name) is None:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"method {method.name!r} needs {name}: give --{flag} ({name} in a settings file)."
            )
    if (trusted.get("trusted_set") is None) != (trusted_labels is None):
        raise ConfigError(
            "--trusted-set and --trusted-labels (trusted_set, trusted_labels in a settings file) "
            "belong together: give both."
        )
    return requires


def set_data(settings: RankSettings | RunConfig, name: str) -> DataConfig:
    """Return how the records of a ranking's set are understood."""
    # The trusted rows are mostly some of the data.
    return settings.data if name == "trusted_set" else settings.safe_data or settings.data


def run_rank(
    settings: RankSettings, common: Common, *, data: str, safe_set: str | None = None,
    harmful_set: str | None = None, trusted_set: str | None = None,
    trusted_labels: Path | None = None, labels: Path | None = None, rows: Path | None = None,
    cache: Path | None = None, model: Any = None,
    also: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`tamis rank`: scores.parquet, selector/, ends.jsonl, ranking.json, manifest.json.

    selector/ is there where the method can score other rows, ranking.json where labels were given.

    `labels` change no score and are no part of the request: given later, or others, they are
    measured against the scores that are there. Nor is the cache, which saves work. A method may
    learn from `trusted_labels`. `model` is the model of the settings where it is loaded
    already, `also` as in `RankingInputs`.
    """
    method = build_method(settings.method.name, settings.method.options)
    requires = set(getattr(method, "requires", ()))
    trusted = {"safe_set": safe_set, "harmful_set": harmful_set, "trusted_set": trusted_set}
    with rank_stage(
        settings, common, data=data, **trusted, trusted_labels=trusted_labels, rows=rows,
        protected=(labels, cache),
    ) as stage:  # fmt: skip
        if stage.finished and (labels is None or measured_with(stage.folder, labels)):
            return stage.manifest()
        examples = load_set(stage, "data", data, settings.data, rows)
        # Joined now: a fault in the labels is told before hours of work.
        truth = None if labels is None else read_labels(labels)
        labelled = None if truth is None else join_labels(examples, truth)
        if not stage.finished:
            sets = {
                name: load_set(stage, name, given, set_data(settings, name))
                for name, given in trusted.items()
                if given is not None
            }
            read = {name: data_facts(found) for name, found in sets.items()}
            safe = sets.get("safe_set")
            known = None
            if trusted_labels is not None:
                sets["trusted_set"], known = labelled_rows(sets["trusted_set"], trusted_labels)
            if "model" not in requires:
                model = None
            elif model is None:
                model = stage_model(settings.model, common)
            from tamis.methods.base import rank

            scores = rank(
                examples, method, **sets, trusted_harmful=known, model=model,
                render=settings.render, seed=common.seed, work=stage.work, cache=cache,
                cache_gib=settings.cache_gib, report=common.report, name=settings.method.name,
                also=also,
            )  # fmt: skip
            scores.write(stage.folder)
            if scores.selector is not None:
                scores.selector.save(stage.folder / "selector")
            write_ends(stage.folder, scores, examples, labelled)
            notes = [*scores.details.get("notes", ()), *scores.order_notes()]
            notes += [CACHE_NOTE] if cache is not None and model is not None else []
            notes += sharing_notes(examples, safe, sets.get("harmful_set"))
            notes += [] if safe is None else safe_set_notes(examples, safe)
            stage.finish(
                method=settings.method.name,
                model=None if model is None else model.describe(),
                rows_by_outcome=scores.rows_by_outcome(),
                n_rows=len(scores),
                data=data_facts(examples),
                **{"safe_set": None, **read},
                details={**scores.details, "notes": notes},
                left_open=n_unanswered_rows(scores.details),
            )
        manifest = stage.manifest()
        if truth is not None and labels is not None:
            readout = str(manifest["details"].get("readout", "score"))
            measure(stage.folder, examples, truth, labels, readout, common.seed)
        return manifest


def stage_model(config: ModelConfig, common: Common) -> Any:
    """Load a model as the verb's flags say."""
    from tamis.models.load import load_model

    return load_model(config, device=common.device, dtype=common.dtype)


def data_facts(examples: Examples) -> dict[str, Any]:
    """Say what a manifest records of a set."""
    return {
        "n_rows": len(examples),
        "fingerprint": examples.fingerprint,
        "load": examples.load_report.to_dict(),
    }


def run_select(
    settings: SelectSettings, common: Common, *, scores_path: Path, data: str,
    rows: Path | None = None, subset: bool = False, labels: Path | None = None,
    trusted_scores: Path | None = None, certificate: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`tamis select`: kept.jsonl, dropped.jsonl, selection.parquet, manifest.json."""
    from tamis.methods.scores import SCORES_FILE, Scores
    from tamis.selection.select import match_to_data, select

    rule = settings.select
    file = scores_path / SCORES_FILE if scores_path.is_dir() else scores_path
    certificate = certificate and certificate_file(certificate)
    certified = certificate and read_certificate(certificate)
    if certified:
        certified.refuse_other(rule, file)
    scores = Scores.read(file)
    if rule.readout is not None:
        scores = scores.with_readout(rule.readout)
    config = stage_config(common, settings, subset=subset)
    trusted_file = trusted_scores and trusted_scores / SCORES_FILE
    inputs = stage_inputs(scores=file, data=data, rows=rows, labels=labels,
                          trusted_scores=trusted_file, certificate=certificate)  # fmt: skip
    with Stage(
        common.out, "select", config, inputs, seed=common.seed, overwrite=common.overwrite
    ) as stage:
        if stage.finished:
            return stage.manifest()
        examples = load_set(stage, "data", data, settings.data, rows)
        scores = match_to_data(scores, examples, subset=subset or rows is not None)
        known, notes = known_rows(
            rule, scores, file=file, labels=labels, trusted_scores=trusted_scores
        )
        selection = select(scores, **rule.model_dump(exclude={"readout"}), **known,
                           seed=common.seed)  # fmt: skip
        details = certified.details(certificate, selection) if certified and certificate else {}
        _write_selection(stage.folder, examples, scores, selection)
        if said := [*selection.notes, *scores.order_notes()]:
            details = {**details, "notes": [*details.get("notes", ()), *said]}
        if (found := selection.found) is not None:
            details = {"rule": found.rule, "threshold": found.threshold, **found.details,
                       "notes": [*found.notes, *notes, *said]}  # fmt: skip
        return stage.finish(
            n_rows=len(examples),
            n_kept=int(selection.kept.sum()),
            n_dropped=len(selection.dropped),
            cut=selection.cut,
            dropped_by_reason=dict(Counter(selection.dropped.values())),
            rows_by_outcome=scores.rows_by_outcome(),
            method=scores.method,
            data=data_facts(examples),
            details=details,
        )


def _write_selection(folder: Path, examples: Examples, scores: Any, selection: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        atomic_path(folder / "kept.jsonl") as kept_path,
        atomic_path(folder / "dropped.jsonl") as dropped_path,
        kept_path.open("w", encoding="utf-8") as kept,
        dropped_path.open("w", encoding="utf-8") as dropped,
    ):
        for i, keep in enumerate(selection.kept):
            example = examples[i]
            if keep:
                kept.write(example.raw + "\n")
                continue
            score = None if np.isnan(scores.values[i]) else float(scores.values[i])
            line = {"id": example.id, "source_id": example.source_id, "score": score,
                    "reason": selection.reasons[i], "row": json.loads(example.raw)}  # fmt: skip
            dropped.write(json_line(line))
    table = pa.table({
        "id": pa.array(scores.ids, pa.string()),
        "source_id": pa.array(scores.source_ids, pa.string()),
        "score": pa.array(scores.values),
        "kept": pa.array(selection.kept),
        "reason": pa.array(selection.reasons, pa.string()),
    })  # fmt: skip
    with atomic_path(folder / "selection.parquet") as temporary:
        pq.write_table(table, temporary)
