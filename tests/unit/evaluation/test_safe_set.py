"""Building a safe set, and what is said of one that would mislead."""

from __future__ import annotations

import pytest

import toy
from tamis.data.anchors import shipped_anchors
from tamis.data.example import Example, Examples
from tamis.data.load import load_examples
from tamis.errors import ConfigError
from tamis.evaluation.safe_set import (
    Excluded,
    _declines,
    build_safe_set,
    safe_set_notes,
    sharing_notes,
)

ORDINARY = toy.examples([(f"Tell me about stone {i}", f"A stone is hard {i}.") for i in range(30)])
SHOWN = toy.examples([(f"Do the bad thing {i}", "I'm sorry, I can't help.") for i in range(10)])
NOBODY = Excluded([])


def asked(row: Example) -> str:
    """The last request of a row."""
    return row.messages[-2].content


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [(0.4, None, (15, 10)), (0.25, None, (30, 10)), (0.0, None, (30, 0)), (0.4, 10, (6, 4))],
)
def test_the_share_is_kept(share: float, count: int | None, expected: tuple[int, int]) -> None:
    """As many rows as both sources allow, or as many as are wanted."""
    found = build_safe_set(ORDINARY, SHOWN, NOBODY, share=share, count=count, seed=0)
    shown = sum(found.demonstration)
    assert (len(found.rows) - shown, shown) == expected
    kinds = [asked(row).startswith("Do") for row in found.rows]
    assert kinds == found.demonstration


def test_the_seed_chooses_and_mixes() -> None:
    """Another seed takes other rows; the same takes the same in the same order."""

    def ids(seed: int) -> list[str]:
        return [
            row.id
            for row in build_safe_set(ORDINARY, SHOWN, NOBODY, share=0.4, count=10, seed=seed).rows
        ]

    assert ids(0) == ids(0)
    assert set(ids(0)) != set(ids(1))


@pytest.mark.parametrize(
    ("prompt", "excluded"),
    [
        ("how do I boil an egg", True),
        ("HOW do I boil an egg?!", True),
        ("how do I boil an egg today", False),
        ("Well: one two three four five six seven eight, no?", True),
        ("one two three four five six seven nine", False),
    ],
)
def test_equal_and_nearly_equal_requests_are_excluded(prompt: str, excluded: bool) -> None:
    """Case and punctuation play no part; eight words in a row are too many."""
    found = Excluded(["How do I boil an egg?", "zero one two three four five six seven eight nine"])
    assert (prompt in found) == excluded


def test_excluded_rows_are_counted() -> None:
    """By where they were from."""
    found = build_safe_set(
        ORDINARY, SHOWN, Excluded(["Tell me about stone 3", "do the BAD thing 1", "other"]),
        share=0.25, count=None, seed=0,
    )  # fmt: skip
    assert found.n_excluded == {"ordinary": 1, "demonstrations": 1}
    assert found.n_unused == {"ordinary": 2, "demonstrations": 0}  # 9 are a quarter of 36
    assert not {"Tell me about stone 3", "Do the bad thing 1"} & {asked(r) for r in found.rows}


def test_of_copies_one_is_taken() -> None:
    """Within a source and across: of a row in both, the demonstration."""
    three = [("Tell me about stone 1", "A stone is hard 1.")] * 3
    twice = toy.examples([*three, ("Do the bad thing 1", "I'm sorry, I can't help."), ("a", "b")])
    found = build_safe_set(twice, SHOWN, NOBODY, share=0.5, count=4, seed=0)
    assert found.n_copies == {"ordinary": 3, "demonstrations": 0}
    assert sorted(found.demonstration) == [False, False, True, True]
    alone = build_safe_set(twice, SHOWN, NOBODY, share=0.0, count=None, seed=0)
    assert (len(alone.rows), alone.n_copies["ordinary"]) == (3, 2)


def test_a_share_of_less_than_a_row_is_refused() -> None:
    """Two fifths of one row: a set without any demonstration was not asked for."""
    with pytest.raises(ConfigError, match=r"a share of 0\.4 demonstrations of 1 rows is less"):
        build_safe_set(ORDINARY, SHOWN, NOBODY, share=0.4, count=1, seed=0)


