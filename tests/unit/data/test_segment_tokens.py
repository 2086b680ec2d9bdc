"""Segments -> ids, without a token over a border and without stray blanks."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.data.segment_tokens import SegmentTokenizer


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text


SEGMENTS = [("", "hello one\n"), ("hello one\n", "Sure, here is"), ("here is", " two"), ("x", "")]


@pytest.mark.parametrize("name", ["byte_bpe", "sentence_piece"])
def test_segments_together_are_the_text(request: pytest.FixtureRequest, name: str) -> None:
    """The joined ids decode to the joined text: no blank is added at a border, none is lost."""
    tokenizer = request.getfixturevalue(name)
    ids = SegmentTokenizer(tokenizer).encode(SEGMENTS)
    joined = [token for segment in ids for token in segment]
    assert _decode(tokenizer, joined) == "hello one\nSure, here is two"


def test_a_merged_blank_stays_with_its_segment(byte_bpe: Any) -> None:
    """Byte-level BPE merges " sure" to one token; a border after the blank is kept all the same."""
    joint = byte_bpe("hello sure", add_special_tokens=False)["input_ids"]
    split = SegmentTokenizer(byte_bpe).encode([("", "hello "), ("hello ", "sure")])
    assert joint[-1] not in split[1]
    assert _decode(byte_bpe, split[1]) == "sure"


def test_no_blank_is_put_before_an_inner_segment(sentence_piece: Any) -> None:
    """A tokenizer that puts a blank before every text does not put one inside the row."""
    alone = sentence_piece("Sure", add_special_tokens=False)["input_ids"]
    inside = SegmentTokenizer(sentence_piece).encode([("hello\n", "Sure")])[0]
    assert sentence_piece.convert_ids_to_tokens(alone)[0].startswith("▁")
    assert not sentence_piece.convert_ids_to_tokens(inside)[0].startswith("▁")


def test_the_end_of_the_text_before_may_be_a_special_token(sentence_piece: Any) -> None:
    """After a special token a segment starts as the tokenizer has it there."""
    joint = sentence_piece("</s>Sure", add_special_tokens=False)["input_ids"]
    inside = SegmentTokenizer(sentence_piece).encode([("x</s>", "Sure")])[0]
    assert inside == joint[1:]


def test_nothing_is_no_tokens(any_tokenizer: Any) -> None:
    """No segments give no ids, and an empty segment gives an empty list."""
    segments = SegmentTokenizer(any_tokenizer)
    assert segments.encode([]) == []
    assert segments.encode([("x", "")]) == [[]]


def test_place_after_is_a_token_border(byte_bpe: Any) -> None:
    """What follows the place has exactly the first n tokens fewer."""
    segments = SegmentTokenizer(byte_bpe)
    text = "hello world sure here is the answer"
    ids = segments.encode([("", text)])[0]
    place, taken = segments.place_after(text, 3)
    assert taken == 3
    assert segments.encode([("x", text[place:])])[0] == ids[3:]


def test_place_after_all_tokens_is_the_end(any_tokenizer: Any) -> None:
    """Asked for more tokens than there are, the whole text goes."""
    segments = SegmentTokenizer(any_tokenizer)
    n = len(segments.encode([("", "hello world")])[0])
    assert segments.place_after("hello world", n + 5) == (11, n)


def test_place_after_moves_on_inside_a_character(byte_bpe: Any) -> None:
    """A character of several byte tokens is cut as a whole, and at least one goes."""
    assert SegmentTokenizer(byte_bpe).place_after("\U0001f600x", 1)[0] == 1


def test_a_tokenizer_without_offsets_loses_whole_words(letters: Any) -> None:
    """Without offsets the share of the text is taken in words, at least one."""
    segments = SegmentTokenizer(letters)
    assert segments.encode([("", "ab")])[0] == [65, 66]
    assert segments.place_after("aa bb cc dd", 1)[0] == 3
    assert segments.place_after("aa bb cc dd", 6)[0] == 6
    assert segments.place_after("aa bb cc dd", 11) == (11, 11)
    assert segments.place_after("aaaa", 1)[0] == 4
