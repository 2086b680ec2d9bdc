"""Scaling a layer's weights: what it does to the next token, and that nothing of it stays."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch

import toy
from tamis.data.rendered import RenderedRows
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError
from tamis.models import batches
from tamis.models.layer_scaling import (
    answers_when_scaled,
    mass_when_scaled,
    next_token_mass,
    scaled,
    split_rows,
)
from tamis.models.load import LanguageModel

PROMPTS = [[5, 9, 30, 31], [7], [200, 6, 8, 8, 40, 41, 42]]
TOKENS = [3, 17, 250]


@functools.cache
def rows() -> RenderedRows:
    """Return three rows; the second is too long and set aside."""
    pairs = [("Tell me about the lamp", "water"), ("Tell me", "water " * 60), ("Go on", "gently")]
    config = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
    return render(toy.examples(pairs), toy.tokenizer(), config)


def tensors(model: Any) -> list[bytes]:
    """Copy every tensor of a model as bytes."""
    return [tensor.numpy().tobytes() for tensor in model.state_dict().values()]


@torch.no_grad()
def alone(model: Any, prompt: list[int]) -> float:
    """Sum the probabilities of TOKENS after one prompt, run without padding."""
    logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    return float(torch.softmax(logits, 0)[TOKENS].sum())


@pytest.mark.parametrize("budget", [1, 10_000])
def test_the_mass_is_that_of_a_prompt_alone(
    budget: int, tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it shares a batch with; padding changes the last digits of float32 only."""
    monkeypatch.setattr(batches, "CPU_BATCH_TOKENS", budget)
    found = next_token_mass(tiny_lm, PROMPTS, TOKENS)
    expected = [alone(tiny_lm.model, prompt) for prompt in PROMPTS]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_all_tokens_together_have_mass_one(tiny_lm: LanguageModel) -> None:
    """Probabilities of the whole vocabulary sum to 1."""
    every = range(tiny_lm.model.config.vocab_size)
    assert next_token_mass(tiny_lm, PROMPTS, every).tolist() == pytest.approx([1.0] * 3, abs=1e-6)


def test_every_weight_of_the_layer_is_scaled(tiny_lm: LanguageModel) -> None:
    """Norms too, and no other layer."""
    first, second = tiny_lm.model.model.layers
    before = [weight.clone() for weight in (*first.parameters(), *second.parameters())]
    with scaled(first, 0.5):
        during = [weight.clone() for weight in (*first.parameters(), *second.parameters())]
    n = len(list(first.parameters()))
    assert all(torch.equal(d, 0.5 * b) for d, b in zip(during[:n], before[:n], strict=True))
    assert all(torch.equal(d, b) for d, b in zip(during[n:], before[n:], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_put_back_bit_for_bit(dtype: torch.dtype) -> None:
    """Also after an interruption; 1.2 and back would not be exact."""
    model = toy.llama(dtype=dtype)
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(KeyboardInterrupt), scaled(model.model.layers[1], 1.2):
        raise KeyboardInterrupt
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_packed_weights_are_refused() -> None:
    """Four-bit weights are bytes: multiplying them means nothing."""
    layer = torch.nn.Module()
    packed = torch.zeros(4, dtype=torch.uint8)
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    with (
        pytest.raises(ConfigError, match=r"quantised weights cannot be scaled.*Set layer"),
        scaled(layer, 0.8),
    ):
        pass


def test_each_layer_is_scaled_alone(tiny_lm: LanguageModel) -> None:
    """Entry (l, f) is the model with only layer l times factor f; the model stays as it was."""
    before = tensors(tiny_lm.model)
    found = mass_when_scaled(tiny_lm, PROMPTS, TOKENS, (0.8, 1.2))
    assert tensors(tiny_lm.model) == before
    assert found.shape == (2, 2, 3)
    for layer in (0, 1):
        for place, factor in enumerate((0.8, 1.2)):
            other = copy.deepcopy(tiny_lm.model)
            with torch.no_grad():
                for weight in other.model.layers[layer].parameters():
                    weight.mul_(factor)
            expected = [alone(other, prompt) for prompt in PROMPTS]
            assert found[layer, place].tolist() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def greedy(model: Any, prompt: list[int], n: int) -> str:
    """Answer with the likeliest token n times, the whole text run again for each."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == toy.tokenizer().eos_token_id:
            break
    text: str = toy.tokenizer().decode(tokens[len(prompt) :], skip_special_tokens=True)
    return text


@pytest.mark.parametrize("budget", [1, 10_000])
def test_answers_are_counted_with_each_layer_scaled_alone(
    budget: int, tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop over layers, factors, prompts and tokens, written out; weights stay bit-equal."""
    monkeypatch.setattr(batches, "CPU_BATCH_TOKENS", budget)
    prompts = [*PROMPTS, *([token] for token in range(20, 40, 4))]
    expected = torch.zeros(2, 3, dtype=torch.int64)
    for layer in (0, 1):
        for place, factor in enumerate((0.7, 1.1, 1.3)):
            other = copy.deepcopy(tiny_lm.model)
            with torch.no_grad():
                for weight in other.model.layers[layer].parameters():
                    weight.mul_(factor)
            for prompt in prompts:
                expected[layer, place] += "r" in greedy(other, prompt, 5)
    before = tensors(tiny_lm.model)
    seen: list[tuple[int, int]] = []
    found = answers_when_scaled(
        tiny_lm, prompts, lambda text: "r" in text, (0.7, 1.1, 1.3), max_new_tokens=5,
        progress=lambda done, total, _: seen.append((done, total)),
    )  # fmt: skip
    assert torch.equal(found, expected)
    assert len(set(expected.flatten().tolist())) > 1
    assert tensors(tiny_lm.model) == before
    assert seen == [(done, 6) for done in range(1, 7)]


def test_a_factor_of_one_changes_nothing(tiny_lm: LanguageModel) -> None:
    """Bit for bit the model as it is."""
    base = next_token_mass(tiny_lm, PROMPTS, TOKENS)
    found = mass_when_scaled(tiny_lm, PROMPTS, TOKENS, (1.0,))
    assert all(torch.equal(found[layer, 0], base) for layer in (0, 1))


def test_progress_is_told_layer_by_layer(tiny_lm: LanguageModel) -> None:
    """Two layers, two calls."""
    seen: list[tuple[int, int]] = []
    mass_when_scaled(tiny_lm, PROMPTS, TOKENS, (1.0,), lambda n, of, _: seen.append((n, of)))
    assert seen == [(1, 2), (2, 2)]


def test_rows_split_before_their_first_trained_token() -> None:
    """The prompt ends with the generation prompt; a row without tokens is passed over."""
    tokenizer = toy.tokenizer()
    split = split_rows(rows())
    assert [first for _, first in split] == [tokenizer(w).input_ids[0] for w in ("water", "gently")]
    assert tokenizer.decode(split[1][0]) == (
        "<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n"
    )
