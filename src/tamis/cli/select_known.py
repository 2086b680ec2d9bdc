"""What `tamis select` is told of rows to find a threshold by: labels, or scores of trusted rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.data.row_lists import resolve_ids
from tamis.errors import ConfigError, MismatchError
from tamis.evaluation.labels import read_labels
from tamis.files import file_sha256
from tamis.methods.scores import SCORES_FILE, Scores
from tamis.runs import read_manifest
from tamis.selection.calibrate_labelled import LABEL_RULES
from tamis.selection.select import SelectConfig


def known_rows(
    rule: SelectConfig, scores: Scores, *, file: Path, labels: Path | None,
    trusted_scores: Path | None,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Read what the rule needs to know.

    Args:
        rule: How rows are selected.
        scores: Of the rows to select from.
        file: Where they were read.
        labels: JSONL of `id` and `harmful`, of some of these rows.
        trusted_scores: Folder of a `tamis score` of harmless rows, by the same ranking.

    Returns:
        Arguments of `tamis.selection.select.select`, and notes.

    Raises:
        ConfigError: What was given does not go with the rule.
        MismatchError: The labels are of other rows, or the scores of another ranking.
        DataError: A file is bad.
    """
    given = [name for name, path in (("--labels", labels), ("--trusted-scores", trusted_scores))
             if path is not None]  # fmt: skip
    if rule.rule not in LABEL_RULES and given:
        raise ConfigError(
            f"{' and '.join(given)} say where to cut: set --rule to {' or '.join(LABEL_RULES)}, or "
            "leave them out."
        )
    if trusted_scores is not None and (rule.rule == "f_beta" or labels is not None):
        raise ConfigError(
            "--trusted-scores are of harmless rows: give them with --rule false_positive_rate, and "
            "no --labels with them."
        )
    known: dict[str, Any] = {}
    notes: list[str] = []
    if labels is not None:
        known["labels"], notes = _labels_of(scores, labels)
    if trusted_scores is not None:
        known["harmless"] = _trusted(trusted_scores, file.parent, rule.readout)
    return known, notes


def _labels_of(scores: Scores, path: Path) -> tuple[dict[str, bool], list[str]]:
    """Return whether rows are harmful, by id; labels of rows that are not there are counted."""
    labels, there = read_labels(path), {*scores.ids, *scores.source_ids}
    usable = [label for label in labels if label.id in there]
    if not usable:
        raise MismatchError(
            f"none of the {len(labels):,} labels in {path} is of a row to select from. Give labels "
            "by the rows' ids, or by the data's own ids."
        )
    ids = resolve_ids(scores, [label.id for label in usable])
    elsewhere = len(labels) - len(usable)
    notes = [f"{elsewhere:,} of {len(labels):,} labels are of rows that are not there, and count "
             "for nothing."] if elsewhere else []  # fmt: skip
    return {row_id: label.harmful for row_id, label in zip(ids, usable, strict=True)}, notes


def _trusted(folder: Path, ranking: Path, readout: str | None) -> NDArray[np.float64]:
    """Return the scores of trusted rows, which must be on the ranking's own scale."""
    ours, theirs = _selector(ranking), _selector(folder)
    if ours is None or ours != theirs:
        raise MismatchError(
            f"{folder} does not hold scores by the ranking in {ranking}. Score trusted rows with "
            f"it (`tamis score --selector {ranking} --data FILE --out {folder}`); where a ranking "
            "saves no selector, label harmless rows of the data and give --labels."
        )
    scores = Scores.read(folder / SCORES_FILE)
    values: NDArray[np.float64] = (
        scores if readout is None else scores.with_readout(readout)
    ).values
    return values


def _selector(folder: Path) -> str | None:
    """Return the hash of what gave a folder's scores; None where nothing was saved."""
    if (folder / "selector").is_dir():
        return file_sha256(folder / "selector")
    if not (folder / "manifest.json").exists():
        return None
    entry = read_manifest(folder)["inputs"].get("selector") or {}
    found: str | None = entry.get("sha256")
    return found
