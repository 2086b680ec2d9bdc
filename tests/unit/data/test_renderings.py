"""Renderings kept for the next ranking: the same rows, and never others'."""

from __future__ import annotations

import toy
from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.data.renderings import KEPT, Renderings
from tamis.data.template import RenderConfig

TIGHT = RenderConfig(max_prompt_tokens=96, max_response_tokens=4)


def rows(n: int, source: str = "row") -> Examples:
    """Make n rows whose own ids begin with `source`."""
    return load_examples([
        {"id": f"{source}-{i}", "prompt": f"the lamp {i}", "completion": "gently share water"}
        for i in range(n)
    ])  # fmt: skip


def test_the_same_rows_are_rendered_once() -> None:
    """Loaded again, they are the same rows."""
    renderings = Renderings(toy.tokenizer())
    assert renderings.render(rows(3), TIGHT) is renderings.render(rows(3), TIGHT)


def test_other_rows_ids_and_limits_are_rendered_anew() -> None:
    """A part of the rows, the same texts under other ids, and more room."""
    renderings = Renderings(toy.tokenizer())
    first = renderings.render(rows(3), TIGHT)
    wide = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
    others = [renderings.render(rows(2), TIGHT), renderings.render(rows(3, "other"), TIGHT),
              renderings.render(rows(3), wide)]  # fmt: skip
    assert len({id(found) for found in (first, *others)}) == 4
    assert [len(found) for found in others] == [2, 3, 3]
    assert others[2].lengths.sum() > first.lengths.sum()


def test_only_the_latest_are_kept() -> None:
    """The one used longest ago goes first."""
    renderings = Renderings(toy.tokenizer())
    first = renderings.render(rows(1), TIGHT)
    second = renderings.render(rows(2), TIGHT)
    for n in range(3, KEPT + 1):
        renderings.render(rows(n), TIGHT)
    assert renderings.render(rows(1), TIGHT) is first
    renderings.render(rows(KEPT + 1), TIGHT)
    assert renderings.render(rows(1), TIGHT) is first
    assert renderings.render(rows(2), TIGHT) is not second
