"""LARF and DataShield: formulas against loops, the choice of a layer, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import toy
from tamis.data.anchors import FILES
from tamis.data.template import RenderConfig
from tamis.errors import ConfigError, NoTrainedTokensError
from tamis.methods import build_method, direction
from tamis.methods.base import RankingInputs
from tamis.methods.direction import (
    Direction,
    compliance_aware_score,
    compliance_vector,
    larf_risk,
    projection_shift,
)
from tamis.models import layer_choice, layer_scaling
from tamis.models.load import LanguageModel
from tamis.rng import torch_generator

RENDER = RenderConfig(max_prompt_tokens=400, max_response_tokens=100, on_too_long="drop")
OWN: dict[str, list[dict[str, Any]]] = {
    "unsafe": [{"id": "u1", "prompt": "ember"}, {"id": "u2", "prompt": "venom"}],
    "borderline": [{"id": "b1", "prompt": "crack"}],
    "ordinary": [{"id": "o1", "prompt": "bread", "answer": "water"}],
    "openings": [{"id": "p1", "text": "share gently"}, {"id": "p2", "text": "share water"}],
    "refusals": [{"id": "r1", "text": "No."}],
}


def random(*shape: int, purpose: str = "states") -> Tensor:
    """Return a standard normal tensor (float64) with a ramp added, so no axis is alike."""
    drawn = torch.randn(*shape, dtype=torch.float64, generator=torch_generator(0, purpose))
    return drawn + torch.linspace(0, 1, shape[-1], dtype=torch.float64)


COMPLIED, REFUSED = random(5, 6, purpose="complied"), random(4, 6, purpose="refused")


def inputs_for(lm: LanguageModel, **changes: Any) -> RankingInputs:
    """Return twelve toy rows to rank, with a harmful and a safe set."""
    rows, known = toy.contaminated_set(12, n_harmful=4, n_safe=6), toy.contaminated_set(8, seed=5)
    bad = [i for i, harm in zip(known.finetuning_set.ids, known.harmful, strict=True) if harm]
    whole = RankingInputs(
        rows.finetuning_set, rows.safe_set, model=lm, render=RENDER,
        harmful_set=known.finetuning_set.restrict(bad),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a small folder of anchors in toy words."""
    for name in FILES:
        text = "".join(json.dumps(line) + "\n" for line in OWN[name])
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_larf_is_a_mean_of_cosines_against_loops() -> None:
    """mean_p cos(h, u_p) - mean_r cos(h, s_r), written out."""
    states = random(7, 6)

    def cosine(a: Tensor, b: Tensor) -> float:
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))

    expected = [
        sum(cosine(h, u) for u in COMPLIED) / 5 - sum(cosine(h, s) for s in REFUSED) / 4
        for h in states
    ]
    assert larf_risk(states, COMPLIED, REFUSED).tolist() == pytest.approx(expected, abs=1e-14)


