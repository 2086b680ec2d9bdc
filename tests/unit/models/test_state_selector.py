"""A saved selector: the same numbers for other rows, and refusals where they would mean nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toy
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig, RenderedRows, render
from tamis.errors import DataError, MismatchError
from tamis.models.features import FeatureCache
from tamis.models.load import LanguageModel
from tamis.models.state_selector import FACTS_FILE, WEIGHTS_FILE, StateSelector

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
NAMES = ("state:1:response_mean", "state:2:prompt_last")


def rows(config: RenderConfig = RENDER) -> RenderedRows:
    """Five rows, the third too long."""
    texts = ("gently", "share water", "water " * 60, "ember", "crack venom ember")
    records = [{"prompt": "Tell me about the lamp", "completion": text} for text in texts]
    return render(load_examples(records), toy.tokenizer(), config)


@pytest.fixture
def selector(tiny_lm: LanguageModel) -> StateSelector:
    """A plane over two states of the tiny model."""
    return StateSelector.made_for(tiny_lm, rows(), method="toy", names=NAMES,
                                  weight=np.linspace(-1, 1, 64), bias=0.5)  # fmt: skip


def test_scores_are_the_plane_at_the_rows_states(
    selector: StateSelector, tiny_lm: LanguageModel
) -> None:
    """In the rows' own order; NaN where a row cannot be read."""
    found = selector.score(tiny_lm, rows())
    cache = FeatureCache(tiny_lm)
    states = np.concatenate([cache.states(rows(), name).double().numpy() for name in NAMES], 1)
    assert np.isnan(found).tolist() == [False, False, True, False, False]
    np.testing.assert_allclose(found, states @ selector.weight + 0.5, rtol=0, atol=1e-5)


def test_a_saved_selector_is_the_same(selector: StateSelector, tmp_path: Path) -> None:
    """Every number and every fact."""
    selector.save(tmp_path / "new" / "selector")
    found = StateSelector.load(tmp_path / "new" / "selector")
    assert found.weight.tobytes() == selector.weight.tobytes()
    assert dataclasses.replace(found, weight=selector.weight) == selector


def test_another_model_is_refused(selector: StateSelector) -> None:
    """Same shape, other weights."""
    with pytest.raises(MismatchError, match="made with another model than toy"):
        selector.score(toy.tiny_lm(seed=1), rows())


def test_other_limits_are_refused(selector: StateSelector, tiny_lm: LanguageModel) -> None:
    """They make other tokens of the same rows; what to set is said, and setting it helps."""
    other = rows(RenderConfig(max_prompt_tokens=96, max_response_tokens=8, on_too_long="truncate"))
    with pytest.raises(MismatchError) as caught:
        selector.score(tiny_lm, other)
    said = str(caught.value)
    assert "max_response_tokens 48 (here 8), on_too_long drop (here truncate)." in said
    assert "--set render.max_response_tokens=48 --set render.on_too_long=drop." in said
    assert "max_prompt_tokens" not in said


def test_another_template_or_tokenizer_is_refused(
    selector: StateSelector, tiny_lm: LanguageModel
) -> None:
    """The one that differs is named."""
    rendered = rows()
    for name, said in (("template_text", "chat template"), ("tokenizer", "tokenizer")):
        facts = dataclasses.replace(
            rendered.facts, fingerprint="other",
            rendering={**rendered.facts.rendering, name: "other"},
        )  # fmt: skip
        other = RenderedRows.from_rows(((row, None, False) for row in rendered), facts)
        with pytest.raises(MismatchError, match=f"made with another {said} than"):
            selector.score(tiny_lm, other)


def damage_json(folder: Path) -> None:
    """Cut a file in two."""
    path = folder / FACTS_FILE
    path.write_text(path.read_text()[:20])


def damage_weights(folder: Path) -> None:
    """Cut the other in two."""
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:20])


def drop_a_fact(folder: Path) -> None:
    """Leave out the model."""
    facts = json.loads((folder / FACTS_FILE).read_text())
    del facts["model"]
    (folder / FACTS_FILE).write_text(json.dumps(facts))


def test_weights_other_than_the_saved_ones_are_refused(
    selector: StateSelector, tmp_path: Path
) -> None:
    """Readable, finite, and not of this selector."""
    selector.save(tmp_path)
    other = dataclasses.replace(selector, weight=selector.weight * 2)
    facts = (tmp_path / FACTS_FILE).read_text()
    other.save(tmp_path)
    (tmp_path / FACTS_FILE).write_text(facts)
    with pytest.raises(DataError, match="a damaged selector"):
        StateSelector.load(tmp_path)


def test_a_folder_that_is_not_there_is_called_so(tmp_path: Path) -> None:
    """Another fault than a folder without a selector."""
    with pytest.raises(DataError, match="there is no such folder"):
        StateSelector.load(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", [damage_json, damage_weights, drop_a_fact,
                                    lambda folder: (folder / WEIGHTS_FILE).unlink()])  # fmt: skip
def test_a_damaged_selector_is_refused(
    damage: Any, selector: StateSelector, tmp_path: Path
) -> None:
    """The folder is named."""
    selector.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match="holds no selector that can be read"):
        StateSelector.load(tmp_path)


def test_weights_of_another_width_are_refused(
    selector: StateSelector, tiny_lm: LanguageModel
) -> None:
    """Two files that are not of one ranking."""
    other = dataclasses.replace(selector, weight=selector.weight[:-1])
    with pytest.raises(DataError, match="not of one ranking"):
        other.score(tiny_lm, rows())


def test_weights_that_are_no_numbers_are_refused(selector: StateSelector, tmp_path: Path) -> None:
    """NaN would score every row NaN."""
    dataclasses.replace(selector, bias=float("nan")).save(tmp_path)
    with pytest.raises(DataError, match="finite"):
        StateSelector.load(tmp_path)
