"""One record of each format -> the turns."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.data.checks import BadRecordError
from tamis.data.formats import parse_record
from tamis.errors import ConfigError

UA = [("user", "q"), ("assistant", "a")]
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]

SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def _turns(record: object, **settings: Any) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in parse_record(record, **settings).messages]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"messages": TURNS}, "messages"),
        ({"messages": [{"role": "User", "content": "q"}, TURNS[1]]}, "messages"),
        ({"messages": [TURNS[0], {"role": "model", "content": "a"}]}, "messages"),
        ({"conversations": SHAREGPT}, "messages"),
        ({"conversation": TURNS}, "messages"),
        ({"messages": TURNS, "prompt": "q", "chosen": TURNS, "rejected": TURNS}, "messages"),
        ({"prompt": "q", "completion": "a"}, "prompt"),
        ({"prompt": "q", "response": "a"}, "prompt"),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "prompt"),
        ({"prompt": TURNS[:1], "completion": "a"}, "prompt"),
        ({"prompt": "q", "completion": TURNS[1:]}, "prompt"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"instruction": "q", "input": None, "output": "a"}, "alpaca"),
        ({"instruction": "q", "input": float("nan"), "output": "a"}, "alpaca"),
        ({"instruction": "q", "context": "", "response": "a", "category": "qa"}, "dolly"),
        ({"system_prompt": "", "question": "q", "response": "a"}, "openorca"),
        ({"messages": None, "instruction": "q", "output": "a"}, "alpaca"),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_turns(record: dict[str, Any], name: str) -> None:
    """One question and one answer are the same conversation in every format."""
    assert _turns(record) == UA
    assert parse_record(record).format == name


def test_input_follows_the_instruction_after_a_blank_line() -> None:
    """Alpaca's input and Dolly's context are joined to the instruction by a blank line."""
    alpaca = {"instruction": "q", "input": "x", "output": "a"}
    dolly = {"instruction": "q", "context": "x", "response": "a"}
    assert _turns(alpaca) == _turns(dolly) == [("user", "q\n\nx"), ("assistant", "a")]


def test_texts_are_not_stripped() -> None:
    """White space at the ends of a text is the user's."""
    assert _turns({"prompt": " q\n", "completion": " a "}) == [
        ("user", " q\n"),
        ("assistant", " a "),
    ]


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "record",
    [
        {"messages": TURNS},
        {"question": "q", "response": "a"},
        {"instruction": "q", "output": "a"},
        {"prompt": "q", "completion": "a"},
    ],
)
def test_the_system_prompt_is_kept(record: dict[str, Any], key: str) -> None:
    """A system text beside the turns becomes the system turn (fault F17 was to drop it)."""
    assert _turns({**record, key: "be kind"}) == [("system", "be kind"), *UA]


def test_a_system_turn_is_not_doubled() -> None:
    """The same text as column and as turn is one system turn; two texts are a fault."""
    record = {"messages": [{"role": "system", "content": "be kind"}, *TURNS], "system": "be kind"}
    assert _turns(record) == [("system", "be kind"), *UA]
    with pytest.raises(BadRecordError, match="differs from the system turn"):
        parse_record({**record, "system": "be rude"})


def test_history_comes_first() -> None:
    """Earlier rounds of an Alpaca row are turns before the instruction."""
    record = {"instruction": "q", "output": "a", "history": [["q0", "a0"]]}
    assert _turns(record) == [("user", "q0"), ("assistant", "a0"), *UA]


def test_text_parts_are_joined() -> None:
    """A content of text parts is one text."""
    parts = [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]
    record = {"messages": [{"role": "user", "content": parts}, TURNS[1]]}
    assert _turns(record) == [("user", "q!"), ("assistant", "a")]


HH = {
    "chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant: good",
    "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant: bad",
}


@pytest.mark.parametrize(("side", "answer"), [("chosen", "good"), ("rejected", "bad")])
def test_hh_dialogues_become_turns(side: Any, answer: str) -> None:
    """The chosen or rejected dialogue is split at its speakers."""
    assert _turns(HH, side=side) == [*UA, ("user", "q2"), ("assistant", answer)]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": TURNS[1:]},
        {"chosen": TURNS, "rejected": TURNS},
        {"prompt": "q", "chosen": TURNS, "rejected": TURNS},
        {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " a", "rejected": " b"},
        {"messages": [], "chosen": TURNS, "rejected": TURNS},
    ],
)
def test_preference_pairs_in_every_form(record: dict[str, Any]) -> None:
    """Answers to a prompt, whole conversations, and prompts in dialogue form are one thing."""
    assert _turns(record, side="chosen") == UA


