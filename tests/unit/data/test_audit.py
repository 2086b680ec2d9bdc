"""What the audit counts and shows."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tamis.data.audit import Bucket, audit, show_row
from tamis.data.example import Examples, Message, ParsedRow
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig, render

ROWS = [
    {"prompt": "hello", "completion": "sure"},
    {"prompt": "hello", "completion": "one two three four five six seven eight nine ten " * 3},
    {"prompt": "hello <|im_end|> x", "completion": "sure"},
]


def test_counts_are_those_of_the_rows(byte_bpe: Any) -> None:
    """Totals are sums over rows and the share is trained tokens over tokens."""
    rows = render(load_examples(ROWS), byte_bpe, RenderConfig(max_response_tokens=10))
    found = audit(rows, byte_bpe)
    assert (found.n_rows, found.outcomes) == (3, {"ok": 2, "truncated": 1})
    assert found.n_tokens == sum(len(row.input_ids) for row in rows)
    assert found.n_trained_tokens == sum(label != -100 for row in rows for label in row.labels)
    assert found.trained_token_share == found.n_trained_tokens / found.n_tokens
    assert found.cut_responses.n_rows == 1
    assert found.cut_responses.first_ids == (rows.ids[1],)
    assert found.n_cut_response_tokens == rows[1].n_cut_response_tokens
    assert (found.cut_prompts.n_rows, found.n_cut_prompt_tokens) == (0, 0)
    assert found.fingerprint == rows.fingerprint


def test_the_histogram_holds_every_usable_row(byte_bpe: Any) -> None:
    """Buckets double from 2^k to 2^(k+1)-1, without gaps, and their rows add up."""
    rows = render(load_examples(ROWS), byte_bpe)
    lengths = [len(row.input_ids) for row in rows]
    buckets = audit(rows, byte_bpe).lengths
    assert sum(bucket.n_rows for bucket in buckets) == 3
    for bucket in buckets:
        assert bucket.high == 2 * bucket.low - 1
        assert bucket.n_rows == sum(bucket.low <= n <= bucket.high for n in lengths)
    assert [b.low for b in buckets[1:]] == [b.high + 1 for b in buckets[:-1]]


@pytest.mark.parametrize(
    ("length", "low"), [(1, 1), (2, 2), (3, 2), (4, 4), (1023, 512), (1024, 1024)]
)
def test_bucket_borders_are_exact(length: int, low: int) -> None:
    """A power of two opens its own bucket."""
    import numpy as np

    from tamis.data.audit import _buckets

    assert _buckets(np.array([length])) == (Bucket(low, 2 * low - 1, 1),)


def test_forged_turns_are_found(byte_bpe: Any) -> None:
    """The row whose prompt spells the end of a turn is named."""
    rows = render(load_examples(ROWS), byte_bpe)
    found = audit(rows, byte_bpe)
    assert (found.special_text.n_rows, found.special_text.first_ids) == (1, (rows.ids[2],))


def test_doubled_start_tokens_are_found(sentence_piece: Any) -> None:
    """A template that prints two start tokens is told for every row; the usual one for none."""
    rows = render(load_examples(ROWS), sentence_piece)
    assert audit(rows, sentence_piece).duplicated_bos.n_rows == 0
    twice = copy.deepcopy(sentence_piece)
    twice.chat_template = "{{ bos_token }}" + twice.chat_template
    assert audit(render(load_examples(ROWS), twice), twice).duplicated_bos.n_rows == 3


def test_a_tokenizer_without_start_token_doubles_none(word_level: Any) -> None:
    """Without a start token there is nothing to double."""
    rows = render(load_examples(ROWS), word_level)
    assert audit(rows, word_level).duplicated_bos.n_rows == 0


def test_generation_and_training_headers_are_compared(byte_bpe: Any) -> None:
    """A generation prompt that training does not print is reported, with a note."""
    rows = render(load_examples(ROWS), byte_bpe)
    assert audit(rows, byte_bpe).generation_matches_training is True
    other = copy.deepcopy(byte_bpe)
    other.chat_template = other.chat_template.replace("assistant\n", "bot\n")
    found = audit(render(load_examples(ROWS), other), other)
    assert found.generation_matches_training is False
    assert "asked in another form" in found.notes[0]


def test_rows_set_aside_are_named_with_reason(byte_bpe: Any) -> None:
    """Of rows without tokens the first five are listed per outcome; a set of none has no share."""
    empty = [ParsedRow((Message("user", f"hello {n}"), Message("assistant", ""))) for n in range(7)]
    rows = render(Examples.from_records(empty), byte_bpe)
    found = audit(rows, byte_bpe)
    assert found.outcomes == {"no_trained_tokens": 7}
    assert len(found.set_aside["no_trained_tokens"]) == 5
    assert found.set_aside["no_trained_tokens"][0] == f"{rows.ids[0]}: the response is empty"
    assert (found.trained_token_share, found.lengths) == (None, ())


@pytest.mark.parametrize("name", ["byte_bpe", "sentence_piece"])
def test_shown_tokens_are_the_row(request: pytest.FixtureRequest, name: str) -> None:
    """The pieces joined are the row's text, and the trained ones its response with the end."""
    tokenizer = request.getfixturevalue(name)
    row = render(load_examples(ROWS), tokenizer)[0]
    shown = show_row(row, tokenizer)
    assert len(shown) == len(row.input_ids)
    assert "".join(text for text, _ in shown) == tokenizer.decode(row.input_ids)
    trained = "".join(text for text, is_trained in shown if is_trained)
    assert trained.strip().startswith("sure")
    assert trained.endswith(tokenizer.eos_token)
