"""Batched gradients of single rows against autograd through PEFT's adapters, one row at a time."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from test_losses import ARCHITECTURES, CPU, architecture, plain_loss, rows
from torch import Tensor

import toy
from tamis.models.features import FeatureCache
from tamis.models.lora import LoraSettings, adapter_parameters, attach_adapters
from tamis.models.loss import row_losses
from tamis.models.row_forward import RowForward
from tamis.models.row_gradients import (
    RowGradients,
    mean_unit_gradient,
    products_with,
    store_products,
)
from tamis.models.row_store import RowStore

RANK = 3
# float32 sums over tokens, layers and rows: 1e-5 of the largest entry.
CLOSE = 1e-5

every_architecture = pytest.mark.parametrize("name", ["llama", *ARCHITECTURES])


def gradients_of(name: str, first_layer: int = 0) -> RowGradients:
    """The batched way, on a random model."""
    return RowGradients(architecture(name), rank=RANK, seed=4, first_layer=first_layer)


def forward_of(
    name: str, *, cut: int = 0, tokens: int = 200, recompute: bool = False
) -> RowForward:
    """All rows under a random model, from their stored trunk where there is a cut."""
    model = architecture(name)
    cache = FeatureCache(toy.language_model(model), max_batch_tokens=tokens)
    if cut:
        cache.ensure(rows(), [f"trunk:{cut}"])
    return RowForward(
        model, rows(), cut=cut, trunk=cache.trunk(rows(), cut) if cut else None, device=CPU,
        max_batch_tokens=tokens, recompute=recompute,
    )  # fmt: skip


@functools.cache
def expected(name: str, first_layer: int = 0) -> list[dict[str, Tensor]]:
    """For every row: autograd's gradient of its plain loss in each B, through PEFT; A checked too.

    PEFT's own A factors are replaced by those of the batched way; alpha = r makes its scale one.
    """
    gradients = gradients_of(name, first_layer)
    gradients.visit(forward_of(name), [0], lambda *_: None)  # factors are drawn at first sight
    model = copy.deepcopy(architecture(name))
    layers = tuple(range(first_layer, 3))
    settings = LoraSettings(rank=RANK, alpha=RANK, layers=layers)
    peft_model = attach_adapters(model, ["only"], settings, seed=0)
    parameters = adapter_parameters(peft_model, "only")
    places: dict[str, str] = {}
    for key, parameter in parameters.items():
        place = next(p for p in gradients.modules if f".{p}.lora_" in key)
        if "lora_A" in key:
            with torch.no_grad():
                parameter.copy_(gradients._factors[place])
        else:
            places[key] = place
    assert sorted(places.values()) == sorted(gradients.modules)
    found = []
    for row in rows():
        grads = torch.autograd.grad(plain_loss(peft_model, row), list(parameters.values()))
        by_key = dict(zip(parameters, grads, strict=True))
        assert all((g == 0).all() for key, g in by_key.items() if "lora_A" in key)
        found.append({place: by_key[key] for key, place in places.items()})
    return found


def flat(gradient: dict[str, Tensor]) -> Tensor:
    """One vector, modules in the order of their names."""
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)])


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Within CLOSE of the largest entry."""
    assert (found - wanted).abs().max().item() <= CLOSE * wanted.abs().max().item()


@every_architecture
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("first_layer", "cut"), [(0, 0), (1, 1), (2, 0)])
def test_row_gradients_are_those_of_peft_one_row_at_a_time(
    name: str, recompute: bool, first_layer: int, cut: int
) -> None:
    """Every row of one padded batch, every module; from the trunk, and above frozen layers too."""
    found: dict[str, Tensor] = {}
    indices = [3, 0, 6, 2]
    gradients_of(name, first_layer).visit(
        forward_of(name, cut=cut, recompute=recompute), indices, found.__setitem__
    )
    for place, index in enumerate(indices):
        wanted = expected(name, first_layer)[index]
        assert set(found) == set(wanted)
        for module, gradient in wanted.items():
            assert_close(found[module][place], gradient)


