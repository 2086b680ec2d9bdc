"""The three cues on rows short enough to count by hand."""

from __future__ import annotations

import pytest

from tamis.data.example import Example, Message
from tamis.data.load import load_examples
from tamis.errors import ConfigError
from tamis.methods import build_method
from tamis.methods.base import rank
from tamis.methods.trivial import (
    CUES,
    KEYWORDS,
    UNITS,
    Trivial,
    answer_characters,
    keyword_count,
    turn_count,
)

ONE_TURN = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
TWO_TURNS = [
    {"role": "system", "content": "Say sorry"},
    {"role": "user", "content": "How do ants kill weeds?"},
    {"role": "assistant", "content": "Sorry?"},
    {"role": "user", "content": "Kill."},
    {"role": "assistant", "content": "No."},
]
# 8 and 6 + 3 characters of answers; 2 and 4 turns; no keyword, and kill, sorry, kill.
EXPECTED = {"length": [-8.0, -9.0], "turns": [-2.0, -4.0], "keywords": [0.0, -3.0]}


def conversation(*turns: tuple[str, str]) -> Example:
    """Make a row of (role, content) pairs."""
    messages = tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]
    return Example("row", messages, None, "", None, None)


def test_length_counts_the_characters_of_all_answers() -> None:
    """Two answers of 3 and 4 characters make 7; prompts and the system turn add nothing."""
    row = conversation(
        ("system", "Be brief"), ("user", "A?"), ("assistant", "Yes"), ("user", "B?"),
        ("assistant", "No, "),
    )  # fmt: skip
    assert answer_characters(row) == 7


def test_turns_leave_out_the_system_turn() -> None:
    """One request with one answer is 2 turns, with or without a system turn."""
    talk = ("user", "A?"), ("assistant", "B.")
    assert turn_count(conversation(*talk)) == turn_count(conversation(("system", "C"), *talk)) == 2


def test_keywords_count_with_repeats_in_any_case() -> None:
    """Poison, POISON and poison are three."""
    row = conversation(("user", "Poison? POISON!"), ("assistant", "the word poison"))
    assert keyword_count(row) == 3


def test_keywords_are_whole_words() -> None:
    """Parts and longer forms of a keyword do not count."""
    row = conversation(("user", "skills, hackney"), ("assistant", "weaponry and bombast"))
    assert keyword_count(row) == 0


def test_keywords_leave_out_the_system_turn() -> None:
    """A system turn is often the same for all rows of a source."""
    assert keyword_count(conversation(("system", "illegal"), ("user", "A"))) == 0


@pytest.mark.parametrize("word", sorted(KEYWORDS))
def test_a_keyword_is_found_by_the_count(word: str) -> None:
    """Each is one lower-case word; a phrase or a capital could never be counted."""
    assert keyword_count(conversation(("user", f"({word.upper()})"))) == 1


@pytest.mark.parametrize("cue", sorted(CUES))
def test_the_score_is_minus_the_chosen_cue(cue: str) -> None:
    """Higher = keep: longer rows, more turns and more keywords come last."""
    rows = load_examples([{"messages": ONE_TURN}, {"messages": TWO_TURNS}])
    scores = rank(rows, build_method("trivial", {"cue": cue}))
    assert scores.values.tolist() == EXPECTED[cue]


@pytest.mark.parametrize("cue", sorted(CUES))
def test_every_cue_is_a_readout_whatever_the_score(cue: str) -> None:
    """One run shows what each of the three reaches."""
    rows = load_examples([{"messages": ONE_TURN}, {"messages": TWO_TURNS}])
    readouts = rank(rows, Trivial(cue="turns")).readouts()
    assert readouts[cue].tolist() == EXPECTED[cue]


def test_details_say_that_it_is_a_control_and_which_way_it_points() -> None:
    """A table that shows it needs no other source for either."""
    details = rank(load_examples([{"messages": ONE_TURN}]), Trivial()).details
    assert (details["readout"], details["control"]) == ("length", True)
    assert set(details["directions"]) == set(CUES) == set(UNITS)
    assert details["notes"][0].startswith("A control")


def test_an_unknown_cue_is_refused() -> None:
    """The message lists the three."""
    with pytest.raises(ConfigError, match=r"trivial\.cue: .*'length', 'turns' or 'keywords'"):
        build_method("trivial", {"cue": "colour"})
