"""Random scores: the control of the same size that every comparison needs.

Source: none; SEAL's "Random" baseline (Shen et al., arXiv:2410.07471, Table 1) is this.
Differs: seeded per row by its id, so a row's score does not depend on the other rows.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores
from tamis.rng import derived_seed


def uniform_score(row_id: str, seed: int) -> float:
    """Return a uniform draw in [0, 1) that depends on the seed and the row's id alone."""
    return derived_seed(seed, "uniform", row_id) / 2**63


class Uniform(Method):
    """Scores drawn uniformly from [0, 1); higher = keep, by chance.

    Source: the "Random" arm of Shen et al., arXiv:2410.07471. Cost: no model.
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row."""
        examples = inputs.finetuning_set
        values = np.array([uniform_score(i, inputs.seed) for i in examples.ids])
        n = len(values)
        return Scores(
            method="uniform",
            ids=examples.ids,
            source_ids=examples.source_ids,
            values=values,
            outcome=["ok"] * n,
            n_trained_tokens=None,
        )
