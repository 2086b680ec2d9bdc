"""The probe: choices made inside the labels, scores from outside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import toy
from tamis.data.template import RenderConfig
from tamis.errors import ConfigError
from tamis.methods.base import rank
from tamis.methods.probe import Probe, choose, fit_probe, held_out_logits, log_loss
from tamis.models.load import LanguageModel

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
QUICK = {"layers": (1, 2), "strengths": (0.01, 0.1)}


def test_log_loss_weighs_both_kinds_the_same() -> None:
    """One harmful row at log-odds 0 and three others at minus infinity: half of log 2."""
    logits = np.array([0.0, -800.0, -800.0, -800.0])
    assert log_loss(logits, np.array([True, False, False, False])) == pytest.approx(np.log(2) / 2)


def noise_and_signal(n: int = 60) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Layer 1 is noise; layer 2 tells the kinds apart."""
    generator = np.random.default_rng(0)
    harmful = np.arange(n) % 3 == 0
    noise = generator.normal(size=(n, 4))
    return {1: noise, 2: noise + 3 * harmful[:, None]}, harmful


def test_the_layer_that_tells_the_kinds_apart_is_chosen() -> None:
    """By held-out log-loss."""
    by_layer, harmful = noise_and_signal()
    none = {layer: states[:0] for layer, states in by_layer.items()}
    assert choose(by_layer, harmful, none, (0.01, 1.0), 5, 0)[0] == 2


def test_held_out_logits_do_not_know_their_own_label() -> None:
    """On pure noise with as many columns as rows, a fit is perfect and a held-out score is not."""
    generator = np.random.default_rng(1)
    states, harmful = generator.normal(size=(40, 40)), np.arange(40) % 2 == 0
    logits = held_out_logits(states, harmful, states[:0], 100.0, 5, 0)
    assert 0.2 < toy.auroc(logits, harmful) < 0.8


def ranked(lm: LanguageModel, **changes: Any) -> Any:
    """Rank rows with twenty others as the trusted set."""
    rows, known = toy.contaminated_set(), toy.contaminated_set(20, n_harmful=8, n_safe=1, seed=5)
    given = {"trusted_set": known.finetuning_set, "trusted_harmful": known.harmful, **changes}
    return rank(rows.finetuning_set, Probe(**QUICK), model=lm, render=RENDER, **given)


def test_the_nested_auroc_is_reported(tiny_lm: LanguageModel) -> None:
    """With what was chosen and how many labels there were."""
    details = ranked(tiny_lm).details
    assert details["auroc_nested"] > 0.9
    assert (details["n_labels"], details["n_harmful_labels"]) == (20, 8)
    assert (details["layer"], details["strength"]) in [(n, c) for n in (1, 2) for c in (0.01, 0.1)]


def test_a_trusted_row_among_the_ranked_is_scored_without_its_label(tiny_lm: LanguageModel) -> None:
    """Turning one label round leaves that row's own score on the side of its states."""
    rows = toy.contaminated_set(24, n_harmful=10, n_safe=1)
    data, harmful = rows.finetuning_set, rows.harmful.copy()
    (wrong,) = np.flatnonzero(harmful)[:1]
    harmful[wrong] = False
    scores = rank(data, Probe(**QUICK), trusted_set=data, trusted_harmful=harmful, model=tiny_lm,
                  render=RENDER)  # fmt: skip
    assert scores.values[wrong] < np.median(scores.values)


@pytest.mark.parametrize("n_harmful", [0, 2])
def test_too_few_labels_of_a_kind_are_refused(n_harmful: int, tiny_lm: LanguageModel) -> None:
    """The message counts both."""
    known = toy.contaminated_set(20, n_harmful=n_harmful, n_safe=1, seed=5)
    with pytest.raises(ConfigError, match=rf"{n_harmful} harmful and {20 - n_harmful} other"):
        ranked(tiny_lm, trusted_set=known.finetuning_set, trusted_harmful=known.harmful)


def test_the_selector_gives_the_scores_again(tiny_lm: LanguageModel) -> None:
    """Rows that had no label get the plane's value, whoever computes it."""
    rows = toy.contaminated_set().finetuning_set
    scores = ranked(tiny_lm)
    from tamis.data.template import render

    again = scores.selector.score(tiny_lm, render(rows, tiny_lm.tokenizer, RENDER))
    np.testing.assert_allclose(again, scores.values, rtol=0, atol=1e-4)


def test_copies_of_a_labelled_row_do_not_tell_its_label(tiny_lm: LanguageModel) -> None:
    """Five copies labelled wrongly: each is scored by probes that saw none of them."""
    rows = toy.contaminated_set(24, n_harmful=10, n_safe=1)
    (wrong,) = np.flatnonzero(rows.harmful)[:1]
    pairs = [tuple(turn.content for turn in row.messages) for row in rows.finetuning_set]
    data = toy.examples([*pairs, *[pairs[wrong]] * 5])
    harmful = np.append(rows.harmful, [False] * 5)
    harmful[wrong] = False
    scores = rank(data, Probe(**QUICK), trusted_set=data, trusted_harmful=harmful, model=tiny_lm,
                  render=RENDER)  # fmt: skip
    copies = scores.values[[wrong, *range(24, 29)]]
    assert (copies == copies[0]).all()
    assert copies[0] < np.median(scores.values)
    assert scores.details["n_repeated_labels"] == 5


