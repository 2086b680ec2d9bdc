"""Amortised scores: the plane, the folds, the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import toy
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError
from tamis.methods.amortized import Amortized, cross_fitted, fit_ridge
from tamis.methods.base import rank
from tamis.methods.contrast import Contrast
from tamis.models.load import LanguageModel

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)


def linear_rows(n: int = 200, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """States of very different scale, and targets that are linear in them."""
    generator = np.random.default_rng(0)
    states = generator.normal(size=(n, 5)) * np.array([1, 10, 100, 0.1, 1])
    return states, states @ np.array([1, -0.2, 0.01, 3, 0]) + 4 + noise * generator.normal(size=n)


def test_a_linear_score_is_found_again() -> None:
    """Weights and bias for the states as they are."""
    states, targets = linear_rows()
    weight, bias, penalty = fit_ridge(states, targets)
    np.testing.assert_allclose(states @ weight + bias, targets, atol=0.02)
    assert penalty == pytest.approx(0.1)  # the smallest on offer: there is no noise to average out


def test_noise_is_averaged_out() -> None:
    """Predictions of held-out rows are nearer to the truth than the noisy scores they came from."""
    states, truth = linear_rows()
    _, noisy = linear_rows(noise=2.0)
    found, _ = cross_fitted(states, noisy, np.arange(200) % 5)
    assert np.abs(found - truth).mean() < 0.5 * np.abs(noisy - truth).mean()


def test_a_row_has_no_part_in_its_own_prediction() -> None:
    """Moving one target moves only rows of other folds."""
    states, targets = linear_rows(60, noise=1.0)
    fold = np.arange(60) % 3
    before, _ = cross_fitted(states, targets, fold)
    targets[7] += 50.0
    after, _ = cross_fitted(states, targets, fold)
    assert after[fold == fold[7]].tobytes() == before[fold == fold[7]].tobytes()
    assert (after[fold != fold[7]] != before[fold != fold[7]]).all()


PLANE = {"anchors": "none", "layers": (1, 2)}
HARMFUL = toy.contaminated_set(20, n_harmful=20, n_safe=1, seed=5).finetuning_set


def ranked(lm: LanguageModel, n: int = 60, **settings: Any) -> Any:
    """Rank rows with a plane over hidden states as the teacher: what it knows can be learned."""
    rows = toy.contaminated_set(n, n_harmful=n // 3, n_safe=20)
    values = {"teacher": "contrast", "teacher_options": PLANE, "layers": (1, 2), "folds": 3}
    return rank(rows.finetuning_set, Amortized(**{**values, **settings}), safe_set=rows.safe_set,
                harmful_set=HARMFUL, model=lm, render=RENDER)  # fmt: skip


def test_the_teachers_scores_stand_beside(tiny_lm: LanguageModel) -> None:
    """As they are; and what was learned of them follows them."""
    rows = toy.contaminated_set(60, n_harmful=20, n_safe=20)
    taught = rank(rows.finetuning_set, Contrast(**PLANE), safe_set=rows.safe_set,
                  harmful_set=HARMFUL, model=tiny_lm, render=RENDER)  # fmt: skip
    scores = ranked(tiny_lm)
    assert scores.columns["score_teacher"].tobytes() == taught.values.tobytes()
    assert scores.details["r_squared"] > 0.5
    assert np.corrcoef(scores.values, taught.values)[0, 1] > 0.7


def test_the_selector_scores_other_rows_on_the_teachers_side(tiny_lm: LanguageModel) -> None:
    """Rows of both kinds that were never ranked: the harmful ones fall below."""
    other = toy.contaminated_set(40, n_harmful=20, n_safe=1, seed=9)
    rows = render(other.finetuning_set, tiny_lm.tokenizer, RENDER)
    values = ranked(tiny_lm).selector.score(tiny_lm, rows)
    assert toy.auroc(-values, other.harmful) > 0.9


def test_what_the_teacher_needs_is_asked_for(tiny_lm: LanguageModel) -> None:
    """SEAL without a safe set: the message names it."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=1).finetuning_set
    with pytest.raises(ConfigError, match=r"'seal' needs safe_set: give --safe-set"):
        rank(rows, Amortized(layers=(1,)), model=tiny_lm, render=RENDER)


def test_too_few_scored_rows_are_refused(tiny_lm: LanguageModel) -> None:
    """Two for every fold are the least."""
    with pytest.raises(ConfigError, match="scored 6 different rows: 10 are needed for folds=5"):
        ranked(tiny_lm, 6, folds=5, teacher="uniform", teacher_options={})


def test_copies_are_one_row_of_the_least(tiny_lm: LanguageModel) -> None:
    """They are in one fold: nothing would be left to learn from for their scores."""
    copies = toy.examples([("Tell me about bread", "water")] * 12)
    method = Amortized(layers=(1,), folds=5, teacher="uniform", teacher_options={})
    with pytest.raises(ConfigError, match="scored 1 different rows: 10 are needed"):
        rank(copies, method, model=tiny_lm, render=RENDER)
