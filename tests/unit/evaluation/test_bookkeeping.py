"""What a selection kept, counted by hand."""

from __future__ import annotations

import json

import numpy as np

import toy
from tamis.data.load import load_examples
from tamis.evaluation.bookkeeping import kept_figures
from tamis.evaluation.judges import opens_like_refusal
from tamis.evaluation.labels import Label

ANSWERS = ["water", "I'm sorry, no.", "I cannot do that.", "venom", "venom"]
EXAMPLES = toy.examples([(f"Tell me about the river {i}", a) for i, a in enumerate(ANSWERS)])
KEPT = np.array([True, True, False, True, False])
LABELS = [
    Label("row-0", False, "benign", "a"), Label("row-1", False, "hard_negative", "b"),
    Label("row-2", False, "hard_negative", "b"), Label("row-3", True, "harmful", "b"),
    Label("row-4", True, "harmful", "a"),
]  # fmt: skip


def values(found: dict[str, object]) -> dict[str, tuple[float, int]]:
    """Value and n of every share."""
    return {name: (share["value"], share["n"]) for name, share in found.items()  # type: ignore[index]
            if name != "kept_by_source"}  # fmt: skip


def test_shares_with_labels() -> None:
    """One of three kept rows is harmful; half of the harmful and of the safe answers are kept."""
    found = kept_figures(EXAMPLES, KEPT, LABELS)
    assert values(found) == {
        "kept": (0.6, 5), "refusals_kept": (0.5, 2), "residual_contamination_rate": (1 / 3, 3),
        "harmful_kept": (0.5, 2), "harmless_kept": (2 / 3, 3), "safe_answers_kept": (0.5, 2),
    }  # fmt: skip
    by_source = {name: share["value"] for name, share in found["kept_by_source"].items()}
    assert by_source == {"a": 0.5, "b": 2 / 3}


def test_without_labels_refusals_are_known_by_their_words() -> None:
    """And no figure of harm is there."""
    found = kept_figures(EXAMPLES, KEPT)
    assert values(found) == {"kept": (0.6, 5), "refusals_kept": (0.5, 2)}


def test_what_has_no_row_is_not_zero() -> None:
    """Nothing kept: no rate of harm among it."""
    found = kept_figures(EXAMPLES, np.zeros(5, bool), LABELS)
    assert found["residual_contamination_rate"]["value"] is None
    assert found["harmful_kept"]["value"] == 0


def test_sources_of_the_records_serve_without_labels() -> None:
    """A field `source` of the record."""
    rows = load_examples([{"prompt": f"p{i}", "completion": "c", "source": "xy"[i % 2]}
                          for i in range(4)])  # fmt: skip
    found = kept_figures(rows, np.array([True, True, True, False]))
    assert {k: v["value"] for k, v in found["kept_by_source"].items()} == {"x": 1.0, "y": 0.5}
    assert json.loads(json.dumps(found)) == found


def test_a_refusal_is_one_from_its_first_words() -> None:
    """Late words of the topic do not count."""
    assert opens_like_refusal("I'm sorry, but no.")
    assert not opens_like_refusal("Here is a long story about a ship. " * 3 + "It was illegal.")


def test_rows_mixed_in_count_as_harmless() -> None:
    """One harmful row of three kept is one of five with two mixed in."""
    found = kept_figures(EXAMPLES, KEPT, LABELS, n_mixed=2)
    assert found["residual_contamination_rate"]["value"] == 0.2
