"""Risks from inner products against literal loops; anchors, and what cannot be told apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from tamis.data.load import load_examples
from tamis.data.rendered import RenderedRow
from tamis.data.template import RenderConfig
from tamis.errors import ConfigError, NoTrainedTokensError
from tamis.methods import build_method
from tamis.methods.base import RankingInputs, rank
from tamis.methods.gradient import SAFE_SETS, Gradient, opening_of, risks, unit_products
from tamis.methods.scores import Scores
from tamis.models.features import FeatureCache
from tamis.models.load import LanguageModel
from tamis.models.row_forward import RowForward
from tamis.models.row_gradients import RowGradients

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
ONE_ROW = {name: np.array([value]) for name, value in
           {"complied": 0.6, "refused": 0.2, "borderline": 0.5, "opened": 0.4, "answered": 0.1}
           .items()}  # fmt: skip
LENGTHS = {"complied": 0.8, "refused": 0.5, "borderline": 1.0, "opened": 1.0, "answered": 1.0}


def random_gradients() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Six rows, and anchors of all five sets in different numbers and of different lengths."""
    source = np.random.default_rng(0)
    anchors = {
        name: source.normal(size=(3 + k, 7)) * (1 + k)
        for k, name in enumerate(("complied", *SAFE_SETS))
    }
    return source.normal(size=(6, 7)) * np.arange(1, 7)[:, None], anchors


def found_risks() -> dict[str, np.ndarray]:
    """The risks of `random_gradients` from means and inner products."""
    rows, anchors = random_gradients()
    means = {name: np.mean([a / np.linalg.norm(a) for a in found], axis=0)
             for name, found in anchors.items()}  # fmt: skip
    values = np.stack([rows @ mean for mean in means.values()] + [(rows**2).sum(1)], axis=1)
    units = dict(zip(means, unit_products(values).T, strict=True))
    return risks(units, {name: float(np.linalg.norm(mean)) for name, mean in means.items()})


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """<a, b> / |a| |b|."""
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


# Formulas


def test_risks_of_one_row() -> None:
    """Worked by hand: conflict -.2/.5; contrast .6/.8 - .2/.5; he .6 - 1.2/4; less .6 - .5."""
    found = {name: risk.item() for name, risk in risks(ONE_ROW, LENGTHS).items()}
    assert found == pytest.approx({"conflict": -0.4, "contrast": 0.35, "he": 0.3, "less": 0.1})


def test_he_is_the_loop_over_rows_and_anchors() -> None:
    """Mean dot product with unit harmful anchors, minus the mean of those of the safe sets."""
    rows, anchors = random_gradients()
    for i, row in enumerate(rows):
        per_set = {}
        for name, found in anchors.items():
            total = np.zeros(7)
            for anchor in found:
                total += anchor / np.sqrt((anchor**2).sum())
            per_set[name] = (row / np.sqrt((row**2).sum())) @ (total / len(found))
        expected = per_set["complied"] - sum(per_set[name] for name in SAFE_SETS) / len(SAFE_SETS)
        assert found_risks()["he"][i] == pytest.approx(expected)


def test_less_is_the_loop_over_rows_and_anchors() -> None:
    """A set's influence is the mean cosine to its anchors; of the safe sets, the largest counts."""
    rows, anchors = random_gradients()
    for i, row in enumerate(rows):
        influence = {}
        for name, found in anchors.items():
            influence[name] = sum(cosine(row, anchor) for anchor in found) / len(found)
        expected = influence["complied"] - max(influence[name] for name in SAFE_SETS)
        assert found_risks()["less"][i] == pytest.approx(expected)


def test_conflict_and_contrast_are_cosines_to_mean_unit_gradients() -> None:
    """The mean's own length is divided out."""
    rows, anchors = random_gradients()
    mean = {}
    for name in ("complied", "refused"):
        mean[name] = sum(a / np.linalg.norm(a) for a in anchors[name])
    for i, row in enumerate(rows):
        refused, complied = cosine(row, mean["refused"]), cosine(row, mean["complied"])
        assert found_risks()["conflict"][i] == pytest.approx(-refused)
        assert found_risks()["contrast"][i] == pytest.approx(complied - refused)


