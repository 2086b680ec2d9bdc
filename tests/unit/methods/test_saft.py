"""SAFT's formulas, what theory says of the squared and the signed score, and its refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import toy
from tamis.data.example import Examples
from tamis.data.template import RenderConfig
from tamis.errors import ConfigError, NoTrainedTokensError
from tamis.methods import build_method
from tamis.methods.base import RankingInputs
from tamis.methods.saft import SAFT, squared_scores
from tamis.methods.scores import Scores
from tamis.models.directions import (
    Orientation,
    centre,
    orient,
    right_singular_vectors,
    whitening,
)
from tamis.models.layer_directions import LayerDirections, signed_scores, surest_layer
from tamis.models.load import LanguageModel
from tamis.rng import numpy_generator, torch_generator

PROJECTIONS = torch.tensor([[3.0, -1.0], [-3.0, 1.0]], dtype=torch.float64)
# AUROC of the squared and of the signed score by separation D, harmful share and direction known:
# the table of the specification, 2.5. By symmetry of the centred groups, .5 at a share of one half.
AUROC = {
    (2, 0.05): (0.837, 0.922), (2, 0.1): (0.811, 0.921), (2, 0.2): (0.754, 0.922),
    (2, 0.3): (0.680, 0.921), (2, 0.5): (0.50, 0.92), (3, 0.05): (0.957, 0.983),
    (3, 0.1): (0.940, 0.983), (3, 0.2): (0.884, 0.983), (3, 0.3): (0.793, 0.983),
    (3, 0.5): (0.50, 0.98),
}  # fmt: skip


def mixture(n: int, share: float, distance: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit normal values, those of the harmful share moved up by a distance; and which they are."""
    generator = torch_generator(seed, "mixture", str(share), str(distance))
    harmful = torch.arange(n) < share * n
    values = torch.randn(n, dtype=torch.float64, generator=generator)
    return values + distance * harmful, harmful


def inputs_of(rows: toy.ContaminatedSet, lm: LanguageModel, *, safe: bool = True) -> RankingInputs:
    """Inputs of a toy set, with or without its safe rows."""
    render = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
    return RankingInputs(
        rows.finetuning_set, rows.safe_set if safe else None, model=lm, render=render
    )


def two_answers() -> tuple[Examples, np.ndarray]:
    """Sixty rows of eight prompts with two answers, and which have the rarer one: ten."""
    rare = np.arange(60) % 6 == 0
    rows = [(f"Tell me about the {toy.TOPICS[i % 8]}", "venom ember" if bad else "water share")
            for i, bad in enumerate(rare)]  # fmt: skip
    return toy.examples(rows), rare


# Scores


def test_the_squared_score_is_the_mean_square() -> None:
    """(3^2 + 1^2) / 2 = 5."""
    assert squared_scores(PROJECTIONS).tolist() == [5.0, 5.0]


def test_weights_multiply_the_squares() -> None:
    """(2 * 9 + 4 * 1) / 2 = 11."""
    assert squared_scores(PROJECTIONS, torch.tensor([2.0, 4.0])).tolist() == [11.0, 11.0]


def test_the_squared_score_does_not_know_the_sign_of_a_direction() -> None:
    """Any v_j turned round gives the same bits (T7)."""
    flipped = PROJECTIONS * torch.tensor([-1.0, 1.0])
    assert torch.equal(squared_scores(flipped), squared_scores(PROJECTIONS))


def test_the_signed_score_counts_standard_deviations() -> None:
    """Columns (3, -3) and (-1, 1) have sd 3 and 1: with signs + and -, 1 + 1 and -1 - 1."""
    assert signed_scores(PROJECTIONS, torch.tensor([1, -1])).tolist() == [2.0, -2.0]


def test_a_direction_without_a_sign_is_left_out() -> None:
    """Its sign is 0: only the first column counts."""
    assert signed_scores(PROJECTIONS, torch.tensor([1, 0])).tolist() == [1.0, -1.0]


