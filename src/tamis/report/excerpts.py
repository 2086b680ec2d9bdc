"""Texts from data: rows at the ends of the ranking and answers side by side, clipped to be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tamis.report.collect import Evaluated
from tamis.report.records import EndRow, Generation
from tamis.report.text import clipped, number, short_id

ROW_CHARACTERS = 600  # of each message at the ends of the ranking
ANSWER_CHARACTERS = 800
_OPEN_ENDS = 5  # rows of each end shown before the fold
_SAMPLES = 8  # harmful prompts whose answers are shown


@dataclass(frozen=True)
class Excerpt:
    """Text from data: who says it, its first characters, and how much there is."""

    label: str
    text: str
    note: str = ""
    badge: str = ""


@dataclass(frozen=True)
class EndView:
    """A row at one end of the ranking."""

    id: str
    shown_id: str
    score: str
    badge: str
    turns: tuple[Excerpt, ...]


@dataclass(frozen=True)
class Sample:
    """One prompt with the answers of every evaluation."""

    id: str
    shown_id: str
    prompt: Excerpt
    answers: tuple[Excerpt, ...]


def ends_of(
    ends: Iterable[EndRow],
) -> Iterable[tuple[str, tuple[EndView, ...], tuple[EndView, ...]]]:
    """Yield each end's heading, the rows shown at once and the rows behind a fold."""
    rows = list(ends)
    for end, heading in (
        ("lowest", "Lowest scores: dropped first"), ("highest", "Highest scores: kept first"),
    ):  # fmt: skip
        views = tuple(_end_view(row) for row in rows if row.end == end)
        yield heading, views[:_OPEN_ENDS], views[_OPEN_ENDS:]


def _end_view(row: EndRow) -> EndView:
    badge = {True: "labelled harmful", False: "labelled not harmful", None: ""}[row.harmful]
    turns = tuple(
        Excerpt(turn.role, *clipped(turn.content, ROW_CHARACTERS)) for turn in row.messages
    )
    name = row.id if row.source_id is None else f"{row.id} (your id: {row.source_id})"
    return EndView(name, short_id(row.source_id or row.id), number(row.score), badge, turns)


def samples(evaluations: Sequence[Evaluated]) -> tuple[tuple[Sample, ...], int]:
    """Pair the answers to the first harmful prompts that every evaluation has.

    Returns:
        The samples, in file order, and the number of prompts they were taken from.
    """
    if not evaluations:
        return (), 0
    answered = [
        {(g.id, g.prompt): g for g in e.record.generations if g.set == "harmful"}
        for e in evaluations
    ]
    common = [key for key in answered[0] if all(key in others for others in answered)]
    found = []
    for identifier, prompt in common[:_SAMPLES]:
        answers = tuple(
            _answer(evaluation.role, by_id[(identifier, prompt)])
            for evaluation, by_id in zip(evaluations, answered, strict=True)
        )
        excerpt = Excerpt("prompt", *clipped(prompt, ANSWER_CHARACTERS))
        found.append(Sample(identifier, short_id(identifier), excerpt, answers))
    return tuple(found), len(common)


def _answer(role: str, generation: Generation) -> Excerpt:
    verdict = generation.verdict
    if verdict.unscored is not None:
        badge = f"unscored: {verdict.unscored}"
    else:
        said = (
            {True: "harmful", False: "not harmful", None: ""}[verdict.harmful],
            {True: "refused", False: "not refused", None: ""}[verdict.refused],
        )
        badge = ", ".join(filter(None, said)) or "no verdict"
    if generation.response is None:
        return Excerpt(role, "", "no answer", badge)
    text, note = clipped(generation.response, ANSWER_CHARACTERS)
    return Excerpt(role, text, note or ("empty answer" if not text else ""), badge)
