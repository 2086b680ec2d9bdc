"""Contrast: sides, folds, self-training, the threshold and the refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import toy
from tamis.data.anchors import request_folds, requests, shipped_anchors, turned
from tamis.data.example import Examples, ParsedRow
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError
from tamis.methods import contrast
from tamis.methods.base import RankingInputs, rank
from tamis.methods.contrast import Contrast
from tamis.models.load import LanguageModel
from tamis.models.planes import fit_plane
from tamis.models.sided_planes import FOLDS, Sides, believed, held_out_risks

RENDER = RenderConfig(max_prompt_tokens=160, max_response_tokens=96)


def test_the_riskiest_and_the_least_risky_are_believed() -> None:
    """A fifth and two fifths of ten rows, the surest first."""
    risk = np.array([0.0, 9, 1, 8, 2, 7, 3, 6, 4, 5])
    top, bottom = believed(risk, 0.2, 0.4)
    assert (top.tolist(), bottom.tolist()) == ([1, 3], [0, 2, 4, 6])


@pytest.mark.parametrize(("top", "bottom"), [(0.0, 0.0), (0.0, 0.3), (0.2, 0.0)])
def test_a_share_of_zero_believes_nobody(top: float, bottom: float) -> None:
    """Of ten rows."""
    found = believed(np.arange(10.0), top, bottom)
    assert [len(part) for part in found] == [round(10 * top), round(10 * bottom)]


def sides(n: int = 50) -> Sides:
    """Known rows on a line: harmful above zero."""
    position = np.linspace(-2, 2, n)
    return Sides(np.stack([position, np.cos(7 * position)], 1), position > 0, np.arange(n) % FOLDS,
                 position <= 0)  # fmt: skip


def test_a_row_is_scored_by_a_plane_without_its_fold() -> None:
    """The value is that of a fit on everything else."""
    known, rows = sides(), np.array([[1.0, 0.2], [-1.0, 0.1], [0.3, -0.5]])
    fold = np.array([0, 1, 2])
    trusted = np.array([0]), np.array([1])
    risk, known_risk = held_out_risks(known, rows, fold, trusted, 1.0)
    mine = known.fold != 2
    states = np.concatenate([known.states[mine], rows[[0]], rows[[1]]])
    weight, bias = fit_plane(states, np.concatenate([known.harmful[mine], [True, False]]), 1.0)
    assert risk[2] == pytest.approx(rows[2] @ weight + bias)
    assert known_risk[2] == pytest.approx(known.states[2] @ weight + bias)


def test_a_believed_row_does_not_confirm_itself() -> None:
    """Its own score is the same whether it is believed or not."""
    known, rows = sides(), np.array([[0.1, 3.0], [-1.0, 0.1]])
    nobody = np.empty(0, dtype=np.int64)
    fold = np.array([0, 1])
    alone, _ = held_out_risks(known, rows, fold, (nobody, nobody), 1.0)
    believing, _ = held_out_risks(known, rows, fold, (np.array([0]), nobody), 1.0)
    assert believing[0] == alone[0]
    assert believing[1] != alone[1]


def ranked(lm: LanguageModel, *, harmful: bool = True, **settings: Any) -> Any:
    """Rank a contaminated set with other harmful rows as the harmful side."""
    rows = toy.contaminated_set(80, n_harmful=20, n_safe=40)
    others = toy.contaminated_set(20, n_harmful=20, n_safe=1, seed=5).finetuning_set
    method = Contrast(**{"anchors": "none", "layers": (1, 2), **settings})
    return rank(rows.finetuning_set, method, safe_set=rows.safe_set,
                harmful_set=others if harmful else None, model=lm, render=RENDER)  # fmt: skip


def test_few_rows_like_the_safe_set_are_flagged(tiny_lm: LanguageModel) -> None:
    """The threshold is set on held-out safe rows: benign rows pass it about as rarely."""
    mixed = toy.contaminated_set(160, n_harmful=20, n_safe=1)
    benign = [row for row, bad in zip(mixed.finetuning_set.ids, mixed.harmful, strict=True)
              if not bad]  # fmt: skip
    safe = mixed.finetuning_set.restrict(benign[::2])  # of the same kind as the benign rows ranked
    rows = mixed.finetuning_set.restrict(set(mixed.finetuning_set.ids) - set(safe.ids))
    others = toy.contaminated_set(20, n_harmful=20, n_safe=1, seed=5).finetuning_set
    scores = rank(rows, Contrast(anchors="none", layers=(1, 2)), safe_set=safe, harmful_set=others,
                  model=tiny_lm, render=RENDER)  # fmt: skip
    bad = {row for row in mixed.finetuning_set.ids if row not in benign}
    harmful = np.array([row in bad for row in rows.ids])
    flagged = scores.columns["flagged"].astype(bool)
    assert flagged[harmful].mean() > 0.9
    assert flagged[~harmful].mean() <= 0.15
    assert scores.details["flagged"] == flagged.sum()
    assert (scores.values[flagged] < scores.details["threshold"]).all()


def test_anchors_that_are_too_long_are_cut_and_counted(
    tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are too long are an error here, and none is; of the anchors all take part."""
    monkeypatch.setattr(contrast, "IDENTIFIABLE", 0.0)  # English says nothing to a toy model
    rows = toy.contaminated_set(24, n_harmful=8, n_safe=12)
    longest = RenderConfig(max_prompt_tokens=160, max_response_tokens=48, on_too_long="error")
    scores = rank(rows.finetuning_set, Contrast(layers=(1, 2)), safe_set=rows.safe_set,
                  model=tiny_lm, render=longest)  # fmt: skip
    found = scores.details["anchors_by_outcome"]
    assert set(found) == {"complied", "refused", "borderline", "opened", "answered"}
    assert found["refused"]["truncated"] > 0
    for name, counts in found.items():
        assert set(counts) <= {"ok", "truncated"}
        assert sum(counts.values()) == scores.details["known_rows"][name]