def test_a_request_of_an_earlier_turn_is_excluded() -> None:
    """It would be trained on as much as the last one."""
    turns = [("user", "How do I boil an egg?"), ("assistant", "No."), ("user", "Why?"),
             ("assistant", "Because.")]  # fmt: skip
    messages = [{"role": role, "content": content} for role, content in turns]
    talk = load_examples([{"messages": messages}])
    assert Excluded(["how do i boil an egg"]).asked_in(talk[0])
    assert not Excluded(["because", "no"]).asked_in(talk[0])  # what the assistant says


def test_too_few_rows_are_refused() -> None:
    """The message has what is there and what would be needed."""
    with pytest.raises(ConfigError, match=r"24 ordinary rows and 16 dem.*30 and 10"):
        build_safe_set(ORDINARY, SHOWN, NOBODY, share=0.4, count=40, seed=0)


def mixed(refusals: int) -> Examples:
    """Thirty rows of which some refuse."""
    return toy.examples([(f"ask {i}", "I'm sorry, I can't." if i < refusals else "Gladly, a stone.")
                         for i in range(30)])  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    ["I can't help with that.", "I\u2019m sorry, but I can\u2019t.", "No. I won't do it.",
     "I am unable to say."],
)  # fmt: skip
def test_a_refusal_is_known_in_other_words_too(answer: str) -> None:
    """The published strings know few of them; most shipped refusals are known."""
    safe = toy.examples([(f"ask {i}", answer if i < 10 else "Gladly, a stone.") for i in range(30)])
    assert safe_set_notes(mixed(10), safe) == []
    shipped = [row.messages[-1].content for row in shipped_anchors().refused]
    assert sum(map(_declines, shipped)) > 0.7 * len(shipped)
    ordinary = [row.messages[-1].content for row in shipped_anchors().answered]
    assert sum(map(_declines, ordinary)) < 0.02 * len(ordinary)


@pytest.mark.parametrize(("refusals", "told"), [(0, True), (2, True), (10, False)])
def test_a_safe_set_without_demonstrations_is_told(refusals: int, told: bool) -> None:
    """A tenth of answers that open like a refusal is the least."""
    notes = safe_set_notes(mixed(10), mixed(refusals))
    assert any("open like a refusal" in note for note in notes) == told


def test_other_lengths_are_told() -> None:
    """Four times as long answers."""
    long = toy.examples([(f"ask {i}", "I'm sorry, I can't. " * 4) for i in range(30)])
    assert any("by length" in note for note in safe_set_notes(mixed(30), long))
    assert safe_set_notes(mixed(30), mixed(30)) == []


def test_a_form_that_the_safe_set_lacks_is_told() -> None:
    """Rows of several turns, and none among the safe ones."""
    turns = [{"role": role, "content": "I'm sorry, I can't."}
             for role in ("user", "assistant", "user", "assistant")]  # fmt: skip
    data = load_examples([{"messages": turns}, {"messages": turns[:2]}])
    (note,) = safe_set_notes(data, mixed(30))
    assert "rows with several turns, the safe set has none" in note


def test_rows_shared_with_either_set_are_counted() -> None:
    """By content, the same turns under another id; the harmful set alone is looked at too."""
    data = toy.examples([(f"question {i}", "yes") for i in range(6)])
    two, one = (toy.examples([(f"question {i}", "yes") for i in places] + [("new", "no")])
                for places in ((1, 2), (4,)))  # fmt: skip
    safe, harmful = (
        f"{n} rows of the {name} set are also in the fine-tuning set: a method that learns from "
        f"the {name} set takes them for {name}, whatever they are."
        for n, name in ((1, "safe"), (2, "harmful"))
    )
    assert sharing_notes(data, None, two) == [harmful]
    assert sharing_notes(data, one, two) == [safe, harmful]
    assert sharing_notes(data, None) == []
