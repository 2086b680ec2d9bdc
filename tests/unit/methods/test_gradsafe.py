"""GradSafe on a 2-layer toy against a literal loop over autograd; its prompts; what is refused."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import toy
from tamis.data.example import Message
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig, render_prompt
from tamis.errors import ConfigError
from tamis.methods import build_method
from tamis.methods.base import RankingInputs, rank
from tamis.methods.gradsafe import GradSafe, prompts_of
from tamis.methods.scores import Scores
from tamis.models import critical_slices
from tamis.models.load import LanguageModel

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
UNSAFE = ("ember crack", "crack venom", "venom ember")
SAFE = ("bread water", "river garden", "lamp stone")
ROWS = (("Tell me about venom", "water"), ("Tell me about bread", "venom"),
        ("ember river", "share"), ("winter paper", "gently"))  # fmt: skip
THRESHOLD = 0.5


def inputs_for(lm: LanguageModel, **changes: Any) -> RankingInputs:
    """Four rows, three unsafe and three safe prompts."""
    whole = RankingInputs(
        toy.examples(ROWS), toy.examples([(p, "gently") for p in SAFE]), model=lm, render=RENDER,
        harmful_set=toy.examples([(p, "share") for p in UNSAFE]),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def ranked(inputs: RankingInputs, **settings: Any) -> Scores:
    """Rank with the given sets as known prompts."""
    options = {"use_sets": True, "threshold": THRESHOLD, "prompts_per_side": 3, **settings}
    scores: Scores = build_method("gradsafe", options).rank(inputs)
    return scores


def weight_gradients(model: Any, prompt: str) -> dict[str, Tensor]:
    """Autograd's gradient in every attention and MLP weight, of "Sure" and its end token."""
    tokenizer = toy.tokenizer()
    start = render_prompt([Message("user", prompt)], tokenizer, RENDER)
    answer = tokenizer("Sure<|im_end|>").input_ids
    weights = {
        name: parameter.requires_grad_()
        for name, parameter in model.named_parameters()
        if ("self_attn" in name or "mlp" in name) and parameter.ndim == 2
    }
    logits = model(input_ids=torch.tensor([[*start, *answer]])).logits[0].float()
    loss = functional.cross_entropy(logits[len(start) - 1 : -1], torch.tensor(answer))
    found = torch.autograd.grad(loss, list(weights.values()))
    return {name: g.double() for name, g in zip(weights, found, strict=True)}


def literal_risks(model: Any) -> tuple[list[float], int]:
    """The published score of ROWS by loops over weights and slices; and how many are critical."""
    model = copy.deepcopy(model)
    unsafe, safe, rows = (
        [weight_gradients(model, prompt) for prompt in prompts]
        for prompts in (UNSAFE, SAFE, [prompt for prompt, _ in ROWS])
    )

    def cosine(one: Tensor, other: Tensor) -> float:
        return float(functional.cosine_similarity(one, other, dim=0, eps=0))

    cosines: list[list[float]] = [[] for _ in ROWS]
    for name in unsafe[0]:
        reference = sum((g[name] for g in unsafe), torch.zeros(())) / len(unsafe)
        for axis in (0, 1):
            for k in range(reference.shape[axis]):
                known = [
                    np.mean([cosine(g[name].select(axis, k), reference.select(axis, k))
                             for g in side])
                    for side in (unsafe, safe)
                ]  # fmt: skip
                if known[0] - known[1] > THRESHOLD:
                    for row, found in zip(rows, cosines, strict=True):
                        found.append(cosine(row[name].select(axis, k), reference.select(axis, k)))
    return [float(np.mean(found)) for found in cosines], len(cosines[0])


@functools.cache
def expected() -> tuple[list[float], int]:
    """`literal_risks` of the tiny model."""
    return literal_risks(toy.llama())


@pytest.mark.parametrize("budget", [1, 10_000])
def test_scores_are_minus_the_literal_mean_cosine(budget: int, tiny_lm: LanguageModel) -> None:
    """All weights of both layers, all rows and columns, a row at a time or all together."""
    scores = ranked(inputs_for(tiny_lm), max_batch_tokens=budget)
    risks, n_slices = expected()
    # float32 sums over a few dozen tokens and entries.
    np.testing.assert_allclose(scores.values, [-risk for risk in risks], rtol=0, atol=1e-5)
    counts = scores.details["critical_slices"]
    assert counts["rows"] + counts["columns"] == n_slices > 20
    assert counts["of_slices"] == 2 * (2 * (32 + 32) + 2 * (16 + 32) + 3 * (64 + 32))


