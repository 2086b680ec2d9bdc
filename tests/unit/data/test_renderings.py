"""Renderings kept for the next ranking: the same rows, and never others'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import toy
from tamis.data import renderings as module
from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.data.renderings import KEPT, Renderings
from tamis.data.template import RenderConfig, RenderedRows, render

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


def test_other_ids_and_limits_are_rendered_anew() -> None:
    """The same texts under other ids, and more room."""
    renderings = Renderings(toy.tokenizer())
    first = renderings.render(rows(3), TIGHT)
    wide = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
    others = [renderings.render(rows(3, "other"), TIGHT), renderings.render(rows(3), wide)]
    assert len({id(found) for found in (first, *others)}) == 3
    assert others[0].source_ids == ["other-0", "other-1", "other-2"]
    assert others[1].lengths.sum() > first.lengths.sum()


def test_a_part_of_known_rows_is_taken_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """In their own order, as if it had been rendered; rows that are not among them are rendered."""
    renderings, whole = Renderings(toy.tokenizer()), rows(7)
    renderings.render(whole, TIGHT)
    calls: list[int] = []

    def counted(examples: Examples, *given: Any) -> RenderedRows:
        calls.append(len(examples))
        return render(examples, *given)

    monkeypatch.setattr(module, "render", counted)
    some = whole.restrict([whole.ids[i] for i in (5, 1, 2)])
    for part in (some, some.restrict(some.ids[1:])):  # of a part likewise
        found, expected = renderings.render(part, TIGHT), render(part, toy.tokenizer(), TIGHT)
        assert list(found) == list(expected)
        assert found.ids == part.ids
        assert found.source_ids == part.source_ids
        for column in ("outcome", "special_text", "n_trained_tokens", "detail"):
            assert found.column(column).tolist() == expected.column(column).tolist()
        assert found.starts(3) == expected.starts(3)
        np.testing.assert_array_equal(found.lengths, expected.lengths)
        np.testing.assert_array_equal(found.id_order, expected.id_order)
        assert found.fingerprint == expected.fingerprint
        assert renderings.render(part, TIGHT) is found
    assert calls == []
    record = {"id": "row-0", "prompt": "the lamp 0", "completion": "gently share water"}
    renderings.render(load_examples([record, {"prompt": "x", "completion": "y"}]), TIGHT)
    assert calls == [2]


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
