"""The demo data set is well formed, and no surface cue gives its harmful rows away."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Any

import pytest

Row = dict[str, Any]

DATA_FILES = (
    "train",
    "safe",
    "harmful_prompts",
    "overrefusal_prompts",
    "helpful_prompts",
)
PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
WITHHELD = re.compile(r"\[[^\[\]]*(?:withheld|omitted|removed|redacted|cut|\.\.\.)\]")
WORD = re.compile(r"\w+(?:'\w+)?")
CUE_LOW, CUE_HIGH = 0.25, 0.75
FRAME_LIMIT = 0.3
FRAME_SIZE = 5
FRAME_MIN_WORDS = 8


@cache
def rows_of(name: str) -> tuple[Row, ...]:
    """Read the rows of one demo file."""
    path = files("tamis") / "assets" / "demo" / f"{name}.jsonl"
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "\r" not in text
    return tuple(json.loads(line) for line in text.splitlines())


def side(row: Row, role: str | None = None) -> str:
    """Join the turns of a row, or only those of one role."""
    return "\n".join(m["content"] for m in row["messages"] if role in (None, m["role"]))


def words(text: str) -> list[str]:
    """Split a text into lower-cased words."""
    return WORD.findall(text.lower().replace("’", "'"))


def prompt_of(row: Row) -> str:
    """Return the user's side of any row, conversation or bare prompt."""
    return str(row["prompt"]) if "prompt" in row else side(row, "user")


def placeholders(row: Row) -> set[str]:
    """Return the bracketed placeholders of a row."""
    return set(PLACEHOLDER.findall(side(row)))


def split_train() -> tuple[list[Row], list[Row]]:
    """Return the harmful train rows and all other train rows."""
    harmful_ids = {label["id"] for label in rows_of("labels") if label["harmful"]}
    harmful = [row for row in rows_of("train") if row["id"] in harmful_ids]
    other = [row for row in rows_of("train") if row["id"] not in harmful_ids]
    return harmful, other


def has_harmful_placeholder(row: Row) -> bool:
    """Tell whether a response carries any placeholder that some harmful row carries."""
    harmful, _ = split_train()
    seen = set().union(*map(placeholders, harmful))
    return bool(seen & set(PLACEHOLDER.findall(side(row, "assistant"))))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Return the chance that a positive scores above a negative, ties counted half."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def cue_auroc(cue: Callable[[Row], float]) -> float:
    """Return the AUROC of one cue for the harmful against all other train rows."""
    harmful, other = split_train()
    return auroc([cue(row) for row in harmful], [cue(row) for row in other])


def word_aurocs(text_of: Callable[[Row], str]) -> dict[str, float]:
    """Return the AUROC of the presence of every word that occurs in five rows or more."""
    harmful, other = split_train()
    in_harmful = Counter(word for row in harmful for word in set(words(text_of(row))))
    in_other = Counter(word for row in other for word in set(words(text_of(row))))
    return {
        word: 0.5 + (in_harmful[word] / len(harmful) - in_other[word] / len(other)) / 2
        for word in in_harmful | in_other
        if in_harmful[word] + in_other[word] >= 5
    }


def frames(text: str) -> set[tuple[str, ...]]:
    """Return the five-word windows of a text."""
    tokens = words(text)
    return {tuple(tokens[i : i + FRAME_SIZE]) for i in range(len(tokens) - FRAME_SIZE + 1)}


def worst_overlap(texts: Iterable[str]) -> float:
    """Return the largest Jaccard overlap of five-word windows between two texts."""
    sets = [frame for frame in map(frames, texts) if frame]
    return max(len(a & b) / len(a | b) for a, b in combinations(sets, 2))


CUES: dict[str, Callable[[Row], float]] = {
    "prompt words": lambda row: len(words(side(row, "user"))),
    "prompt characters": lambda row: len(side(row, "user")),
    "response words": lambda row: len(words(side(row, "assistant"))),
    "response characters": lambda row: len(side(row, "assistant")),
    "number of messages": lambda row: len(row["messages"]),
    "system turn": lambda row: row["messages"][0]["role"] == "system",
    "number of brackets": lambda row: side(row).count("["),
    "number of brackets in the response": lambda row: side(row, "assistant").count("["),
    "any bracket in the response": lambda row: "[" in side(row, "assistant"),
    "text withheld in the response": lambda row: bool(WITHHELD.search(side(row, "assistant"))),
    "placeholder known from harmful rows": has_harmful_placeholder,
    "response lines": lambda row: side(row, "assistant").count("\n"),
    "response starts with Sure": lambda row: side(row, "assistant").startswith("Sure"),
    "response starts with Here": lambda row: side(row, "assistant").startswith("Here"),
    "position in the file": lambda row: int(row["id"].removeprefix("demo-")),
}


def test_counts_by_kind() -> None:
    """Train holds 192 benign, 36 harmful and 18 hard-negative rows."""
    kinds = Counter(label["kind"] for label in rows_of("labels"))
    assert kinds == {"benign": 192, "harmful": 36, "hard_negative": 18}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("train", 246),
        ("labels", 246),
        ("safe", 100),
        ("harmful_prompts", 40),
        ("overrefusal_prompts", 40),
        ("helpful_prompts", 40),
    ],
)
def test_each_file_has_its_rows_and_unique_ids(name: str, count: int) -> None:
    """Every file has the promised number of rows and no id comes twice."""
    ids = [row["id"] for row in rows_of(name)]
    assert len(ids) == count
    assert len(set(ids)) == count


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("train", r"demo-\d{4}"),
        ("safe", r"safe-\d{4}"),
        ("harmful_prompts", r"dh-\d{2}"),
        ("overrefusal_prompts", r"do-\d{2}"),
        ("helpful_prompts", r"du-\d{2}"),
    ],
)
def test_ids_have_the_form_of_their_file(name: str, pattern: str) -> None:
    """Ids carry the prefix of their file and a number, in file order."""
    ids = [row["id"] for row in rows_of(name)]
    assert all(re.fullmatch(pattern, row_id) for row_id in ids)
    assert [int(row_id.split("-")[1]) for row_id in ids] == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("name", ["train", "safe"])
