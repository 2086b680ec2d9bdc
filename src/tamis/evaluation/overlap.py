"""Prompts that are not independent, and prompts that were trained on or pruned by.

A prompt that stands twice in a set counts twice in every interval; a prompt whose words are in the
training rows measures memory, and one in the rows that pruning goes by measures what was aimed at.
None is an error of tamis to hide: all are counted and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tamis.data.example import Example
from tamis.evaluation.prompts import Prompt, PromptKind
from tamis.evaluation.safe_set import Excluded, words


def repeated_prompts(prompts: Sequence[Prompt]) -> list[str]:
    """Ids of prompts that stand in their set before, up to case and punctuation."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for prompt in prompts:
        content = words(prompt.prompt)
        if content in seen:
            found.append(prompt.id)
        seen.add(content)
    return found


def rows_with_prompts(
    rows: Iterable[Example], sets: Mapping[PromptKind, Sequence[Prompt]]
) -> dict[str, int]:
    """Count the rows that ask an evaluation prompt, or nearly so, in any turn, by set.

    Nearly: eight words in a row are shared (see `tamis.evaluation.safe_set.Excluded`).
    """
    excluded = {kind: Excluded(p.prompt for p in prompts) for kind, prompts in sets.items()}
    counts: dict[str, int] = dict.fromkeys(excluded, 0)
    for row in rows:
        for kind, those in excluded.items():
            counts[kind] += those.asked_in(row)
    return counts