def test_larf_of_axes() -> None:
    """Along u: 1; along s: -1; between: 0; against u: -1. Lengths do not matter."""
    states = torch.tensor([[5.0, 0.0], [0.0, 0.1], [2.0, 2.0], [-1.0, 0.0]])
    risk = larf_risk(states, torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
    assert risk.tolist() == pytest.approx([1.0, -1.0, 0.0, -1.0], abs=1e-15)


def test_equal_anchors_rank_nothing() -> None:
    """Every row would have the score 0."""
    with pytest.raises(ConfigError, match="the same mean at this layer"):
        larf_risk(random(3, 6), COMPLIED, 2 * COMPLIED)  # cosines know no length


def test_the_compliance_vector_points_from_refused_to_complied() -> None:
    """Means (4, 5) and (1, 1) differ by (3, 4): c = (0.6, 0.8)."""
    complied = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    c = compliance_vector(complied, torch.tensor([[1.0, 1.0]]))
    assert c.tolist() == pytest.approx([0.6, 0.8], abs=1e-15)


def test_equal_means_have_no_direction() -> None:
    """Nothing to project on: refused instead of 0/0."""
    with pytest.raises(ConfigError, match=r"same mean at this layer.*Set another layer"):
        compliance_vector(torch.ones(2, 3), torch.ones(3, 3))


def test_projection_shift_against_loops() -> None:
    """<r, c> - <p, c>, written out."""
    response, prompt, c = random(7, 6), random(7, 6, purpose="prompt"), COMPLIED[0]
    expected = [
        sum(float(r) * float(w) for r, w in zip(rs, c, strict=True))
        - sum(float(p) * float(w) for p, w in zip(ps, c, strict=True))
        for rs, ps in zip(response, prompt, strict=True)
    ]
    assert projection_shift(response, prompt, c).tolist() == pytest.approx(expected, abs=1e-13)


def test_rows_are_scored_alike_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's score does not depend on those beside it, bit for bit."""
    states = random(7, 6)
    whole = larf_risk(states, COMPLIED, REFUSED), projection_shift(states, -states, COMPLIED[0])
    monkeypatch.setattr(direction, "CHUNK_ROWS", 2)
    parts = larf_risk(states, COMPLIED, REFUSED), projection_shift(states, -states, COMPLIED[0])
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("standardized", [False, True])
def test_cas_is_a_ratio_of_scatters(standardized: bool) -> None:
    """v^T S_b v / v^T S_t v with both matrices built from outer products."""
    v = COMPLIED.mean(0) - REFUSED.mean(0)
    states = torch.cat([COMPLIED, REFUSED])
    if standardized:
        states = (states - states.mean(0)) / states.std(0)
    between, total = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
    for kind in (states[:5], states[5:]):
        shift = kind.mean(0) - states.mean(0)
        between += len(kind) * torch.outer(shift, shift)
        for state in kind:
            total += torch.outer(state - kind.mean(0), state - kind.mean(0))
    total += between
    expected = float(v @ between @ v / (v @ total @ v))
    found = compliance_aware_score(COMPLIED, REFUSED, standardized=standardized)
    assert found == pytest.approx(expected, abs=1e-13)


def test_cas_of_two_points_is_one() -> None:
    """Without scatter inside the kinds all of it is between them."""
    complied, refused = torch.tensor([[1.0, 2.0]] * 3), torch.tensor([[0.0, 5.0]] * 2)
    assert compliance_aware_score(complied, refused) == pytest.approx(1.0, abs=1e-15)


def test_raw_cas_knows_no_unit_and_no_origin() -> None:
    """Layers are compared although their states have other sizes."""
    moved = compliance_aware_score(7 * COMPLIED + 3, 7 * REFUSED + 3)
    assert moved == pytest.approx(compliance_aware_score(COMPLIED, REFUSED), abs=1e-12)


@pytest.mark.parametrize("standardized", [False, True])
def test_cas_of_equal_states_is_zero(standardized: bool) -> None:
    """The end token's embedding is the same everywhere: exactly 0, not rounding over rounding."""
    same = torch.full((5, 3), 0.1)
    assert compliance_aware_score(same[:3], same, standardized=standardized) == 0.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer": 0}, "layer=0 of larf is the end token's embedding"),
        ({"standardized_scatter": True}, "belongs to variant=datashield with layer=auto"),
        ({"layer": -1}, "layer"),
        ({"layer": "last"}, "layer"),
        ({"variant": "datashield", "layer": "generated"}, "layer=generated is LARF's choice"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], match: str) -> None:
    """Before any model is loaded."""
    with pytest.raises(ConfigError, match=match):
        build_method("direction", options)


def test_larf_reads_the_last_response_token(tiny_lm: LanguageModel) -> None:
    """Scores are minus the formula on `response_last` after the given layer."""
    inputs = inputs_for(tiny_lm)
    scores = Direction(layer=1, use_sets=True).rank(inputs)
    states, harmful, safe = (
        inputs.features.states(inputs.rendered(name), "state:1:response_last")
        for name in ("finetuning_set", "harmful_set", "safe_set")
    )
    expected = -larf_risk(states, harmful, safe).numpy()
    np.testing.assert_allclose(scores.values, expected, rtol=0, atol=1e-12)


