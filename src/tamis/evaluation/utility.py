"""Usefulness: how likely a model finds good answers to ordinary requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tamis.data.template import RenderConfig
from tamis.evaluation.likelihood import Progress, answer_losses
from tamis.evaluation.prompts import Prompt
from tamis.evaluation.statistics import Estimate, mean_estimate

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel


@dataclass(frozen=True, slots=True)
class ReferenceLoss:
    """How likely one reference answer is.

    Attributes:
        id: The prompt's id.
        value: Mean loss in nats per token, >= 0; None if unscored.
        unscored: Why there is no value; None when there is one.
    """

    id: str
    value: float | None
    unscored: str | None = None


def reference_losses(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    render_config: RenderConfig,
    max_batch_tokens: int,
    progress: Progress | None = None,
) -> list[ReferenceLoss]:
    """Compute the loss of every prompt's reference, end of turn included, in order.

    Args:
        lm: The model.
        prompts: A helpful set; a prompt without reference is unscored.
        render_config: Template and limits; a reference that is cut counts with what is left.
        max_batch_tokens: Tokens run at once, padding included.
        progress: Called after each batch.
    """
    referenced = [p for p in prompts if p.reference is not None]
    by_id: dict[str, ReferenceLoss] = {}
    if referenced:
        losses = answer_losses(
            lm,
            [(p.prompt, p.reference or "") for p in referenced],
            render_config=render_config,
            max_batch_tokens=max_batch_tokens,
            progress=progress,
        )
        for prompt, value, reason in zip(referenced, losses.values, losses.reasons, strict=True):
            by_id[prompt.id] = ReferenceLoss(
                prompt.id, None if reason else float(value), reason or None
            )
    missing = "there is no reference"
    return [by_id.get(p.id, ReferenceLoss(p.id, None, missing)) for p in prompts]


def helpful_loss(losses: Sequence[ReferenceLoss], generator: np.random.Generator) -> Estimate:
    """Mean over prompts of the references' losses in nats per token; lower is more useful.

    The mean is over prompts, not tokens: a long reference weighs as much as a short one. The
    interval is a bootstrap over prompts.
    """
    return mean_estimate([loss.value for loss in losses], generator)