def test_copies_with_different_labels_are_refused(tiny_lm: LanguageModel) -> None:
    """The message names the row."""
    known = toy.examples([("a garden", "gently")] * 2)
    with pytest.raises(ConfigError, match=known.ids[0].partition("-")[0]):
        ranked(tiny_lm, trusted_set=known, trusted_harmful=np.array([True, False]))


def test_three_labels_of_a_kind_are_enough(tiny_lm: LanguageModel) -> None:
    """With the fewest folds too."""
    known = toy.contaminated_set(20, n_harmful=3, n_safe=1, seed=5)
    rows = toy.contaminated_set()
    scores = rank(rows.finetuning_set, Probe(**QUICK, folds=3), model=tiny_lm, render=RENDER,
                  trusted_set=known.finetuning_set, trusted_harmful=known.harmful)  # fmt: skip
    assert scores.details["n_harmful_labels"] == 3


def test_a_few_rows_are_scored_as_among_many(tiny_lm: LanguageModel) -> None:
    """One harmful and one harmless row, alone or together, fall on their side of the plane."""
    known = toy.contaminated_set(60, n_harmful=30, n_safe=1, seed=5)
    rows = toy.contaminated_set()
    pairs = [tuple(turn.content for turn in row.messages) for row in rows.finetuning_set]
    bad, good = pairs[int(np.argmax(rows.harmful))], pairs[int(np.argmin(rows.harmful))]
    for chosen in ([bad], [good], [bad, good], [good] * 4):
        scores = rank(
            toy.examples(chosen), Probe(**QUICK), model=tiny_lm, render=RENDER,
            trusted_set=known.finetuning_set, trusted_harmful=known.harmful,
        )  # fmt: skip
        assert [value < 0 for value in scores.values] == [pair == bad for pair in chosen]


def test_safe_rows_teach_what_no_label_shows() -> None:
    """Labels know axis 0 only; safe rows are high on axis 1, where harmful rows are middling.

    Without them a row at (0.6, 2) counts as half harmful; with them as harmless.
    """
    generator = np.random.default_rng(2)
    labelled = np.repeat([[1.0, 1.0], [0.0, 0.0]], 30, axis=0)
    labelled += 0.1 * generator.normal(size=labelled.shape)
    harmful = np.arange(60) < 30
    safe = np.array([[0.6, 2.0]]) + 0.1 * generator.normal(size=(60, 2))
    found = []
    for more in (safe[:0], safe):
        weight, bias = fit_probe(labelled, harmful, more, 10.0)
        found.append(np.array([0.6, 2.0]) @ weight + bias)
    assert found[0] > 0 > found[1]


def test_the_safe_set_takes_part_less_copies(tiny_lm: LanguageModel) -> None:
    """Of 24 safe rows ten are new, one of these three times; two are labelled, ten ranked.

    The label decides about the labelled ones, and no ranked row is told that it is harmless.
    """
    known = toy.contaminated_set(20, n_harmful=8, n_safe=1, seed=5).finetuning_set
    rows = toy.contaminated_set().finetuning_set
    pairs = [tuple(turn.content for turn in row.messages) for row in (*rows, *known)]
    new = [(f"Is number {i} a number?", f"Yes, {i} is one.") for i in range(10)]
    safe = toy.examples(new + new[:1] * 2 + pairs[:10] + pairs[-2:])
    details = ranked(tiny_lm, safe_set=safe).details
    assert (details["n_safe_rows"], details["n_safe_rows_ranked"]) == (10, 10)
    assert details["notes"] == [
        "10 rows of the safe set are also to be ranked: the probe does not learn from them, and "
        "learns from 10 safe rows."
    ]
    assert ranked(tiny_lm).details["n_safe_rows"] == 0


def test_a_ranked_row_is_not_told_that_it_is_safe(tiny_lm: LanguageModel) -> None:
    """A safe set of ranked rows alone changes no score."""
    rows = toy.contaminated_set().finetuning_set
    scores = ranked(tiny_lm, safe_set=rows)
    np.testing.assert_array_equal(scores.values, ranked(tiny_lm).values)


def test_the_safe_set_can_be_left_out(tiny_lm: LanguageModel) -> None:
    """use_safe_set=false is as without one."""
    rows, known = toy.contaminated_set(), toy.contaminated_set(20, n_harmful=8, n_safe=1, seed=5)
    scores = rank(rows.finetuning_set, Probe(**QUICK, use_safe_set=False), model=tiny_lm,
                  render=RENDER, safe_set=rows.safe_set, trusted_set=known.finetuning_set,
                  trusted_harmful=known.harmful)  # fmt: skip
    np.testing.assert_array_equal(scores.values, ranked(tiny_lm).values)