def directions(name: str) -> dict[str, Tensor]:
    """Two directions: ramps up and a ramp down and up."""
    return {
        module: torch.stack([
            torch.linspace(-1, 2, gradient.numel()).reshape(gradient.shape),
            torch.linspace(-1, 1, gradient.numel()).square().reshape(gradient.shape),
        ])
        for module, gradient in expected(name)[0].items()
    }  # fmt: skip


@every_architecture
def test_inner_products_are_those_of_whole_gradients(name: str) -> None:
    """With two directions and with themselves, and the losses; nothing but these is kept."""
    found = products_with(gradients_of(name), forward_of(name), [5, 1, 4], directions(name))
    lines = torch.stack([
        flat({module: values[k] for module, values in directions(name).items()}) for k in (0, 1)
    ])  # fmt: skip
    wanted = torch.stack([flat(expected(name)[i]) for i in (5, 1, 4)])
    assert_close(found[:, :2], wanted @ lines.T)
    assert_close(found[:, 2], wanted.square().sum(1))
    losses = [plain_loss(architecture(name), rows()[i]).item() for i in (5, 1, 4)]
    np.testing.assert_allclose(found[:, 3].numpy(), losses, rtol=0, atol=5e-6)


@pytest.mark.parametrize("tokens", [1, 200, 10_000])
def test_the_mean_is_of_unit_gradients(tokens: int) -> None:
    """sum_b g_b / |g_b| over the number of rows, the norm over all modules, in any batches."""
    found = mean_unit_gradient(gradients_of("llama"), forward_of("llama", tokens=tokens))
    whole = torch.stack([flat(gradient) for gradient in expected("llama")])
    assert_close(flat(found), (whole / whole.norm(dim=1, keepdim=True)).mean(0))


@pytest.mark.parametrize("tokens", [1, 200, 10_000])
def test_stored_products_are_each_rows_own(tokens: int) -> None:
    """Whatever the batches, under the key of the row."""
    gradients, forward = gradients_of("llama"), forward_of("llama", tokens=tokens)
    keys, store = [bytes([i]) for i in range(len(rows()))], RowStore(None)
    store_products(gradients, forward, keys, directions("llama"), store)
    wanted = products_with(gradients, forward, range(len(rows())), directions("llama"))
    for index, key in enumerate(keys):
        assert_close(store[key], wanted[index : index + 1])


def test_inner_products_are_a_projection_of_the_weights_own() -> None:
    """On average over A: r / (3 in) times the inner product of the full gradients of q and v.

    A rank of 3,000 leaves an error of about 1 / sqrt(3000), 2%, of the product of both lengths.
    """
    rank, model = 3000, copy.deepcopy(architecture("llama"))
    gradients = RowGradients(model, rank=rank, seed=1)
    found: dict[str, Tensor] = {}
    forward = RowForward(model, rows(), device=CPU, max_batch_tokens=10_000)
    gradients.visit(forward, [0, 1], found.__setitem__)
    for module in gradients.modules.values():
        module.weight.requires_grad_(True)
    weights: list[Any] = [module.weight for module in gradients.modules.values()]
    full = [
        torch.cat([g.flatten() for g in torch.autograd.grad(plain_loss(model, rows()[i]), weights)])
        for i in (0, 1)
    ]
    low = [flat({name: values[i] for name, values in found.items()}) for i in (0, 1)]
    for a, b in ((0, 0), (0, 1), (1, 1)):
        difference = (low[a] @ low[b]) * (3 * 32) / rank - full[a] @ full[b]
        assert difference.abs().item() < 0.06 * (full[a].norm() * full[b].norm()).item()


@every_architecture
def test_nothing_stays_behind(name: str) -> None:
    """No hook, no gradient, nothing trainable; the same losses as before."""
    model = architecture(name)
    batch = {"input_ids": torch.tensor([rows()[0].input_ids])}
    batch |= {"attention_mask": torch.ones_like(batch["input_ids"]),
              "labels": torch.tensor([rows()[0].labels])}  # fmt: skip
    with torch.no_grad():
        before = row_losses(model, batch)[0]
    gradients = gradients_of(name)
    gradients.visit(forward_of(name), [0, 1], lambda *_: None)
    assert not any(module._forward_hooks for module in gradients.modules.values())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(row_losses(model, batch)[0], before)
