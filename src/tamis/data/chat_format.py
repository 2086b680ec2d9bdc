"""A tokenizer's chat template, and which characters of its output are the assistant's.

A template is a program: nobody can tell from its text where a response will stand. So each
conversation is rendered twice, once as it is and once with every trained response replaced by a
mark. The text between the marks is the template's own; put together with the responses it must
give the first rendering, character by character. Where it does not, the template rewrites
responses in an unknown way and the row is refused: a wrong mask is never returned.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tamis.data.example import Message
from tamis.errors import ConfigError

# For tokenizers without a chat template of their own: turns in plain words, each answer ended by
# the tokenizer's end token where it has one.
_PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] }}"
    "{% if eos_token %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# What templates do to a response before printing it; the first that explains the output counts.
_TRIMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text.strip(),
    lambda text: text.rstrip(),
    lambda text: text.lstrip(),
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
)


class TemplateRefusedError(Exception):
    """A conversation that the template cannot render, or renders unpredictably."""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of rendered text that is trained on as a whole, or not at all."""

    text: str
    trained: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """A rendered conversation in parts; text after the last end token is left out."""

    prompt: tuple[Segment, ...]
    """Everything before the last response; earlier responses are trained where asked for."""
    response: str
    """The last response as the template prints it, with the blank the model is to produce."""
    end: str
    """The template's own end of that response, up to its first special token."""
    needs_end_token: bool
    """Whether the template prints no special token there, so the tokenizer's must be added."""
    blank: bool
    """Whether the last response holds no text."""


class ChatFormat:
    """A chat template bound to a tokenizer.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        chat_template: None for the tokenizer's own, "plain", or a file with a Jinja template.

    Raises:
        ConfigError: The tokenizer has no template and none was given, or it is not valid Jinja.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self.template = _template_text(tokenizer, chat_template)
        self.eos_token: str | None = tokenizer.eos_token
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        special = set(tokenizer.all_special_tokens)
        special |= {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        # Blank added tokens (runs of spaces) are ordinary text, not ends of turns.
        self._ends = _any_of({token for token in added if token.strip()} | special)
        # An added token that the template itself prints can forge a turn, special or not.
        self._forging = _any_of(special | {t for t in added if t.strip() and t in self.template})
        self.generation_blank, self.header_matches = self._compare_headers()

    def text(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Render a conversation as text.

        Raises:
            TemplateRefusedError: The template raised an error; the message is its own.
        """
        return apply_template(
            self._tokenizer, self.template, messages, add_generation_prompt=add_generation_prompt
        )

    def layout(self, messages: Sequence[Message], trained: Sequence[int]) -> Layout:
        """Render a conversation in parts.

        Args:
            messages: Turns up to the assistant turn that is the row's answer.
            trained: Indices of the responses to train on, rising; the last is the answer's.

        Raises:
            TemplateRefusedError: The template raises an error or rewrites a response.
        """
        full = self.text(messages)
        pieces = self._pieces(messages, trained)
        responses = self._printed(full, pieces, [messages[i].content for i in trained])
        prompt: list[Segment] = []
        text = pieces[0]
        for response, after in zip(responses[:-1], pieces[1:-1], strict=True):
            header, blank = self._without_blank(text)
            end, rest = self._split_end(after)
            if response.strip():
                prompt += [Segment(header, False), Segment(blank + response + end, True)]
                text = rest
            else:  # nothing to learn from an empty answer, not even to stop
                text = text + response + after
        header, blank = self._without_blank(text)
        prompt.append(Segment(header, False))
        end, _ = self._split_end(pieces[-1])
        return Layout(
            prompt=tuple(segment for segment in prompt if segment.text),
            response=blank + responses[-1],
            end=end or pieces[-1].rstrip(),
            needs_end_token=not end,
            blank=not responses[-1].strip(),
        )

    def special_text(self, messages: Sequence[Message]) -> bool:
        """Whether a message spells a special token, which the tokenizer would take for one."""
        if self._forging is None:
            return False
        return any(self._forging.search(message.content) for message in messages)

    def _pieces(self, messages: Sequence[Message], trained: Sequence[int]) -> list[str]:
        """Return the template's own text around the trained responses."""
        salt = "tamis"
        while any(salt in message.content for message in messages):
            salt += "x"
        marked = list(messages)
        marks = [f"{salt}Response{number}Mark" for number in range(len(trained))]
        for index, mark in zip(trained, marks, strict=True):
            marked[index] = Message("assistant", mark)
        rest = self.text(marked)
        pieces = []
        for mark in marks:
            if rest.count(mark) != 1:
                raise TemplateRefusedError(
                    f"the chat template prints a response {rest.count(mark)} times, not once"
                )
            before, rest = rest.split(mark)
            pieces.append(before)
        return [*pieces, rest]

    def _printed(self, full: str, pieces: list[str], contents: list[str]) -> list[str]:
        """Return the responses as printed: as given, or trimmed the way the template trims."""
        for trim in _TRIMS:
            responses = [trim(content) for content in contents]
            between = [part for pair in zip(responses, pieces[1:], strict=True) for part in pair]
            if pieces[0] + "".join(between) == full:
                return responses
        raise TemplateRefusedError(
            "the chat template rewrites the response, so which of its tokens are the response's "
            "cannot be told"
        )

    def _split_end(self, text: str) -> tuple[str, str]:
        """Split the template's text after a response behind its first special token."""
        match = self._ends.search(text) if self._ends else None
        return (text[: match.end()], text[match.end() :]) if match else ("", text)

    def _without_blank(self, header: str) -> tuple[str, str]:
        """Move to the response the blank that training prints and the generation prompt does not.

        At inference the model produces it, mostly as part of its first word.
        """
        blank = self.generation_blank
        if blank and header.endswith(blank):
            return header.removesuffix(blank), blank
        return header, ""

    def _compare_headers(self) -> tuple[str, bool | None]:
        """Compare what precedes a response in training and in generation.

        Returns:
            The white space that only training prints, and whether the two agree but for it; None
            when the template refuses the two-turn probe.
        """
        probe = [Message("user", "Hello."), Message("assistant", "Hello.")]
        try:
            header = self._pieces(probe, [1])[0]
            prompt = self.text(probe[:1], add_generation_prompt=True)
        except TemplateRefusedError:
            return "", None
        rest = header.removeprefix(prompt)
        if header.startswith(prompt) and not rest.strip():
            return rest, True
        return "", False