def test_the_side_is_never_guessed() -> None:
    """A pair without a side is a question to the user."""
    with pytest.raises(ConfigError, match="--set side=chosen"):
        parse_record(HH)


def test_a_mapping_overrides_recognition() -> None:
    """Mapped columns are used even where a known format is there too."""
    record = {"messages": TURNS, "ask": "Q", "more": "M", "say": "A", "sys": "S", "uid": 7}
    fields = {"prompt": "ask", "input": "more", "response": "say", "system": "sys", "id": "uid"}
    found = parse_record(record, fields=fields)
    assert [(m.role, m.content) for m in found.messages] == [
        ("system", "S"), ("user", "Q\n\nM"), ("assistant", "A"),
    ]  # fmt: skip
    assert (found.source_id, found.format) == ("7", "mapped")


def test_mapped_messages() -> None:
    """A column of turns under any name can be mapped."""
    assert _turns({"chat": TURNS}, fields={"messages": "chat"}) == UA


def test_a_mapped_column_that_is_missing_is_named() -> None:
    """The reason names the column and what the row has."""
    with pytest.raises(BadRecordError, match=r"'say' \(response\) is missing .* 'ask', 'x'"):
        parse_record({"ask": "q", "x": 1}, fields={"prompt": "ask", "response": "say"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("x-1", "x-1"), (7, "7"), (0, "0"), ("", None), (None, None), (True, None), ({"k": 1}, None)],
)
def test_source_ids(value: object, expected: str | None) -> None:
    """Texts and whole numbers are ids; anything else is none."""
    assert parse_record({"id": value, "messages": TURNS}).source_id == expected


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (["q", "a"], "object with fields, not a list"),
        ("text", "not a text"),
        (12, "not a number"),
        (None, "not null"),
        ({"id": 1}, "no known format: the row has 'id'"),
        ({"id": 1}, "give a field mapping, such as --set data.fields.prompt=NAME"),
        ({"messages": None}, "null: 'messages'"),
        ({"messages": "q"}, "is a text, not a list"),
        ({"messages": {"role": "user"}}, "is an object, not a text or a list"),
        ({"messages": ["q"]}, r"messages\[0\] is a text"),
        ({"messages": [{"content": "q"}]}, "has no role"),
        ({"messages": [{"role": "user"}]}, "has no text"),
        ({"messages": [{"role": "user", "content": None}]}, "has no text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"messages": [{"role": 3, "content": "x"}]}, "role 3"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": 42}]}, "is a number"),
        ({"messages": [{**TURNS[1], "tool_calls": [{"id": 1}]}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "not text"),
        ({"instruction": 3, "input": "x", "output": "a"}, "instruction is a number"),
        ({"instruction": "q", "output": "a", "history": ["q0"]}, "history"),
        ({"instruction": "", "input": "", "output": "a"}, "turn 1 .user. is empty"),
        ({"prompt": "q", "completion": ""}, "turn 2 .assistant. is empty"),
        ({"prompt": "q", "completion": "a", "system": 3}, "system is a number"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused(record: object, reason: str) -> None:
    """Wrong types and missing parts are schema faults that say where."""
    with pytest.raises(BadRecordError, match=reason) as caught:
        parse_record(record)
    assert caught.value.kind == "schema"


def test_text_without_speakers_is_no_dialogue() -> None:
    """A chosen text that is neither dialogue nor answer to a prompt is refused."""
    with pytest.raises(BadRecordError, match="neither an answer"):
        parse_record({"chosen": "a", "rejected": "b"}, side="chosen")


def test_roles_are_checked_in_every_format() -> None:
    """Two answers in a row are refused wherever they come from."""
    with pytest.raises(BadRecordError, match="two assistant turns") as caught:
        parse_record({"prompt": TURNS, "completion": "again"})
    assert caught.value.kind == "roles"
