"""How much one layer's weights matter for an answer: scale them, look, put them back.

Shapes: n prompts, B prompts of a batch, T tokens of the longest, V vocabulary, L layers, F factors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from tamis.data.batch import token_budget_batches
from tamis.data.rendered import UNTRAINED, RenderedRows
from tamis.errors import ConfigError
from tamis.models.batches import batch_tokens
from tamis.models.features import Progress
from tamis.models.trunk import layers_of

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel

_T = TypeVar("_T")


@contextlib.contextmanager
@torch.no_grad()
def scaled(layer: torch.nn.Module, factor: float) -> Iterator[None]:
    """Multiply all weights of a layer, norms and biases included; afterwards they are bit-equal.

    Raises:
        ConfigError: The layer has packed weights (4 or 8 bits), which cannot be multiplied.
    """
    weights = list(layer.parameters())
    if any(not weight.is_floating_point() for weight in weights):
        raise ConfigError(
            "quantised weights cannot be scaled, so no layer can be chosen by scaling. Set layer "
            "to a number, or leave model.load_in_4bit out."
        )
    before = [weight.clone() for weight in weights]
    try:
        for weight in weights:
            weight.mul_(factor)
        yield
    finally:
        for weight, kept in zip(weights, before, strict=True):
            weight.copy_(kept)


def when_scaled(
    lm: LanguageModel, factors: Sequence[float], measure: Callable[[], _T],
    progress: Progress | None = None,
) -> list[list[_T]]:  # fmt: skip
    """Measure a model with all weights of one layer scaled, layer by layer.

    Args:
        lm: The model; it is left as it was.
        factors: What the weights are multiplied by, one after the other.
        measure: Measures the model as it is.
        progress: Called after each measurement.

    Returns:
        L layers x F factors.

    Raises:
        ConfigError: The model's weights are packed.
    """
    layers = layers_of(lm.model)
    found: list[list[_T]] = []
    for layer in layers:
        found.append([])
        for factor in factors:
            with scaled(layer, factor):
                found[-1].append(measure())
            if progress:
                done = len(factors) * (len(found) - 1) + len(found[-1])
                progress(done, len(layers) * len(factors), {})
    return found


def mass_when_scaled(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], tokens: Sequence[int],
    factors: Sequence[float], progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """`next_token_mass` of every prompt, `when_scaled` (float64, L x F x n)."""
    found = when_scaled(lm, factors, lambda: next_token_mass(lm, prompts, tokens), progress)
    return torch.stack([torch.stack(masses) for masses in found])


def answers_when_scaled(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], holds: Callable[[str], bool],
    factors: Sequence[float], *, max_new_tokens: int, progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """Count greedy answers for which something holds, `when_scaled`.

    Args:
        lm: The model; it is left as it was.
        prompts: Token ids of each prompt.
        holds: Asked of the text of every answer, without special tokens.
        factors: What the weights are multiplied by, one after the other.
        max_new_tokens: Longest answer, in tokens.
        progress: Called after all answers of a layer and a factor.

    Returns:
        int64, L x F.

    Raises:
        ConfigError: The model's weights are packed.
    """
    from tamis.models.generate import generate

    longest = max(map(len, prompts), default=0) + max_new_tokens
    at_once = max(1, batch_tokens(lm.device) // longest)

    def count() -> int:
        answers = generate(lm, prompts, max_new_tokens=max_new_tokens, batch_size=at_once)
        texts = lm.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return sum(map(holds, texts))

    return torch.tensor(when_scaled(lm, factors, count, progress))


def split_rows(rows: RenderedRows) -> list[tuple[list[int], int]]:
    """Return the prompt and the first trained token of every usable row, in order."""
    found = []
    for row in (rows[index] for index in rows.usable.nonzero()[0].tolist()):
        first = next(place for place, label in enumerate(row.labels) if label != UNTRAINED)
        found.append((row.input_ids[:first], row.input_ids[first]))
    return found


@torch.no_grad()
def next_token_mass(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], tokens: Sequence[int]
) -> Tensor:
    """Probability that the token after a prompt is one of these.

    Args:
        lm: The model.
        prompts: Token ids of each prompt.
        tokens: Different token ids.

    Returns:
        sum_{v in tokens} P(v | prompt) of each prompt, with a float32 softmax (float64, n).
    """
    mass = torch.empty(len(prompts), dtype=torch.float64)
    wanted = torch.tensor(list(tokens), device=lm.device)
    lengths = [len(prompt) for prompt in prompts]
    for places in token_budget_batches(lengths, batch_tokens(lm.device)):
        width = lengths[places[0]]
        ids = torch.zeros((len(places), width), dtype=torch.int64)
        for row, place in enumerate(places):
            ids[row, : lengths[place]] = torch.tensor(list(prompts[place]))
        ends = torch.tensor([lengths[place] for place in places])
        mask = (torch.arange(width) < ends[:, None]).long()
        with _at(lm.model, ends.to(lm.device) - 1):
            output = lm.model(
                input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), use_cache=False
            )
        p = torch.softmax(output.logits[0].float(), dim=1)  # B x V
        mass[places] = p[:, wanted].sum(1).double().cpu()
    return mass


@contextlib.contextmanager
def _at(model: Any, places: Tensor) -> Iterator[None]:
    """Let the output projection see one position of each row: logits are 1 x B x V."""

    def gather(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        rows = torch.arange(len(places), device=places.device)
        return (args[0][rows, places].unsqueeze(0), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