def _template_text(tokenizer: Any, chat_template: str | None) -> str:
    if chat_template == "plain":
        # Base models that expect a start token get it from the tokenizer; a template must print it.
        start = "{{ bos_token }}" if adds_bos(tokenizer) else ""
        return start + _PLAIN
    if chat_template is not None:
        path = Path(chat_template).expanduser()
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f'render.chat_template is {chat_template!r}: neither "plain" nor a readable UTF-8 '
                f"file with a Jinja template ({error})."
            ) from error
    try:
        own: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise ConfigError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template (it "
            'is a base model?). Set render.chat_template to "plain" or to a file with a Jinja '
            "template."
        ) from error
    return own


def apply_template(
    tokenizer: Any, template: str, messages: Sequence[Message], **variables: Any
) -> str:
    """Render a conversation as text with a template, which is foreign code.

    Raises:
        TemplateRefusedError: The template raised an error; the message is its own.
        ConfigError: It is not valid Jinja.
    """
    import jinja2

    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text: str = tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, **variables
        )
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"the chat template is not valid Jinja: {error}") from error
    except (
        jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError,
        ArithmeticError, RecursionError,
    ) as error:  # fmt: skip  # its ways to fail
        raise TemplateRefusedError(f"the chat template refuses the row: {error}") from error
    return text


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer by itself puts its start token before a text."""
    if tokenizer.bos_token_id is None:
        return False
    ids: list[int] = tokenizer("a")["input_ids"]
    return ids[:1] == [tokenizer.bos_token_id]


def _any_of(tokens: set[str]) -> re.Pattern[str] | None:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if tokens else None