def test_without_a_harmful_side_it_refuses(tiny_lm: LanguageModel) -> None:
    """Nothing would say which side is harm."""
    with pytest.raises(ConfigError, match="nothing that says which side is harm"):
        ranked(tiny_lm, harmful=False)


def test_the_saved_plane_scores_as_the_ranking_does(tiny_lm: LanguageModel) -> None:
    """It is the mean of the layers' planes; the ranking's own lack a fifth of what is known."""
    scores = ranked(tiny_lm)
    rows = render(toy.contaminated_set(80, n_harmful=20, n_safe=40).finetuning_set,
                  toy.tokenizer(), RENDER)  # fmt: skip
    assert toy.rank_correlation(scores.selector.score(tiny_lm, rows), scores.values) > 0.95


def test_an_answer_that_declines_marks_its_request_as_unsafe(tiny_lm: LanguageModel) -> None:
    """Its request with an opening is on the harmful side; other requests with one are not."""
    anchors = shipped_anchors()
    safe = Examples.from_records([
        ParsedRow(row.messages) for part in (anchors.refused, anchors.answered)
        for row in itertools.islice(part, 30)
    ])  # fmt: skip
    inputs = RankingInputs(anchors.opened, safe_set=safe, model=tiny_lm, render=RENDER)
    names, method = ["state:2:response_mean", "state:2:prompt_last"], Contrast(layers=(2,))
    parts = method._known(inputs, names, method._folds(inputs))
    found = method._turned(inputs, names, parts, 1)
    assert {name: bool(part.harmful.all()) for name, part in found.items()} == {
        "turned_unsafe": True, "turned_ordinary": False,
    }  # fmt: skip
    sizes = [len(part.states) for part in found.values()]
    assert sum(sizes) == 2 * len(safe)
    assert 50 <= sizes[0] <= 70  # of sixty: a plane on a random model is wrong about a few
    assert not method._notes({**parts, **found})
    assert "reads as a refusal" in method._notes(parts)[0]


