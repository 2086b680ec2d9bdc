"""Any file, folder, hub id, Dataset or list -> `Examples`, with bad records named and counted."""

from __future__ import annotations

import collections
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from tamis.data.checks import BadRecordError
from tamis.data.example import Examples, LoadReport, ParsedRow
from tamis.data.formats import Side, parse_record
from tamis.data.hub import (
    is_saved_dataset,
    load_from_hub,
    load_saved,
    looks_like_hub_id,
    single_split,
)
from tamis.data.raw_records import BadRecord, RawRecord, file_name, record_text
from tamis.data.records import DataFiles, find_files, iterate_records
from tamis.errors import ConfigError, DataError

if TYPE_CHECKING:
    import datasets

_FIELDS = ("messages", "prompt", "input", "response", "system", "id")
_NAMED_BAD_RECORDS = 5  # bad records told in words; the others are in the quarantine file


class DataConfig(pydantic.BaseModel):
    """How records are understood."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    fields: dict[str, str] | None = None
    """Column for any of messages, prompt, input, response, system, id. With `messages`, or
    `prompt` and `response`, it replaces the recognition of formats."""
    side: Side | None = None
    """Which answer of chosen/rejected pairs is the row's answer; needed for such data."""
    on_bad_row: Literal["quarantine", "fail"] = "quarantine"
    """Leave bad records out and count them, or stop at the first."""

    @pydantic.field_validator("fields")
    @classmethod
    def _known_and_whole(cls, fields: dict[str, str] | None) -> dict[str, str] | None:
        if fields is None:
            return None
        unknown = [name for name in fields if name not in _FIELDS]
        if unknown:
            raise ValueError(f"fields.{unknown[0]} is unknown; known are {', '.join(_FIELDS)}")
        parts = {"prompt", "response", "input"} & fields.keys()
        if "messages" in fields and parts:
            raise ValueError(f"fields.messages excludes fields.{min(parts)}: give one of them")
        if parts and not {"prompt", "response"} <= fields.keys():
            raise ValueError("fields needs both prompt and response")
        return fields


def load_examples(
    source: str | Path | Sequence[Mapping[str, Any]] | datasets.Dataset,
    config: DataConfig | None = None,
    *,
    quarantine: Path | None = None,
    rows: Sequence[str] | None = None,
) -> Examples:
    """Load fine-tuning rows.

    Args:
        source: A file (JSONL, JSON, CSV, TSV, Parquet; .gz of the text ones), a folder of such
            files, a hub id ("owner/name", "owner/name:split", "owner/name:config:split"), a
            `datasets.Dataset`, or a list of records.
        config: How records are understood; None for the defaults.
        quarantine: File that bad records are appended to, one JSON object {file, line, kind,
            reason, raw} per line. None: they are counted and the first few named in the report.
        rows: Keep only these rows, by id or by source id.

    Returns:
        The rows in reading order. `load_report` counts what was read, left out and repeated.

    Raises:
        DataError: A file as a whole cannot be read, no row could be loaded, or a bad record was
            met under `on_bad_row="fail"`.
        ConfigError: Pairs without a side, or several splits and none named.
        MismatchError, DuplicateIdError: See `Examples.restrict`.
    """
    config = config or DataConfig()
    counts = _Counts()
    records, files = _open_source(source)
    name = _in_words(source)
    with _quarantine_file(quarantine) as bad_rows:
        examples = Examples.from_records(_parsed(records, config, counts, bad_rows, name))
    report = LoadReport(
        n_read=len(examples) + counts.n_bad,
        n_loaded=len(examples),
        n_quarantined=counts.n_bad,
        by_kind=dict(counts.by_kind),
        first_bad=tuple(counts.first_bad),
        by_format=dict(counts.by_format),
        n_repeated_rows=examples.load_report.n_repeated_rows,
        n_repeated_source_ids=examples.load_report.n_repeated_source_ids,
        files=tuple(file_name(path) for path in files.read),
        ignored_files=files.ignored,
        quarantine=str(quarantine) if quarantine is not None and counts.n_bad else None,
    )
    if not len(examples):
        reasons = "".join(f"\n  {reason}" for reason in report.first_bad)
        raise DataError(
            f"0 rows loaded from {name}: it holds no record"
            + (f" that can be used; all {counts.n_bad:,} are bad:{reasons}" if reasons else "")
            + ("\nGive data in a known format, or a field mapping." if reasons else ". Check it.")
        )
    examples.load_report = report
    return examples if rows is None else examples.restrict(rows)