def test_weights_searched_one_at_a_time_give_the_same_bits(
    tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little memory there is for whole gradients."""
    whole = ranked(inputs_for(tiny_lm))
    monkeypatch.setattr(critical_slices, "SEARCH_BYTES", 1)
    passes: list[int] = []
    inputs = inputs_for(tiny_lm, report=lambda stage, done, *_: passes.append(done))
    assert ranked(inputs).values.tobytes() == whole.values.tobytes()
    assert max(passes) == 14 * 6


class Packed(nn.Linear):
    """Eight-bit weights with one scale, as quantised models hold them."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.scale = float(plain.weight.abs().max()) / 127
        packed = (plain.weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply with the weights as they are read."""
        return functional.linear(inputs, self.weight.float() * self.scale)


def test_quantised_weights_have_the_gradients_of_what_they_are_read_as() -> None:
    """No gradient is asked of the weights themselves."""
    packed, read = toy.llama(), toy.llama()
    for layer, other in zip(packed.model.layers, read.model.layers, strict=True):
        for name in ("gate_proj", "down_proj"):
            held = Packed(getattr(layer.mlp, name))
            setattr(layer.mlp, name, held)
            getattr(other.mlp, name).weight.data = held.weight.float() * held.scale
    found, wanted = (ranked(inputs_for(toy.language_model(model))) for model in (packed, read))
    assert found.values.tobytes() == wanted.values.tobytes()
    assert found.values.tobytes() != ranked(inputs_for(toy.tiny_lm())).values.tobytes()


def test_unsafe_prompts_rank_below_others_that_answer_alike(tiny_lm: LanguageModel) -> None:
    """Prompts of unsafe words against prompts of safe ones, none of them among the known."""
    source = np.random.default_rng(0)
    pairs = [(" ".join(source.choice(words, 4)), "water") for words in
             (toy.HARMFUL_WORDS, toy.TOPICS) for _ in range(12)]  # fmt: skip
    harmful = np.arange(24) < 12
    scores = ranked(inputs_for(tiny_lm, finetuning_set=toy.examples(pairs)))
    assert toy.auroc(-scores.values, harmful) > 0.9


def test_rows_with_one_prompt_have_one_score_and_one_pass(tiny_lm: LanguageModel) -> None:
    """Whatever they answer."""
    pairs = [("Tell me about venom", answer) for answer in ("water", "venom", "share gently")]
    totals: list[int] = []
    inputs = inputs_for(
        tiny_lm, finetuning_set=toy.examples([*pairs, ("bread", "water")]),
        report=lambda stage, _, total, __: totals.append(total) if stage == "gradients" else None,
    )  # fmt: skip
    scores = ranked(inputs)
    assert len(set(scores.values[:3])) == 1
    assert scores.values[3] != scores.values[0]
    assert scores.details["distinct_prompts"] == 2
    assert set(totals) == {2}
    assert "reads prompts alone" in scores.details["notes"][0]


def test_the_prompt_is_all_turns_before_the_last_answer() -> None:
    """Earlier answers and the system turn stay; the answer becomes "Sure"."""
    turns = [("system", "Be brief."), ("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rows = load_examples([
        {"messages": [*messages, {"role": "assistant", "content": text}]} for text in "ab"
    ])  # fmt: skip
    found, own = prompts_of(rows, range(2))
    assert own == [0, 0]
    assert [(m.role, m.content) for m in found[0].messages] == [*turns, ("assistant", "Sure")]


def test_flags_are_risks_from_the_published_threshold_on(tiny_lm: LanguageModel) -> None:
    """Also where one is set exactly at a row's risk."""
    risk = -ranked(inputs_for(tiny_lm)).values
    scores = ranked(inputs_for(tiny_lm), flag_at=float(np.sort(risk)[2]))
    assert scores.columns["flagged"].tolist() == (risk >= np.sort(risk)[2]).tolist()
    assert scores.details["flagged"] == 2
    assert GradSafe().flag_at == 0.25


def test_only_named_modules_count(tiny_lm: LanguageModel) -> None:
    """Two of the seven in each of two layers."""
    scores = ranked(inputs_for(tiny_lm), modules=("q_proj", "down_proj"))
    assert scores.details["critical_slices"]["of_slices"] == 2 * (32 + 32 + 32 + 64)


def test_the_shipped_requests_are_two_of_each_kind(tiny_lm: LanguageModel) -> None:
    """As many as published; the manifest names them."""
    inputs = inputs_for(tiny_lm, safe_set=None, harmful_set=None)
    known = GradSafe().rank(inputs).details["known_prompts"]
    assert [name[0] for name in known["unsafe"]] == ["u", "u"]
    assert [name[0] for name in known["safe"]] == ["o", "o"]


def test_prompts_are_computed_once_for_all_rankings_with_a_cache(
    tmp_path: Path, tiny_lm: LanguageModel
) -> None:
    """Of another set with one prompt more, only that one is run; known prompts are not."""
    ranked(inputs_for(tiny_lm, cache=tmp_path))
    more = toy.examples([*ROWS, ("stone", "water")])
    seen: list[tuple[str, int]] = []
    ranked(inputs_for(tiny_lm, finetuning_set=more, cache=tmp_path,
                      report=lambda stage, _, total, __: seen.append((stage, total))))  # fmt: skip
    assert seen == [("gradients", 1)]


def test_prompts_that_an_earlier_ranking_ran_are_counted_as_kept(
    tmp_path: Path, tiny_lm: LanguageModel
) -> None:
    """One reading of the rows' prompts is wanted; the second ranking, of fewer rows, makes none."""
    inputs = inputs_for(tiny_lm)
    method = GradSafe(use_sets=True, threshold=THRESHOLD, prompts_per_side=3)

    def passes(n: int) -> Any:
        rows = inputs.finetuning_set.restrict(inputs.finetuning_set.ids[:n])
        return rank(rows, method, safe_set=inputs.safe_set, harmful_set=inputs.harmful_set,
                    model=tiny_lm, render=RENDER, cache=tmp_path).details["passes"]  # fmt: skip

    first, second = passes(4), passes(3)
    assert first["forward"] > first["spared"] == 0
    assert (second["forward"], second["backward"]) == (0.0, 0.0)
    assert second["spared"] > 0


def test_another_threshold_takes_nothing_of_an_earlier_ranking(
    tmp_path: Path, tiny_lm: LanguageModel
) -> None:
    """Other slices, other scores, in one folder."""
    ranked(inputs_for(tiny_lm, work=tmp_path))
    found = ranked(inputs_for(tiny_lm, work=tmp_path), threshold=0.8)
    expected = ranked(inputs_for(tiny_lm), threshold=0.8)
    assert found.values.tobytes() == expected.values.tobytes()


def test_no_critical_slice_is_refused(tiny_lm: LanguageModel) -> None:
    """The message gives the largest gap and what to set."""
    with pytest.raises(ConfigError, match=r"threshold=1\.99 .*the largest is \d\.\d\d\. Set thres"):
        ranked(inputs_for(tiny_lm), threshold=1.99)


def test_the_same_prompts_on_both_sides_are_refused(tiny_lm: LanguageModel) -> None:
    """No gap at all."""
    inputs = inputs_for(tiny_lm)
    with pytest.raises(ConfigError, match=r"the largest is -?0\.00"):
        ranked(dataclasses.replace(inputs, safe_set=inputs.harmful_set), threshold=0.01)


def test_gradients_that_are_no_numbers_are_refused() -> None:
    """A weight that overflowed."""
    model = toy.llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(ConfigError, match=r"are not numbers\. Load the model in float32"):
        ranked(inputs_for(toy.language_model(model)))


@pytest.mark.parametrize("missing", ["harmful_set", "safe_set"])
def test_use_sets_needs_both_sets(missing: str, tiny_lm: LanguageModel) -> None:
    """Named, with their flags."""
    with pytest.raises(ConfigError, match="needs a --harmful-set and a --safe-set"):
        ranked(inputs_for(tiny_lm, **{missing: None}))


def test_two_sources_of_prompts_are_refused(tmp_path: Path) -> None:
    """The message names both settings."""
    with pytest.raises(ConfigError, match="anchors and use_sets both say"):
        build_method("gradsafe", {"use_sets": True, "anchors": str(tmp_path)})


def test_modules_that_are_not_there_are_refused(tiny_lm: LanguageModel) -> None:
    """The message lists those that are; the output projection is none of them."""
    with pytest.raises(ConfigError, match=r"\['lm_head'\].*those are q_proj, k_proj"):
        ranked(inputs_for(tiny_lm), modules=("q_proj", "lm_head"))