def test_with_one_safe_set_he_and_less_are_the_same() -> None:
    """Mean and maximum of one value."""
    two = {name: ONE_ROW[name] for name in ("complied", "refused")}
    found = risks(two, LENGTHS)
    assert found["he"].item() == found["less"].item() == pytest.approx(0.4)


def test_without_harmful_anchors_only_conflict_is_there() -> None:
    """No risk is made up from half of its formula."""
    assert list(risks({"refused": ONE_ROW["refused"]}, LENGTHS)) == ["conflict"]


def test_a_gradient_of_length_zero_points_nowhere() -> None:
    """NaN for it and for one that is not finite; 3 / sqrt(4) for the row between."""
    values = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, np.inf], [np.nan, np.nan]])
    np.testing.assert_array_equal(unit_products(values)[:, 0], [np.nan, 1.5, np.nan, np.nan])


# Anchors


def rendered(labels: list[int]) -> RenderedRow:
    """A row of seven tokens, three of them the prompt's."""
    return RenderedRow("a", [5, 6, 7, 8, 9, 10, 11], labels, "ok", 3, 4, 4, 0, 0, "")


def test_an_opening_ends_after_its_last_trained_token() -> None:
    """The first two of four response tokens, and nothing that comes after them."""
    found = opening_of(rendered([-100, -100, -100, 8, 9, 10, 11]), 2)
    assert found.input_ids == [5, 6, 7, 8, 9]
    assert found.labels == [-100, -100, -100, 8, 9]
    assert (found.n_prompt_tokens, found.n_response_tokens, found.n_trained_tokens) == (3, 2, 2)


@pytest.mark.parametrize("n_tokens", [4, 5])
def test_an_opening_longer_than_the_response_is_the_row(n_tokens: int) -> None:
    """There is no more to take."""
    row = rendered([-100, -100, -100, 8, 9, 10, 11])
    assert opening_of(row, n_tokens) == row


def test_a_row_set_aside_has_no_opening() -> None:
    """It stays as it is."""
    row = RenderedRow.unusable("a", "too_long", "300 tokens", (200, 100))
    assert opening_of(row, 2).input_ids == []
    assert opening_of(row, 2).outcome == "too_long"