def test_the_signed_score_turns_with_the_direction() -> None:
    """v_j and sgn_j turned round together change nothing."""
    flipped = PROJECTIONS * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(
        signed_scores(flipped, torch.tensor([-1, 1])),
        signed_scores(PROJECTIONS, torch.tensor([1, 1])),
    )


@pytest.mark.parametrize(("distance", "share"), sorted(AUROC))
def test_auroc_of_an_ideal_direction(distance: int, share: float) -> None:
    """Squared and signed, as derived, within .01 on 100,000 rows (T7)."""
    values, harmful = mixture(100_000, share, distance)
    projections = centre(values[:, None])
    found = [
        roc_auc_score(harmful, risk)
        for risk in (squared_scores(projections), signed_scores(projections, torch.tensor([1])))
    ]
    assert found == pytest.approx(AUROC[distance, share], abs=0.01)


@pytest.mark.parametrize("distance", [2, 3])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_skewness_finds_the_harmful_side(share: float, distance: int) -> None:
    """In all of 100 draws of 3,000 rows the long tail is the minority (T7).

    At a share of .4 and D = 2 the expected skewness is .24 * .2 * 8 / (1 + .24 * 4)^1.5 = .14,
    three standard errors of normal values.
    """
    sides = [
        orient(mixture(3000, share, distance, seed)[0], None, min_margin=0).sign
        for seed in range(100)
    ]
    assert sides == [1] * 100


def test_whitening_by_the_safe_set_finds_a_direction_below_a_nuisance() -> None:
    """A nuisance six times as wide as the noise holds v_1; safe rows share it, so it goes.

    Along the harmful direction the variance is 1 + .25 * .75 * 16 = 4, along the nuisance 36.
    """
    generator = torch_generator(0, "nuisance")
    rows, safe = (torch.randn(n, 32, dtype=torch.float64, generator=generator) for n in (1000, 300))
    harmful = torch.arange(1000) < 250
    rows[:, 0] *= 6
    safe[:, 0] *= 6
    rows[:, 1] += 4.0 * harmful
    centred, safe = centre(rows), safe - rows.mean(0)
    published = squared_scores(centred @ right_singular_vectors(centred, 1)[0])
    assert abs(roc_auc_score(harmful, published) - 0.5) < 0.05
    whitener = whitening(safe, centred)
    v = right_singular_vectors(centred @ whitener, 1)[0]
    projections, safe_projections = centred @ whitener @ v, safe @ whitener @ v
    side = orient(projections[:, 0], safe_projections[:, 0])
    assert side.rule == "safe_set"
    repaired = signed_scores(projections, torch.tensor([side.sign]))
    assert roc_auc_score(harmful, repaired) > 0.99  # 4 sd apart: .998


# The method


@pytest.mark.parametrize("reading", ["prompt_last", "response_mean", "response_minus_prompt"])
@pytest.mark.parametrize("weighting", ["none", "sigma"])
def test_published_is_the_formula(reading: str, weighting: str, tiny_lm: LanguageModel) -> None:
    """Minus the mean square of projections on numpy's right singular vectors, layer 1 of 2."""
    rows = toy.contaminated_set(24, n_harmful=6)
    inputs = inputs_of(rows, tiny_lm)
    method = SAFT(mode="published", reading=reading, weighting=weighting, n_directions=2)
    rendered = inputs.rendered()
    names = {"response_minus_prompt": ["response_mean", "prompt_last"]}.get(reading, [reading])
    states = [inputs.features.states(rendered, f"state:1:{name}").double().numpy()
              for name in names]  # fmt: skip
    embedded = states[0] - states[1] if len(states) == 2 else states[0]
    centred = embedded - embedded.mean(0)
    _, singular, transposed = np.linalg.svd(centred, full_matrices=False)
    weights = singular[:2] if weighting == "sigma" else np.ones(2)
    expected = -((centred @ transposed[:2].T) ** 2 * weights).mean(1)
    np.testing.assert_allclose(method.rank(inputs).values, expected, rtol=1e-6)


