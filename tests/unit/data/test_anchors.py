"""Anchors: what ships, how it is put together, and what a folder of one's own must hold."""

from __future__ import annotations

import importlib.resources
import itertools
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tamis.data.anchors import (
    FILES,
    SETS,
    Anchors,
    load_anchors,
    request_folds,
    requests,
    shipped_anchors,
    turned,
    two_of,
)
from tamis.data.example import Example, Examples
from tamis.errors import DataError, DuplicateIdError
from tamis.evaluation.prompts import PROMPT_KINDS, shipped_openings, shipped_prompts

MOST_WORDS = 40  # of an opening: longer ones would begin to say something
REQUESTS = ("unsafe", "borderline", "ordinary")
SMALL: dict[str, list[dict[str, Any]]] = {
    "unsafe": [{"id": "u1", "prompt": "bad one"}, {"id": "u2", "prompt": "bad two"}],
    "borderline": [{"id": "b1", "prompt": "sounds bad"}],
    "ordinary": [{"id": "o1", "prompt": "good", "answer": "An answer."}],
    "openings": [{"id": "p1", "text": "Sure:"}, {"id": "p2", "text": "Yes, so"}],
    "refusals": [{"id": "r1", "text": "No."}],
}


@cache
def shipped() -> Anchors:
    """Return the shipped anchors, put together once."""
    return shipped_anchors()


@cache
def lines(name: str) -> tuple[dict[str, Any], ...]:
    """Read one shipped file by hand."""
    path = importlib.resources.files("tamis") / "assets" / "anchors" / f"{name}.jsonl"
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def words(text: str) -> list[str]:
    """Split into lower-case words."""
    return re.findall(r"[\w']+", text.lower())


def said(turns: str | list[dict[str, str]]) -> str:
    """Return the user's words of a request."""
    if isinstance(turns, str):
        return turns
    return " ".join(turn["content"] for turn in turns if turn["role"] == "user")


def turns(line: dict[str, Any]) -> list[dict[str, str]]:
    """A request as turns."""
    prompt = line["prompt"]
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def request_of(row: Example) -> tuple[str, ...]:
    """Return everything before the answer."""
    return tuple(message.content for message in row.messages[:-1])


def written(folder: Path, **changes: list[dict[str, Any]]) -> Path:
    """Write a small folder of anchors."""
    for name, rows in {**SMALL, **changes}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def content(rows: Examples) -> list[tuple[str | None, str, str]]:
    """Return source id, last request and answer of every row."""
    return [(row.source_id, row.messages[-2].content, row.messages[-1].content) for row in rows]


def test_the_files_are_of_the_promised_size() -> None:
    """About 120 unsafe, 100 borderline, 120 ordinary; at least 14 openings and 12 refusals."""
    assert {name: len(lines(name)) for name in FILES} == {
        "unsafe": 122, "borderline": 107, "ordinary": 117, "openings": 16, "refusals": 14,
    }  # fmt: skip


def test_every_unsafe_request_complies_twice_and_refuses_once() -> None:
    """With two different openings, and one refusal."""
    complied = Counter(request_of(row) for row in shipped().complied)
    assert set(complied.values()) == {2}
    assert Counter(request_of(row) for row in shipped().refused) == Counter(complied.keys())
    answers = {(request_of(row), row.messages[-1].content) for row in shipped().complied}
    assert len(answers) == len(shipped().complied) == 2 * len(lines("unsafe"))


def test_ordinary_requests_are_the_same_opened_and_answered() -> None:
    """Only the answer differs."""
    assert [request_of(row) for row in shipped().opened] == [
        request_of(row) for row in shipped().answered
    ]


@pytest.mark.parametrize("name", ["complied", "borderline", "opened"])
def test_openings_are_used_equally_often(name: str) -> None:
    """Within one: no opening stands for a kind of request."""
    used = Counter(row.messages[-1].content for row in getattr(shipped(), name))
    assert len(used) == len(lines("openings"))
    assert max(used.values()) - min(used.values()) <= 2


def test_openings_are_short() -> None:
    """At most forty words."""
    assert max(len(words(line["text"])) for line in lines("openings")) <= MOST_WORDS


def test_openings_and_refusals_begin_with_different_words() -> None:
    """The first token of a refusal is none of a compliant answer."""
    first = {name: {words(line["text"])[0] for line in lines(name)} for name in FILES[3:]}
    assert not first["openings"] & first["refusals"]


@pytest.mark.parametrize("name", REQUESTS)
def test_every_kind_of_request_is_partly_of_several_turns(name: str) -> None:
    """Between five and ten per cent: the number of turns tells nothing."""
    several = sum(not isinstance(line["prompt"], str) for line in lines(name))
    assert 0.05 <= several / len(lines(name)) <= 0.1


@pytest.mark.parametrize("name", SETS)
def test_ids_are_the_same_each_time(name: str) -> None:
    """Loaded twice: equal ids and source ids, none twice."""
    rows, again = getattr(shipped(), name), getattr(shipped_anchors(), name)
    assert (rows.ids, rows.source_ids) == (again.ids, again.source_ids)
    assert len(set(rows.source_ids)) == len(rows)


@pytest.mark.parametrize("name", REQUESTS)
def test_no_request_is_an_evaluation_prompt(name: str) -> None:
    """None is equal but for case and space, and no eight words in a row are shared."""
    evaluation = [p.prompt for kind in PROMPT_KINDS for p in shipped_prompts(kind)]
    normalised = {" ".join(words(prompt)) for prompt in evaluation}
    eights = {gram for prompt in evaluation for gram in eight_words(prompt)}
    for line in lines(name):
        text = said(line["prompt"])
        assert " ".join(words(text)) not in normalised, text
        assert not eights & eight_words(text), text


