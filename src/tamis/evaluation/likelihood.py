"""How likely a model finds given answers: mean loss per token, without generating anything.

An answer to a prompt is a conversation of two turns, rendered as fine-tuning rows are, so the
token ids are those of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.data.example import Examples, Message, ParsedRow
from tamis.data.rendered import UNTRAINED, RenderedRow, RenderedRows
from tamis.data.template import RenderConfig, render

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel

Progress = Callable[[int, int, dict[str, float]], None]  # done, total, figures to show


@dataclass(frozen=True)
class AnswerLosses:
    """Losses of given answers.

    Attributes:
        values: Mean loss of each answer in nats per token, float64 [n]; NaN where there is none.
        reasons: Why there is none, "" where there is one.
        outcomes: Answers by rendering outcome; "truncated" ones are scored on what was left.
    """

    values: np.ndarray[Any, np.dtype[np.float64]]
    reasons: list[str]
    outcomes: dict[str, int]


def answer_losses(
    lm: LanguageModel,
    answers: Sequence[tuple[str, str]],
    *,
    render_config: RenderConfig,
    max_batch_tokens: int,
    with_end: bool = True,
    progress: Progress | None = None,
) -> AnswerLosses:
    """Compute the mean loss of each answer after its prompt.

    Args:
        lm: The model.
        answers: (prompt, answer) texts; at least one.
        render_config: Template and limits.
        max_batch_tokens: Tokens run at once, padding included.
        with_end: Count the end of the turn as a token of the answer. For openings it must not: how
            likely an answer is to stop after its first words is another question.
        progress: Called after each batch.

    Returns:
        One loss per answer, in order.
    """
    from tamis.models.row_forward import RowForward  # imports torch

    examples = Examples.from_records(
        ParsedRow((Message("user", prompt), Message("assistant", answer)))
        for prompt, answer in answers
    )
    rendered = render(examples, lm.tokenizer, render_config)
    outcomes = rendered.counts()
    if not with_end:
        rendered = _without_ends(rendered, [answer for _, answer in answers], lm.tokenizer)
    usable = np.flatnonzero(rendered.usable)
    values = np.full(len(rendered), np.nan)
    if len(usable):
        forward = RowForward(
            lm.model,
            rendered,
            device=lm.device,
            max_batch_tokens=max_batch_tokens,
        )
        values[usable] = forward.losses_of(usable.tolist(), progress)
    reasons = [
        "" if ok else f"{outcome}: {detail}"
        for ok, outcome, detail in zip(
            rendered.usable, rendered.column("outcome"), rendered.column("detail"), strict=True
        )
    ]
    return AnswerLosses(values, reasons, outcomes)


def _without_ends(rendered: RenderedRows, answers: list[str], tokenizer: Any) -> RenderedRows:
    rows = (
        (_without_end(row, answer, tokenizer), None, False)
        for row, answer in zip(rendered, answers, strict=True)
    )
    return RenderedRows.from_rows(rows, rendered.facts)


def _without_end(row: RenderedRow, answer: str, tokenizer: Any) -> RenderedRow:
    """Untrain the tokens after the answer's text: those without which the text is still whole."""
    text = answer.strip()
    first = len(row.input_ids) - row.n_trained_tokens
    last = len(row.input_ids)
    while last > first + 1 and text in tokenizer.decode(
        row.input_ids[first : last - 1], clean_up_tokenization_spaces=False
    ):
        last -= 1
    labels = [*row.labels[:last], *[UNTRAINED] * (len(row.labels) - last)]
    return dataclasses.replace(
        row, labels=labels, n_trained_tokens=sum(label != UNTRAINED for label in labels)
    )
