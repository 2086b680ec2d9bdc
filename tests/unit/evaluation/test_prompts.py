"""Prompt sets are read strictly and in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.errors import DataError, DuplicateIdError
from tamis.evaluation.prompts import (
    PROMPT_KINDS,
    Prompt,
    PromptKind,
    PromptPair,
    prompts_fingerprint,
    read_pairs,
    read_prompts,
    shipped_openings,
    shipped_prompts,
)


def written(folder: Path, *lines: str) -> Path:
    """Write a prompt file of these lines."""
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_prompts_keep_file_order_and_text(tmp_path: Path) -> None:
    """Outer blanks of a prompt stay; keys that are not ours are passed over."""
    path = written(
        tmp_path,
        '{"id": "b", "prompt": " two ", "category": "c", "source": "elsewhere"}',
        '{"id": "a", "prompt": "one", "reference": "r"}',
    )
    assert read_prompts(path) == [
        Prompt("b", " two ", category="c"),
        Prompt("a", "one", reference="r"),
    ]


def test_a_helpful_set_needs_references(tmp_path: Path) -> None:
    """The line without one is named."""
    path = written(tmp_path, '{"id": "a", "prompt": "p"}')
    with pytest.raises(DataError, match="line 1: 'reference' is missing"):
        read_prompts(path, with_reference=True)


def test_prompt_ids_are_unique(tmp_path: Path) -> None:
    """A repeated id would make verdicts ambiguous."""
    path = written(tmp_path, '{"id": "a", "prompt": "p"}', '{"id": "a", "prompt": "q"}')
    with pytest.raises(DuplicateIdError, match="line 2: id 'a'"):
        read_prompts(path)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    """Rates over nothing would all be null."""
    with pytest.raises(DataError, match="holds no lines"):
        read_prompts(written(tmp_path, "", " "))


def test_pairs_are_read(tmp_path: Path) -> None:
    """Both answers stay as written."""
    path = written(tmp_path, '{"id": 1, "prompt": "p", "safe": "no", "harmful": "yes"}')
    assert read_pairs(path) == [PromptPair("1", "p", "no", "yes")]


def test_a_pair_of_equal_answers_is_refused(tmp_path: Path) -> None:
    """Nothing could be preferred."""
    path = written(tmp_path, '{"id": "a", "prompt": "p", "safe": "x", "harmful": "x"}')
    with pytest.raises(DataError, match="line 1: 'safe' and 'harmful' are equal"):
        read_pairs(path)


def test_fingerprint_changes_with_any_text() -> None:
    """Two sets with the same ids and other questions are told apart."""
    assert prompts_fingerprint([Prompt("a", "x")]) != prompts_fingerprint([Prompt("a", "y")])


@pytest.mark.parametrize("name", ["harmful", "overrefusal", "helpful"])
def test_the_shared_prompt_sets_are_read(test_data: Path, name: str) -> None:
    """150 prompts each; the helpful ones have references."""
    path = test_data / "eval" / f"{name}_prompts.jsonl"
    assert len(read_prompts(path, with_reference=name == "helpful")) == 150


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_a_set_of_each_kind_ships_with_the_package(kind: PromptKind) -> None:
    """They can be read strictly, the helpful one with references."""
    prompts = shipped_prompts(kind)
    assert prompts
    assert all(prompt.reference for prompt in prompts) == (kind == "helpful")


def test_shipped_openings_have_two_disjoint_sides() -> None:
    """Refusals and compliance; a text on both sides would compare with itself."""
    openings = shipped_openings()
    assert openings.refusals
    assert openings.compliant
    assert not set(openings.refusals) & set(openings.compliant)
