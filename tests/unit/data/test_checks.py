"""What every conversation must hold."""

from __future__ import annotations

import pytest

from tamis.data.checks import BadRecordError, check_characters, check_not_empty, check_order
from tamis.data.example import Message, Role

S, U, A = "system", "user", "assistant"


def _turns(*roles: Role) -> list[Message]:
    return [Message(role, "text") for role in roles]


@pytest.mark.parametrize("roles", [(U, A), (S, U, A), (U, A, U, A), (S, U, A, U, A)])
def test_alternating_turns_pass(roles: tuple[Role, ...]) -> None:
    """An optional system turn, then user and assistant in alternation, is a conversation."""
    check_order(_turns(*roles))


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ((A, U), "assistant speaks first"),
        ((S, A), "assistant speaks first"),
        ((U, A, A), "two assistant turns"),
        ((U, U, A), "two user turns"),
        ((U, S, A), "system turn stands after"),
        ((S, S, U, A), "system turn stands after"),
        ((U,), "no assistant turn"),
        ((S, U), "no assistant turn"),
        ((), "no assistant turn"),
        ((U, A, U), "it has no answer"),
    ],
)
def test_other_orders_are_refused(roles: tuple[Role, ...], reason: str) -> None:
    """Every other order is refused as kind roles, with what is out of order."""
    with pytest.raises(BadRecordError, match=reason) as caught:
        check_order(_turns(*roles))
    assert caught.value.kind == "roles"


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
@pytest.mark.parametrize("role", [U, A])
def test_turns_without_text_are_refused(role: Role, blank: str) -> None:
    """A user or assistant turn of nothing but white space is a schema fault."""
    with pytest.raises(BadRecordError, match=f"turn 1 \\({role}\\) is empty") as caught:
        check_not_empty([Message(role, blank)])
    assert caught.value.kind == "schema"


def test_an_empty_system_turn_is_kept() -> None:
    """An empty system turn means "no system prompt", which templates know."""
    check_not_empty([Message("system", "")])


@pytest.mark.parametrize(
    ("text", "reason"), [("a\0", "NUL character at 1"), ("\ud800", r"U\+D800")]
)
def test_characters_that_no_file_takes_are_refused(text: str, reason: str) -> None:
    """NUL and lone surrogates are refused as kind text."""
    with pytest.raises(BadRecordError, match=reason) as caught:
        check_characters(text, "turn 1")
    assert caught.value.kind == "text"


def test_other_control_characters_are_kept() -> None:
    """Marks of writing direction, zero-width blanks, tabs and emoji are text."""
    check_characters("\u202e\u200b\t\x1b\U0001f600", "turn 1")