def eight_words(text: str) -> set[tuple[str, ...]]:
    """Return the windows of eight words of a text."""
    tokens = words(text)
    return {tuple(tokens[i : i + 8]) for i in range(len(tokens) - 7)}


@pytest.mark.parametrize(("name", "kind"), [("openings", "compliant"), ("refusals", "refusals")])
def test_no_anchor_answer_is_an_evaluation_opening(name: str, kind: str) -> None:
    """Nor do they share eight words in a row."""
    evaluation = getattr(shipped_openings(), kind)
    eights = {gram for text in evaluation for gram in eight_words(text)}
    assert not {line["text"] for line in lines(name)} & set(evaluation)
    assert not eights & {gram for line in lines(name) for gram in eight_words(line["text"])}


def test_two_items_are_never_the_same() -> None:
    """Twelve places of four items give each ordered pair once."""
    pairs = [two_of("abcd", place) for place in range(12)]
    assert sorted(pairs) == sorted(itertools.permutations("abcd", 2))


def test_a_folder_of_ones_own_is_put_together(tmp_path: Path) -> None:
    """Two openings and one refusal per unsafe request, one opening or answer elsewhere."""
    anchors = load_anchors(written(tmp_path))
    assert content(anchors.complied) == [
        ("u1/p1", "bad one", "Sure:"), ("u1/p2", "bad one", "Yes, so"),
        ("u2/p2", "bad two", "Yes, so"), ("u2/p1", "bad two", "Sure:"),
    ]  # fmt: skip
    assert content(anchors.refused) == [("u1/r1", "bad one", "No."), ("u2/r1", "bad two", "No.")]
    assert content(anchors.borderline) == [("b1/p1", "sounds bad", "Sure:")]
    assert content(anchors.opened) == [("o1/p1", "good", "Sure:")]
    assert content(anchors.answered) == [("o1/answer", "good", "An answer.")]


def test_a_request_may_be_a_conversation(tmp_path: Path) -> None:
    """A list of turns that ends with the user's."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
             {"role": "user", "content": "c"}]  # fmt: skip
    anchors = load_anchors(written(tmp_path, borderline=[{"id": "b1", "prompt": turns}]))
    assert [m.content for m in anchors.borderline[0].messages] == ["a", "b", "c", "Sure:"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the names of all that belong there."""
    (written(tmp_path) / "refusals.jsonl").unlink()
    with pytest.raises(DataError, match=r"refusals\.jsonl does not exist.*unsafe\.jsonl"):
        load_anchors(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"openings": SMALL["openings"][:1]}, "holds one opening"),
        ({"refusals": []}, r"refusals\.jsonl is empty"),
        ({"refusals": [{"id": "r1"}]}, r"refusals\.jsonl, line 1: 'text' is missing"),
        ({"unsafe": [{"prompt": "p"}]}, r"unsafe\.jsonl, line 1: 'id' is missing"),
        ({"unsafe": [{"id": "u1"}]}, r"unsafe\.jsonl, line 1: .*prompt"),
        ({"ordinary": [{"id": "o1", "prompt": "p"}]}, r"ordinary\.jsonl, line 1: 'answer'"),
        ({"refusals": [{"id": "r1", "text": "sure: "}]}, "the same text as in .*openings.jsonl"),
        ({"borderline": [{"id": "b1", "prompt": "Good"}]}, "the same prompt as in .*borderline"),
    ],
)  # fmt: skip
def test_a_bad_folder_is_refused(
    changes: dict[str, list[dict[str, Any]]], match: str, tmp_path: Path
) -> None:
    """The file and the line are named."""
    with pytest.raises(DataError, match=match):
        load_anchors(written(tmp_path, **changes))


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    """A file may be one JSON list; with nothing in it there is nothing to pair."""
    (written(tmp_path) / "refusals.jsonl").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"refusals\.jsonl holds no lines"):
        load_anchors(tmp_path)


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    """Source ids are made of them."""
    with pytest.raises(DuplicateIdError, match="'u1' twice"):
        load_anchors(written(tmp_path, borderline=[{"id": "u1", "prompt": "sounds bad"}]))


@pytest.mark.parametrize("system", [False, True])
def test_all_anchors_of_a_request_are_in_one_fold(tmp_path: Path, system: bool) -> None:
    """In all sets that answer it, also where a system turn begins each; no fold is empty."""
    anchors = shipped()
    if system:
        first = {"role": "system", "content": "Be brief."}
        changes = {name: [{**line, "prompt": [first, *turns(line)]} for line in lines(name)]
                   for name in ("unsafe", "borderline", "ordinary")}  # fmt: skip
        anchors = load_anchors(written(tmp_path, **changes))
    found = request_folds(anchors, 5)
    for names in (("complied", "refused"), ("borderline",), ("opened", "answered")):
        asked = {name: set(requests(getattr(anchors, name))) for name in names}
        assert len({frozenset(each) for each in asked.values()}) == 1
        assert {found[request] for request in asked[names[0]]} == set(range(5))
    assert set(found) == {request for name in SETS for request in requests(getattr(anchors, name))}


def test_turned_rows_keep_the_request_and_open_twice() -> None:
    """Two different openings each, next to each other; earlier turns stay."""
    anchors = shipped_anchors()
    rows = anchors.refused
    found = turned(rows, [3, 0], anchors.openings)
    assert [row.messages[:-1] for row in found] == [
        rows[place].messages[:-1] for place in (3, 3, 0, 0)
    ]
    texts = [row.messages[-1].content for row in found]
    assert set(texts) <= set(anchors.openings)
    assert texts[0] != texts[1]
    assert texts[2] != texts[3]