def test_published_reads_the_prompt_only(tiny_lm: LanguageModel) -> None:
    """Other answers to the same prompts have the same scores."""
    prompts = [f"Tell me about the {topic}" for topic in toy.TOPICS]
    first, second = (
        SAFT(mode="published").rank(
            RankingInputs(toy.examples([(p, answer) for p in prompts]), model=tiny_lm)
        )
        for answer in ("gently water", "ember crack venom")
    )
    by_prompt = dict(zip(first.source_ids, first.values, strict=True))
    for name, value in zip(second.source_ids, second.values, strict=True):
        assert value == pytest.approx(by_prompt[name], rel=1e-4)


def test_published_takes_no_notice_of_a_safe_set(tiny_lm: LanguageModel) -> None:
    """The paper has none: the same bits with and without."""
    rows = toy.contaminated_set(24, n_harmful=6)
    scores = [SAFT(mode="published").rank(inputs_of(rows, tiny_lm, safe=safe)).values
              for safe in (True, False)]  # fmt: skip
    assert scores[0].tobytes() == scores[1].tobytes()


@pytest.fixture(scope="module")
def repaired(tiny_lm: LanguageModel) -> Scores:
    """Scores of the default settings with a safe set."""
    return SAFT().rank(inputs_of(toy.contaminated_set(), tiny_lm))


def test_repaired_takes_the_surest_layer(repaired: Scores) -> None:
    """By the margin of its best direction; the grid of a two-layer model is layers 1 and 2."""
    margins = {layer: found["margin"] for layer, found in repaired.details["layers"].items()}
    assert sorted(margins) == ["1", "2"]
    assert str(repaired.details["layer"]) == max(margins, key=margins.__getitem__)


def test_repaired_says_which_rule_decided(repaired: Scores) -> None:
    """With a safe set that tells the sides apart: that, with its margin."""
    direction = repaired.details["directions"][repaired.details["direction"] - 1]
    assert direction["rule"] == "safe_set"
    assert direction["margin"] == abs(direction["safe_margin"]) >= 3


def test_repaired_scores_do_not_follow_length_in_a_line(repaired: Scores) -> None:
    """What least squares took out does not come back: no correlation with the log of tokens."""
    lengths = np.log(repaired.n_trained_tokens)  # type: ignore[arg-type]
    assert abs(np.corrcoef(repaired.values, lengths)[0, 1]) < 1e-6


def test_the_surest_direction_is_the_score(repaired: Scores) -> None:
    """Of five: minus its projection over the standard deviation, on the side that was found."""
    found, chosen = repaired.details["directions"], repaired.details["direction"]
    assert len(found) == 5
    assert found[chosen - 1]["margin"] == max(one["margin"] for one in found)
    projection = repaired.columns[f"projection_{chosen}"]
    expected = -found[chosen - 1]["sign"] * projection / projection.std()
    np.testing.assert_allclose(repaired.values, expected, rtol=1e-9)


def test_harm_that_goes_with_length_is_not_taken_out(tiny_lm: LanguageModel) -> None:
    """Harmful answers are the long ones; least squares on safe rows of all lengths leaves them."""
    rng = numpy_generator(0, "lengths")
    harmful = np.arange(80) < 24
    rows = toy.examples(
        [(f"Tell me about the {toy.TOPICS[i % 8]} {i}",
          " ".join(rng.choice(toy.HARMFUL_WORDS if bad else toy.SAFE_WORDS, 9 if bad else 3)))
         for i, bad in enumerate(harmful)]
    )  # fmt: skip
    safe = [(f"Tell me about the {toy.TOPICS[i % 8]} {80 + i}",
             " ".join(rng.choice(toy.SAFE_WORDS, 3 + i % 7))) for i in range(48)]  # fmt: skip
    found = {}
    for n_safe, fitted_on in ((48, "safe_set"), (39, "finetuning_set")):
        inputs = RankingInputs(rows, toy.examples(safe[:n_safe]), model=tiny_lm)
        scores = SAFT(min_margin=0, min_agreement=-1, anchors="none").rank(inputs)
        assert scores.details["nuisances_fitted_on"] == fitted_on
        found[fitted_on] = toy.auroc(-scores.values, harmful)
    assert found["safe_set"] > 0.95 > 0.7 > found["finetuning_set"]


