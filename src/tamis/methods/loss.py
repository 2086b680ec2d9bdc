"""Minus the base model's loss on a row: the control for SEAL's Algorithm 2.

    score_i = -l(theta_0; z^i),   l(theta; z) = -(1/d_y) sum_t log P_theta(y_t | x, y_<t)

SEAL's memory-efficient selector ranks by a loss (spec 1.14 a), so whatever plain loss reaches
without any safe set must stand beside it in every table.

Source: the per-row loss of Shen et al. 2024, arXiv:2410.07471, Eq. 1; as a ranking it is
perplexity filtering.
Differs: log-softmax in float32; a row without trained tokens has no score instead of a NaN that
reaches other rows.
"""

from __future__ import annotations

from typing import ClassVar

from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores


class Loss(Method):
    """Score rows by minus their loss under the model as it is (higher = keep), in nats per token.

    Source: per-row loss of Shen et al. 2024, arXiv:2410.07471, Eq. 1.
    Cost: one forward pass.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`."""
        return {"finetuning_set": ["loss"]}

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row; unusable rows are NaN with their outcome.

        Raises:
            NoTrainedTokensError: No row has a token to score.
        """
        rows = inputs.rendered()
        rows.check_usable("finetuning_set")
        inputs.features.ensure(rows, ["loss"], inputs.progress("losses"))
        losses = inputs.features.losses(rows)
        return Scores(
            method="loss",
            ids=inputs.finetuning_set.ids,
            source_ids=inputs.finetuning_set.source_ids,
            values=-losses,
            outcome=[str(o) for o in rows.column("outcome")],
            n_trained_tokens=rows.column("n_trained_tokens"),
            columns={"loss_base": losses},
        )
