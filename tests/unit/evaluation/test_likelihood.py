"""Losses of given answers are those of training, with or without the end of the turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tamis.data.load import load_examples
from tamis.data.template import RenderConfig, render
from tamis.evaluation.likelihood import answer_losses
from tamis.models.load import LanguageModel

MakeLm = Callable[..., LanguageModel]
RENDER = RenderConfig(max_prompt_tokens=128, max_response_tokens=64)
ANSWERS = [("What is it?", "A cat."), ("Why?", "Because it purrs."), ("Really?", "Yes")]


def slow_loss(lm: LanguageModel, prompt: str, answer: str, *, n_left_out: int) -> float:
    """Mean of -log p over an answer's tokens, one row and one token at a time."""
    examples = load_examples([{"prompt": prompt, "completion": answer}])
    row = render(examples, lm.tokenizer, RENDER)[0]
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([row.input_ids])).logits[0].double()
    log_probs = torch.log_softmax(logits, dim=-1)
    trained = [i for i, label in enumerate(row.labels) if label != -100]
    kept = trained[: len(trained) - n_left_out]
    return -float(np.mean([log_probs[i - 1, row.input_ids[i]] for i in kept]))


@pytest.mark.parametrize("with_end", [True, False])
def test_losses_equal_a_slow_computation(make_lm: MakeLm, with_end: bool) -> None:
    """With the end of the turn ChatML's <|im_end|> counts, without it the text's tokens alone."""
    lm = make_lm()
    losses = answer_losses(
        lm, ANSWERS, render_config=RENDER, max_batch_tokens=1_000, with_end=with_end
    )
    slow = [slow_loss(lm, *answer, n_left_out=0 if with_end else 1) for answer in ANSWERS]
    assert losses.values == pytest.approx(slow, rel=1e-5)  # float32 forward


def test_batches_do_not_change_losses(make_lm: MakeLm) -> None:
    """One row at a time or all at once: padding is masked."""
    lm = make_lm()
    alone, together = (
        answer_losses(lm, ANSWERS, render_config=RENDER, max_batch_tokens=tokens).values
        for tokens in (1, 1_000)
    )
    assert alone == pytest.approx(together, rel=1e-5)


def test_an_answer_cut_by_the_limit_is_scored_on_what_is_left(make_lm: MakeLm) -> None:
    """Its outcome says so; no end token is invented, so with and without end are equal."""
    lm = make_lm()
    short = RenderConfig(max_prompt_tokens=128, max_response_tokens=5)
    whole, opening = (
        answer_losses(lm, [("Why?", "Because it purrs.")], render_config=short,
                      max_batch_tokens=100, with_end=with_end)
        for with_end in (True, False)
    )  # fmt: skip
    assert whole.outcomes == {"truncated": 1}
    assert whole.values == opening.values


def test_an_answer_that_cannot_be_rendered_is_nan_with_its_reason(make_lm: MakeLm) -> None:
    """The others keep their losses."""
    strict = RenderConfig(max_prompt_tokens=128, max_response_tokens=10, on_too_long="drop")
    losses = answer_losses(
        make_lm(), [("Why?", "No."), ("Why?", "x" * 50)], render_config=strict, max_batch_tokens=500
    )
    assert np.isfinite(losses.values[0])
    assert np.isnan(losses.values[1])
    assert losses.reasons[0] == ""
    assert losses.reasons[1].startswith("too_long: ")


def test_equal_answers_are_all_scored(make_lm: MakeLm) -> None:
    """Repeated texts are rows of their own."""
    losses = answer_losses(
        make_lm(), [("Why?", "No.")] * 3, render_config=RENDER, max_batch_tokens=500
    )
    assert len(set(losses.values.tolist())) == 1
    assert len(losses.values) == 3
