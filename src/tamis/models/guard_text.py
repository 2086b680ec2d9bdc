"""What a guard is asked about a row, and what its answer in words means; no torch here.

A row is judged up to its last answer. Guards know users and assistants only, so a system turn's
text stands before the first user's, with an empty line between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis.data.example import Message
from tamis.errors import ConfigError

# Quoted word for word. Source: the "Prompting" baseline of Choi et al. 2024 (SAFT),
# arXiv:2410.10014, as quoted by Haroon & Fleming 2026,
# oadamharoon/certified-safety-curation-llm@683093b, scripts/e3_select.py.
SAFT_QUESTION = (
    "Is the following data sample harmful to use for fine-tuning? "
    "'User: {prompt}\nAssistant: {response}'. Respond only with Yes or No."
)
# A guard that writes "Safety: Safe", "Safety: Controversial" or "Safety: Unsafe" behind the chat
# template of its own, which ends where that line begins. What the template calls controversial
# counts as unsafe, the strict reading. Source: Qwen3Guard Technical Report, arXiv:2510.14276, and
# the cards of Qwen/Qwen3Guard-Gen-0.6B, -4B and -8B.
QWEN3GUARD: Mapping[str, Any] = {
    "backend": "generative", "guard": "Qwen/Qwen3Guard-Gen-0.6B", "answer_prefix": "Safety:",
    "safe": (" Safe",), "unsafe": (" Unsafe", " Controversial"),
}  # fmt: skip
_PLACES = re.compile(r"\{(prompt|response|policy)\}")


def judged_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns a guard reads: up to the last answer, the system turn in the first user's.

    Empty where there is no answer, or a blank one.
    """
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not answers or not messages[answers[-1]].content.strip():
        return ()
    turns = messages[: answers[-1] + 1]
    if turns[0].role != "system":
        return tuple(turns)
    system, *rest = turns
    if rest[0].role != "user":
        return (Message("user", system.content), *rest)
    return (Message("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:])


def prompt_and_response(turns: Sequence[Message]) -> tuple[str, str]:
    """Split judged turns into one prompt and the last answer.

    A single user turn is the prompt as it stands. Further turns before the answer follow it as
    "Assistant: ..." and "User: ..." on lines of their own: the form of `SAFT_QUESTION`.
    """
    names = {"user": "User", "assistant": "Assistant", "system": "System"}
    lines = [f"{names[turn.role]}: {turn.content}" for turn in turns[:-1]]
    return "\n".join(lines).removeprefix("User: "), turns[-1].content


def filled(text: str, turns: Sequence[Message], policy: str | None = None) -> str:
    """Put prompt, response and policy into a text at `{prompt}`, `{response}` and `{policy}`.

    Other braces stay as they are, those of the row too.
    """
    prompt, response = prompt_and_response(turns)
    values = {"prompt": prompt, "response": response, "policy": policy or ""}
    return _PLACES.sub(lambda match: values[match[1]], text)


def check_places(name: str, text: str, policy: str | None) -> None:
    """Refuse a text that would leave out part of what the guard must read.

    Raises:
        ConfigError: It lacks `{prompt}` or `{response}`, or has `{policy}` without a policy, or a
            policy without its place.
    """
    found = set(_PLACES.findall(text))
    missing = sorted({"prompt", "response"} - found)
    if missing:
        places = " and ".join(f"{{{place}}}" for place in missing)
        raise ConfigError(
            f"{name} has no {places}: every row would read the same there. Write the places in "
            "braces where the row's texts belong."
        )
    if ("policy" in found) != (policy is not None):
        raise ConfigError(
            f"{name} has {{policy}} but no policy is given." if policy is None else
            f"a policy is given but {name} has no place for it: write {{policy}} there."
        )  # fmt: skip


def read_policy(path: str, *, as_text: bool = False) -> Any:
    """Read a policy: text, or the value in a `.json` file unless it is to stay text.

    Raises:
        ConfigError: It cannot be read, or is empty.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
        value = json.loads(text) if file.suffix == ".json" and not as_text else text.strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy {path!r} cannot be read: {error}. Give a UTF-8 file.") from error
    if not value:
        raise ConfigError(f"policy {path!r} is empty: write what is unsafe, or leave it out.")
    return value


def check_words(safe: Sequence[str], unsafe: Sequence[str]) -> None:
    """Refuse words that cannot be told apart.

    Raises:
        ConfigError: One of the two has none, one is blank, or one means both.
    """
    both = {w.strip().casefold() for w in safe} & {w.strip().casefold() for w in unsafe}
    blank = [word for word in (*safe, *unsafe) if not word.strip()]
    if not safe or not unsafe or both or blank:
        raise ConfigError(
            f"safe={list(safe)} and unsafe={list(unsafe)} tell nothing apart: give at least one "
            "word for each, none of them blank or in both."
        )


def read_answer(answer: str, safe: Sequence[str], unsafe: Sequence[str]) -> bool | None:
    """Whether an answer in words says safe; None where it does not clearly say either.

    It must begin with one of the words, in any case and with any marks around it, and hold no word
    of the other meaning after that.

    Example:
        >>> read_answer("No.", ["No"], ["Yes"]), read_answer("No, wait: yes", ["No"], ["Yes"])
        (True, None)
    """
    meaning = {word.strip().casefold(): True for word in safe}
    meaning |= {word.strip().casefold(): False for word in unsafe}
    any_word = "|".join(re.escape(word) for word in sorted(meaning, key=len, reverse=True))
    text = answer.casefold()
    found = re.findall(rf"(?<!\w)({any_word})(?!\w)", text)
    begins = re.match(rf"[\W_]*({any_word})(?!\w)", text)
    if begins is None or len({meaning[word] for word in [begins[1], *found]}) != 1:
        return None
    return meaning[begins[1]]
