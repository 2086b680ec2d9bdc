"""Batched generation, left-padded, seeded; greedy unless a temperature is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch

from tamis.models.load import LanguageModel
from tamis.rng import scoped_torch_seed


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    stops: Collection[int] = (),
    on_batch: Callable[[list[int], list[list[int]]], None] | None = None,
) -> list[list[int]]:
    """Continue each prompt.

    Args:
        lm: Model and tokenizer.
        prompts: Token ids, each ending where the answer starts.
        max_new_tokens: Longest continuation, in tokens.
        temperature: 0 is greedy; above 0 samples, seeded per batch.
        seed: Seed of the sampling.
        batch_size: Prompts run at once; prompts of similar length are run together.
        stops: Tokens that end an answer besides the model's own end tokens.
        on_batch: Called after each batch with the prompts' positions and their continuations.

    Returns:
        Token ids of each continuation, in prompt order, cut before the first end token.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    answers: list[list[int]] = [[] for _ in prompts]
    ends = end_token_ids(lm) | set(stops)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        new = _generate_batch(
            lm, [prompts[i] for i in chosen], max_new_tokens, temperature, ends, (seed, start)
        )
        for i, tokens in zip(chosen, new, strict=True):
            answers[i] = tokens
        if on_batch:
            on_batch(chosen, new)
    return answers


def end_token_ids(lm: LanguageModel) -> set[int]:
    """Return every token that ends an answer: the generation config's and the tokenizer's."""
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return {int(i) for i in [*ids, lm.tokenizer.eos_token_id] if i is not None}


@torch.no_grad()
def _generate_batch(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float,
    stops: set[int], seed: tuple[int, int],
) -> list[list[int]]:  # fmt: skip
    width = max(len(prompt) for prompt in prompts)
    pad = lm.tokenizer.pad_token_id
    ids = torch.full((len(prompts), width), pad, dtype=torch.int64)
    mask = torch.zeros((len(prompts), width), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    neutral: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        neutral = {"temperature": temperature, "top_p": 1.0, "top_k": 0}
    with scoped_torch_seed(seed[0], "generate", seed[1]), _dense_head_input(lm.model):
        output = lm.model.generate(
            input_ids=ids.to(lm.device),
            attention_mask=mask.to(lm.device),
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(stops) or None,
            pad_token_id=pad,
            repetition_penalty=1.0,  # some models set one; it would change what is measured
            do_sample=temperature > 0,
            **neutral,
        )
    return [_before_end(row.tolist(), stops) for row in output[:, width:].cpu()]


@contextlib.contextmanager
def _dense_head_input(model: Any) -> Iterator[None]:
    """Hand the output projection its input without gaps.

    Of a prompt it gets the last position only, a slice with gaps, and torch then multiplies by one
    copy of the weights for every prompt: in bfloat16 on a CPU 4 GB more and 50 s instead of .1 s
    for 16 prompts and 151,936 words.
    """
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _m, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def _before_end(tokens: list[int], stops: set[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in stops:
            return tokens[:position]
    return tokens
