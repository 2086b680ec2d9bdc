"""What `tamis compare` prints."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from tamis.cli.plan_compare import Forecast, MethodForecast
from tamis.cli.show_comparison import comparison_tables, forecast_table, refusal_summary
from tamis.evaluation.compare import MEASURES


def shown(what: Any, width: int) -> str:
    """What a terminal of some width shows."""
    console = Console(width=width)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def entry(
    method: str, *, uses_labels: bool = False, chosen: bool = False, n_cached: int = 0
) -> dict[str, Any]:
    """A method with a different value for every measure."""
    measures = {name: {"value": 0.9 - i / 10, "low": 0.1, "high": 0.95}
                for i, name in enumerate(MEASURES)}  # fmt: skip
    score = {**measures, "n": 30 if uses_labels else 40, "n_harmful": 9, "n_cells": 1, "slices": {}}
    return {"rows": "all", "method": method, "uses_labels": uses_labels,
            "chosen_with_labels": chosen, "seconds": [1.0, 2.0], "n_cached": n_cached,
            "n_resumed": 0,
            "readouts": {"score": score}}  # fmt: skip


FOUND = {"entries": [entry("probe", uses_labels=True), entry("loss")],
         "facts": {"all": ["nothing was harmful"]}, "cues": {"all": ["a cue does as well"]},
         "refused": []}  # fmt: skip
REFUSED = {"rows": "all", "method": "seal", "rankings": ["all/seal-0"], "of": 2,
           "reasons": ["too few rows"]}  # fmt: skip


@pytest.mark.parametrize(("width", "n_more"), [(80, 0), (110, 1), (140, 2)])
def test_a_wider_terminal_shows_more_measures(width: int, n_more: int) -> None:
    """AUROC 0.9 and average precision 0.8 always; TPR at 5% 0.6, then recall 0.5."""
    text = shown(comparison_tables(FOUND, width), width)
    assert [value in text for value in ("0.900", "0.800", "0.600", "0.500")] == [
        True, True, n_more > 0, n_more > 1,
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= width


def test_methods_with_labels_are_marked_and_stand_below() -> None:
    """The note says what the mark means; the title counts the rows of the others."""
    text = shown(comparison_tables(FOUND), 80)
    assert text.index("loss") < text.index("probe (labels)")
    assert "all: 40 rows, 9 harmful" in text
    assert text.count("of 30 rows") == 1
    assert "of 40 rows" not in text
    assert "learned from labels of some of these rows" in text
    assert text.index("nothing was harmful") < text.index("a cue does as well")


def test_a_mean_of_rankings_is_called_one() -> None:
    """Under the name of its method."""
    several = entry("loss")
    several["readouts"]["score"]["n_cells"] = 10
    text = shown(comparison_tables({**FOUND, "entries": [several, entry("saft")]}), 80)
    assert text.count("mean of 10") == 1


@pytest.mark.parametrize(
    ("uses_labels", "chosen", "mark"),
    [(False, True, "saft (options)"), (True, True, "saft (labels, options)")],
)
def test_options_chosen_with_labels_are_marked(uses_labels: bool, chosen: bool, mark: str) -> None:
    """Below what owes nothing to labels, with a line that says what it means."""
    marked = entry("saft", uses_labels=uses_labels, chosen=chosen)
    text = shown(comparison_tables({**FOUND, "entries": [marked, entry("loss")]}, 120), 120)
    assert text.index("loss") < text.index(mark)
    assert "options chosen with labels of these rows in sight" in text
    assert ("learned from labels" in text) == uses_labels
    assert "in sight" not in shown(comparison_tables(FOUND, 120), 120)


def test_what_the_cache_spared_is_marked() -> None:
    """All rankings of one method, one of two of another; the line says what it means."""
    found = {**FOUND, "entries": [entry("loss", n_cached=2), entry("saft", n_cached=1)]}
    text = shown(comparison_tables(found, 120), 120)
    assert text.count("cached") == 3
    assert "1 of 2 cached" in text
    assert "an earlier ranking left what this one reads of the model" in text
    assert "cached" not in shown(comparison_tables(FOUND), 80)


def test_what_was_refused_is_named_with_its_reason() -> None:
    """Below the tables, and in the sentence that ends the command."""
    found = {**FOUND, "refused": [REFUSED]}
    text = shown(comparison_tables(found, 120), 120)
    assert "refused: seal on all, 1 of 2 rankings: too few rows" in text
    assert "1 rankings were refused: all/seal-0." in str(refusal_summary(found))
    assert refusal_summary(FOUND) is None


def test_a_forecast_tells_a_refusal() -> None:
    """With the method's name and in full."""
    line = MethodForecast("probe", 2, 0, None, "cannot be told", "it needs 5 labels of a kind")
    text = shown(forecast_table(Forecast((line,), 1.0)), 120)
    assert "refused" in text
    assert "probe refuses a few of the rows, and may refuse its rankings: it needs 5" in text


def test_a_forecast_says_what_is_not_in_its_sum() -> None:
    """Three minutes and one of measuring; the method that cannot be told has no number."""
    found = Forecast((MethodForecast("seal", 2, 1, 3.0, "8 and 32 rows"),
                      MethodForecast("guard", 1, 0, None, "it asks")), 1.0)  # fmt: skip
    text = shown(forecast_table(found), 120)
    assert "not told" in text
    assert "without guard" in text
    assert " 4.0 " in text
