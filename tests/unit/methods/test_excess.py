"""Excess loss: differences, halves, folds and strata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from tamis.data.row_views import FirstTokens
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError
from tamis.methods.base import rank
from tamis.methods.excess import Excess, excess_loss, reliability
from tamis.models.bilevel import BilevelRun
from tamis.models.load import LanguageModel
from tamis.models.lora import LoraSettings

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
QUICK = {"steps": 3, "batch_size": 2, "trunk_cut": 1, "learning_rate": 1e-2}


def test_a_row_the_safe_model_finds_harder_has_excess() -> None:
    """Nats per token, base minus nothing."""
    found = excess_loss(np.array([2.0, 1.0]), np.array([1.5, 1.25]))
    assert found.tolist() == [0.5, -0.25]


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ([1, 2, 3, 4, 5], 1.0),
        ([2, 1, 3, 5, 4], 2 * 0.8 / 1.8),  # rho = 1 - 6 * 4 / (5 * 24) = 0.8
        ([5, 4, 3, 2, 1], 0.0),
        ([3, 3, 3, 3, 3], None),
    ],
)
def test_reliability_is_spearman_brown_of_the_rank_correlation(
    second: list[int], expected: float | None
) -> None:
    """Nothing shared is 0, nothing to correlate is None."""
    found = reliability(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array(second))
    assert found == (None if expected is None else pytest.approx(expected))


def test_only_the_first_trained_tokens_count() -> None:
    """Later labels are untrained; tokens and everything else stay."""
    rows = render(toy.contaminated_set(4, n_harmful=1, n_safe=1).finetuning_set, toy.tokenizer(),
                  RENDER)  # fmt: skip
    found = FirstTokens(rows, 2)[1]
    trained = [i for i, label in enumerate(rows[1].labels) if label >= 0]
    assert [i for i, label in enumerate(found.labels) if label >= 0] == trained[:2]
    assert found.input_ids == rows[1].input_ids


def ranked(lm: LanguageModel, n_safe: int = 8, **settings: Any) -> Any:
    """Rank twelve rows."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=n_safe)
    harmful = toy.contaminated_set(6, n_harmful=6, n_safe=1, seed=5).finetuning_set
    return rank(rows.finetuning_set, Excess(**{**QUICK, **settings}), safe_set=rows.safe_set,
                harmful_set=harmful, model=lm, render=RENDER)  # fmt: skip


def test_every_readout_follows_from_the_losses(tiny_lm: LanguageModel) -> None:
    """The score is the other loss less the safe loss."""
    scores = ranked(tiny_lm)
    columns = scores.columns
    np.testing.assert_allclose(
        scores.values, columns["score_safe_loss"] + columns["loss_other"], rtol=0, atol=1e-9
    )


def test_first_tokens_compare_the_same_tokens_on_both_sides(tiny_lm: LanguageModel) -> None:
    """With no step taken, both models are the base: nothing is in excess."""
    scores = ranked(tiny_lm, first_tokens=2, learning_rate=1e-30)
    np.testing.assert_allclose(scores.values, 0.0, atol=1e-5)
    assert np.ptp(scores.columns["loss_other"]) > 0.1


def test_a_fold_is_scored_by_the_model_that_did_not_see_it(tiny_lm: LanguageModel) -> None:
    """Trained long enough, a row's own model would know it: held out, rows are not known better."""
    own = ranked(tiny_lm, against="crossfit", steps=60)
    base = ranked(tiny_lm, against="base", steps=60)
    # Twelve rows in two kinds: other rows of a kind help, but no row is learned by heart.
    assert own.columns["loss_other"].min() > 0.05
    assert own.columns["loss_other"].mean() < base.columns["loss_other"].mean()


def test_another_mixture_of_known_rows_trains_nothing(
    tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The safe-tuned models do not depend on the mixture; other settings train again."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=8)
    part = rows.finetuning_set.restrict(rows.finetuning_set.ids[::2])

    def ranked_part(**changes: Any) -> Any:
        return rank(part, Excess(**{**QUICK, **changes}), safe_set=rows.safe_set, model=tiny_lm,
                    render=RENDER, cache=tmp_path)  # fmt: skip

    whole = rank(rows.finetuning_set, Excess(**QUICK), safe_set=rows.safe_set, model=tiny_lm,
                 render=RENDER, cache=tmp_path)  # fmt: skip

    class TrainedAgainError(Exception):
        pass

    def refuse(*_: Any) -> None:
        raise TrainedAgainError

    monkeypatch.setattr(BilevelRun, "descend", refuse)
    np.testing.assert_array_equal(ranked_part().values, whole.values[::2])
    for changes in ({"learning_rate": 2e-2}, {"steps": 4}, {"against": "crossfit"}):
        with pytest.raises(TrainedAgainError):
            ranked_part(**changes)


class KilledError(Exception):
    """Raised in the middle of a ranking."""


def test_losses_that_are_gone_are_not_taken_for_trained(
    tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    """Killed while the safe-tuned models' losses were known, gone on with where they are not."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=8)

    def run(cache: str, work: Path | None = None, **given: Any) -> Any:
        method = Excess(**{**QUICK, "steps": 6, "checkpoint_every_steps": 1, "against": "crossfit",
                           **given.pop("settings", {})})  # fmt: skip
        return rank(rows.finetuning_set, method, safe_set=rows.safe_set, model=tiny_lm,
                    render=RENDER, cache=tmp_path / cache, work=work, **given)  # fmt: skip

    def kill(stage: str, done: int, _total: int, _figures: Any) -> None:
        if stage == "training" and done == 4:
            raise KilledError

    run("first", settings={"against": "base"})
    with pytest.raises(KilledError):
        run("first", tmp_path / "work", report=kill)
    resumed = run("second", tmp_path / "work")
    np.testing.assert_array_equal(resumed.values, run("third").values)


def test_dropout_draws_the_same_again(tiny_lm: LanguageModel) -> None:
    """Whatever was drawn before."""
    first = ranked(tiny_lm, lora=LoraSettings(dropout=0.3))
    torch.rand(7)
    np.testing.assert_array_equal(ranked(tiny_lm, lora=LoraSettings(dropout=0.3)).values,
                                  first.values)  # fmt: skip


def test_disagreeing_halves_are_told(tiny_lm: LanguageModel) -> None:
    """A step too small to see leaves rounding only: the note says that the scores are chance."""
    scores = ranked(tiny_lm, learning_rate=1e-30)
    assert not (scores.details["reliability"] or 0) >= 0.5
    assert any("mostly chance" in note for note in scores.details["notes"])


def test_a_harmful_set_is_needed_where_it_is_compared_with(tiny_lm: LanguageModel) -> None:
    """The message names the flag."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=4)
    with pytest.raises(ConfigError, match="give --harmful-set"):
        rank(rows.finetuning_set, Excess(**QUICK, against="harmful"), safe_set=rows.safe_set,
             model=tiny_lm, render=RENDER)  # fmt: skip


def test_one_safe_row_cannot_be_halved(tiny_lm: LanguageModel) -> None:
    """What was given, why it is too few, and what to give."""
    said = (
        r"1 different rows of the safe_set .*the model safe-\d got none\. Give more rows of the s"
    )
    with pytest.raises(ConfigError, match=said):
        ranked(tiny_lm, n_safe=1)
