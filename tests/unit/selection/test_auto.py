"""The default ranking: every signal is kept, and weights come from labels where there are some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import toy
from tamis.data.strata import centred
from tamis.data.template import RenderConfig
from tamis.errors import ConfigError
from tamis.methods import build_method
from tamis.methods.base import RankingInputs, rank
from tamis.methods.scores import Scores
from tamis.models.load import LanguageModel
from tamis.selection.auto import Auto
from tamis.selection.fuse import evidence, rank_mean

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
SIGNALS = {
    "plane": {"method": "contrast", "options": {"anchors": "none", "layers": (1, 2)}},
    "chance": {"method": "uniform", "weight": 0.5, "only_clears": True},
}


def ranked(
    lm: LanguageModel, fusion: str = "evidence", signals: Any = SIGNALS, **given: Any
) -> Any:
    """Rank a contaminated set."""
    rows = toy.contaminated_set(60, n_harmful=15, n_safe=20)
    harmful = toy.contaminated_set(20, n_harmful=20, n_safe=1, seed=5).finetuning_set
    method = Auto(signals=signals, fusion=fusion)  # type: ignore[arg-type]
    return rank(rows.finetuning_set, method, safe_set=rows.safe_set, harmful_set=harmful,
                model=lm, render=RENDER, **given)  # fmt: skip


def rank_by_plane(lm: LanguageModel) -> Any:
    """Rank it with the judge alone."""
    return ranked(lm, signals={"plane": SIGNALS["plane"]})


def test_the_score_is_the_sum_of_the_evidence_beside_it(tiny_lm: LanguageModel) -> None:
    """A judge's z-score, and what clears a row."""
    scores = ranked(tiny_lm)
    parts = [scores.columns[f"evidence_{name}"] for name in SIGNALS]
    np.testing.assert_allclose(scores.values, parts[0] + parts[1], rtol=0, atol=1e-12)
    expected = 0.5 * evidence(scores.columns["score_chance"], only_clears=True)
    np.testing.assert_allclose(parts[1], expected, rtol=0, atol=1e-12)


def test_what_is_flagged_is_what_the_judge_flags_and_nothing_clears(tiny_lm: LanguageModel) -> None:
    """Chance clears a few of the rows that the plane flags, and flags none."""
    scores = ranked(tiny_lm)
    judge = rank_by_plane(tiny_lm).columns["flagged"].astype(bool)
    flagged = scores.columns["flagged"].astype(bool)
    assert 0 < flagged.sum() < judge.sum()
    assert not (flagged & ~judge).any()
    middle, spread = centred(scores.columns["score_plane"])
    threshold = (scores.details["signals"]["plane"]["threshold"] - middle) / spread
    assert (flagged == (scores.values < threshold)).all()


def test_someone_must_judge() -> None:
    """Signals that only clear rank nothing."""
    with pytest.raises(ValueError, match="one at least must judge"):
        Auto(signals={"chance": {"method": "uniform", "only_clears": True}})


def test_fusion_by_ranks_is_the_weighted_mean_of_shares(tiny_lm: LanguageModel) -> None:
    """Of the signals that stand beside it."""
    scores = ranked(tiny_lm, fusion="ranks")
    columns = scores.columns
    expected = rank_mean([columns["score_plane"], columns["score_chance"]], [1.0, 0.5])
    assert scores.values.tobytes() == expected.tobytes()
    assert {"share_plane", "share_chance"} <= set(columns)
    assert "flagged" not in columns  # a judge's threshold says nothing of a mean of ranks
    assert not scores.details["weights_learned"]


