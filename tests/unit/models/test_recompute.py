"""Activations are dropped and computed again; that gradients agree is in tests/oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import toy
from tamis.models.recompute import recomputing
from tamis.models.trunk import layers_of

N_LAYERS = 4


def kept_numbers(cut: int, *, recompute: bool) -> int:
    """Count the numbers that the graph of a forward pass keeps for its backward pass."""
    model = toy.llama(N_LAYERS)
    for parameter in layers_of(model)[cut].parameters():
        parameter.requires_grad_(True)
    ids = torch.arange(40)[None]
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if recompute:
            with recomputing(model, cut):
                model.model(input_ids=ids)
        else:
            model.model(input_ids=ids)
    return kept


@pytest.mark.parametrize("cut", [0, 1])
def test_fewer_numbers_are_kept(cut: int) -> None:
    """Most of what a layer keeps is its own activations."""
    assert kept_numbers(cut, recompute=True) < 0.3 * kept_numbers(cut, recompute=False)


def test_layers_run_twice_and_only_the_trained_ones() -> None:
    """Once forward, once backward; the layers below the cut once."""
    model = toy.llama(N_LAYERS)
    runs = [0] * N_LAYERS

    def counting(place: int) -> Any:
        def hook(*_: Any) -> None:
            runs[place] += 1

        return hook

    for place, layer in enumerate(layers_of(model)):
        layer.mlp.register_forward_pre_hook(counting(place))
    for parameter in layers_of(model)[2].parameters():
        parameter.requires_grad_(True)
    with recomputing(model, 2):
        out = model.model(input_ids=torch.arange(6)[None]).last_hidden_state
    out.sum().backward()
    assert runs == [1, 1, 2, 2]


def test_the_model_is_as_it_was_afterwards(tiny_lm: Any) -> None:
    """Even when the pass fails."""
    with pytest.raises(RuntimeError, match="stop"), recomputing(tiny_lm.model, 0):
        raise RuntimeError("stop")
    assert all("forward" not in vars(layer) for layer in layers_of(tiny_lm.model))
