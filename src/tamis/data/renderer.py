"""Template, tokenizer and limits applied to rows: lengths, cuts, outcomes, labels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import pydantic

from tamis.data.chat_format import ChatFormat, Layout, TemplateRefusedError
from tamis.data.example import Example, Message
from tamis.data.rendered import (
    NO_TRAINED_TOKENS,
    OK,
    TEMPLATE_REFUSED,
    TOO_LONG,
    TRUNCATED,
    UNTRAINED,
    RenderedRow,
    TemplateFacts,
    template_facts,
)
from tamis.data.segment_tokens import SegmentTokenizer
from tamis.data.shorten import ShortPrompt, shorten_prompt
from tamis.errors import DataError


class RenderConfig(pydantic.BaseModel):
    """How conversations become tokens."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    max_prompt_tokens: int = pydantic.Field(1024, ge=1)
    """Most tokens before the response, template headers included."""
    max_response_tokens: int = pydantic.Field(1024, ge=1)
    """Most tokens of the (last) response, end token included."""
    on_too_long: Literal["truncate", "drop", "error"] = "truncate"
    """Cut rows that exceed a limit, set them aside unscored, or stop and name them."""
    train_on: Literal["last", "all"] = "last"
    """Which assistant turns carry labels. With "all", a turn that lost text carries none."""
    chat_template: str | None = None
    """None: the tokenizer's own. "plain" or a file with a Jinja template otherwise."""

    def cutting(self) -> RenderConfig:
        """Return the same limits for rows that are cut whatever is to be done with others."""
        return self.model_copy(update={"on_too_long": "truncate"})


class Renderer:
    """Template, tokenizer and limits together.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        config: Limits and policy; None for the defaults.
    """

    def __init__(self, tokenizer: Any, config: RenderConfig | None = None) -> None:
        self.config = config or RenderConfig()
        self.format = ChatFormat(tokenizer, self.config.chat_template)
        self.tokenizer = tokenizer
        self._segments = SegmentTokenizer(tokenizer)
        self._end_lengths: dict[str, int] = {}

    def facts(self) -> TemplateFacts:
        """Return what is known about the template, with the fingerprint of the rendering."""
        return template_facts(self.format, self.tokenizer, self.config.model_dump(mode="json"))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Render a generation prompt; see `render_prompt`."""

        def ids(turns: Sequence[Message]) -> list[int]:
            text = self.format.text(turns, add_generation_prompt=True)
            return self._segments.encode([("", text)])[0]

        try:
            short = shorten_prompt(
                messages,
                len(messages),
                max_tokens=self.config.max_prompt_tokens,
                count=lambda turns, _: len(ids(turns)),
                place=self._segments.place_after,
            )
            if short is None:
                raise DataError(self._no_room())
            return ids(short.messages)
        except TemplateRefusedError as error:
            raise DataError(f"{error}. Change the prompt or render.chat_template.") from error

    def rows(self, examples: Sequence[Example]) -> list[RenderedRow]:
        """Render some rows, tokenising them together."""
        layouts: list[Layout | str] = []
        for example in examples:
            turns = _up_to_answer(example.messages)
            try:
                layouts.append(self.format.layout(turns, self._trained(turns)) if turns else "")
            except TemplateRefusedError as error:
                layouts.append(str(error))
        pairs = [_segments_of(layout) for layout in layouts if isinstance(layout, Layout)]
        tokens = iter(self._segments.encode(list(itertools.chain.from_iterable(pairs))))
        rows = []
        for example, layout in zip(examples, layouts, strict=True):
            if isinstance(layout, Layout):
                ids = [next(tokens) for _ in _segments_of(layout)]
                rows.append(self._row(example, layout, ids))
            elif layout:
                rows.append(RenderedRow.unusable(example.id, TEMPLATE_REFUSED, layout))
            else:
                reason = "there is no assistant turn"
                rows.append(RenderedRow.unusable(example.id, NO_TRAINED_TOKENS, reason))
        return rows

    def _trained(self, turns: Sequence[Message], cut: frozenset[int] = frozenset()) -> list[int]:
        """Return the indices of the responses to train on; the last turn is always one."""
        answer = len(turns) - 1
        if self.config.train_on == "last":
            return [answer]
        return [i for i, m in enumerate(turns) if m.role == "assistant" and i not in cut]

    def _row(self, example: Example, layout: Layout, ids: list[list[int]]) -> RenderedRow:
        """Build one row from its layout and the tokens of the layout's segments."""
        limits = self.config
        n_prompt = sum(map(len, ids[:-1]))
        response = self._with_end_token(layout, ids[-1])
        lengths = (n_prompt, len(response))
        if layout.blank or not self._has_tokens(layout, ids[-1]):
            reason = "the response is empty" if layout.blank else "the response has no tokens"
            if limits.train_on == "last" or not any(s.trained for s in layout.prompt):
                return RenderedRow.unusable(example.id, NO_TRAINED_TOKENS, reason, lengths)
        cut_response = max(0, len(response) - limits.max_response_tokens)
        if limits.on_too_long != "truncate" and (
            n_prompt > limits.max_prompt_tokens or cut_response
        ):
            reason = (
                f"prompt of {n_prompt:,} and response of {len(response):,} tokens; allowed are "
                f"{limits.max_prompt_tokens:,} and {limits.max_response_tokens:,}"
            )
            return RenderedRow.unusable(example.id, TOO_LONG, reason, lengths)
        prompt = list(zip(layout.prompt, ids[:-1], strict=True))
        if n_prompt > limits.max_prompt_tokens:
            try:
                short = self._shortened(example)
            except TemplateRefusedError as error:
                return RenderedRow.unusable(example.id, TEMPLATE_REFUSED, str(error), lengths)
            if short is None:
                return RenderedRow.unusable(example.id, TOO_LONG, self._no_room(), lengths)
            short_layout = self.format.layout(
                short.messages, self._trained(short.messages, short.cut)
            )
            pieces = self._segments.encode(_segments_of(short_layout))[:-1]
            prompt = list(zip(short_layout.prompt, pieces, strict=True))
        return _assembled(
            example.id,
            [(segment.trained, piece) for segment, piece in prompt],
            (not layout.blank, response[: limits.max_response_tokens]),
            n_cut_prompt=n_prompt - sum(len(piece) for _, piece in prompt),
            n_cut_response=cut_response,
        )

    def _shortened(self, example: Example) -> ShortPrompt | None:
        turns = _up_to_answer(example.messages)

        def count(messages: list[Message], cut: frozenset[int]) -> int:
            layout = self.format.layout(messages, self._trained(messages, cut))
            return sum(map(len, self._segments.encode(_segments_of(layout)[:-1])))

        return shorten_prompt(
            turns,
            len(turns) - 1,
            max_tokens=self.config.max_prompt_tokens,
            count=count,
            place=self._segments.place_after,
        )

    def _with_end_token(self, layout: Layout, ids: list[int]) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return [*ids, eos] if layout.needs_end_token and eos is not None else ids

    def _has_tokens(self, layout: Layout, ids: list[int]) -> bool:
        """Whether the response has tokens besides those of the template's end."""
        if layout.end not in self._end_lengths:
            self._end_lengths[layout.end] = len(self._segments.encode([("x", layout.end)])[0])
        if len(ids) > self._end_lengths[layout.end]:
            return True
        return bool(self._segments.encode([("x", layout.response)])[0])

    def _no_room(self) -> str:
        return (
            "the template's headers and the system turn alone have more than "
            f"max_prompt_tokens={self.config.max_prompt_tokens:,} tokens: raise it"
        )


