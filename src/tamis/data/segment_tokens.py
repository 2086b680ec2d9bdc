"""Text segments -> token ids, so that concatenation keeps every segment's border.

Each segment is tokenised on its own: no token can then straddle the border between prompt and
response, whatever the tokenizer merges. Tokenizers that put a blank before every text (as
SentencePiece does) would put one inside the row; for them a segment is tokenised behind the end of
the text before it, and only the tokens of the segment itself are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_WORD = re.compile(r"\s*\S+\s*")


class SegmentTokenizer:
    """A tokenizer for the parts of a row.

    Args:
        tokenizer: Any Hugging Face tokenizer, fast or slow.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        self._starts_with_blank = tokenizer.is_fast and any(
            self._plain([f"\n{word}"])[0][-len(alone) :] != alone
            for word in ("a", "Sure")
            if (alone := self._plain([word])[0])
        )

    def encode(self, segments: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Tokenise segments without adding special tokens.

        Args:
            segments: (text before it in the same row, the segment) pairs.

        Returns:
            The ids of each segment, in order.
        """
        if not self._starts_with_blank:
            return self._plain([text for _, text in segments])
        ends = [self._end_of(before) for before, _ in segments]
        texts = [end + text for end, (_, text) in zip(ends, segments, strict=True)]
        ids, offsets = self._with_offsets(texts)
        kept = []
        for end, (_, text), row, spans in zip(ends, segments, ids, offsets, strict=True):
            border = next((k for k, span in enumerate(spans) if span[1] > len(end)), len(row))
            clean = all(span[0] >= len(end) for span in spans[border:])
            # A token over the border: the blank of the text start is then part of the first word,
            # as in any text that starts there.
            kept.append(row[border:] if clean else self._plain([text])[0])
        return kept

    def place_after(self, text: str, n_tokens: int) -> tuple[int, int]:
        """Find the character at which the first `n_tokens` tokens of a text end.

        Args:
            text: Not empty.
            n_tokens: At least 1.

        Returns:
            The place, in 1..len(text), and how many tokens stand before it; the end of the text
            and all its tokens when there are no more than that.
        """
        if not self._tokenizer.is_fast:
            return self._place_by_words(text, n_tokens)
        spans = self._with_offsets([text])[1][0]
        if n_tokens >= len(spans):
            return len(text), len(spans)
        return max(1, spans[n_tokens][0]), n_tokens

    def _place_by_words(self, text: str, n_tokens: int) -> tuple[int, int]:
        """Estimate the place from whole words where the tokenizer keeps no offsets."""
        words = list(_WORD.finditer(text))
        n_all = len(self._plain([text])[0])
        dropped = max(1, round(len(words) * n_tokens / max(1, n_all)))
        if dropped >= len(words):
            return len(text), n_all
        return words[dropped].start(), n_tokens

    def _end_of(self, before: str) -> str:
        special = next((token for token in self._special if before.endswith(token)), None)
        return special if special is not None else before[-1:]

    def _plain(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def _with_offsets(
        self, texts: list[str]
    ) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        if not texts:
            return [], []
        found = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False,
            return_offsets_mapping=True,
        )  # fmt: skip
        return found["input_ids"], found["offset_mapping"]