def test_weights_are_learned_from_labels(tiny_lm: LanguageModel) -> None:
    """Chance is worth little beside what knows."""
    rows = toy.contaminated_set(60, n_harmful=15, n_safe=20)
    scores = ranked(tiny_lm, trusted_set=rows.finetuning_set, trusted_harmful=rows.harmful)
    weights = scores.details["weights"]
    assert scores.details["weights_learned"]
    assert weights["plane"] > 3 * weights["chance"]
    assert toy.auroc(-scores.values, rows.harmful) > 0.9
    (note,) = [note for note in scores.details["notes"] if "were learned from 15 harmful" in note]
    assert f"plane {weights['plane']:.2f}" in note


def test_labels_of_rows_that_were_not_ranked_weigh_nothing(tiny_lm: LanguageModel) -> None:
    """Their ranks are not known, so the given weights stay."""
    others = toy.contaminated_set(20, n_harmful=8, n_safe=1, seed=7)
    scores = ranked(tiny_lm, trusted_set=others.finetuning_set, trusted_harmful=others.harmful)
    assert not scores.details["weights_learned"]
    assert scores.details["weights"] == {"plane": 1.0, "chance": 0.5}


def test_a_signals_missing_input_is_told_by_its_name(tiny_lm: LanguageModel) -> None:
    """A probe needs labels."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=4)
    method = Auto(signals={"p": {"method": "probe"}})
    with pytest.raises(ConfigError, match="method 'p' needs trusted_set"):
        rank(rows.finetuning_set, method, safe_set=rows.safe_set, model=tiny_lm, render=RENDER)


def test_the_default_signals_exist() -> None:
    """Contrast judges, excess clears."""
    signals = Auto().signals
    assert {name: (s.method, s.weight, s.only_clears) for name, s in signals.items()} == {
        "contrast": ("contrast", 1.0, False), "excess": ("amortized", 0.5, True),
    }  # fmt: skip


def test_unscored_rows_stay_unscored(tiny_lm: LanguageModel) -> None:
    """A row too long for the limits has no fused score, whatever a signal without a model says."""
    rows = toy.examples([("Tell me", "gently"), ("Tell me", "water " * 60), ("Tell me", "ember")])
    method = Auto(signals={"loss": {"method": "loss"}, "chance": {"method": "uniform"}})
    tight = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
    scores = rank(rows, method, safe_set=rows, model=tiny_lm, render=tight)
    assert np.isnan(scores.values).tolist() == [False, True, False]
    assert scores.outcome[1] == "too_long"
    assert not np.isnan(scores.columns["score_chance"]).any()


class Picky:
    """A judge that cannot read every third row."""

    requires: frozenset[str] = frozenset()

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score the others by their place."""
        n = len(inputs.finetuning_set)
        values = np.where(np.arange(n) % 3 == 0, np.nan, np.arange(n, dtype=np.float64))
        outcome = ["unparsable" if np.isnan(value) else "ok" for value in values]
        return Scores("picky", inputs.finetuning_set.ids, inputs.finetuning_set.source_ids, values,
                      outcome, None)  # fmt: skip


def test_a_row_that_the_judge_cannot_read_is_unscored_with_its_reason(
    tiny_lm: LanguageModel,
) -> None:
    """Whatever a clearing signal says of it."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=4)
    method = Auto(signals={"picky": {"method": f"{Picky.__module__}:Picky"},
                           "chance": {"method": "uniform", "only_clears": True}})  # fmt: skip
    scores = rank(rows.finetuning_set, method, safe_set=rows.safe_set, model=tiny_lm, render=RENDER)
    unread = np.arange(12) % 3 == 0
    assert (np.isnan(scores.values) == unread).all()
    assert [each == "unparsable" for each in scores.outcome] == unread.tolist()
    assert "flagged" not in scores.columns


def test_rows_that_a_clearing_signal_cannot_read_are_counted(tiny_lm: LanguageModel) -> None:
    """They keep the judge's score."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=4)
    picky = {"method": f"{Picky.__module__}:Picky", "only_clears": True}
    method = Auto(signals={"chance": {"method": "uniform"}, "picky": picky})
    scores = rank(rows.finetuning_set, method, safe_set=rows.safe_set, model=tiny_lm, render=RENDER)
    assert not np.isnan(scores.values).any()
    assert "picky has no score for 4 rows and clears none of them." in scores.details["notes"]