def _up_to_answer(messages: Sequence[Message]) -> list[Message]:
    """Return the turns up to the last assistant turn; none when there is none."""
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    return list(messages[: answers[-1] + 1]) if answers else []


def _segments_of(layout: Layout) -> list[tuple[str, str]]:
    """Return (text before, text) of every segment, the response with its end as the last."""
    texts = [segment.text for segment in layout.prompt] + [layout.response + layout.end]
    before = ["", *texts[:-1]]
    return list(zip(before, texts, strict=True))


def _assembled(
    row_id: str, prompt: list[tuple[bool, list[int]]], response: tuple[bool, list[int]],
    *, n_cut_prompt: int, n_cut_response: int,
) -> RenderedRow:  # fmt: skip
    input_ids: list[int] = []
    labels: list[int] = []
    for trained, ids in [*prompt, response]:
        input_ids += ids
        labels += ids if trained else [UNTRAINED] * len(ids)
    n_response = len(response[1])
    cuts = [f"{what} cut by {n:,} tokens" for what, n in
            (("prompt", n_cut_prompt), ("response", n_cut_response)) if n]  # fmt: skip
    return RenderedRow(
        id=row_id,
        input_ids=input_ids,
        labels=labels,
        outcome=TRUNCATED if cuts else OK,
        n_prompt_tokens=len(input_ids) - n_response,
        n_response_tokens=n_response,
        n_trained_tokens=sum(label != UNTRAINED for label in labels),
        n_cut_prompt_tokens=n_cut_prompt,
        n_cut_response_tokens=n_cut_response,
        detail="; ".join(cuts),
    )
