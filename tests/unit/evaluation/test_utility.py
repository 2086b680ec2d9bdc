"""Loss on references: a mean over prompts, and what has no reference is set apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tamis.data.template import RenderConfig
from tamis.evaluation.likelihood import answer_losses
from tamis.evaluation.prompts import Prompt
from tamis.evaluation.utility import ReferenceLoss, helpful_loss, reference_losses
from tamis.models.load import LanguageModel
from tamis.rng import numpy_generator

MakeLm = Callable[..., LanguageModel]
RENDER = RenderConfig(max_prompt_tokens=128, max_response_tokens=64)


def test_reference_losses_are_those_of_the_answers(make_lm: MakeLm) -> None:
    """End of turn included, in the order of the prompts; a prompt without reference is unscored."""
    lm = make_lm()
    prompts = [
        Prompt("a", "Name a pet.", reference="A cat."),
        Prompt("b", "Name a tree."),
        Prompt("c", "Name a fish.", reference="An eel, or a carp."),
    ]
    found = reference_losses(lm, prompts, render_config=RENDER, max_batch_tokens=1_000)
    expected = answer_losses(
        lm, [(p.prompt, p.reference) for p in prompts if p.reference], render_config=RENDER,
        max_batch_tokens=1_000,
    ).values  # fmt: skip
    assert [loss.id for loss in found] == ["a", "b", "c"]
    assert [found[0].value, found[2].value] == pytest.approx(expected)
    assert found[1] == ReferenceLoss("b", None, "there is no reference")


def test_helpful_loss_weighs_prompts_alike() -> None:
    """The mean of the prompts' means, not of all tokens."""
    losses = [ReferenceLoss("a", 1.0), ReferenceLoss("b", 2.0), ReferenceLoss("c", None, "why")]
    estimate = helpful_loss(losses, numpy_generator(0, "test"))
    assert (estimate.value, estimate.n, estimate.n_unscored) == (1.5, 2, 1)


def test_helpful_loss_without_prompts_is_absent() -> None:
    """No set, no number."""
    estimate = helpful_loss([], numpy_generator(0, "test"))
    assert (estimate.value, estimate.n) == (None, 0)
