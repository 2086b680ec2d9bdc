"""Surface cues of the text: what length, turns or keywords alone would reach.

    score_length_i   = -(characters of the assistant turns)
    score_turns_i    = -(user and assistant turns)
    score_keywords_i = -(words of the user and assistant turns that are in KEYWORDS)

Where harmful and benign rows come from different sources, such a cue can tell them apart without
knowing anything of safety. A method is worth its time only where it beats all three.

Source: none; a control.
Differs: nothing to differ from. The sign is a convention (longer, more turns, more keywords = drop
first), not a finding: an AUROC below 1/2 means that the cue works the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import numpy as np

from tamis.data.example import Example
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores

# Single words, as they are: no stems, no phrases, English only. The first line is frequent in
# refusals, the second in unsafe requests; both mark the same topics, so they are counted together.
KEYWORDS = frozenset({
    "sorry", "cannot", "unable", "apologize", "illegal", "unethical", "harmful", "inappropriate",
    "bomb", "drugs", "fraud", "hack", "kill", "poison", "steal", "weapon",
})  # fmt: skip


def answer_characters(example: Example) -> int:
    """Return the characters of all assistant turns."""
    return sum(len(m.content) for m in example.messages if m.role == "assistant")


def turn_count(example: Example) -> int:
    """Return the number of user and assistant turns."""
    return sum(m.role != "system" for m in example.messages)


def keyword_count(example: Example) -> int:
    """Return how many words of the user and assistant turns are in KEYWORDS; repeats count."""
    texts = (m.content.lower() for m in example.messages if m.role != "system")
    return sum(word in KEYWORDS for text in texts for word in re.findall(r"\w+", text))


CUES: Mapping[str, Callable[[Example], int]] = {
    "length": answer_characters,
    "turns": turn_count,
    "keywords": keyword_count,
}
UNITS: Mapping[str, str] = {
    "length": "characters of the assistant turns",
    "turns": "user and assistant turns",
    "keywords": "words that are keywords",
}


class Trivial(Method):
    """Score rows by minus a surface cue (higher = keep): a control.

    Source: none; a control. Cost: no model.
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    cue: Literal["length", "turns", "keywords"] = "length"
    """Which cue is `score`: characters of the answers, number of turns, or number of keywords. All
    three are readouts."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row by every cue."""
        rows = inputs.finetuning_set
        counts = np.array([[cue(row) for cue in CUES.values()] for row in rows], dtype=np.int64)
        readouts = dict(zip(CUES, (-counts).astype(np.float64).T.copy(), strict=True))
        return Scores(
            method="trivial",
            ids=rows.ids,
            source_ids=rows.source_ids,
            values=readouts[self.cue],
            outcome=["ok"] * len(rows),
            n_trained_tokens=None,
            columns={f"score_{name}": values for name, values in readouts.items()},
            details={
                "readout": self.cue,
                "control": True,
                "directions": {name: f"minus the {unit}" for name, unit in UNITS.items()},
                "notes": [
                    "A control: it counts characters, turns or keywords and knows nothing of "
                    "safety. Its sign is a convention; an AUROC below 0.5 says that the cue works "
                    "the other way round."
                ],
            },
        )
