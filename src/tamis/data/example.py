"""One fine-tuning row, its id, and a memory-mapped sequence of such rows.

A row's id is a hash of what is trained on (roles and texts) plus an occurrence number, so it stays
the same when other rows are dropped, the file is shuffled, or another tokenizer is used.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tamis.data.arrow_rows import ArrowRows, write_rows
from tamis.data.row_lists import read_row_list as read_row_list
from tamis.data.row_lists import resolve_ids as resolve_ids

if TYPE_CHECKING:
    import datasets

Role = Literal["system", "user", "assistant"]


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedRow:
    """A row as read, before it has an id."""

    messages: tuple[Message, ...]
    source_id: str | None = None
    raw: str = ""
    file: str | None = None
    line: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One fine-tuning row."""

    id: str
    """`<16 hex digits of the content hash>-<occurrence>`; unique in its set."""
    messages: tuple[Message, ...]
    """An optional system turn, then user and assistant turns in alternation."""
    source_id: str | None
    """The user's own id as text; None where the data has none. May repeat."""
    raw: str
    """The user's record as JSON text: the line as it stood for JSONL."""
    file: str | None
    """The file it came from; None for rows given as Python objects."""
    line: int | None
    """Line in the file (JSONL, CSV, TSV) or number of the record (elsewhere), from 1."""


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What happened to the records of one set, in counts."""

    n_read: int = 0
    """Records seen, good or bad; blank lines are none."""
    n_loaded: int = 0
    """Rows in the set."""
    n_quarantined: int = 0
    """Records left out as bad; `n_read` is the sum of the two."""
    by_kind: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Bad records per kind (json, csv, schema, roles, text)."""
    first_bad: tuple[str, ...] = ()
    """The first few bad records in words, each with its file and line."""
    by_format: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Loaded rows per recognised format (messages, alpaca, ...)."""
    n_repeated_rows: int = 0
    """Rows whose whole content occurred before; they are kept."""
    n_repeated_source_ids: int = 0
    """Rows whose own id occurred before; they are kept."""
    files: tuple[str, ...] = ()
    """Files read, in order."""
    ignored_files: tuple[str, ...] = ()
    """Entries of the folder that are no data files."""
    quarantine: str | None = None
    """File that holds the bad records; None when they were only counted or there are none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values, for a manifest."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def content_hash(messages: Sequence[Message]) -> str:
    """Hash what is trained on: 16 hex digits of the SHA-256 of canonical JSON.

    Canonical JSON is the list of [role, content] pairs without spaces, in UTF-8. Text is taken as
    it is: no case folding, no Unicode normalisation.

    Args:
        messages: The turns, in order.

    Returns:
        16 lower-case hex digits.
    """
    pairs = [[message.role, message.content] for message in messages]
    text = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_of(row_id: str) -> str:
    """Return what copies of one row share: the content hash in their ids."""
    return row_id.partition("-")[0]


class Examples(Sequence[Example]):
    """Fine-tuning rows in a memory-mapped temporary file; `examples[i]` costs microseconds.

    Made by `load_examples`, `Examples.from_records` or `restrict`.
    """

    load_report: LoadReport
    """What happened to the records; that of the whole set for a restricted one."""

    def __init__(
        self, rows: ArrowRows, load_report: LoadReport, *, chosen: Sequence[int] | None = None
    ) -> None:
        self._rows = rows
        self._chosen = None if chosen is None else np.asarray(chosen, dtype=np.int64)
        self.load_report = load_report

    @classmethod
    def from_records(
        cls, records: Iterable[ParsedRow], load_report: LoadReport | None = None
    ) -> Examples:
        """Give each record its id and write them all to the temporary file.

        Args:
            records: Checked rows, read once, in order.
            load_report: What is known about them; counts of loaded and repeated rows are added.

        Returns:
            The set, in the same order.

        Raises:
            DataError: The temporary folder is full.
        """
        import pyarrow as pa

        text = pa.string()
        schema = pa.schema(
            {
                "id": text,
                "source_id": text,
                "messages": pa.list_(pa.struct({"role": text, "content": text})),
                "raw": text,
                "file": text,
                "line": pa.int64(),
            }
        )
        seen_content: collections.Counter[str] = collections.Counter()
        seen_source: set[str] = set()
        repeated_source = 0

        def rows() -> Iterator[tuple[dict[str, Any], int]]:
            nonlocal repeated_source
            for record in records:
                content = content_hash(record.messages)
                occurrence = seen_content[content]
                seen_content[content] += 1
                if record.source_id is not None:
                    repeated_source += record.source_id in seen_source
                    seen_source.add(record.source_id)
                turns = [{"role": m.role, "content": m.content} for m in record.messages]
                size = len(record.raw) + sum(len(m.content) for m in record.messages)
                yield {
                    "id": f"{content}-{occurrence}",
                    "source_id": record.source_id,
                    "messages": turns,
                    "raw": record.raw,
                    "file": record.file,
                    "line": record.line,
                }, size  # fmt: skip

        stored = write_rows(schema, rows())
        report = dataclasses.replace(
            load_report or LoadReport(n_read=len(stored)),
            n_loaded=len(stored),
            n_repeated_rows=len(stored) - len(seen_content),
            n_repeated_source_ids=repeated_source,
        )
        return cls(stored, report)

    def __len__(self) -> int:
        return len(self._rows) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        position = operator.index(index)  # refuses slices; `restrict` takes a part
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        stored = position if self._chosen is None else int(self._chosen[position])
        batch, row = self._rows.locate(stored)
        turns = batch.column("messages")[row].as_py()
        return Example(
            id=batch.column("id")[row].as_py(),
            messages=tuple(Message(turn["role"], turn["content"]) for turn in turns),
            source_id=batch.column("source_id")[row].as_py(),
            raw=batch.column("raw")[row].as_py(),
            file=batch.column("file")[row].as_py(),
            line=batch.column("line")[row].as_py(),
        )

    def _column(self, name: str) -> list[Any]:
        import pyarrow as pa

        column = self._rows.column(name)
        if self._chosen is not None:
            column = column.take(pa.array(self._chosen))
        values: list[Any] = column.to_pylist()
        return values

    @functools.cached_property
    def ids(self) -> list[str]:
        """One unique id per row, in order."""
        return self._column("id")

    @functools.cached_property
    def source_ids(self) -> list[str | None]:
        """The user's own id per row, in order; None where there is none."""
        return self._column("source_id")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted ids: the same for any order of the same rows."""
        return hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()

    def restrict(self, ids: Iterable[str]) -> Examples:
        """Return the named rows, in the order they have here, sharing the storage.

        Args:
            ids: Ids, or source ids, all of one kind. Order and repetition do not matter.

        Returns:
            The part; row ids are unchanged.

        Raises:
            MismatchError: A name is unknown (up to five are listed).
            DuplicateIdError: A source id that belongs to several rows is named.
        """
        wanted = set(resolve_ids(self, list(ids)))
        places = range(len(self)) if self._chosen is None else self._chosen
        chosen = [int(p) for p, name in zip(places, self.ids, strict=True) if name in wanted]
        return Examples(self._rows, self.load_report, chosen=chosen)

    def to_dataset(self) -> datasets.Dataset:
        """Return a `datasets.Dataset` with the columns id, source_id and messages."""
        import datasets
        import pyarrow as pa

        table = self._rows.table(["id", "source_id", "messages"])
        if self._chosen is not None:
            table = table.take(pa.array(self._chosen))
        return datasets.Dataset(table)
