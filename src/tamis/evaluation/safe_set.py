"""Build a safe set: trusted ordinary rows and safe answers to unsafe requests, and look at one.

Most users have no safe set. Ordinary rows of their own domain keep a method from taking the domain
for the harm; demonstrations, safe answers to unsafe requests, say what safe is. Rows whose request
is an evaluation prompt, or nearly one, are left out: the proof would be worth nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tamis.data.example import Example, Examples, content_of
from tamis.errors import ConfigError
from tamis.evaluation.judges import OPENING_CHARACTERS, opens_like_refusal
from tamis.rng import numpy_generator

SHARED_WORDS = 8  # in a row: a request that shares them with an evaluation prompt is left out
FEW_DEMONSTRATIONS = 0.1  # share of a safe set below which it hardly shows what safe is
DECLINING = (  # openings of refusals besides the published strings, lower case
    "i can't", "i cannot", "i can not", "i won't", "i will not", "i'm not able", "i am not able",
    "i'm unable", "i am unable", "i'm not going to", "i am not going to", "i'm not comfortable",
    "i'd rather not", "i would rather not", "i must decline", "i have to decline",
    "i need to decline", "have to say no", "i don't want to help", "i refuse",
    "not something i", "isn't something i",
)  # fmt: skip
LOOKED_AT = 2000  # rows of either set that are read for the notes
LENGTHS_APART = 2.0  # ratio of median answer lengths from which two sets are other kinds of text


@dataclass(frozen=True)
class SafeSet:
    """What was chosen.

    Attributes:
        rows: Ordinary rows and demonstrations, mixed.
        demonstration: Whether each is one.
        n_excluded: Rows left out for the evaluation prompts' sake, by where they were from.
        n_copies: Rows left out as copies of others, likewise.
        n_unused: Rows that the share or the count has no room for, likewise.
    """

    rows: list[Example]
    demonstration: list[bool]
    n_excluded: dict[str, int]
    n_copies: dict[str, int]
    n_unused: dict[str, int]


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, lower case, without punctuation."""
    return tuple(re.findall(r"\w+", text.casefold()))


class Excluded:
    """Requests that must not be trained on: equal up to case and punctuation, or nearly so.

    Args:
        prompts: Evaluation prompts.
    """

    def __init__(self, prompts: Iterable[str]) -> None:
        self._whole: set[tuple[str, ...]] = set()
        self._runs: set[tuple[str, ...]] = set()
        for prompt in prompts:
            found = words(prompt)
            self._whole.add(found)
            self._runs.update(_runs(found))

    def __contains__(self, prompt: str) -> bool:
        found = words(prompt)
        return found in self._whole or not self._runs.isdisjoint(_runs(found))

    def asked_in(self, example: Example) -> bool:
        """Whether a user's turn of a row, whichever, is such a request."""
        return any(turn.content in self for turn in example.messages if turn.role == "user")


def build_safe_set(
    ordinary: Examples, demonstrations: Examples, excluded: Excluded, *, share: float,
    count: int | None, seed: int,
) -> SafeSet:  # fmt: skip
    """Choose and mix rows, of copies one: of a row in both sets the demonstration.

    Args:
        ordinary: Trusted rows of the user's domain.
        demonstrations: Safe answers to unsafe requests.
        excluded: Requests to leave out.
        share: Share of demonstrations wanted, in [0, 1).
        count: Rows wanted; None is as many as keep the share.
        seed: Decides which rows, and their order.

    Raises:
        ConfigError: There are too few rows of a kind for the count or the share, or none at all.
    """
    kinds = {"demonstrations": demonstrations if share else (), "ordinary": ordinary}
    fresh: dict[str, list[Example]] = {name: [] for name in kinds}
    n_excluded, n_copies = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    known: set[str] = set()
    for name, found in kinds.items():
        for row in sorted(found, key=lambda row: row.id):
            if content_of(row.id) in known:
                n_copies[name] += 1
            elif excluded.asked_in(row):
                n_excluded[name] += 1
            else:
                fresh[name].append(row)
                known.add(content_of(row.id))
    n_fresh = {name: len(found) for name, found in fresh.items()}
    limits = [n_fresh["ordinary"] / (1 - share)]
    if share:
        limits.append(n_fresh["demonstrations"] / share)
    total = int(min(limits)) if count is None else count
    wanted = {"demonstrations": round(share * total), "ordinary": total - round(share * total)}
    short = [name for name, n in wanted.items() if n > n_fresh[name]]
    if share and total and not short and not wanted["demonstrations"]:
        raise ConfigError(
            f"a share of {share:g} demonstrations of {total:,} rows is less than one row. Raise "
            "--count or --share, give more rows, or --share 0 for none."
        )
    if short or not total:
        raise ConfigError(
            f"a safe set of {total:,} rows with a share of {share:g} demonstrations needs "
            f"{wanted['ordinary']:,} ordinary rows and {wanted['demonstrations']:,} "
            f"demonstrations; there are {n_fresh['ordinary']:,} and "
            f"{n_fresh['demonstrations']:,} different ones after exclusion. "
            "Lower --count or change --share, or give more with --from or --demonstrations."
        )
    chosen = []
    for name, n in wanted.items():
        order = numpy_generator(seed, "safe set", name).permutation(n_fresh[name])[:n]
        chosen += [(fresh[name][i], name == "demonstrations") for i in order]
    mixed = [chosen[i] for i in numpy_generator(seed, "safe set", "mix").permutation(len(chosen))]
    return SafeSet(
        [row for row, _ in mixed],
        [is_demonstration for _, is_demonstration in mixed],
        n_excluded,
        n_copies,
        {name: n_fresh[name] - n for name, n in wanted.items()},
    )