def test_the_safe_set_decides_the_side(tiny_lm: LanguageModel) -> None:
    """Safe rows of the other kind turn the ranking round, where no anchors say that they did."""
    rows = toy.contaminated_set(64, n_harmful=32)
    swapped = toy.contaminated_set(32, n_harmful=32, seed=1).finetuning_set
    inputs = inputs_of(rows, tiny_lm)
    turned = RankingInputs(rows.finetuning_set, swapped, model=tiny_lm, render=inputs.render)
    alone = SAFT(anchors="none")
    assert toy.auroc(-alone.rank(inputs).values, rows.harmful) > 0.9
    assert toy.auroc(-alone.rank(turned).values, rows.harmful) < 0.1
    assert alone.rank(inputs).details["anchor_auroc"] is None


@pytest.fixture
def toy_anchors(tmp_path: Path) -> Path:
    """Anchors in the words of the toy rows: their openings are what harmful answers say."""

    def lines(prefix: str, key: str, texts: list[str], **more: str) -> str:
        return "".join(json.dumps({"id": f"{prefix}{i}", key: text, **more}) + "\n"
                       for i, text in enumerate(texts))  # fmt: skip

    asked = [f"Tell me about the {topic} {80 + i}" for i, topic in enumerate(toy.TOPICS)]
    rng = numpy_generator(0, "anchors")
    openings = [" ".join(rng.choice(toy.HARMFUL_WORDS, n)) for n in range(3, 9)]
    (tmp_path / "unsafe.jsonl").write_text(lines("u", "prompt", asked))
    (tmp_path / "borderline.jsonl").write_text(lines("b", "prompt", ["Say more"]))
    (tmp_path / "ordinary.jsonl").write_text(lines("o", "prompt", ["Say less"], answer="gently"))
    (tmp_path / "openings.jsonl").write_text(lines("c", "text", openings))
    (tmp_path / "refusals.jsonl").write_text(lines("r", "text", ["No"]))
    return tmp_path


def test_anchors_tell_a_direction_that_is_not_harm(
    tiny_lm: LanguageModel, toy_anchors: Path
) -> None:
    """With a safe set of the wrong kind every layer agrees, surely, and the wrong way round."""
    rows = toy.contaminated_set(64, n_harmful=32)
    swapped = toy.contaminated_set(32, n_harmful=32, seed=1).finetuning_set
    inputs = inputs_of(rows, tiny_lm)
    turned = RankingInputs(rows.finetuning_set, swapped, model=tiny_lm, render=inputs.render)
    found = SAFT(anchors=toy_anchors).rank(inputs)
    assert found.details["anchor_auroc"] > 0.95
    assert sum(found.details["anchors_by_outcome"].values()) == 2 * len(toy.TOPICS)
    assert np.array_equal(found.values, SAFT(anchors="none").rank(inputs).values)
    with pytest.raises(ConfigError, match=r"is not harm: .* in 0\.\d\d, and min_anchors is 0\.75"):
        SAFT(anchors=toy_anchors).rank(turned)


