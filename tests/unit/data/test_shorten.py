"""Shortening prompts; here a token is a character and the template prints "<text>" per turn."""

from __future__ import annotations

from tamis.data.example import Message
from tamis.data.shorten import ShortPrompt, shorten_prompt

TURNS = [
    Message("system", "sss"),
    Message("user", "abcd"),
    Message("assistant", "efgh"),
    Message("user", "ijkl"),
    Message("assistant", "answer"),
]


def _shorten(max_tokens: int, *, printed: range = range(4)) -> ShortPrompt | None:
    def count(turns: list[Message], cut: frozenset[int]) -> int:
        return sum(2 + len(turns[i].content) for i in printed)

    def place(text: str, n: int) -> tuple[int, int]:
        return min(n, len(text)), min(n, len(text))

    return shorten_prompt(TURNS, 4, max_tokens=max_tokens, count=count, place=place)


def _texts(short: ShortPrompt | None) -> list[str]:
    assert short is not None
    return [message.content for message in short.messages]


def test_a_prompt_that_fits_is_untouched() -> None:
    """3 + 3 * 4 characters and 4 headers of 2 are 23 tokens, which fit in 23."""
    short = _shorten(23)
    assert _texts(short) == [m.content for m in TURNS]
    assert short is not None
    assert short.cut == frozenset()


def test_the_oldest_turn_loses_text_from_the_left() -> None:
    """Three tokens too many are the first three of the first user turn."""
    short = _shorten(20)
    assert _texts(short) == ["sss", "d", "efgh", "ijkl", "answer"]
    assert short is not None
    assert short.cut == {1}


def test_the_next_turn_follows_when_one_is_empty() -> None:
    """Six tokens too many empty the first user turn and take two of the answer to it."""
    assert _texts(_shorten(17)) == ["sss", "", "gh", "ijkl", "answer"]


def test_the_system_turn_and_headers_stay() -> None:
    """Everything else may go: 3 + 4 * 2 = 11 tokens are the least."""
    assert _texts(_shorten(11)) == ["sss", "", "", "", "answer"]


def test_headers_that_do_not_fit_have_no_solution() -> None:
    """With room for 10 of 11 tokens there is nothing left to cut."""
    assert _shorten(10) is None


def test_turns_that_the_template_hides_do_not_stop_it() -> None:
    """A template that prints only the last question, "<ijkl>", loses no more of it than needed.

    The hidden turns go first, without effect; then one of its 6 tokens is too many for 5.
    """
    assert _texts(_shorten(5, printed=range(3, 4))) == ["sss", "", "", "jkl", "answer"]
