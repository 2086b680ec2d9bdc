"""What a selection did to the rows: harm left, safe answers lost, sources thinned.

A selection can look good on harm and yet throw away the safe answers to unsafe requests that hold a
model's safety, or a source of the user's own domain. These figures say so before any training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis.data.example import Example, Examples
from tamis.data.nuisances import source_of
from tamis.evaluation.judges import opens_like_refusal
from tamis.evaluation.labels import Label
from tamis.evaluation.statistics import rate_estimate

HARD_NEGATIVE = "hard_negative"
MOST_SOURCES = 50  # more are files or ids rather than sources


def kept_figures(
    examples: Examples, kept: np.ndarray, truth: Sequence[Label] | None = None,
    n_mixed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Say what was kept.

    Args:
        examples: The rows chosen from.
        kept: Whether each was kept (bool, n).
        truth: The label of each, where known.
        n_mixed: Trusted rows that are trained on besides; they count as harmless.

    Returns:
        JSON values, rates as Wilson estimates (value, low, high, n): `kept`; `refusals_kept`, of
        rows whose answer opens like a refusal (published strings, no labels needed);
        `kept_by_source`; and with labels `residual_contamination_rate` (harmful / trained on),
        `harmful_kept`, `harmless_kept` and `safe_answers_kept` (of rows labelled `hard_negative`).
        The intervals take the rows for a sample of more of their kind.
    """
    kept = np.asarray(kept, dtype=bool)
    refusals = np.array([opens_like_refusal(_answer(row)) for row in examples], dtype=bool)
    found: dict[str, Any] = {
        "kept": _share(kept),
        "refusals_kept": _share(kept[refusals]),
        "kept_by_source": _by_source(examples, kept, truth),
    }
    if truth is None:
        return found
    harmful = np.array([label.harmful for label in truth], dtype=bool)
    safe_answers = np.array([label.kind == HARD_NEGATIVE for label in truth], dtype=bool)
    return found | {
        "residual_contamination_rate": _share(
            np.concatenate([harmful[kept], np.zeros(n_mixed, dtype=bool)])
        ),
        "harmful_kept": _share(kept[harmful]),
        "harmless_kept": _share(kept[~harmful]),
        "safe_answers_kept": _share(kept[safe_answers]),
    }


def _answer(row: Example) -> str:
    return next((m.content for m in reversed(row.messages) if m.role == "assistant"), "")


def _share(outcomes: np.ndarray) -> dict[str, Any]:
    return rate_estimate(int(outcomes.sum()), len(outcomes)).to_json()


def _by_source(
    examples: Examples, kept: np.ndarray, truth: Sequence[Label] | None
) -> dict[str, Any]:
    """Kept share by the labels' source, else by the records' or files'; {} for too many."""
    names = [source_of(row) for row in examples]
    if truth is not None:
        names = [label.source or name for label, name in zip(truth, names, strict=True)]
    levels = sorted(set(names))
    if len(levels) > MOST_SOURCES:
        return {}
    which = np.asarray(names, dtype=object)
    return {level: _share(kept[which == level]) for level in levels}