@pytest.mark.parametrize(("sign", "expected"), [(1, 0.75), (-1, 0.25)])
def test_anchor_auroc_counts_pairs(sign: int, expected: float) -> None:
    """Anchors 1 and 3, safe rows 0, 1, 2: one beyond and one tied, then three beyond: 4.5 of 6."""
    side = Orientation(sign, "safe_set", 5.0, 0.0, 0.1, 5.0)
    safe, anchors = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    values = torch.arange(4.0)[:, None]
    found = LayerDirections(1, values, torch.ones(2), 0.0, [side], safe, anchors)
    assert found.anchor_auroc == expected
    unknown = dataclasses.replace(side, sign=0)
    assert dataclasses.replace(found, found=[unknown]).anchor_auroc is None
    assert dataclasses.replace(found, anchors=None).anchor_auroc is None
    assert surest_layer([found], 3.0, 0.3, expected)[0] is found
    with pytest.raises(ConfigError, match=rf"not harm: .* in {expected:.2f}"):
        surest_layer([found], 3.0, 0.3, expected + 0.01)


def test_without_a_safe_set_the_minority_is_harmful(tiny_lm: LanguageModel) -> None:
    """Two answers, the rarer one to ten of sixty prompts: skewness finds its side."""
    rows, rare = two_answers()
    scores = SAFT(nuisances=(), min_agreement=0).rank(RankingInputs(rows, model=tiny_lm))
    assert scores.details["directions"][0]["rule"] == "skewness"
    assert toy.auroc(-scores.values, rare) == 1


def test_equal_groups_without_a_safe_set_are_refused(tiny_lm: LanguageModel) -> None:
    """Half harmful: no long tail, no side, and no ranking (T7)."""
    rows = toy.contaminated_set(64, n_harmful=32)
    with pytest.raises(ConfigError, match=r"harmful side is known: layer 1 skewness .*safe set"):
        SAFT().rank(inputs_of(rows, tiny_lm, safe=False))


def layer(depth: int, projection: Tensor, margin: float) -> LayerDirections:
    """A layer of one direction whose side a safe set tells, with a given margin."""
    side = Orientation(1 if margin >= 3 else 0, "safe_set", margin, 0.0, 0.1, margin)
    return LayerDirections(depth, projection[:, None], torch.ones(2), 0.0, [side])


def test_agreement_is_the_least_rank_correlation() -> None:
    """Of (1, 2, 3, 4) with (1, 2, 4, 3): 1 - 6 * 2 / (4 * 15) = .8; with (2, 1, 4, 3): .6."""
    first, second, third = (
        torch.tensor(values, dtype=torch.float64)
        for values in ([1, 2, 3, 4], [1, 2, 4, 3], [2, 1, 4, 3])
    )
    tried = [layer(1, second, 4.0), layer(2, first, 5.0), layer(3, third, 3.0)]
    best, agreement = surest_layer(tried, 3.0, 0.6, 0.75)
    assert best.depth == 2
    assert agreement == pytest.approx(0.6)
    with pytest.raises(
        ConfigError, match=r"layers agree on: layer 2 .* 0\.60 .*min_agreement is 0\.7"
    ):
        surest_layer(tried, 3.0, 0.7, 0.75)


def test_a_layer_without_a_side_agrees_with_none() -> None:
    """Its risk is 0 for every row: no ranking to agree with, and no NaN."""
    values = torch.arange(4, dtype=torch.float64)
    tried = [layer(1, values, 5.0), layer(2, values, 2.0)]
    assert surest_layer(tried, 3.0, -1, 0.75)[1] == 0
    with pytest.raises(ConfigError, match=r"correlates 0\.00"):
        surest_layer(tried, 3.0, 0.3, 0.75)


def test_one_layer_has_nothing_to_agree_with() -> None:
    """It is taken by its margin alone."""
    assert surest_layer([layer(1, torch.arange(4.0), 5.0)], 3.0, 1.0, 0.75)[1] is None


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5])
def test_layers_that_share_the_harmful_rows_only(share: float) -> None:
    """Groups far apart, noise within: Spearman's rho is 3 lam (1 - lam), as the setting says."""
    generator = torch_generator(0, "agreement", str(share))
    harmful = torch.arange(20_000) < share * 20_000
    one, other = (
        torch.randn(20_000, dtype=torch.float64, generator=generator) + 20.0 * harmful
        for _ in range(2)
    )
    found = surest_layer([layer(1, one, 5.0), layer(2, other, 4.0)], 3.0, 0, 0.75)[1]
    assert found == pytest.approx(3 * share * (1 - share), abs=0.03)