def test_rows_that_a_mean_of_ranks_has_less_of_are_counted(tiny_lm: LanguageModel) -> None:
    """Four of twelve have the rank of one signal."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=4)
    signals = {"picky": {"method": f"{Picky.__module__}:Picky"}, "chance": {"method": "uniform"}}
    scores = rank(rows.finetuning_set, Auto(signals=signals, fusion="ranks"),
                  safe_set=rows.safe_set, model=tiny_lm, render=RENDER)  # fmt: skip
    assert not np.isnan(scores.values).any()
    assert scores.details["notes"] == [
        "picky has no score for 4 rows: theirs is that of the other signals alone."
    ]


def test_the_flagged_share_is_of_scored_rows(tiny_lm: LanguageModel) -> None:
    """Rows that are too long are neither flagged nor passed."""
    data = toy.contaminated_set(60, n_harmful=15, n_safe=20)
    pairs = [tuple(turn.content for turn in row.messages) for row in data.finetuning_set]
    long = [("Tell me", f"{'water ' * 60}{i}") for i in range(60)]
    tight = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
    bad = toy.contaminated_set(20, n_harmful=20, n_safe=1, seed=5).finetuning_set
    scores = rank(toy.examples([*pairs, *long]), Auto(signals={"plane": SIGNALS["plane"]}),
                  safe_set=data.safe_set, harmful_set=bad, model=tiny_lm, render=tight)  # fmt: skip
    n = int(np.nansum(scores.columns["flagged"]))
    (note,) = [note for note in scores.details["notes"] if "are flagged" in note]
    assert note.startswith(f"{n} rows ({n / 60:.1%} of the 60 scored) are flagged")


def test_labels_that_fit_no_ranked_row_are_told(tiny_lm: LanguageModel) -> None:
    """The given weights stay, and a note says so."""
    others = toy.contaminated_set(20, n_harmful=8, n_safe=1, seed=7)
    scores = ranked(tiny_lm, trusted_set=others.finetuning_set, trusted_harmful=others.harmful)
    assert any("of the 20 labels 0 are of harmful and 0 of other ranked rows" in note
               for note in scores.details["notes"])  # fmt: skip


def test_labels_with_too_few_harmful_ones_leave_the_given_weights(tiny_lm: LanguageModel) -> None:
    """A hundred labels at random hold two harmful rows where harm is rare; nothing is lost."""
    rows = toy.contaminated_set(60, n_harmful=15, n_safe=20)
    bad = np.flatnonzero(rows.harmful)
    chosen = sorted([*bad[:2], *np.flatnonzero(~rows.harmful)[:18]])
    trusted = rows.finetuning_set.restrict([rows.finetuning_set.ids[i] for i in chosen])
    scores = ranked(tiny_lm, trusted_set=trusted, trusted_harmful=rows.harmful[chosen])
    assert not scores.details["weights_learned"]
    assert scores.values.tobytes() == ranked(tiny_lm).values.tobytes()
    assert any("2 are of harmful and 18 of other" in note for note in scores.details["notes"])


def test_a_shortened_row_that_the_judge_cannot_read_says_why(tiny_lm: LanguageModel) -> None:
    """That it was shortened is no reason to have no score."""
    rows = toy.examples([("Tell me", "water " * 60), ("Tell me", "ember"), ("Tell me", "gently")])
    method = Auto(signals={"picky": {"method": f"{Picky.__module__}:Picky"}})
    scores = rank(rows, method, safe_set=rows, model=tiny_lm, render=RENDER)
    assert scores.outcome == ["unparsable", "ok", "ok"]
    assert rank(rows, build_method("loss"), model=tiny_lm, render=RENDER).outcome[0] == "truncated"
