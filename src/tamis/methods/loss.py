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

import numpy as np
import torch
from pydantic import Field

from tamis.errors import NoTrainedTokensError
from tamis.methods.base import Method, RankingInputs, Scores
from tamis.models.checkpoint import read_checkpoint, save_checkpoint
from tamis.models.trunk import RowForward

ROWS_PER_PART = 2048  # a killed run repeats at most this many rows


class Loss(Method):
    """Score rows by minus their loss under the model as it is (higher = keep), in nats per token.

    Source: per-row loss of Shen et al. 2024, arXiv:2410.07471, Eq. 1.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})

    max_batch_tokens: int | None = Field(None, ge=1)
    """Tokens run at once, padding included; None is 1,024 on a CPU and 16,384 on a GPU."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row; unusable rows are NaN with their outcome.

        Raises:
            NoTrainedTokensError: No row has a token to score.
        """
        assert inputs.model is not None, "check_inputs comes first"
        rows = inputs.rendered()
        if not rows.usable.any():
            raise NoTrainedTokensError(
                f"none of the {len(rows)} rows has a trained token ({rows.counts()}). Raise "
                "render.max_prompt_tokens and render.max_response_tokens."
            )
        forward = RowForward(
            inputs.model.model, rows, cut=0, device=inputs.model.device,
            max_batch_tokens=self.max_batch_tokens,
        )  # fmt: skip
        losses = _losses_in_parts(forward, inputs)
        return Scores(
            method="loss",
            ids=inputs.finetuning_set.ids,
            source_ids=inputs.finetuning_set.source_ids,
            values=-losses,
            outcome=[str(o) for o in rows.column("outcome")],
            n_trained_tokens=rows.column("n_trained_tokens"),
            columns={"loss_base": losses},
        )


def _losses_in_parts(forward: RowForward, inputs: RankingInputs) -> np.ndarray:
    """Score in parts of rows sorted by id, each kept on disk as it is done."""
    order = forward.order
    values = np.full(len(forward.rows), np.nan)
    progress = inputs.progress("scoring")
    for part, start in enumerate(range(0, len(order), ROWS_PER_PART)):
        chosen = order[start : start + ROWS_PER_PART]
        path = None if inputs.work is None else inputs.work / f"losses-{part:05d}.safetensors"
        stored = None if path is None else read_checkpoint(path)
        if stored is None:
            values[chosen] = forward.losses_of(chosen.tolist(), progress, start, len(order))
            if path is not None:
                save_checkpoint(path, {"losses": torch.from_numpy(values[chosen])}, {})
        else:
            values[chosen] = stored[0]["losses"].numpy()
    return values
