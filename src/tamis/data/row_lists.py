"""Lists of rows that a user names: by tamis id or by the user's own ids, never by position."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tamis.errors import DataError, DuplicateIdError, MismatchError

NAMED_IN_ERRORS = 5  # rows that a message names before it only counts


class HasIds(Protocol):
    """Anything with one id and one source id per row, in row order."""

    @property
    def ids(self) -> list[str]:
        """One unique id per row."""

    @property
    def source_ids(self) -> list[str | None]:
        """The user's own id per row, None where there is none; may repeat."""


def name_some(values: Iterable[object]) -> str:
    """Join the first five values for a message and count the rest."""
    listed = [str(value) for value in values]
    shown = ", ".join(listed[:NAMED_IN_ERRORS])
    rest = len(listed) - NAMED_IN_ERRORS
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def resolve_ids(rows: HasIds, wanted: Sequence[str]) -> list[str]:
    """Translate ids or source ids to ids.

    All of `wanted` must be of one kind. Ids are tried first.

    Args:
        rows: The rows that are meant (`Examples`, `Scores`, ...).
        wanted: Ids, or source ids; may repeat.

    Returns:
        One id for each of `wanted`, in the same order.

    Raises:
        MismatchError: Some are neither, or the two kinds are mixed (names up to five).
        DuplicateIdError: A wanted source id belongs to several rows.
    """
    ids = set(rows.ids)
    if all(name in ids for name in wanted):
        return list(wanted)
    by_source: dict[str, list[str]] = collections.defaultdict(list)
    for row_id, source_id in zip(rows.ids, rows.source_ids, strict=True):
        if source_id is not None:
            by_source[source_id].append(row_id)
    not_source = [name for name in wanted if name not in by_source]
    if not_source:
        unknown = [name for name in not_source if name not in ids]
        if not unknown:
            raise MismatchError(
                f"ids and source ids are mixed: {name_some(not_source)} are ids, the others are "
                "the data's own ids. Name all rows in one way."
            )
        raise MismatchError(
            f"{len(unknown):,} of {len(wanted):,} named rows are not in the data: "
            f"{name_some(unknown)}. The data has {len(ids):,} rows with ids such as "
            f"{name_some(rows.ids[:1]) or '(none)'} and own ids such as "
            f"{next(iter(by_source), '(none)')}. Was the list made for another file?"
        )
    repeated = list(dict.fromkeys(name for name in wanted if len(by_source[name]) > 1))
    if repeated:
        raise DuplicateIdError(
            f"{len(repeated):,} of the data's own ids belong to several rows: "
            f"{name_some(repeated)}. A join by them would be ambiguous: make them unique, or join "
            "by the ids that `tamis inspect` and scores.parquet show."
        )
    return [by_source[name][0] for name in wanted]


def read_row_list(path: str | Path) -> list[str]:
    """Read the rows that a user wants: a JSON list, an object with `ids`, or one id per line.

    Args:
        path: A small UTF-8 file.

    Returns:
        The ids (or source ids) as text, in file order; may repeat.

    Raises:
        DataError: The file cannot be read, holds none, or holds something else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the list of rows {path} cannot be read ({error}). Give a UTF-8 text or JSON file."
        ) from error
    if text.lstrip()[:1] in {"[", "{"}:
        names = _from_json(path, text)
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"the list of rows {path} is empty: name at least one row.")
    return names


def _from_json(path: Path, text: str) -> list[str]:
    wrong = f"the list of rows {path} is not a list of ids: give"
    forms = 'a JSON list, {"ids": [...]}, or one id per line.'
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{wrong} {forms} (JSON: {error})") from error
    if isinstance(value, dict):
        value = value.get("ids")
    if not isinstance(value, list):
        raise DataError(f"{wrong} {forms}")
    odd = [v for v in value if isinstance(v, bool) or not isinstance(v, str | int)]
    if odd:
        raise DataError(f"{wrong} texts or whole numbers, not {name_some(map(repr, odd))}.")
    return [str(v) for v in value]
