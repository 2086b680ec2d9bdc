"""Conversations -> token ids and labels, once, for ranking, fine-tuning and inspection alike.

A rendered row is the prompt and the response; labels repeat the ids of trained tokens and are -100
elsewhere. Trained is the response with the end token the template puts after it, from its very
first token on. Long prompts lose text from the left, inside messages; long responses are cut on
the right, and no end token is put after a cut: the model would learn to stop mid-sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tamis.data.example import Examples, Message
from tamis.data.rendered import TOO_LONG, RenderedRow, RenderedRows
from tamis.data.renderer import RenderConfig, Renderer
from tamis.data.row_lists import NAMED_IN_ERRORS
from tamis.errors import TruncatedResponseError

__all__ = ["RenderConfig", "RenderedRow", "RenderedRows", "render", "render_prompt"]

_ROWS_AT_A_TIME = 500  # rows tokenised in one call: fast, and little in memory


def render(examples: Examples, tokenizer: Any, config: RenderConfig | None = None) -> RenderedRows:
    """Render every row.

    Args:
        examples: The rows.
        tokenizer: Any Hugging Face tokenizer.
        config: Limits and policy; None for the defaults.

    Returns:
        One rendered row per example, in order; rows that cannot be trained on have no tokens and
        an outcome that says why.

    Raises:
        ConfigError: No chat template, or an invalid one.
        TruncatedResponseError: Rows exceed a limit under `on_too_long="error"`.
    """
    renderer = Renderer(tokenizer, config)
    long_rows: list[RenderedRow] = []

    def rows() -> Iterator[tuple[RenderedRow, str | None, bool]]:
        for start in range(0, len(examples), _ROWS_AT_A_TIME):
            stop = min(start + _ROWS_AT_A_TIME, len(examples))
            chunk = [examples[i] for i in range(start, stop)]
            for example, row in zip(chunk, renderer.rows(chunk), strict=True):
                if row.outcome == TOO_LONG:
                    long_rows.append(row)
                yield row, example.source_id, renderer.format.special_text(example.messages)

    rendered = RenderedRows.from_rows(rows(), renderer.facts())
    if long_rows and renderer.config.on_too_long == "error":
        raise _too_long(long_rows, renderer.config)
    return rendered


def render_prompt(
    messages: Sequence[Message], tokenizer: Any, config: RenderConfig | None = None
) -> list[int]:
    """Render a conversation up to where the model is to answer.

    Args:
        messages: Turns that end with the user's.
        tokenizer: Any Hugging Face tokenizer.
        config: `max_prompt_tokens` holds here as in training, with the same shortening.

    Returns:
        Token ids, generation prompt included.

    Raises:
        DataError: The template refuses the conversation, or headers and system turn are too long.
        ConfigError: No chat template, or an invalid one.
    """
    return Renderer(tokenizer, config).prompt(messages)


def _too_long(rows: list[RenderedRow], config: RenderConfig) -> TruncatedResponseError:
    named = "".join(f"\n  row {row.id}: {row.detail}" for row in rows[:NAMED_IN_ERRORS])
    rest = len(rows) - NAMED_IN_ERRORS
    more = f"\n  and {rest:,} more" if rest > 0 else ""
    return TruncatedResponseError(
        f"{len(rows):,} rows are longer than max_prompt_tokens={config.max_prompt_tokens} and "
        f"max_response_tokens={config.max_response_tokens} allow:{named}{more}\n"
        "Raise the limits, or set on_too_long to truncate or drop (--on-too-long truncate)."
    )
