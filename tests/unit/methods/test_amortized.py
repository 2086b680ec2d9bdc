"""Amortised scores: the plane, the folds, the teacher."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

import toy
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError
from tamis.methods.amortized import Amortized, cross_fitted, fit_ridge
from tamis.methods.base import RankingInputs, rank
from tamis.methods.contrast import Contrast
from tamis.methods.scores import Scores
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


def ranked(lm: LanguageModel, n: int = 60, seed: int = 0, **settings: Any) -> Any:
    """Rank rows with a plane over hidden states as the teacher: what it knows can be learned."""
    rows = toy.contaminated_set(n, n_harmful=n // 3, n_safe=20)
    values = {"teacher": "contrast", "teacher_options": PLANE, "layers": (1, 2), "folds": 3}
    return rank(rows.finetuning_set, Amortized(**{**values, **settings}), safe_set=rows.safe_set,
                harmful_set=HARMFUL, model=lm, render=RENDER, seed=seed)  # fmt: skip


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


class Few:
    """Knows the rows of four contents only, and their order among all by chance."""

    requires: ClassVar[frozenset[str]] = frozenset()
    known = 4

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score the first of the ids."""
        rows = inputs.finetuning_set
        first = sorted(rows.ids)[: self.known]
        values = np.array([first.index(row) if row in first else np.nan for row in rows.ids])
        outcome = ["no_answer" if np.isnan(value) else "ok" for value in values]
        return Scores("few", rows.ids, rows.source_ids, values, outcome, None)


class TooFew(Few):
    """Knows one row less."""

    known = 3


def test_too_few_scored_rows_are_refused(tiny_lm: LanguageModel) -> None:
    """Two folds of two are the least, whatever is asked for."""
    with pytest.raises(ConfigError, match="scored 3 different rows, and 4 are needed"):
        ranked(tiny_lm, 20, folds=5, teacher=f"{__name__}:TooFew", teacher_options={})


def test_copies_are_one_row_of_the_least(tiny_lm: LanguageModel) -> None:
    """They are in one fold: nothing would be left to learn from for their scores."""
    copies = toy.examples([("Tell me about bread", "water")] * 12)
    method = Amortized(layers=(1,), folds=5, teacher="uniform", teacher_options={})
    with pytest.raises(ConfigError, match="scored 1 different rows, and 4 are needed"):
        rank(copies, method, model=tiny_lm, render=RENDER)


@pytest.mark.parametrize(("n", "folds"), [(6, 3), (9, 4)])
def test_few_rows_are_dealt_to_fewer_folds(tiny_lm: LanguageModel, n: int, folds: int) -> None:
    """Two rows a fold or more: the scores are those of so many folds, and a note says so."""
    few = ranked(tiny_lm, n, folds=5, teacher="uniform", teacher_options={})
    asked = ranked(tiny_lm, n, folds=folds, teacher="uniform", teacher_options={})
    assert few.values.tobytes() == asked.values.tobytes()
    assert len(few.details["penalties"]) == folds
    assert f"they were dealt to {folds} folds" in few.details["notes"][-1]
    assert asked.details["notes"] == []


def test_rows_enough_for_the_folds_are_dealt_to_all_of_them(tiny_lm: LanguageModel) -> None:
    """Ten are two for each of five."""
    found = ranked(tiny_lm, 10, folds=5, teacher="uniform", teacher_options={})
    assert (len(found.details["penalties"]), found.details["notes"]) == (5, [])


@pytest.mark.parametrize("seed", [12, 17])
def test_few_scored_rows_among_many_are_in_both_folds(tiny_lm: LanguageModel, seed: int) -> None:
    """Four of 40; with these seeds, all four would be in one fold if all 40 were dealt."""
    found = ranked(tiny_lm, 40, seed=seed, teacher=f"{__name__}:Few", teacher_options={})
    assert len(found.details["penalties"]) == 2
    assert np.isfinite(found.values).all()
