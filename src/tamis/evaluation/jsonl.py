"""Strict JSONL for small files that a person wrote: labels, prompts, pairs.

Fine-tuning data is read leniently (bad records go to quarantine). These files decide what a result
means, so the first bad line stops the program and is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.errors import DataError, DuplicateIdError

_SHOWN_CHARACTERS = 60  # of an offending value in a message


@dataclass(frozen=True, slots=True)
class Line:
    """One object of a JSONL file and where it stood, for messages.

    Attributes:
        file: The file's name as the user gave it.
        number: 1-based line number.
        fields: The object.
    """

    file: str
    number: int
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The place in the user's words."""
        return f"{self.file}, line {self.number}"

    def text(self, key: str) -> str:
        """Return a text field.

        Raises:
            DataError: It is missing, blank, not text, or text that UTF-8 cannot hold.
        """
        value = self.fields.get(key)
        if value is None:
            found = ", ".join(map(repr, self.fields)) or "no key"
            raise DataError(f"{self.where}: {key!r} is missing. Found: {found}.")
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {key!r} must be text, not {_shown(value)}.")
        if not value.strip():
            raise DataError(f"{self.where}: {key!r} is empty. Write its text or drop the line.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self.where}: {key!r} holds half of a surrogate pair at character "
                f"{error.start}, which is no character. Repair the \\u escapes."
            ) from error
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a text field, None where it is absent or null."""
        return None if self.fields.get(key) is None else self.text(key)

    def identifier(self, key: str) -> str:
        """Return an id as text; a whole number is taken as its digits.

        Raises:
            DataError: It is missing, or neither text nor a whole number.
        """
        value = self.fields.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(key)


def read_lines(path: str | Path) -> Iterator[Line]:
    """Read a JSONL file of objects; blank lines and a byte order mark are passed over.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or a line is not a JSON object.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {number}: not UTF-8 (byte {error.start} of the file). Save it as UTF-8."
        ) from error
    # Not splitlines(): it also splits at U+2028 and its like, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not JSON ({error}). One object per line is expected."
            ) from error
        if not isinstance(value, dict):
            raise DataError(
                f"{path}, line {number}: {_shown(value)} where an object ({{...}}) is expected. "
                "JSONL holds one object per line."
            )
        yield Line(str(path), number, value)


def unique_ids(lines: Iterable[tuple[str, Line]]) -> None:
    """Check that no id occurs twice.

    Raises:
        DuplicateIdError: Names the id and both places.
    """
    first: dict[str, Line] = {}
    for identifier, line in lines:
        earlier = first.setdefault(identifier, line)
        if earlier is not line:
            raise DuplicateIdError(
                f"{line.where}: id {identifier!r} was already used in line {earlier.number}. "
                "Ids must be unique within the file."
            )


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
