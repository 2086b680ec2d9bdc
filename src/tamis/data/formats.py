"""One record of any known format -> the turns of a conversation.

Recognised, in this order of precedence:

    messages        {"messages": [{"role", "content"}]}, also "conversations" and from/value turns
    preference      {"chosen", "rejected"}, optional "prompt": strings, hh-rlhf dialogues or turns;
                    which side is meant is asked for, never guessed
    alpaca          {"instruction", "output"}, optional "input", "history"
    dolly           {"instruction", "response"}, optional "context"
    openorca        {"question", "response"}
    prompt          {"prompt", "completion" or "response"}: strings or lists of turns

A "system" or "system_prompt" text beside any of them becomes the system turn. Instruction and
input are joined by a blank line. A mapping given by the user replaces this table.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from tamis.data.checks import (
    BadRecordError,
    check_characters,
    check_not_empty,
    check_order,
    is_missing,
    keys_in_words,
    type_in_words,
)
from tamis.data.example import Message, Role
from tamis.errors import ConfigError

Side = Literal["chosen", "rejected"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant",
}  # fmt: skip
_CONVERSATION_KEYS = ("messages", "conversations", "conversation")
_SYSTEM_KEYS = ("system", "system_prompt")
_TAMIS_ID = re.compile(r"[0-9a-f]{16}-[0-9]+")
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    """A record as understood."""

    messages: tuple[Message, ...]
    source_id: str | None
    format: str


def parse_record(
    record: object, *, fields: Mapping[str, str] | None = None, side: Side | None = None
) -> Conversation:
    """Turn one record into a checked conversation.

    Args:
        record: What the file holds for one row; anything but a dict is refused.
        fields: Column for any of messages, prompt, input, response, system, id. With messages or
            prompt it replaces recognition; otherwise it only says where id and system are.
        side: Which answer of a chosen/rejected pair is meant.

    Returns:
        Turns in the order [system] (user assistant)+, none of them empty except the system turn.

    Raises:
        BadRecordError: The record cannot be used; says why.
        ConfigError: A chosen/rejected record and no `side`.
    """
    if not isinstance(record, Mapping):
        raise BadRecordError(
            "schema", f"a row is an object with fields, not {type_in_words(record)}"
        )
    fields = fields or {}
    row = {key: value for key, value in record.items() if not is_missing(value)}
    if "messages" in fields or "prompt" in fields:
        turns, name = _mapped(row, fields), "mapped"
    else:
        turns, name = _recognised(row, side, nulls=[k for k in record if k not in row])
    turns = _with_system(turns, _system_text(row, fields))
    check_not_empty(turns)
    check_order(turns)
    return Conversation(tuple(turns), _source_id(row, fields), name)


def _mapped(row: Mapping[str, Any], fields: Mapping[str, str]) -> list[Message]:
    def value(key: str) -> Any:
        column = fields[key]
        if column not in row:
            raise BadRecordError(
                "schema",
                f"the mapped column {column!r} ({key}) is missing or null; the row has "
                f"{keys_in_words(row)}",
            )
        return row[column]

    if "messages" in fields:
        return _turns(value("messages"), "assistant", fields["messages"])
    prompt = value("prompt")
    if "input" in fields:
        prompt = _joined(prompt, row.get(fields["input"]), fields["prompt"], fields["input"])
    return [
        *_turns(prompt, "user", fields["prompt"]),
        *_turns(value("response"), "assistant", fields["response"]),
    ]


def _recognised(
    row: Mapping[str, Any], side: Side | None, *, nulls: list[str]
) -> tuple[list[Message], str]:
    for key in _CONVERSATION_KEYS:
        if key in row and not (side is not None and side in row):
            if isinstance(row[key], str):
                raise BadRecordError("schema", f"{key} is a text, not a list of turns")
            return _turns(row[key], "assistant", key), "messages"
    if "chosen" in row and "rejected" in row:
        if side is None:
            raise ConfigError(
                "the rows hold a 'chosen' and a 'rejected' answer, and tamis does not guess which "
                "one is to be trained on: set side=chosen or side=rejected (on the command line "
                "--set side=chosen; where these rows have settings of their own, with the name of "
                "that section, such as --set safe_data.side=chosen)."
            )
        return _preference(row.get("prompt"), row[side], side), "preference"
    if "instruction" in row and "output" in row:
        prompt = _joined(row["instruction"], row.get("input"), "instruction", "input")
        turns = [*_history(row.get("history")), *_turns(prompt, "user", "instruction")]
        return [*turns, *_turns(row["output"], "assistant", "output")], "alpaca"
    if "instruction" in row and "response" in row:
        prompt = _joined(row["instruction"], row.get("context"), "instruction", "context")
        turns = _turns(prompt, "user", "instruction")
        return [*turns, *_turns(row["response"], "assistant", "response")], "dolly"
    if "question" in row and "response" in row:
        turns = _turns(row["question"], "user", "question")
        return [*turns, *_turns(row["response"], "assistant", "response")], "openorca"
    for answer in ("completion", "response"):
        if "prompt" in row and answer in row:
            turns = _turns(row["prompt"], "user", "prompt")
            return [*turns, *_turns(row[answer], "assistant", answer)], "prompt"
    empty = f" (null: {keys_in_words(dict.fromkeys(nulls))})" if nulls else ""
    raise BadRecordError(
        "schema",
        f"no known format: the row has {keys_in_words(row)}{empty}. Known are messages, "
        "conversations, prompt+completion, instruction+output, instruction+response, "
        "question+response and chosen+rejected; for others give a field mapping, such as "
        "--set data.fields.prompt=NAME --set data.fields.response=NAME",
    )


def _preference(prompt: object, answer: object, side: Side) -> list[Message]:
    """Read one side of a pair: an hh-rlhf dialogue, or an answer to `prompt`."""
    if isinstance(answer, str):
        if prompt is None:
            return _hh_dialogue(answer, side)
        if isinstance(prompt, str) and _HH_TURN.match(prompt):
            return _hh_dialogue(prompt.rstrip() + answer, "prompt")
        return [*_turns(prompt, "user", "prompt"), Message("assistant", answer)]
    turns = _turns(answer, "assistant", side)
    if prompt is None or (turns and turns[0].role != "assistant"):
        return turns  # the list holds the whole conversation, prompt included
    return [*_turns(prompt, "user", "prompt"), *turns]


def _hh_dialogue(text: str, key: str) -> list[Message]:
    """Split an hh-rlhf dialogue at its markers; the white space around them is not text."""
    parts = _HH_TURN.split(text)
    if len(parts) == 1 or parts[0].strip():
        raise BadRecordError(
            "schema",
            f"{key} is neither an answer to a 'prompt' nor a dialogue of the form "
            "'\\n\\nHuman: ...\\n\\nAssistant: ...'",
        )
    return [
        Message("user" if speaker == "Human" else "assistant", said.strip())
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _history(history: object) -> list[Message]:
    """Read earlier rounds as [question, answer] pairs."""
    if history is None or history == "":
        return []
    if not isinstance(history, list):
        raise BadRecordError("schema", f"history is {type_in_words(history)}, not a list of pairs")
    turns: list[Message] = []
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRecordError("schema", "history holds something else than [question, answer]")
        turns += _turns(pair[0], "user", "history")
        turns += _turns(pair[1], "assistant", "history")
    return turns


def _joined(instruction: object, extra: object, key: str, extra_key: str) -> object:
    if extra is None or extra == "":
        return instruction
    for value, name in ((instruction, key), (extra, extra_key)):
        if not isinstance(value, str):
            raise BadRecordError("schema", f"{name} is {type_in_words(value)}, not a text")
    return f"{instruction}\n\n{extra}" if instruction else extra


def _turns(value: object, role: Role, key: str) -> list[Message]:
    """Read a text as one turn of `role`, a list as turns with their own roles."""
    if isinstance(value, str):
        return [Message(role, value)]
    if not isinstance(value, list | tuple):
        raise BadRecordError(
            "schema", f"{key} is {type_in_words(value)}, not a text or a list of turns"
        )
    return [_turn(turn, f"{key}[{i}]") for i, turn in enumerate(value)]


def _turn(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRecordError(
            "schema", f"{where} is {type_in_words(turn)}, not a turn with role and text"
        )
    role_key, text_key = ("role", "content") if "role" in turn else ("from", "value")
    role, content = turn.get(role_key), turn.get(text_key)
    if is_missing(role):
        raise BadRecordError("schema", f"{where} has no role (keys: {keys_in_words(turn)})")
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise BadRecordError(
            "schema", f"{where} has the role {role!r}; known are {', '.join(_ROLES)}"
        )
    if turn.get("tool_calls"):
        raise BadRecordError("schema", f"{where} calls tools, which are not supported")
    if is_missing(content):
        raise BadRecordError("schema", f"{where} has no text ({text_key} is missing or null)")
    return Message(_ROLES[role.lower()], _text(content, f"{where}.{text_key}"))


def _text(content: object, where: str) -> str:
    """Read a text, or a list of text parts, which are joined as they are."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRecordError("schema", f"{where} is {type_in_words(content)}, not a text")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str) or (isinstance(part, Mapping) and part.get("type") != "text"):
            raise BadRecordError("schema", f"{where} holds a part that is not text")
        texts.append(text)
    return "".join(texts)


def _system_text(row: Mapping[str, Any], fields: Mapping[str, str]) -> str | None:
    keys = (fields["system"],) if "system" in fields else _SYSTEM_KEYS
    for key in keys:
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            raise BadRecordError("schema", f"{key} is {type_in_words(value)}, not a text")
        if value:
            return value
    return None


def _with_system(turns: list[Message], system: str | None) -> list[Message]:
    if system is None:
        return turns
    if turns and turns[0].role == "system":
        if turns[0].content != system:
            raise BadRecordError("schema", "the system column differs from the system turn")
        return turns
    return [Message("system", system), *turns]


def _source_id(row: Mapping[str, Any], fields: Mapping[str, str]) -> str | None:
    key = fields.get("id", "id")
    value = row.get(key)
    if "id" not in fields and isinstance(value, str) and _TAMIS_ID.fullmatch(value):
        value = row.get("source_id")  # a row that tamis wrote keeps the user's id there
    if isinstance(value, str):
        check_characters(value, key)
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and "id" in fields:
        raise BadRecordError("schema", f"the mapped id {key!r} is {type_in_words(value)}")
    return None  # an unmapped "id" of another type (an object, say) is not an id
