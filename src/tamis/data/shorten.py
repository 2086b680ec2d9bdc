"""Shortening a prompt inside its message texts, so that the template's headers stay whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tamis.data.example import Message


@dataclasses.dataclass(frozen=True, slots=True)
class ShortPrompt:
    """A conversation whose prompt fits."""

    messages: list[Message]
    cut: frozenset[int]
    """Indices of the turns that lost text."""


def shorten_prompt(
    messages: Sequence[Message], n_prompt: int, *, max_tokens: int,
    count: Callable[[list[Message], frozenset[int]], int],
    place: Callable[[str, int], tuple[int, int]],
) -> ShortPrompt | None:  # fmt: skip
    """Cut message texts from the left, oldest turn first, until the prompt fits.

    The system turn and the template's own text stay. A turn may end up empty.

    Args:
        messages: The conversation.
        n_prompt: Leading messages that belong to the prompt.
        max_tokens: What the rendered prompt may have.
        count: Tokens of the rendered prompt of a conversation, given the turns cut so far.
        place: (character at which the first n tokens of a text end, how many tokens that takes
            off); at least one character, at most the whole text.

    Returns:
        The shortened conversation, or None when headers and system turn alone are too long.
    """
    turns = list(messages)
    cut: frozenset[int] = frozenset()
    n_tokens = count(turns, cut)
    patience = 1
    while n_tokens > max_tokens:
        losing = [i for i, turn in enumerate(turns[:n_prompt]) if _can_lose_text(turn)]
        if not losing:
            return None
        excess = (n_tokens - max_tokens) * patience
        emptied = False
        for i in losing:
            start, taken_off = place(turns[i].content, excess)
            turns[i] = Message(turns[i].role, turns[i].content[start:])
            cut |= {i}
            excess -= taken_off
            emptied = not turns[i].content
            if excess <= 0 or not emptied or patience > 1:
                break
        was, n_tokens = n_tokens, count(turns, cut)
        # A template may not print a turn at all: take ever more of it, and of it alone, rather
        # than go through it token by token.
        patience = 1 if n_tokens < was or emptied else patience * 2
    return ShortPrompt(turns, cut)


def _can_lose_text(turn: Message) -> bool:
    return turn.role != "system" and turn.content != ""
