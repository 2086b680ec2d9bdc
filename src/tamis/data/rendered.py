"""Rendered rows, kept in a memory-mapped file, with what is known about how they were rendered."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tamis.data.arrow_rows import ArrowRows, write_rows
from tamis.data.chat_format import ChatFormat, adds_bos
from tamis.errors import NoTrainedTokensError

OK = "ok"
TRUNCATED = "truncated"  # prompt or response cut, still trained on
TOO_LONG = "too_long"
NO_TRAINED_TOKENS = "no_trained_tokens"
TEMPLATE_REFUSED = "template_refused"
OUTCOMES = (OK, TRUNCATED, TOO_LONG, NO_TRAINED_TOKENS, TEMPLATE_REFUSED)
USABLE_OUTCOMES = (OK, TRUNCATED)
UNTRAINED = -100  # the label that PyTorch's cross entropy leaves out

_COUNTS = (
    "n_prompt_tokens", "n_response_tokens", "n_trained_tokens", "n_cut_prompt_tokens",
    "n_cut_response_tokens",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class RenderedRow:
    """One row as tokens."""

    id: str
    input_ids: list[int]
    """Prompt and response; empty when the row cannot be trained on."""
    labels: list[int]
    """As long as `input_ids`: the id where it is trained on, else -100. Not shifted."""
    outcome: str
    """One of OUTCOMES; rows with the last three are scored NaN."""
    n_prompt_tokens: int
    """Tokens before the last response; of a row set aside, as many as it would have had."""
    n_response_tokens: int
    """Tokens of the last response with its end token, likewise."""
    n_trained_tokens: int
    """Labels that are not -100."""
    n_cut_prompt_tokens: int
    n_cut_response_tokens: int
    detail: str
    """What was cut or why the row is set aside, in words; empty for ok."""

    @classmethod
    def unusable(
        cls, row_id: str, outcome: str, reason: str, lengths: tuple[int, int] = (0, 0)
    ) -> RenderedRow:
        """Make a row without tokens that says why it has none."""
        return cls(row_id, [], [], outcome, *lengths, 0, 0, 0, reason)


@dataclasses.dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What is known about a chat template with its tokenizer."""

    template: str
    fingerprint: str
    """SHA-256 of template, tokenizer and limits: equal means equal tokens for equal rows."""
    rendering: Mapping[str, Any]
    """What the fingerprint is of: the settings, and SHA-256 of the template's text and the
    tokenizer under `template_text` and `tokenizer`."""
    header_matches: bool | None
    """Whether a response follows the same text in training and generation; None if unknown."""
    notes: tuple[str, ...]
    """What a user should know about it, in sentences."""


