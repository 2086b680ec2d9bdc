"""Generation: batches and padding change nothing, end tokens end, seeds repeat."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import toy
from tamis.models.generate import end_token_ids, generate
from tamis.models.load import LanguageModel

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [40], [30, 31, 32], [60, 61, 62, 63]]
N_NEW = 6


@torch.no_grad()
def greedy(lm: LanguageModel, prompt: list[int], n: int = N_NEW) -> list[int]:
    """Take the best next token n times, with the whole text run each time."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def ending_with(tokens: list[int] | int) -> LanguageModel:
    """Return a tiny model whose generation configuration names these end tokens."""
    lm = toy.tiny_lm()
    lm.model.generation_config.eos_token_id = tokens
    return lm


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_greedy_is_the_best_token_again_and_again(batch_size: int, tiny_lm: LanguageModel) -> None:
    """One by one or together, prompts of any length: left padding and caching change nothing."""
    expected = [greedy(tiny_lm, prompt) for prompt in PROMPTS]
    found = generate(tiny_lm, PROMPTS, max_new_tokens=N_NEW, batch_size=batch_size)
    assert found == expected


def test_answers_come_in_prompt_order(tiny_lm: LanguageModel) -> None:
    """Though prompts of similar length are run together."""
    backwards = generate(tiny_lm, PROMPTS[::-1], max_new_tokens=N_NEW, batch_size=2)
    assert backwards == generate(tiny_lm, PROMPTS, max_new_tokens=N_NEW, batch_size=2)[::-1]


@pytest.mark.parametrize("as_list", [True, False])
def test_an_answer_stops_before_the_first_end_token(as_list: bool, tiny_lm: LanguageModel) -> None:
    """The end token is a token that greedy search takes; the rest is cut, and it too."""
    prompt = PROMPTS[0]
    whole = greedy(tiny_lm, prompt)
    end = whole[3]
    lm = ending_with([end] if as_list else end)
    expected = whole[: whole.index(end)]
    assert generate(lm, [prompt], max_new_tokens=N_NEW) == [expected]


def test_one_answers_end_does_not_end_the_others(tiny_lm: LanguageModel) -> None:
    """Each row of a batch stops on its own."""
    lm = ending_with(greedy(tiny_lm, PROMPTS[0])[0])
    found = generate(lm, PROMPTS, max_new_tokens=N_NEW)
    assert found[0] == []
    assert max(map(len, found)) == N_NEW


def test_the_tokenizers_end_token_ends_too() -> None:
    """A base model's configuration may name another one than the chat template uses."""
    lm = ending_with([7, 9])
    assert end_token_ids(lm) == {7, 9, lm.tokenizer.eos_token_id}


def test_without_a_configured_end_the_tokenizers_holds(tiny_lm: LanguageModel) -> None:
    """None is no token."""
    lm = toy.tiny_lm()
    lm.model.generation_config.eos_token_id = None
    assert end_token_ids(lm) == {tiny_lm.tokenizer.eos_token_id}


def test_sampling_repeats_with_its_seed(tiny_lm: LanguageModel) -> None:
    """The same seed, the same answers; another seed, others."""

    def sampled(seed: int) -> list[list[int]]:
        return generate(tiny_lm, PROMPTS, max_new_tokens=N_NEW, temperature=1.0, seed=seed)

    assert sampled(0) == sampled(0)
    assert sampled(0) != sampled(1)


def test_sampling_draws_from_all_tokens(tiny_lm: LanguageModel) -> None:
    """At temperature 50 all 366 tokens are about equally likely: 200 draws reach past the 50th.

    The chance that none does is (50 / 366)^200.
    """
    prompt = PROMPTS[2]
    with torch.no_grad():
        logits = tiny_lm.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    best = set(logits.topk(50).indices.tolist())
    drawn = generate(tiny_lm, [prompt] * 200, max_new_tokens=1, temperature=50.0, batch_size=200)
    assert not {token for answer in drawn for token in answer} <= best


def test_a_low_temperature_is_almost_greedy(tiny_lm: LanguageModel) -> None:
    """At 1e-4 the best token has all the probability."""
    found = generate(tiny_lm, PROMPTS, max_new_tokens=N_NEW, temperature=1e-4)
    assert found == [greedy(tiny_lm, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_global_generator_is_left_alone(temperature: float, tiny_lm: LanguageModel) -> None:
    """The caller's own draws do not notice."""
    before = torch.random.get_rng_state()
    generate(tiny_lm, PROMPTS[:1], max_new_tokens=2, temperature=temperature)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_batch_is_reported_once(tiny_lm: LanguageModel) -> None:
    """Positions and answers, shortest prompts first, so that they can be written as they come."""
    seen: list[tuple[list[int], list[list[int]]]] = []
    answers = generate(
        tiny_lm, PROMPTS, max_new_tokens=2, batch_size=3,
        on_batch=lambda places, new: seen.append((places, new)),
    )  # fmt: skip
    assert [places for places, _ in seen] == [[1, 2, 3], [0]]
    assert {i: a for places, new in seen for i, a in zip(places, new, strict=True)} == dict(
        enumerate(answers)
    )


def test_no_prompts_no_answers(tiny_lm: LanguageModel) -> None:
    """An empty list is answered without running the model."""
    silent = dataclasses.replace(tiny_lm, model=torch.nn.Module())
    silent.model.generation_config = tiny_lm.model.generation_config
    assert generate(silent, [], max_new_tokens=2) == []


def test_the_output_projection_reads_without_gaps(tiny_lm: LanguageModel) -> None:
    """Also the last positions of several prompts; afterwards the model is as it was."""
    head, seen = tiny_lm.model.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda _m, args, _out: seen.append(args[0]))
    try:
        generate(tiny_lm, PROMPTS, max_new_tokens=2)
    finally:
        handle.remove()
    assert seen[0].shape[:2] == (len(PROMPTS), 1)
    assert all(hidden.is_contiguous() for hidden in seen)
    assert not head._forward_pre_hooks