def test_layers_that_disagree_are_refused(tiny_lm: LanguageModel) -> None:
    """Two answers to eight prompts: each layer tells them apart, and orders the rest its way."""
    rows, _ = two_answers()
    with pytest.raises(ConfigError, match=r"no direction that its layers agree on"):
        SAFT(nuisances=(), min_agreement=0.9).rank(RankingInputs(rows, model=tiny_lm))


def test_a_sign_from_the_safe_set_needs_one(tiny_lm: LanguageModel) -> None:
    """It is not replaced by skewness in silence, and neither is that of an empty set."""
    rows = toy.contaminated_set(12)
    with pytest.raises(ConfigError, match="sign=safe_set needs a safe set"):
        SAFT(sign="safe_set").rank(inputs_of(rows, tiny_lm, safe=False))
    empty = RankingInputs(rows.finetuning_set, rows.safe_set.restrict([]), model=tiny_lm)
    with pytest.raises(NoTrainedTokensError, match="none of the 0 rows of the safe_set"):
        SAFT(sign="safe_set").rank(empty)


def test_what_was_not_taken_out_is_told(repaired: Scores) -> None:
    """All toy rows have one turn: that nuisance has no column, and a note says so."""
    assert repaired.details["nuisances_taken_out"] == ["prompt_length", "response_length"]
    assert [note for note in repaired.details["notes"] if note.startswith("turns is the same")]


def test_equal_states_are_refused(tiny_lm: LanguageModel) -> None:
    """Rows with one prompt have one state before the response: nothing tells them apart."""
    rows = toy.examples([("Tell me about bread", f"water {i}") for i in range(8)])
    with pytest.raises(ConfigError, match="the 8 rows do not differ"):
        SAFT(mode="published").rank(RankingInputs(rows, model=tiny_lm))


def test_more_directions_than_rows_are_refused(tiny_lm: LanguageModel) -> None:
    """Twelve centred rows span eleven directions."""
    inputs = inputs_of(toy.contaminated_set(12, n_harmful=4), tiny_lm)
    with pytest.raises(
        ConfigError, match="12 rows differ in 11 directions, fewer than n_directions=12"
    ):
        SAFT(mode="published", n_directions=12).rank(inputs)


def test_three_rows_are_too_few(tiny_lm: LanguageModel) -> None:
    """A skewness has no error below four."""
    inputs = inputs_of(toy.contaminated_set(3, n_harmful=1), tiny_lm)
    with pytest.raises(ConfigError, match="finetuning_set has 3 usable rows: give 4"):
        SAFT().rank(inputs)


# Settings


def test_a_mode_brings_its_presets_values() -> None:
    """mode=published and preset=published differ in the recorded name only."""
    by_mode, by_preset = SAFT(mode="published"), build_method("saft", {"preset": "published"})
    assert by_mode == by_preset.model_copy(update={"preset": None})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mode": "published", "nuisances": ["turns"]}, "neither nuisances, whiten nor sign"),
        ({"mode": "published", "whiten": True}, "neither nuisances, whiten nor sign"),
        ({"mode": "published", "layers": [0.25, 0.5]}, "takes one of layers"),
        ({"mode": "published", "min_agreement": 0.5}, "min_agreement belongs to mode=repaired"),
        ({"mode": "published", "anchors": "none"}, "anchors belongs to mode=repaired"),
        ({"weighting": "sigma"}, "weighting belongs to mode=published"),
        ({"layers": []}, "at least 1 item"),
        ({"layers": [0.0]}, "greater than 0"),
    ],
)
def test_settings_of_the_other_mode_are_refused(settings: dict[str, Any], match: str) -> None:
    """What would have no effect is not accepted."""
    with pytest.raises(ConfigError, match=match):
        build_method("saft", settings)