def test_a_turned_row_is_held_out_with_its_safe_row(tiny_lm: LanguageModel) -> None:
    """They share the request, whose state the plane would know."""
    anchors = shipped_anchors()
    inputs = RankingInputs(anchors.opened, safe_set=anchors.refused, model=tiny_lm, render=RENDER)
    names, method = ["state:2:prompt_last"], Contrast(layers=(2,), readings=("prompt_last",))
    parts = method._known(inputs, names, method._folds(inputs))
    fold_of = {state.tobytes(): fold for state, fold in
               zip(parts["safe_set"].states, parts["safe_set"].fold, strict=True)}  # fmt: skip
    for part in method._turned(inputs, names, parts, 1).values():
        for state, fold in zip(part.states, part.fold, strict=True):
            nearest = min(fold_of, key=lambda key: np.abs(np.frombuffer(key) - state).max())
            assert fold_of[nearest] == fold


def test_what_asks_the_same_as_an_anchor_is_held_out_with_it(tiny_lm: LanguageModel) -> None:
    """`tamis safe-set` takes the anchors' refusals; a ranked row may ask it too, in any answer."""
    anchors = shipped_anchors()
    asked = turned(anchors.complied, [3, 40], ("Gladly.", "With pleasure."))
    safe = Examples.from_records(ParsedRow(row.messages) for part in (anchors.refused, asked)
                                 for row in itertools.islice(part, 60))  # fmt: skip
    inputs = RankingInputs(asked, safe_set=safe, model=tiny_lm, render=RENDER)
    folds, of_request = Contrast(layers=(2,))._folds(inputs), request_folds(anchors, FOLDS)
    for name, rows in (("safe_set", safe), ("finetuning_set", asked)):
        asks = requests(rows)
        expected = [of_request[asks[i]] for i in inputs.rendered(name).id_order]
        assert folds[name].tolist() == expected


def test_states_that_do_not_separate_the_anchors_are_refused(tiny_lm: LanguageModel) -> None:
    """A random model does not know an unsafe request from a safe one."""
    with pytest.raises(ConfigError, match=r"do not tell complied rows from \w+ rows"):
        ranked(tiny_lm, anchors="shipped")


def test_a_row_cannot_be_believed_to_be_both() -> None:
    """Shares above one in all are refused by name."""
    with pytest.raises(ValueError, match=r"top \+ bottom is above 1"):
        Contrast(top=0.4, bottom=0.7)


def test_one_harmful_row_is_too_little_to_hold_any_out(tiny_lm: LanguageModel) -> None:
    """Copies of it are no more."""
    rows = toy.contaminated_set(12, n_harmful=4, n_safe=8)
    copies = toy.examples([("the lamp", "ember crack")] * 6)
    with pytest.raises(ConfigError, match="too few distinct harmful rows"):
        rank(rows.finetuning_set, Contrast(anchors="none", layers=(1, 2)), safe_set=rows.safe_set,
             harmful_set=copies, model=tiny_lm, render=RENDER)  # fmt: skip


def test_too_few_safe_rows_for_a_threshold_are_told(tiny_lm: LanguageModel) -> None:
    """Of ten, none can be one in twenty."""
    rows = toy.contaminated_set(40, n_harmful=10, n_safe=10)
    others = toy.contaminated_set(20, n_harmful=20, n_safe=1, seed=5).finetuning_set
    method = Contrast(anchors="none", layers=(1, 2))
    scores = rank(rows.finetuning_set, method, safe_set=rows.safe_set, harmful_set=others,
                  model=tiny_lm, render=RENDER)  # fmt: skip
    assert any("10 safe rows are too few" in note for note in scores.details["notes"])
