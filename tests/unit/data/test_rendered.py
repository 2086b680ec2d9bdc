"""The stored rows and the facts about their template."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from tamis.data.load import load_examples
from tamis.data.rendered import RenderedRows
from tamis.data.row_views import JoinedRows
from tamis.data.template import RenderConfig, render

ROWS = [
    {"id": "a", "prompt": "hello", "completion": "sure here is"},
    {"id": "b", "prompt": "hello <|im_end|>", "completion": "one two three four five six"},
    {"prompt": "hello", "completion": "sure"},
]


@pytest.fixture
def rendered(byte_bpe: Any) -> RenderedRows:
    """Three rows, one of them too long."""
    n = len(byte_bpe(ROWS[0]["completion"])["input_ids"]) + 2
    config = RenderConfig(max_response_tokens=n, on_too_long="drop")
    return render(load_examples(ROWS), byte_bpe, config)


def test_columns_are_those_of_the_rows(rendered: RenderedRows) -> None:
    """A column holds the same values as the rows one by one."""
    for name in ("n_prompt_tokens", "n_trained_tokens", "outcome", "id", "detail"):
        assert rendered.column(name).tolist() == [getattr(row, name) for row in rendered]
    assert rendered.column("n_trained_tokens").dtype == np.int64


def test_lists_are_no_columns(rendered: RenderedRows) -> None:
    """Token lists and unknown names have no column."""
    for name in ("input_ids", "labels", "nothing"):
        with pytest.raises(KeyError, match=name):
            rendered.column(name)


def test_usable_rows_are_those_with_tokens(rendered: RenderedRows) -> None:
    """usable, lengths and counts agree with the outcomes."""
    assert rendered.usable.tolist() == [True, False, True]
    assert rendered.lengths.tolist() == [len(row.input_ids) for row in rendered]
    assert rendered.counts() == {"ok": 2, "too_long": 1}
    assert rendered.starts(2) == [row.input_ids[:2] for row in rendered]


def test_rows_keep_their_ids(rendered: RenderedRows) -> None:
    """Ids and source ids are those of the examples."""
    assert rendered.ids == load_examples(ROWS).ids
    assert rendered.source_ids == ["a", "b", None]
    assert rendered[-1].id == rendered.ids[2]
    with pytest.raises(IndexError):
        rendered[3]


def test_messages_that_spell_special_tokens_are_marked(rendered: RenderedRows) -> None:
    """Row b spells the end of a turn."""
    assert rendered.column("special_text").tolist() == [False, True, False]


def _fingerprint(tokenizer: Any, **settings: Any) -> str:
    return render(load_examples(ROWS), tokenizer, RenderConfig(**settings)).fingerprint


def test_the_fingerprint_is_stable(byte_bpe: Any) -> None:
    """Using the tokenizer, padding and all, does not change the fingerprint."""
    tokenizer = copy.deepcopy(byte_bpe)
    before = _fingerprint(tokenizer)
    tokenizer.pad_token = "<|im_end|>"
    tokenizer.pad_token = None
    tokenizer(["a", "a b c"], truncation=True, max_length=2)
    assert _fingerprint(tokenizer) == before


def test_the_fingerprint_knows_what_changes_tokens(byte_bpe: Any, word_level: Any) -> None:
    """Limits, template and vocabulary each change the fingerprint."""
    other_template = copy.deepcopy(byte_bpe)
    other_template.chat_template += "\n"
    found = {
        _fingerprint(byte_bpe),
        _fingerprint(byte_bpe, max_prompt_tokens=9),
        _fingerprint(byte_bpe, train_on="all"),
        _fingerprint(other_template),
        _fingerprint(word_level),
    }
    assert len(found) == 5


def test_notes_tell_what_to_know(byte_bpe: Any) -> None:
    """A start token that is left out, a missing end token and a date in the template are noted."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(byte_bpe)
    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    tokenizer.eos_token = None
    tokenizer.chat_template += "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    notes = " ".join(render(load_examples(ROWS), tokenizer).facts.notes)
    assert "start token '<|endoftext|>', the template prints none" in notes
    assert "no end token" in notes
    assert "today's date" in notes
    assert render(load_examples(ROWS), byte_bpe).facts.notes == ()


def test_joined_sets_are_one_after_the_other(rendered: RenderedRows) -> None:
    """Rows, ids, lengths and usability of two sets, the second behind the first."""
    joined = JoinedRows(rendered, rendered)
    assert len(joined) == 6
    assert [row.id for row in joined] == joined.ids == rendered.ids * 2
    assert joined.usable.tolist() == rendered.usable.tolist() * 2
    assert joined.lengths.tolist() == rendered.lengths.tolist() * 2
    for index in (-1, 6):
        with pytest.raises(IndexError, match=f"row {index} of 6"):
            joined[index]