def test_conversations_alternate_and_no_turn_is_empty(name: str) -> None:
    """After an optional system turn, user and assistant alternate and the assistant ends."""
    for row in rows_of(name):
        assert set(row) == {"id", "messages"}
        turns = row["messages"]
        assert all(set(turn) == {"role", "content"} for turn in turns)
        assert all(turn["content"].strip() for turn in turns)
        roles = [turn["role"] for turn in turns]
        if roles[0] == "system":
            roles = roles[1:]
        assert roles
        assert roles == ["user", "assistant"] * (len(roles) // 2)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("harmful_prompts", {"id", "prompt", "category"}),
        ("overrefusal_prompts", {"id", "prompt", "category"}),
        ("helpful_prompts", {"id", "prompt", "reference", "category"}),
    ],
)
def test_prompt_files_have_text_in_every_field(name: str, fields: set[str]) -> None:
    """Prompt files carry exactly the promised fields, all filled."""
    for row in rows_of(name):
        assert set(row) == fields
        assert all(isinstance(value, str) and value.strip() for value in row.values())


def test_labels_join_train_exactly() -> None:
    """Labels and train have the same ids in the same order, and kind agrees with harmful."""
    labels = rows_of("labels")
    assert [label["id"] for label in labels] == [row["id"] for row in rows_of("train")]
    for label in labels:
        assert set(label) == {"id", "harmful", "kind", "source"}
        assert label["source"] == "demo"
        assert label["harmful"] is (label["kind"] == "harmful")


def test_no_prompt_occurs_twice() -> None:
    """No normalised prompt occurs in two files or twice in one."""
    prompts = Counter(
        " ".join(words(prompt_of(row))) for name in DATA_FILES for row in rows_of(name)
    )
    assert [prompt for prompt, count in prompts.items() if count > 1] == []


@pytest.mark.parametrize("role", [None, "user", "assistant"])
def test_no_two_rows_share_a_sentence_frame(role: str | None) -> None:
    """Five-word windows of any two rows of train and safe overlap by less than 0.3."""
    texts = [side(row, role) for name in ("train", "safe") for row in rows_of(name)]
    if role is not None:
        texts = [text for text in texts if len(words(text)) >= FRAME_MIN_WORDS]
    assert worst_overlap(texts) < FRAME_LIMIT


@pytest.mark.parametrize("cue", sorted(CUES))
def test_no_shape_cue_separates_the_harmful_rows(cue: str) -> None:
    """Length, layout, brackets, opening word and position stay within 0.25 and 0.75."""
    assert CUE_LOW <= cue_auroc(CUES[cue]) <= CUE_HIGH


@pytest.mark.parametrize("role", [None, "user", "assistant"])
def test_no_single_word_separates_the_harmful_rows(role: str | None) -> None:
    """The presence of any word found in five rows or more stays within 0.25 and 0.75."""
    scores = word_aurocs(lambda row: side(row, role))
    assert len(scores) >= 80
    outside = {word: score for word, score in scores.items() if not CUE_LOW <= score <= CUE_HIGH}
    assert outside == {}


def test_every_harmful_response_withholds_its_substance() -> None:
    """Each harmful response carries at least one bracketed placeholder."""
    harmful, _ = split_train()
    assert all(PLACEHOLDER.search(side(row, "assistant")) for row in harmful)


def test_safe_rows_carry_placeholders_at_least_as_often() -> None:
    """At least as many safe train rows as harmful ones have a placeholder."""
    harmful, other = split_train()
    assert sum(bool(placeholders(row)) for row in other) >= sum(
        bool(placeholders(row)) for row in harmful
    )


def test_each_harmful_placeholder_occurs_in_as_many_safe_rows() -> None:
    """Each placeholder of a harmful row is found in no fewer safe train rows."""
    harmful, other = split_train()
    in_harmful = Counter(mark for row in harmful for mark in placeholders(row))
    in_other = Counter(mark for row in other for mark in placeholders(row))
    rarer = {mark: count for mark, count in in_harmful.items() if in_other[mark] < count}
    assert rarer == {}


def test_refusals_do_not_all_open_alike() -> None:
    """No two-word opening is shared by more than four hard negatives."""
    hard = {label["id"] for label in rows_of("labels") if label["kind"] == "hard_negative"}
    openings = Counter(
        tuple(words(side(row, "assistant"))[:2]) for row in rows_of("train") if row["id"] in hard
    )
    assert max(openings.values()) <= 4


def test_openings_are_eight_of_each_kind() -> None:
    """The openings file has eight different refusals and eight different compliant openings."""
    path = files("tamis") / "assets" / "openings.json"
    openings = json.loads(path.read_text(encoding="utf-8"))
    assert set(openings) == {"refusals", "compliant"}
    for texts in openings.values():
        assert len(texts) == len(set(texts)) == 8
        assert all(text.strip() for text in texts)
