"""What a rendering did to a set: counts and warnings, to be shown before hours are spent on it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tamis.data.rendered import UNTRAINED, RenderedRow, RenderedRows

_NAMED_ROWS = 5  # ids listed per finding; the count is complete


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """Rows whose length in tokens is within low..high, both included."""

    low: int
    high: int
    n_rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """How many rows have a property, and the first few of them."""

    n_rows: int
    first_ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Audit:
    """What a rendering did to a set."""

    n_rows: int
    outcomes: dict[str, int]
    """Rows per outcome that occurred."""
    lengths: tuple[Bucket, ...]
    """Usable rows by length, in buckets that double: 1, 2-3, 4-7, ..."""
    n_tokens: int
    """Tokens of all usable rows."""
    n_trained_tokens: int
    trained_token_share: float | None
    """Trained tokens / tokens, in [0, 1]; None when there are none."""
    cut_prompts: Finding
    """Rows that lost prompt text."""
    cut_responses: Finding
    """Rows that lost the end of the response."""
    n_cut_prompt_tokens: int
    n_cut_response_tokens: int
    duplicated_bos: Finding
    """Rows that begin with two start tokens: the model never saw that in pre-training."""
    special_text: Finding
    """Rows with a message that spells a special token and so can forge turns."""
    set_aside: dict[str, tuple[str, ...]]
    """For each outcome without tokens, the first few rows as "id: reason"."""
    generation_matches_training: bool | None
    """Whether a response follows the same text when trained as when generated; None unknown."""
    notes: tuple[str, ...]
    """What to know about template and tokenizer, in sentences."""
    fingerprint: str
    """SHA-256 of template, tokenizer and limits."""


def audit(rendered: RenderedRows, tokenizer: Any) -> Audit:
    """Count what a rendering did.

    Args:
        rendered: The rows; read once.
        tokenizer: The tokenizer they were rendered with.

    Returns:
        Counts over all rows; ids are those of the first rows concerned.
    """
    lengths = rendered.lengths
    n_tokens = int(lengths.sum())
    trained = rendered.column("n_trained_tokens")
    cut_prompt = rendered.column("n_cut_prompt_tokens")
    cut_response = rendered.column("n_cut_response_tokens")
    outcomes = rendered.column("outcome").tolist()
    details = rendered.column("detail").tolist()
    set_aside: dict[str, list[str]] = {}
    for i in np.flatnonzero(~rendered.usable).tolist():
        named = set_aside.setdefault(outcomes[i], [])
        if len(named) < _NAMED_ROWS:
            named.append(f"{rendered.ids[i]}: {details[i]}")
    return Audit(
        n_rows=len(rendered),
        outcomes=rendered.counts(),
        lengths=_buckets(lengths[rendered.usable]),
        n_tokens=n_tokens,
        n_trained_tokens=int(trained.sum()),
        trained_token_share=float(trained.sum() / n_tokens) if n_tokens else None,
        cut_prompts=_finding(rendered, cut_prompt > 0),
        cut_responses=_finding(rendered, cut_response > 0),
        n_cut_prompt_tokens=int(cut_prompt.sum()),
        n_cut_response_tokens=int(cut_response.sum()),
        duplicated_bos=_finding(rendered, _starts_twice(rendered, tokenizer.bos_token_id)),
        special_text=_finding(rendered, rendered.column("special_text")),
        set_aside={outcome: tuple(rows) for outcome, rows in set_aside.items()},
        generation_matches_training=rendered.facts.header_matches,
        notes=rendered.facts.notes,
        fingerprint=rendered.fingerprint,
    )


def show_row(row: RenderedRow, tokenizer: Any) -> list[tuple[str, bool]]:
    """Return each token's text and whether it is trained on.

    Args:
        row: A rendered row.
        tokenizer: The tokenizer it was rendered with.

    Returns:
        One (text, trained) pair per token. A token that holds only part of a character shows as
        the replacement character, or as nothing where the next one completes it.
    """
    shown = []
    before: list[int] = []
    for token, label in zip(row.input_ids, row.labels, strict=True):
        # Decoded behind its predecessor: on its own, SentencePiece would lose a leading blank.
        prefix = _text(tokenizer, before)
        text = _text(tokenizer, [*before, token])
        shown.append((text[len(prefix) :], label != UNTRAINED))
        before = [token]
    return shown


def _text(tokenizer: Any, ids: list[int]) -> str:
    if not ids:
        return ""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _buckets(lengths: np.ndarray[Any, Any]) -> tuple[Bucket, ...]:
    if not lengths.size:
        return ()
    exponents = np.frexp(lengths.astype(np.float64))[1] - 1  # floor(log2), exact for integers
    low, high = int(exponents.min()), int(exponents.max())
    return tuple(
        Bucket(2**e, 2 ** (e + 1) - 1, int((exponents == e).sum())) for e in range(low, high + 1)
    )


def _finding(rendered: RenderedRows, rows: np.ndarray[Any, Any]) -> Finding:
    places = np.flatnonzero(rows).tolist()
    return Finding(len(places), tuple(rendered.ids[i] for i in places[:_NAMED_ROWS]))


def _starts_twice(rendered: RenderedRows, bos_token_id: int | None) -> np.ndarray[Any, Any]:
    if bos_token_id is None:
        return np.zeros(len(rendered), dtype=bool)
    return np.array([start == [bos_token_id] * 2 for start in rendered.starts(2)], dtype=bool)