def test_datashield_reads_response_mean_and_prompt(tiny_lm: LanguageModel) -> None:
    """Scores are minus the shift from `prompt_last` to `response_mean`."""
    inputs = inputs_for(tiny_lm)
    scores = Direction(variant="datashield", layer=0.5, use_sets=True).rank(inputs)
    mean, prompt = (
        inputs.features.states(inputs.rendered(), f"state:1:{reading}")
        for reading in ("response_mean", "prompt_last")
    )
    harmful, safe = (
        inputs.features.states(inputs.rendered(name), "state:1:response_mean")
        for name in ("harmful_set", "safe_set")
    )
    expected = -projection_shift(mean, prompt, compliance_vector(harmful, safe)).numpy()
    np.testing.assert_allclose(scores.values, expected, rtol=0, atol=1e-12)
    assert scores.details["layer"] == 1


def test_larf_takes_the_layer_that_moves_refusals_most(tiny_lm: LanguageModel) -> None:
    """The table has each layer's change; the chosen one is the largest, counted from 1."""
    details = Direction().rank(inputs_for(tiny_lm)).details
    table = details["layer_table"]
    assert len(table) == 2
    assert details["layer"] == 1 + table.index(max(table))
    assert 0 < details["refusal_probability"] < 1
    assert "over 40 prompts" in details["layer_chosen_by"]


