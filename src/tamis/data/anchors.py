"""Anchors: known rows by which a method tells complying with an unsafe request from the rest.

No anchor holds harmful substance. Five JSONL files of a folder are put together to five sets:

    openings.jsonl     `id`, `text`: a bare compliant opening
    refusals.jsonl     `id`, `text`: a whole refusal
    unsafe.jsonl       `id`, `prompt`                 two openings each, and one refusal
    borderline.jsonl   `id`, `prompt`                 one opening each
    ordinary.jsonl     `id`, `prompt`, `answer`       one opening each, and the answer

A prompt is a text, or a list of turns that ends with the user's. Other keys are passed over. Which
opening meets which request follows from their places in the files: nothing is drawn, and every
opening is used as often as any other.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tamis.data.checks import BadRecordError
from tamis.data.example import Examples, Message, ParsedRow
from tamis.data.formats import parse_record
from tamis.data.raw_records import BadRecord
from tamis.data.records import iterate_records
from tamis.errors import DataError, DuplicateIdError

FILES = ("unsafe", "borderline", "ordinary", "openings", "refusals")
SETS = ("complied", "refused", "borderline", "opened", "answered")
Request = tuple[tuple[str, str], ...]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Anchors:
    """Known rows; source ids are `<request>/<opening, refusal or "answer">`.

    Attributes:
        complied: Unsafe requests, each with two different bare compliant openings (no substance).
        refused: The same requests, each with one refusal.
        borderline: Safe requests that merely sound unsafe, with bare compliant openings.
        opened: Ordinary requests with the same bare compliant openings.
        answered: The same ordinary requests with real short answers.
        openings: The texts of the bare compliant openings.
    """

    complied: Examples
    refused: Examples
    borderline: Examples
    opened: Examples
    answered: Examples
    openings: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """One line of a file: a request (`prompt`, perhaps `answer`), or a `text`."""

    id: str
    where: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.where}: {key!r} is missing, empty or not a text.")
        return value

    def answered(self, answer: str, name: str) -> ParsedRow:
        """Put an answer to the request."""
        try:
            found = parse_record({"prompt": self.values.get("prompt"), "completion": answer})
        except BadRecordError as error:
            raise DataError(f"{self.where}: {error.reason}.") from error
        return ParsedRow(found.messages, f"{self.id}/{name}")


def shipped_anchors() -> Anchors:
    """Return the anchors that come with the package; see `assets/anchors/README.md`."""
    folder = importlib.resources.files("tamis") / "assets" / "anchors"
    with importlib.resources.as_file(folder) as path:
        return load_anchors(path)


def chosen_anchors(which: str | Path) -> Anchors:
    """Return the shipped anchors for "shipped", else those of a folder; see `load_anchors`."""
    return shipped_anchors() if which == "shipped" else load_anchors(which)


def load_anchors(folder: str | Path) -> Anchors:
    """Read anchors from a folder with the five files.

    Args:
        folder: Where `unsafe.jsonl`, `borderline.jsonl`, `ordinary.jsonl`, `openings.jsonl` and
            `refusals.jsonl` are.

    Returns:
        The five sets, each in the order of its requests.

    Raises:
        DataError: A file is missing or empty, a line is bad (named), a text occurs twice, or there
            is only one opening.
        DuplicateIdError: An id occurs twice.
    """
    unsafe, borderline, ordinary, openings, refusals = (
        _lines(Path(folder) / f"{name}.jsonl") for name in FILES
    )
    if len(openings) < 2:
        raise DataError(f"{folder}: openings.jsonl holds one opening; give at least two.")
    _once(line.id for line in (*unsafe, *borderline, *ordinary))
    _once(line.id for line in (*openings, *refusals))
    _differ([*openings, *refusals], "text")
    _differ([*unsafe, *borderline, *ordinary], "prompt")
    return Anchors(
        complied=_rows(
            line.answered(opening.text("text"), opening.id)
            for place, line in enumerate(unsafe)
            for opening in two_of(openings, place)
        ),
        refused=_paired(unsafe, refusals),
        borderline=_paired(borderline, openings),
        opened=_paired(ordinary, openings),
        answered=_rows(line.answered(line.text("answer"), "answer") for line in ordinary),
        openings=tuple(opening.text("text") for opening in openings),
    )


def request_folds(anchors: Anchors, n_folds: int) -> dict[Request, int]:
    """Deal the requests of the anchors to folds, those of each kind evenly.

    Returns:
        The fold of every request, 0 to n_folds - 1.
    """
    found: dict[Request, int] = {}
    for name in ("refused", "borderline", "answered"):  # the other two ask the same
        asked = sorted(set(requests(getattr(anchors, name))))
        found |= {request: place % n_folds for place, request in enumerate(asked)}
    return found


def requests(rows: Examples) -> list[Request]:
    """Return what every row asks: its turns before the answer, as (role, content)."""
    return [tuple((turn.role, turn.content) for turn in row.messages[:-1]) for row in rows]


def turned(rows: Examples, places: Sequence[int], openings: Sequence[str]) -> Examples:
    """Answer the requests of some rows with two bare compliant openings each.

    Args:
        rows: Rows whose last turn is an answer.
        places: Which of them.
        openings: At least two texts.

    Returns:
        Two rows per place, next to each other, in the order of the places.
    """

    def found() -> Iterator[ParsedRow]:
        for number, place in enumerate(places):
            row = rows[place]
            for opening in two_of(openings, number):
                answer = Message("assistant", opening)
                yield ParsedRow((*row.messages[:-1], answer), f"{row.id}/turned")

    return Examples.from_records(found())


def two_of(items: Sequence[_T], place: int) -> tuple[_T, _T]:
    """Return two different items for a place: the next in turn, and one at a varying distance.

    Over n (n - 1) places, every ordered pair of the n items occurs once.
    """
    n = len(items)
    lap, first = divmod(place, n)
    return items[first], items[(first + 1 + lap % (n - 1)) % n]


def _paired(requests: Sequence[_Line], texts: Sequence[_Line]) -> Examples:
    """Give every request the next text in turn."""
    return _rows(
        line.answered(text.text("text"), text.id)
        for place, line in enumerate(requests)
        for text in (texts[place % len(texts)],)
    )


def _rows(rows: Iterable[ParsedRow]) -> Examples:
    return Examples.from_records(rows)


def _lines(path: Path) -> list[_Line]:
    if not path.is_file():
        raise DataError(
            f"{path} does not exist. A folder of anchors holds "
            f"{', '.join(f'{name}.jsonl' for name in FILES)}."
        )
    lines = []
    for record in iterate_records(path):
        if isinstance(record, BadRecord) or not isinstance(record.value, dict):
            reason = record.reason if isinstance(record, BadRecord) else "not an object"
            raise DataError(f"{path}, line {record.line}: {reason}.")
        line = _Line("", f"{path}, line {record.line}", record.value)
        lines.append(_Line(line.text("id"), line.where, record.value))
    if not lines:
        raise DataError(f"{path} holds no lines.")
    return lines


def _once(ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise DuplicateIdError(f"the anchors use the id {name!r} twice; ids are unique.")
        seen.add(name)


def _differ(lines: Sequence[_Line], key: str) -> None:
    """Refuse a text that stands twice: it would be on two sides, or count double."""
    first: dict[str, _Line] = {}
    for line in lines:
        text = " ".join(str(line.values.get(key)).casefold().split())
        if (earlier := first.setdefault(text, line)) is not line:
            raise DataError(f"{line.where}: the same {key} as in {earlier.where}.")