def template_facts(
    chat_format: ChatFormat, tokenizer: Any, config: Mapping[str, Any]
) -> TemplateFacts:
    """Collect the facts about a template, with the fingerprint of a rendering under `config`."""
    notes = []
    if chat_format.header_matches is False:
        notes.append(
            "The template puts other text before a response in training than its generation "
            "prompt does: the model is asked in another form than it is trained in."
        )
    prints_bos = any(t in chat_format.template for t in ("bos_token", tokenizer.bos_token or ""))
    if adds_bos(tokenizer) and not prints_bos:
        notes.append(
            f"The tokenizer would add its start token {tokenizer.bos_token!r}, the template "
            "prints none: none is added."
        )
    if tokenizer.eos_token_id is None:
        notes.append("The tokenizer has no end token: responses end as the template ends them.")
    if "strftime_now" in chat_format.template:
        notes.append("The template prints today's date: tokens differ from day to day.")
    text, tokens = chat_format.template, _tokenizer_hash(tokenizer)
    parts = [text, tokens, json.dumps(config, sort_keys=True)]
    return TemplateFacts(
        text, _sha256("\0".join(parts)),
        {"template_text": _sha256(text), "tokenizer": tokens, **config},
        chat_format.header_matches, tuple(notes),
    )  # fmt: skip


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _tokenizer_hash(tokenizer: Any) -> str:
    """Hash what decides the ids of a text; not padding and truncation, which calls change."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        for name in ("padding", "truncation", "post_processor"):
            state.pop(name, None)
    else:
        state = sorted(tokenizer.get_vocab().items())
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _sha256(json.dumps([type(tokenizer).__name__, state, special], sort_keys=True))


class RenderedRows(Sequence[RenderedRow]):
    """Rendered rows in a memory-mapped temporary file, in the order of their examples."""

    facts: TemplateFacts

    def __init__(
        self,
        rows: ArrowRows,
        facts: TemplateFacts,
        *,
        chosen: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]] | None = None,
    ) -> None:
        self._rows = rows
        self._chosen = None if chosen is None else np.asarray(chosen, dtype=np.int64)
        self.facts = facts

    def part(self, places: Sequence[int]) -> RenderedRows:
        """Return the rows at some places, in that order, sharing the storage."""
        chosen = np.asarray(places, dtype=np.int64)
        if self._chosen is not None:
            chosen = self._chosen[chosen]
        return RenderedRows(self._rows, self.facts, chosen=chosen)

    @classmethod
    def from_rows(
        cls, rows: Iterable[tuple[RenderedRow, str | None, bool]], facts: TemplateFacts
    ) -> RenderedRows:
        """Write (row, source id, whether its text spells a special token) to the file."""
        import pyarrow as pa

        schema = pa.schema(
            {
                "id": pa.string(),
                "source_id": pa.string(),
                "input_ids": pa.list_(pa.int32()),
                "labels": pa.list_(pa.int32()),
                "outcome": pa.string(),
                "detail": pa.string(),
                "special_text": pa.bool_(),
                **{name: pa.int64() for name in _COUNTS},
            }
        )

        def records() -> Iterator[tuple[dict[str, Any], int]]:
            for row, source_id, special_text in rows:
                record = {name: getattr(row, name) for name in RenderedRow.__slots__}
                record |= {"source_id": source_id, "special_text": special_text}
                yield record, 2 * len(row.input_ids) + len(row.detail)

        return cls(write_rows(schema, records()), facts)

    def __len__(self) -> int:
        return len(self._rows) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> RenderedRow:  # type: ignore[override]
        position = operator.index(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = position if self._chosen is None else int(self._chosen[position])
        batch, row = self._rows.locate(place)
        return RenderedRow(
            id=batch.column("id")[row].as_py(),
            input_ids=_integers(batch.column("input_ids")[row]),
            labels=_integers(batch.column("labels")[row]),
            outcome=batch.column("outcome")[row].as_py(),
            detail=batch.column("detail")[row].as_py(),
            **{name: batch.column(name)[row].as_py() for name in _COUNTS},
        )

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """Return one value per row: a count (int64), `special_text` (bool) or a text (object).

        Raises:
            KeyError: There is no such column, or it holds lists.
        """
        import pyarrow as pa

        schema = self._rows.schema
        if name not in schema.names or pa.types.is_list(schema.field(name).type):
            raise KeyError(name)
        values: np.ndarray[Any, Any] = self._stored(name).to_numpy()
        return values

    def _stored(self, name: str) -> Any:
        column = self._rows.column(name)
        return column if self._chosen is None else column.take(self._chosen)

    @functools.cached_property
    def ids(self) -> list[str]:
        """One unique id per row."""
        ids: list[str] = self._stored("id").to_pylist()
        return ids

    @functools.cached_property
    def source_ids(self) -> list[str | None]:
        """The user's own id per row; None where there is none."""
        ids: list[str | None] = self._stored("source_id").to_pylist()
        return ids

    @functools.cached_property
    def usable(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each row has trained tokens."""
        return np.isin(self.column("outcome").astype(str), USABLE_OUTCOMES)

    @functools.cached_property
    def id_order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Places of usable rows, by id: work in this order does not depend on the file's."""
        found = sorted(np.flatnonzero(self.usable).tolist(), key=self.ids.__getitem__)
        return np.asarray(found, dtype=np.int64)

    def check_usable(self, name: str) -> None:
        """Refuse rows of which none can be trained on or scored.

        Args:
            name: What the message calls the set.

        Raises:
            NoTrainedTokensError: No row has a trained token; the message counts why.
        """
        if not self.usable.any():
            counted = ", ".join(f"{why} {n:,}" for why, n in self.counts().items()) or "no rows"
            raise NoTrainedTokensError(
                f"none of the {len(self):,} rows of the {name} has a trained token ({counted}). "
                "Raise render.max_prompt_tokens and render.max_response_tokens; `tamis inspect` "
                "shows single rows."
            )

    @functools.cached_property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of each row; 0 for rows set aside."""
        total = self.column("n_prompt_tokens") + self.column("n_response_tokens")
        return np.where(self.usable, total, 0)

    def starts(self, n: int) -> list[list[int]]:
        """Return the first n tokens of each row, fewer where it has fewer."""
        import pyarrow.compute as pc

        starts: list[list[int]] = pc.list_slice(self._stored("input_ids"), 0, n).to_pylist()
        return starts

    def counts(self) -> dict[str, int]:
        """Return how many rows had each outcome; outcomes that did not occur are left out."""
        found = collections.Counter(self.column("outcome").tolist())
        return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of template, tokenizer and limits."""
        return self.facts.fingerprint


def set_aside(outcomes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Say of every set how many of its rows cannot be used, and why; nothing where all can.

    Args:
        outcomes: Rows by outcome, by the name of the set.
    """
    said = []
    for name, counts in outcomes.items():
        aside = {why: n for why, n in counts.items() if why not in USABLE_OUTCOMES}
        if aside:
            reasons = ", ".join(f"{why} {n:,}" for why, n in aside.items())
            said.append(f"{sum(aside.values()):,} of the {sum(counts.values()):,} rows of the "
                        f"{name.replace('_', ' ')} are not used ({reasons}).")  # fmt: skip
    return said


def _integers(scalar: Any) -> list[int]:
    values: list[int] = scalar.values.to_numpy().tolist()
    return values