class _Counts:
    """What was met while records were parsed."""

    def __init__(self) -> None:
        self.by_kind: collections.Counter[str] = collections.Counter()
        self.by_format: collections.Counter[str] = collections.Counter()
        self.first_bad: list[str] = []

    @property
    def n_bad(self) -> int:
        return self.by_kind.total()

    def add_bad(self, bad: BadRecord) -> None:
        self.by_kind[bad.kind] += 1
        if len(self.first_bad) < _NAMED_BAD_RECORDS:
            self.first_bad.append(str(bad))


def _parsed(
    records: Iterable[RawRecord | BadRecord], config: DataConfig, counts: _Counts,
    bad_rows: _BadRows, name: str,
) -> Iterator[ParsedRow]:  # fmt: skip
    for record in records:
        row = record if isinstance(record, BadRecord) else _parse(record, config, counts, name)
        if isinstance(row, ParsedRow):
            yield row
            continue
        counts.add_bad(row)
        if config.on_bad_row == "fail":
            raise DataError(
                f"{row}. Correct it, or set on_bad_row=quarantine (--on-bad-row quarantine) to "
                "leave such records out and count them."
            )
        bad_rows.add(row)


def _parse(
    record: RawRecord, config: DataConfig, counts: _Counts, name: str
) -> ParsedRow | BadRecord:
    def bad(kind: str, reason: str, raw: str) -> BadRecord:
        return BadRecord(record.file, record.line, kind, reason, raw)

    try:
        raw = record.raw if record.raw is not None else record_text(record.value)
    except (RecursionError, TypeError, ValueError) as error:
        return bad("json", f"the record cannot be written as JSON: {error}", "")
    try:
        found = parse_record(record.value, fields=config.fields, side=config.side)
    except BadRecordError as error:
        return bad(error.kind, error.reason, raw)
    except ConfigError as error:
        raise ConfigError(f"{record.file or name}: {error}") from error
    counts.by_format[found.format] += 1
    return ParsedRow(found.messages, found.source_id, raw, record.file, record.line)


class _BadRows:
    """The quarantine file, made when the first bad record arrives."""

    def __init__(self, path: Path | None, stack: contextlib.ExitStack) -> None:
        self._path = path
        self._stack = stack
        self._stream: Any = None

    def add(self, bad: BadRecord) -> None:
        if self._path is None:
            return
        if self._stream is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._stack.enter_context(self._path.open("a", encoding="utf-8"))
        line = {
            "file": bad.file, "line": bad.line, "kind": bad.kind, "reason": bad.reason,
            "raw": bad.raw,
        }  # fmt: skip
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _quarantine_file(path: Path | None) -> Iterator[_BadRows]:
    with contextlib.ExitStack() as stack:
        yield _BadRows(path, stack)


def _open_source(source: Any) -> tuple[Iterator[RawRecord | BadRecord], DataFiles]:
    no_files = DataFiles((), ())
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir() and is_saved_dataset(path):
            return _numbered(load_saved(path)), DataFiles((path,), ())
        if not path.exists() and isinstance(source, str) and looks_like_hub_id(source):
            return _numbered(load_from_hub(source)), no_files
        files = find_files(path)
        return (record for file in files.read for record in iterate_records(file)), files
    if hasattr(source, "column_names") or isinstance(source, dict):  # Dataset, DatasetDict
        return _numbered(single_split(source, "the DatasetDict")), no_files
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        return _numbered(source), no_files
    raise ConfigError(
        f"fine-tuning data cannot be a {type(source).__name__}: give a path, a hub id, a "
        "datasets.Dataset or a list of records."
    )


def _numbered(rows: Iterable[Any]) -> Iterator[RawRecord]:
    return (RawRecord(row, None, number) for number, row in enumerate(rows, start=1))


def _in_words(source: Any) -> str:
    if isinstance(source, str | Path):
        return str(source)
    return f"the {type(source).__name__} given"
