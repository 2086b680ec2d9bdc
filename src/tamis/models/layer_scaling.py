"""How much one layer's weights matter for the next token: scale them, look, put them back.

Shapes: n prompts, B prompts of a batch, T tokens of the longest, V vocabulary, L layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

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


def mass_when_scaled(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], tokens: Sequence[int],
    factors: Sequence[float], progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """`next_token_mass` with all weights of one layer scaled, layer by layer.

    Args:
        lm: The model; it is left as it was.
        prompts: Token ids of each prompt.
        tokens: Different token ids.
        factors: What the weights are multiplied by, one after the other.
        progress: Called after each layer.

    Returns:
        float64, L layers x F factors x n.

    Raises:
        ConfigError: The model's weights are packed.
    """
    layers = layers_of(lm.model)
    found = []
    for done, layer in enumerate(layers, start=1):
        for factor in factors:
            with scaled(layer, factor):
                found.append(next_token_mass(lm, prompts, tokens))
        if progress:
            progress(done, len(layers), {})
    return torch.stack(found).view(len(layers), len(factors), -1)


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