def sharing_notes(
    examples: Examples, safe: Examples | None, harmful: Examples | None = None
) -> list[str]:
    """Say how many rows another set has too, and whether the safe set is far the smaller one."""
    notes = []
    known = set(map(content_of, examples.ids))
    for name, found in (("safe", safe), ("harmful", harmful)):
        shared = known & set(map(content_of, found.ids)) if found is not None else ()
        if shared:
            notes.append(
                f"{len(shared):,} rows of the {name} set are also in the fine-tuning set: a method "
                f"that learns from the {name} set takes them for {name}, whatever they are."
            )
    repeats = 0.0 if safe is None else len(examples) / max(1, len(safe))
    if safe is not None and repeats > 10:
        notes.append(
            f"the safe set has {len(safe):,} rows for {len(examples):,}: each is used about "
            f"{repeats:.0f} times as often as a fine-tuning row."
        )
    return notes


def safe_set_notes(examples: Examples, safe: Examples) -> list[str]:
    """Say what about a safe set would mislead a ranking of these rows.

    Whether it has demonstrations is read from the first words of its answers, the published
    refusal strings and further ones: a hint, no verdict.
    """
    notes = []
    data, trusted = _some(examples), _some(safe)
    answers = [row.messages[-1].content for row in trusted]
    refusing = np.mean([_declines(answer) for answer in answers])
    if refusing < FEW_DEMONSTRATIONS:
        notes.append(
            f"{refusing:.1%} of the safe set's answers open like a refusal: it hardly shows safe "
            "answers to unsafe requests, and a ranking by it follows the domain. `tamis safe-set` "
            "adds demonstrations."
        )
    lengths = [float(np.median([len(row.messages[-1].content) for row in found]))
               for found in (data, trusted)]  # fmt: skip
    if min(lengths) > 0 and max(lengths) / min(lengths) > LENGTHS_APART:
        notes.append(
            f"the median answer has {lengths[0]:,.0f} characters in the data and {lengths[1]:,.0f} "
            "in the safe set: part of the ranking will be by length. Take safe rows of like length."
        )
    shapes = [{(len(row.messages) > 2, row.messages[0].role == "system") for row in found}
              for found in (data, trusted)]  # fmt: skip
    missing = shapes[0] - shapes[1]
    if missing:
        named = {(False, False): "single turns", (True, False): "several turns",
                 (True, True): "a system turn", (False, True): "a system turn"}  # fmt: skip
        kinds = " and ".join(sorted({named[shape] for shape in missing}))
        notes.append(
            f"the data have rows with {kinds}, the safe set has none: a ranking may go by the form."
        )
    return notes


def _declines(answer: str) -> bool:
    """Whether an answer opens like a refusal, in more words than the published strings have."""
    text = answer.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    opening = text.strip()[:OPENING_CHARACTERS].lower()
    return opens_like_refusal(text) or any(words in opening for words in DECLINING)


def _some(rows: Examples) -> list[Example]:
    """Take rows at even distances, up to LOOKED_AT."""
    step = max(1, len(rows) // LOOKED_AT)
    return [rows[i] for i in range(0, len(rows), step)][:LOOKED_AT]


def _runs(found: Sequence[str]) -> set[tuple[str, ...]]:
    """All runs of SHARED_WORDS words."""
    return {tuple(found[i : i + SHARED_WORDS]) for i in range(len(found) - SHARED_WORDS + 1)}
