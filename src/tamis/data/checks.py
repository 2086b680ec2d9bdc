"""What every conversation must hold, whatever format it came in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from tamis.data.example import Message
from tamis.data.raw_records import ObjectWithRepeatedKey


class BadRecordError(Exception):
    """A record that cannot be used; caught by the loader, which quarantines the record.

    Args:
        kind: "schema" (keys or types), "roles" (order of turns) or "text" (characters).
        reason: What is wrong and, where short, what would be right.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def check_not_empty(turns: Sequence[Message]) -> None:
    """Refuse turns without text (a system turn may be empty) and text that cannot be encoded.

    Raises:
        BadRecordError: Kind "schema" or "text"; names the turn.
    """
    for i, turn in enumerate(turns):
        if not turn.content.strip() and turn.role != "system":
            raise BadRecordError("schema", f"turn {i + 1} ({turn.role}) is empty")
        check_characters(turn.content, f"turn {i + 1} ({turn.role})")


def check_characters(text: str, where: str) -> None:
    """Refuse text that no tokenizer and no file takes: NUL and lone surrogates.

    Raises:
        BadRecordError: Kind "text"; names the character and its place.
    """
    if "\0" in text:
        raise BadRecordError("text", f"{where} holds a NUL character at {text.index(chr(0))}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(
            "text",
            f"{where} holds half a surrogate pair (U+{ord(text[error.start]):04X}) at "
            f"{error.start}",
        ) from None


def check_order(turns: Sequence[Message]) -> None:
    """Refuse any order of turns but [system] (user assistant)+.

    Raises:
        BadRecordError: Kind "roles"; says what is out of order.
    """
    roles = [turn.role for turn in turns]
    if "system" in roles[1:]:
        raise BadRecordError("roles", "a system turn stands after other turns")
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in talk:
        raise BadRecordError("roles", "there is no assistant turn to train on")
    if talk[0] == "assistant":
        raise BadRecordError("roles", "the assistant speaks first; a user turn must come before")
    for before, after in itertools.pairwise(talk):
        if before == after:
            raise BadRecordError("roles", f"two {before} turns in a row")
    if talk[-1] == "user":
        raise BadRecordError("roles", "the last turn is the user's: it has no answer")


def is_missing(value: object) -> bool:
    """Whether a value stands for nothing: null, or the NaN that table tools write for it."""
    return value is None or (isinstance(value, float) and value != value)


def keys_in_words(row: Iterable[object]) -> str:
    """List the fields of a record for a message."""
    return ", ".join(repr(str(key)) for key in row) or "no fields"


def type_in_words(value: object) -> str:
    """Name the JSON type of a value for a message, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, ObjectWithRepeatedKey):
        return f"an object with the key {value.key!r} twice"
    if isinstance(value, dict):
        return "an object"
    return {"list": "a list", "str": "a text"}.get(kind := type(value).__name__, f"a {kind}")