def inputs_for(lm: LanguageModel, **changes: Any) -> RankingInputs:
    """Eight rows, four safe and five harmful ones."""
    sets = toy.contaminated_set(8, n_harmful=3, n_safe=4)
    known = toy.contaminated_set(5, n_harmful=5, n_safe=1, seed=7)
    whole = RankingInputs(
        sets.finetuning_set, sets.safe_set, harmful_set=known.finetuning_set, model=lm,
        render=RENDER, seed=2,
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def ranked(inputs: RankingInputs, **settings: Any) -> Scores:
    """Rank with the given sets as anchors."""
    scores: Scores = build_method("gradient", {"use_sets": True, **settings}).rank(inputs)
    return scores


@pytest.mark.parametrize("anchor_tokens", [2, None])
def test_scores_are_those_of_whole_gradients(
    anchor_tokens: int | None, tiny_lm: LanguageModel
) -> None:
    """Every variant of a whole ranking, from gradients taken one row at a time and kept whole."""
    inputs = inputs_for(tiny_lm)
    gradients = RowGradients(tiny_lm.model, rank=16, seed=inputs.seed)

    def whole(examples: Any, n_tokens: int | None) -> np.ndarray:
        rows = inputs.rendered(examples)
        if n_tokens is not None:
            rows = type(rows).from_rows(
                ((opening_of(row, n_tokens), None, False) for row in rows), rows.facts
            )
        forward = RowForward(tiny_lm.model, rows, device=tiny_lm.device, max_batch_tokens=1)
        vectors = []
        for index in range(len(rows)):
            found: dict[str, torch.Tensor] = {}
            gradients.visit(forward, [index], found.__setitem__)
            vectors.append(torch.cat([found[name].flatten() for name in sorted(found)]))
        units = torch.stack(vectors).double()
        return (units / units.norm(dim=1, keepdim=True)).numpy()

    rows = whole(inputs.finetuning_set, None)
    complied = whole(inputs.harmful_set, anchor_tokens).mean(0)
    refused = whole(inputs.safe_set, anchor_tokens).mean(0)
    expected = {
        "conflict": [cosine(row, refused) for row in rows],
        "contrast": [cosine(row, refused) - cosine(row, complied) for row in rows],
        "he": rows @ refused - rows @ complied,
        "less": rows @ refused - rows @ complied,
    }
    scores = ranked(inputs, anchor_tokens=anchor_tokens)
    assert set(scores.readouts()) == {"score", *expected}
    for name, values in expected.items():
        # float32 sums of a few thousand products of unit vectors.
        np.testing.assert_allclose(scores.readouts()[name], values, rtol=0, atol=2e-6)


@pytest.mark.parametrize("variant", ["he", "less", "conflict", "contrast"])
def test_the_score_is_the_variants_readout(variant: str, tiny_lm: LanguageModel) -> None:
    """All four come of one run."""
    scores = ranked(inputs_for(tiny_lm), variant=variant)
    assert (scores.values == scores.columns[f"score_{variant}"]).all()
    assert scores.details["variant"] == variant


def test_losses_are_the_base_models(tiny_lm: LanguageModel) -> None:
    """They come of the same pass."""
    inputs = inputs_for(tiny_lm)
    expected = FeatureCache(tiny_lm).losses(inputs.rendered())
    found = ranked(inputs).columns["loss_base"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_only_the_lowest_ids_of_a_set_count(tiny_lm: LanguageModel) -> None:
    """The same two, whatever else is in the set."""
    inputs = inputs_for(tiny_lm)
    assert inputs.safe_set is not None
    two = inputs.safe_set.restrict(sorted(inputs.safe_set.ids)[:2])
    found = ranked(inputs, anchors_per_set=2)
    expected = ranked(dataclasses.replace(inputs, safe_set=two), anchors_per_set=2)
    assert found.details["anchors"]["refused"]["rows"] == 2
    assert found.values.tobytes() == expected.values.tobytes()


def test_an_anchor_that_is_too_long_takes_no_place(tiny_lm: LanguageModel) -> None:
    """However low its id, the usable ones with the lowest ids count."""
    inputs = inputs_for(tiny_lm)
    assert inputs.safe_set is not None
    records = [{"messages": [dataclasses.asdict(m) for m in row.messages]}
               for row in inputs.safe_set]  # fmt: skip
    longer = [{"prompt": f"Tell me {i}", "completion": "water " * 60} for i in range(8)]
    more = load_examples([*longer, *records])
    assert sorted(more.ids)[:2] != sorted(inputs.safe_set.ids)[:2]
    found = ranked(dataclasses.replace(inputs, safe_set=more), anchors_per_set=2)
    assert found.values.tobytes() == ranked(inputs, anchors_per_set=2).values.tobytes()


def test_the_shipped_anchors_need_no_sets(tiny_lm: LanguageModel) -> None:
    """All five sets take part, whatever the user's policy does to long rows."""
    inputs = inputs_for(tiny_lm, safe_set=None, harmful_set=None)
    scores = Gradient(anchors_per_set=2, trunk_cut=1).rank(inputs)
    assert {name: found["rows"] for name, found in scores.details["anchors"].items()} == {
        "complied": 2, "refused": 2, "borderline": 2, "opened": 2, "answered": 2
    }  # fmt: skip
    assert set(scores.readouts()) == {"score", "he", "less", "conflict", "contrast"}


def test_conflict_is_not_to_be_read_alone(tiny_lm: LanguageModel) -> None:
    """The manifest says so, and says it of no other variant."""
    notes = {name: ranked(inputs_for(tiny_lm), variant=name).details["notes"]
             for name in ("conflict", "contrast")}  # fmt: skip
    assert "not alone" in " ".join(notes["conflict"])
    assert notes["contrast"] == []


# Sharing


def shared(
    lm: LanguageModel, cache: Path, part: slice = slice(None), seed: int = 2, **settings: Any
) -> Scores:
    """Rank some of the eight rows in a cache that rankings share, with passes counted."""
    inputs = inputs_for(lm)
    rows = inputs.finetuning_set.restrict(inputs.finetuning_set.ids[part])
    method = Gradient(**{"use_sets": True, **settings})
    return rank(rows, method, safe_set=inputs.safe_set, harmful_set=inputs.harmful_set, model=lm,
                render=RENDER, seed=seed, cache=cache)  # fmt: skip


@pytest.mark.parametrize("trunk_cut", [0, 1])
def test_another_mixture_of_known_rows_runs_nothing(
    trunk_cut: int, tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    """Neither rows nor anchors, forward or backward; every readout keeps its bits."""
    whole = shared(tiny_lm, tmp_path, trunk_cut=trunk_cut)
    part = shared(tiny_lm, tmp_path, slice(1, None, 2), trunk_cut=trunk_cut)
    assert whole.details["passes"]["backward"] > 0
    passes = part.details["passes"]
    assert (passes["backward"], passes["spared"]) == (0.0, 1.0)
    # Whether a trunk can be run apart is tried on a few tokens.
    assert passes["forward"] == 0.0 if trunk_cut == 0 else passes["forward"] < 0.1
    for name, values in whole.readouts().items():
        assert part.readouts()[name].tobytes() == values[1::2].tobytes()


def test_rows_that_are_new_run_alone(tiny_lm: LanguageModel, tmp_path: Path) -> None:
    """Two of eight; the anchors are known."""
    shared(tiny_lm, tmp_path, slice(0, 6))
    stages: list[tuple[str, int]] = []
    inputs = inputs_for(tiny_lm, cache=tmp_path, report=lambda name, _, n, __: stages.append(
        (name, n)
    ))  # fmt: skip
    ranked(inputs)
    assert set(stages) == {("gradients", 2)}


@pytest.mark.parametrize(
    "change",
    [{"seed": 3}, {"lora_rank": 8}, {"lora_targets": ("q_proj",)}, {"trunk_cut": 1},
     {"anchor_tokens": 2}, {"anchors_per_set": 3}],
)  # fmt: skip
def test_other_gradients_or_anchors_are_not_taken(
    change: dict[str, Any], tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    """What is asked otherwise is computed, as it is in a folder of its own."""
    shared(tiny_lm, tmp_path / "shared")
    found = shared(tiny_lm, tmp_path / "shared", **change)
    assert found.details["passes"]["backward"] > 0
    alone = shared(tiny_lm, tmp_path / "own", **change)
    assert found.values.tobytes() == alone.values.tobytes()


# Refusals


def test_two_sources_of_anchors_are_refused(tmp_path: Path) -> None:
    """The message names both settings."""
    with pytest.raises(ConfigError, match="anchors and use_sets both say"):
        build_method("gradient", {"use_sets": True, "anchors": str(tmp_path)})


@pytest.mark.parametrize(
    ("variant", "missing", "message"),
    [
        ("conflict", "safe_set", "needs the safe set"),
        ("contrast", "safe_set", "needs the harmful and the safe set"),
        ("he", "harmful_set", "needs the harmful and the safe set"),
    ],
)
def test_a_variant_without_its_set_is_refused(
    variant: str, missing: str, message: str, tiny_lm: LanguageModel
) -> None:
    """Which set, and how to give it."""
    with pytest.raises(ConfigError, match=f"{message}: give --harmful-set and --safe-set"):
        ranked(inputs_for(tiny_lm, **{missing: None}), variant=variant)


def test_conflict_needs_no_harmful_rows(tiny_lm: LanguageModel) -> None:
    """The safe set alone will do."""
    scores = ranked(inputs_for(tiny_lm, harmful_set=None))
    assert set(scores.readouts()) == {"score", "conflict"}


@pytest.mark.parametrize("which", ["safe_set", "harmful_set"])
def test_anchors_without_a_trained_token_are_refused(which: str, tiny_lm: LanguageModel) -> None:
    """The message counts outcomes."""
    hopeless = load_examples([{"prompt": "Tell me", "completion": "water " * 60}])
    with pytest.raises(NoTrainedTokensError, match=r"none of the 1 rows of .*too_long"):
        ranked(inputs_for(tiny_lm, **{which: hopeless}))


def test_equal_anchors_on_both_sides_are_refused(tiny_lm: LanguageModel) -> None:
    """One set given twice has one direction; conflict needs but one."""
    inputs = inputs_for(tiny_lm)
    same = dataclasses.replace(inputs, harmful_set=inputs.safe_set)
    with pytest.raises(ConfigError, match=r"have one mean gradient .*contrast cannot tell"):
        ranked(same, variant="contrast")
    assert np.isfinite(ranked(same).values).all()


def test_anchors_without_a_gradient_are_refused() -> None:
    """A model whose output projection is zero finds every token equally likely, come what may."""
    model = toy.llama()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(ConfigError, match=r"'complied' have a mean of length 0\.0"):
        ranked(inputs_for(toy.language_model(model)))
