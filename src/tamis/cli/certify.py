"""`tamis certify`: draw rows for a person to label, then certify a threshold or refuse.

What is to be certified is fixed by the draw and kept in its folder; the labels come later and can
change nothing of it. Everything that is fixed decides which rows are drawn, and the folder is tied
to the bytes of the scores: labels drawn to judge one ranking at one alpha, or to choose among
several, certify no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tamis.cli.certify_checks import (
    answers_sha256,
    read_answers,
    refuse_judged_draw,
    refuse_other_request,
    refuse_second_labels,
)
from tamis.cli.certify_results import (
    judged,
    percent,
    quoted,
    replaced_results,
    results,
    risk,
    write_result,
)
from tamis.cli.config import Section
from tamis.cli.inputs import described, stage_inputs
from tamis.cli.stages import Common, data_facts, load_set
from tamis.data.load import DataConfig
from tamis.errors import ConfigError
from tamis.files import atomic_path, file_sha256, json_line, write_text_atomic
from tamis.methods.scores import SCORES_FILE, Scores
from tamis.rng import numpy_generator
from tamis.runs import Stage, read_manifest
from tamis.selection.certificate import CertifyConfig, certify
from tamis.versions import versions

TO_LABEL = "to_label.jsonl"
RANKED = "ranked.txt"  # ids of the ranked rows, where the data has others too


class CertifySettings(Section):
    """`tamis certify`."""

    certify: CertifyConfig = CertifyConfig()
    data: DataConfig = DataConfig()


def draw_rows(
    settings: CertifySettings, common: Common, *, scores_path: Path | None, data: str | None
) -> dict[str, Any]:
    """Draw rows uniformly from the scored ones and write them for labelling: to_label.jsonl.

    The rows are in random order and show no score, so that the labels cannot follow the ranking.

    Returns:
        The stage's manifest; `drawn` lists the ids.

    Raises:
        ConfigError: Scores or data are not given, fewer rows have a score than are to be drawn, or
            --overwrite would replace a draw whose labels were judged.
        MismatchError: A ranked row is not in the data; the folder holds another draw, or labels
            that --overwrite would delete.
    """
    if scores_path is None or data is None:
        raise ConfigError("give --scores and --data to draw rows, or --labels for a finished draw.")
    if common.overwrite:
        refuse_judged_draw(common.out, results(common.out))
    file, wanted = _scores_file(scores_path), settings.certify
    values = settings.model_dump(mode="json")
    inputs = stage_inputs(scores=file, data=data)
    with Stage(
        common.out, "certify", values, inputs, seed=common.seed, overwrite=common.overwrite,
        protected=_human_work(common.out),
    ) as stage:  # fmt: skip
        if stage.finished:
            return stage.manifest()
        scores = _read_scores(file, wanted.readout)
        scored = sorted(np.asarray(scores.ids, dtype=object)[~np.isnan(scores.values)].tolist())
        if len(scored) < wanted.n_labels:
            raise ConfigError(
                f"{len(scored):,} rows have a score, fewer than the {wanted.n_labels:,} to be "
                "labelled. Lower --n-labels; to label every row needs no certificate."
            )
        # Labels given for one alpha, ranking or attempt are to fit no other.
        fixed = json.dumps(wanted.model_dump(mode="json"), sort_keys=True)
        generator = numpy_generator(common.seed, "certify", inputs["scores"]["sha256"], fixed)
        chosen = generator.choice(len(scored), wanted.n_labels, replace=False)
        drawn = [scored[i] for i in chosen.tolist()]
        examples = load_set(stage, "data", data, settings.data)
        ranked = examples.restrict(scores.ids)
        part = len(ranked) < len(examples)
        if part:
            text = "".join(f"{row_id}\n" for row_id in ranked.ids)
            write_text_atomic(stage.folder / RANKED, text)
        rows = {row.id: row for row in ranked.restrict(drawn)}
        path = stage.folder / TO_LABEL
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for row_id in drawn:
                messages = [asdict(message) for message in rows[row_id].messages]
                stream.write(json_line({"id": row_id, "messages": messages, "harmful": None}))
        return stage.finish(
            n_scored=len(scored),
            n_unscored=len(scores) - len(scored),
            method=scores.method,
            data=data_facts(examples),
            drawn=drawn,
            ranked_rows=RANKED if part else None,
            to_label_sha256=file_sha256(path),
        )


def drawn_lines(manifest: Mapping[str, Any], out: Path) -> list[str]:
    """Say what to do with a draw."""
    wanted = CertifyConfig.model_validate(manifest["config"]["certify"])
    path = out / TO_LABEL
    return [
        f"{len(manifest['drawn']):,} of {manifest['n_scored']:,} scored rows drawn -> {path}",
        "next: in each line set harmful to true (learning to answer like this does harm) or false, "
        "all by the same rule and without looking at scores; then",
        f"  tamis certify --out {quoted(out)} --labels {quoted(path)}",
        f"to be certified: at most {percent(wanted.alpha)} of the kept rows are harmful, wrong "
        f"with a probability of at most {risk(wanted)}. This is fixed now.",
    ]


def certify_labels(
    settings: CertifySettings, out: Path, labels: Path, *, scores_path: Path | None,
    data: str | None, seed: int | None, unsure: str | None, overwrite: bool,
) -> dict[str, Any]:  # fmt: skip
    """Certify with the labels of a draw: certificate.json, or refused.json and an error.

    Args:
        settings: What was set again must be as it was when the rows were drawn.
        out: Folder of the draw.
        labels: JSONL of `id` and `harmful`, of exactly the drawn rows.
        scores_path: None is where they were; their bytes must be the same.
        data: Likewise.
        seed: Likewise.
        unsure: "harmful" counts null as harmful; None and "fail" refuse it.
        overwrite: Replace what other answers gave; a trace of it stays.

    Returns:
        What certificate.json holds.

    Raises:
        ConfigError: There is no draw, nothing can be certified, or other labels were judged before.
        MismatchError: Settings, scores, data or labelled rows are not those of the draw.
        DataError: A label is missing or is neither true nor false.
    """
    if unsure not in (None, "fail", "harmful"):
        raise ConfigError(f"--unsure {unsure!r} is unknown: give fail or harmful.")
    if not (out / "manifest.json").exists():
        raise ConfigError(
            f"{out} holds no draw: run `tamis certify --scores DIR --data FILE --out {out}` first, "
            "and label the rows it writes."
        )
    manifest = read_manifest(out)
    if manifest.get("stage") != "certify":
        raise ConfigError(f"{out} is a finished {manifest.get('stage')}, no draw of certify.")
    file = _scores_file(scores_path or Path(manifest["inputs"]["scores"]["path"]))
    refuse_other_request(manifest, settings, file, data, seed)
    wanted = CertifyConfig.model_validate(manifest["config"]["certify"])
    scores = _read_scores(file, wanted.readout)
    harmful, n_unsure = read_answers(labels, scores, manifest["drawn"], unsure)
    answers_hash = answers_sha256(harmful)
    if not overwrite:
        refuse_second_labels(results(out), answers_hash)
    replaced = replaced_results(out, answers_hash)
    place = {row_id: i for i, row_id in enumerate(scores.ids)}
    walk = certify(
        scores.values, [place[row_id] for row_id in harmful], list(harmful.values()),
        alpha=wanted.alpha, delta=wanted.draw_delta, kept_shares=wanted.kept_shares,
    )  # fmt: skip
    found = {
        **judged(walk, wanted, len(replaced)),
        "n_unsure_counted_harmful": n_unsure,
        "seed": manifest["seed"],
        "readout": wanted.readout,
        "method": scores.method,
        "scores": manifest["inputs"]["scores"],
        "data": manifest["inputs"]["data"],
        "data_settings": manifest["config"]["data"],
        "rows": described(out / RANKED) if manifest.get("ranked_rows") else None,
        "labels": {**(described(labels) or {}), "answers_sha256": answers_hash},
        "replaced": replaced,
        "drawn_sha256": hashlib.sha256("\n".join(manifest["drawn"]).encode()).hexdigest(),
        "walk": walk.to_json(),
        "versions": versions(),
    }
    write_result(out, found)
    if walk.certified is None:
        raise ConfigError(found["refusal"])
    return found


def _human_work(out: Path) -> list[Path | None]:
    """Name to_label.jsonl if someone has begun to fill it: overwriting must not delete it."""
    path = out / TO_LABEL
    if not path.exists() or not (out / "manifest.json").exists():
        return []
    untouched = read_manifest(out).get("to_label_sha256") == file_sha256(path)
    return [] if untouched else [path]


def _scores_file(path: Path) -> Path:
    return path / SCORES_FILE if path.is_dir() else path


def _read_scores(file: Path, readout: str | None) -> Scores:
    scores = Scores.read(file)
    return scores if readout is None else scores.with_readout(readout)