@pytest.mark.parametrize("layer", ["auto", "generated"])
def test_the_choice_of_a_layer_is_made_once_for_a_cache(
    layer: str, own: Path, tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second ranking finds it and scores the same; other prompts make it anew."""
    monkeypatch.setattr(layer_choice, "REFUSALS", ("r",))  # the toy says no refusal
    scaled: list[torch.nn.Module] = []
    as_it_was = layer_scaling.scaled

    def counting(module: torch.nn.Module, factor: float) -> Any:
        scaled.append(module)
        return as_it_was(module, factor)

    monkeypatch.setattr(layer_scaling, "scaled", counting)
    requests = [{"id": f"b{i}", "prompt": f"{text} now"} for i, text in enumerate(toy.TOPICS)]
    path, method = own / "borderline.jsonl", Direction(anchors=own, layer=layer)
    values, done = [], [0]
    for lines in (requests, requests, requests[1:]):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        values.append(method.rank(inputs_for(tiny_lm, cache=tmp_path / "cache")).values.tobytes())
        done.append(len(scaled))
    assert 0 < done[1] == done[2] < done[3]
    assert values[0] == values[1]


def test_larf_can_choose_by_generated_answers(
    own: Path, tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the borderline requests of the anchors; states are read there."""
    monkeypatch.setattr(layer_choice, "REFUSALS", ("r",))  # the toy says no refusal
    requests = [{"id": f"b{i}", "prompt": f"{text} now"} for i, text in enumerate(toy.TOPICS)]
    text = "".join(json.dumps(line) + "\n" for line in requests)
    (own / "borderline.jsonl").write_text(text, encoding="utf-8")
    scores = Direction(anchors=own, layer="generated").rank(inputs_for(tiny_lm))
    details = scores.details
    assert details["layer"] == 1 + int(np.argmax(details["layer_table"]))
    assert np.array(details["layer_refusals"]).shape == (2, 6)
    assert "among 8 greedy answers of 32 tokens" in details["layer_chosen_by"]
    given = Direction(anchors=own, layer=details["layer"]).rank(inputs_for(tiny_lm))
    assert scores.values.tobytes() == given.values.tobytes()


def test_datashield_takes_the_layer_that_separates_most(tiny_lm: LanguageModel) -> None:
    """The table starts at the embeddings, where the end token is the same in every row: 0."""
    roomy = RenderConfig(max_prompt_tokens=400, max_response_tokens=1000)  # no anchor is cut
    details = Direction(variant="datashield").rank(inputs_for(tiny_lm, render=roomy)).details
    table = details["layer_table"]
    assert len(table) == 3
    assert table[0] == 0.0
    assert details["layer"] == table.index(max(table))


def test_of_equal_layers_the_lowest_is_taken(
    tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tie is no reason to go deeper."""
    monkeypatch.setattr(layer_choice, "refusal_changes", lambda *_: torch.tensor([0.25, 0.25]))
    assert Direction().rank(inputs_for(tiny_lm)).details["layer"] == 1


def test_larf_with_shipped_anchors_says_what_it_did_there(tiny_lm: LanguageModel) -> None:
    """On mixed data it ranks the wrong way round; the other variant says nothing."""
    notes = Direction(layer=1).rank(inputs_for(tiny_lm)).details["notes"]
    assert "use_sets=true" in notes[-1]
    other = Direction(variant="datashield", layer=1).rank(inputs_for(tiny_lm)).details["notes"]
    assert not any("use_sets=true" in note for note in other)


def test_ones_own_anchors_are_used(own: Path, tiny_lm: LanguageModel) -> None:
    """Two requests: four complied rows and two refused ones."""
    details = Direction(anchors=own, layer=1).rank(inputs_for(tiny_lm)).details
    assert details["anchors"] == {"complied anchors": 4, "refused anchors": 2}


@pytest.mark.parametrize("policy", ["truncate", "drop", "error"])
def test_anchors_that_are_too_long_are_cut_and_counted(
    policy: Any, own: Path, tiny_lm: LanguageModel
) -> None:
    """What is to be done with long rows is said of the user's: every policy has all anchors."""
    tight = RenderConfig(max_prompt_tokens=400, max_response_tokens=4, on_too_long=policy)
    (own / "openings.jsonl").write_text(
        '{"id": "p1", "text": "share"}\n{"id": "p2", "text": "venom share water gently"}\n'
    )
    rows = toy.examples([("ember", "share"), ("crack", "water")])
    method = Direction(anchors=own, layer=1)
    details = method.rank(inputs_for(tiny_lm, finetuning_set=rows, render=tight)).details
    assert details["anchors"] == {"complied anchors": 4, "refused anchors": 2}
    assert details["anchors_by_outcome"]["complied anchors"] == {"ok": 2, "truncated": 2}
    assert details["notes"] == []


@pytest.mark.parametrize("which", ["harmful_set", "safe_set"])
def test_sets_of_the_users_own_keep_the_users_policy(which: str, tiny_lm: LanguageModel) -> None:
    """Of six, or four, rows in place of anchors one is too long and to be dropped: it is."""
    inputs = inputs_for(tiny_lm)
    longer = toy.examples([
        *((r.messages[0].content, r.messages[1].content) for r in getattr(inputs, which)),
        ("ember", "water " * 110),
    ])  # fmt: skip
    details = (
        Direction(use_sets=True, layer=1)
        .rank(dataclasses.replace(inputs, **{which: longer}))
        .details
    )
    n = len(getattr(inputs, which))
    name = which.replace("_", " ")
    assert details["anchors_by_outcome"][name] == {"ok": n, "too_long": 1}
    said = f"{n} of {n + 1} rows of the {name} were read; the others were too long or had no token."
    assert said in details["notes"]


def test_anchors_of_which_none_can_be_read_are_refused(tiny_lm: LanguageModel) -> None:
    """The message names them, not the rows to rank."""
    tight = RenderConfig(max_prompt_tokens=2, max_response_tokens=2, on_too_long="drop")
    with pytest.raises(NoTrainedTokensError, match=r"none of the 244 rows of the complied anchors"):
        Direction(layer=1).rank(inputs_for(tiny_lm, render=tight))


def test_refusals_that_begin_like_openings_choose_no_layer(
    own: Path, tiny_lm: LanguageModel
) -> None:
    """The first token would not tell them apart: a layer has to be given."""
    (own / "refusals.jsonl").write_text('{"id": "r1", "text": "share nothing"}\n')
    with pytest.raises(ConfigError, match=r"no refusal .* begins with a token of its own.*Set"):
        Direction(anchors=own).rank(inputs_for(tiny_lm))


@pytest.mark.parametrize("missing", ["harmful_set", "safe_set"])
def test_use_sets_needs_both_sets(missing: str, tiny_lm: LanguageModel) -> None:
    """Refused before the model runs."""
    handle = tiny_lm.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(ConfigError, match="needs a --harmful-set and a --safe-set"):
            Direction(use_sets=True).rank(inputs_for(tiny_lm, **{missing: None}))
    finally:
        handle.remove()
