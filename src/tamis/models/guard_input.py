"""Conversations as a guard on this machine wants them: through a chat template or a plain text.

What a template does not print, the guard would not judge: such a row is refused, like one that the
template raises on. A row longer than the guard can read is left unscored, or loses the end of its
answer; the template's own text and the request are always whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tamis.data.chat_format import ChatFormat, TemplateRefusedError, apply_template
from tamis.data.example import Message
from tamis.data.rendered import OK, TEMPLATE_REFUSED, TOO_LONG, TRUNCATED
from tamis.errors import ConfigError
from tamis.models.gguf import quiet_transformers
from tamis.models.guard_text import check_places, filled

_ROWS_AT_A_TIME = 500  # tokenised in one call
NO_LIMIT = 10**9  # tokenizers without a limit name a number far above this
PROBE = (Message("user", "Hello."), Message("assistant", "Hello."))


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """One row as the guard reads it.

    Attributes:
        ids: Its tokens (int32); None where it cannot be read.
        outcome: "ok", "truncated", "too_long" or "template_refused".
    """

    ids: np.ndarray[Any, np.dtype[np.int32]] | None
    outcome: str


class GuardInput:
    """Turns judged conversations into a guard's tokens.

    Args:
        tokenizer: The guard's.
        chat_template: None for its own, "plain", or a file with a Jinja template.
        text_format: The whole text, with `{prompt}` and `{response}`, instead of a template.
        question: What to ask as the only user turn, with the same places; None shows the
            conversation itself.
        prefix: Text after the generation prompt; None adds no generation prompt either.
        policy: What the guard holds unsafe: a value for the template, or text for `{policy}`.
        policy_variable: The template's name for it.
        max_tokens: Most tokens of a row; None is no limit.
        on_too_long: Leave longer rows unscored, or cut the end of their answers.

    Raises:
        ConfigError: There is no template, or it has no place for the policy, or one that was given
            leaves out the token that the guard's head reads.
    """

    def __init__(
        self, tokenizer: Any, *, chat_template: str | None = None, text_format: str | None = None,
        question: str | None = None, prefix: str | None = None, policy: Any = None,
        policy_variable: str = "policy", max_tokens: int | None = None,
        on_too_long: Literal["drop", "truncate"] = "drop",
    ) -> None:  # fmt: skip
        start = _own_cls_token(tokenizer)
        if chat_template is None and text_format is None and not tokenizer.chat_template:
            raise ConfigError(
                "the guard's tokenizer has no chat template. Set text_format to the text it was "
                "trained on, with {prompt} and {response} in their places"
                + ("." if start else
                   ', or chat_template to "plain" or a file with a Jinja template.')
            )  # fmt: skip
        self._format = ChatFormat(tokenizer, "plain" if text_format else chat_template)
        self._tokenizer, self._text_format, self._question = tokenizer, text_format, question
        self._prefix, self._policy = prefix, policy
        self._max_tokens, self._on_too_long = max_tokens or NO_LIMIT, on_too_long
        for name, text in (("text_format", text_format), ("question", question)):
            if text is not None:
                check_places(name, text, policy)
        self._variables: dict[str, Any] = {}
        # The tokenizer's own template is taken as its makers wrote it.
        given = chat_template is not None and text_format is None
        if given and start and start not in (self._prints({}) or start):
            raise ConfigError(
                f"chat_template {chat_template!r} prints no {start}, which the guard's tokenizer "
                "puts before a text and its head reads: every score would be wrong. Set "
                "text_format to the text it was trained on instead, with {prompt} and {response} "
                f"in their places: that is read with {start}."
            )
        if policy is not None and text_format is None and question is None:
            self._variables = {policy_variable: policy}
            if self._prints(self._variables) == self._prints({}):
                raise ConfigError(
                    f"the guard's chat template leaves the policy out: it prints the same without "
                    f"{policy_variable!r}. Set policy_variable to the name that it uses."
                )

    def text(self, turns: Sequence[Message]) -> str:
        """Return what the guard reads of a conversation, up to where its verdict begins.

        Raises:
            TemplateRefusedError: The template raises an error, or leaves out the row's text.
        """
        if self._text_format is not None:
            return filled(self._text_format, turns, self._policy) + (self._prefix or "")
        if self._question is not None:
            turns = [Message("user", filled(self._question, turns, self._policy))]
        text = self._rendered(turns, self._variables)
        if not all(turn.content.strip() in text for turn in turns[-2:]):
            raise TemplateRefusedError("the guard's template does not print the row's last turns")
        return text + (self._prefix or "")

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens; those that begin and end every input only for plain texts."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=bool(self._text_format))[
            "input_ids"
        ]
        return ids

    def read(self, rows: Sequence[Sequence[Message]]) -> list[Reading]:
        """Read judged conversations, in order."""
        with quiet_transformers():
            return [
                reading
                for start in range(0, len(rows), _ROWS_AT_A_TIME)
                for reading in self._read(rows[start : start + _ROWS_AT_A_TIME])
            ]

    def forged(self, turns: Sequence[Message]) -> bool:
        """Whether a row spells a special token, which the guard's tokenizer takes for its own."""
        return self._format.special_text(turns)

    def _rendered(self, turns: Sequence[Message], variables: Mapping[str, Any]) -> str:
        return apply_template(
            self._tokenizer, self._format.template, turns,
            add_generation_prompt=self._prefix is not None, **variables,
        )  # fmt: skip

    def _prints(self, variables: Mapping[str, Any]) -> str | None:
        """Render a plain row; None where the template refuses it."""
        try:
            return self._rendered(PROBE, variables)
        except TemplateRefusedError:
            return None

    def _read(self, rows: Sequence[Sequence[Message]]) -> list[Reading]:
        texts: list[str | None] = []
        for turns in rows:
            try:
                texts.append(self.text(turns))
            except TemplateRefusedError:
                texts.append(None)
        known = [text for text in texts if text is not None]
        special = bool(self._text_format)
        found = self._tokenizer(known, add_special_tokens=special)["input_ids"] if known else []
        tokens = iter(found)
        readings = []
        for turns, text in zip(rows, texts, strict=True):
            if text is None:
                readings.append(Reading(None, TEMPLATE_REFUSED))
                continue
            ids = next(tokens)
            if len(ids) <= self._max_tokens:
                readings.append(Reading(np.asarray(ids, dtype=np.int32), OK))
            else:
                readings.append(self._too_long(turns))
        return readings

    def _too_long(self, turns: Sequence[Message]) -> Reading:
        """Keep as much of the answer's beginning as fits."""
        if self._on_too_long == "drop":
            return Reading(None, TOO_LONG)
        answer = turns[-1].content
        kept: list[int] | None = None
        fits, over = 0, len(answer)
        while over - fits > 1:
            middle = (fits + over) // 2
            short = [*turns[:-1], Message("assistant", answer[:middle])]
            ids = self.encode(self.text(short))
            if len(ids) <= self._max_tokens:
                fits, kept = middle, ids
            else:
                over = middle
        if kept is None or not answer[:fits].strip():
            return Reading(None, TOO_LONG)
        return Reading(np.asarray(kept, dtype=np.int32), TRUNCATED)


def _own_cls_token(tokenizer: Any) -> str | None:
    """Return the token for classifiers that the tokenizer by itself adds to a text, as BERT's."""
    if tokenizer.cls_token is None:
        return None
    added = tokenizer.cls_token_id in tokenizer("a")["input_ids"]
    return str(tokenizer.cls_token) if added else None
