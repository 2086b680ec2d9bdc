"""Where a model is cut, and what stopping at a layer or running from it leaves behind."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from tamis.errors import ConfigError
from tamis.models.trunk import (
    capturing,
    forwards_replaced,
    resolve_cut,
    run_until,
    running_from,
    trunk_is_exact,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("trunk_cut", "n_layers", "cut"),
    [(0, 30, 0), (24, 30, 24), (0.8, 30, 24), (0.5, 3, 2), (0.1, 2, 0), (29, 30, 29)],
)
def test_a_cut_is_a_number_of_layers_or_a_fraction(
    trunk_cut: float, n_layers: int, cut: int
) -> None:
    """Fractions are rounded to whole layers, halves to the even one."""
    assert resolve_cut(trunk_cut, n_layers) == cut


@pytest.mark.parametrize(("trunk_cut", "n_layers"), [(2, 2), (30, 2), (0.9, 2), (-1, 2), (1.5, 3)])
def test_a_cut_that_leaves_nothing_to_train_is_refused(trunk_cut: float, n_layers: int) -> None:
    """The message gives the number of layers."""
    with pytest.raises(
        ConfigError, match=rf"leaves no layer to train.*the model has {n_layers} layers"
    ):
        resolve_cut(trunk_cut, n_layers)


def batch(n: int = 8) -> dict[str, torch.Tensor]:
    """One row of n tokens."""
    ids = torch.arange(n)[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_the_trunk_is_the_hidden_state_of_that_depth(tiny_lm: Any) -> None:
    """As transformers gives it: 0 is the embeddings' output."""
    expected = tiny_lm.model(**batch(), output_hidden_states=True).hidden_states
    for cut in (0, 1):
        assert torch.equal(run_until(tiny_lm.model, batch(), cut), expected[cut])


def test_the_deepest_state_is_the_last_layers_own(tiny_lm: Any) -> None:
    """Before the final norm: with it, it is what transformers gives last."""
    found: dict[int, torch.Tensor] = {}
    with torch.no_grad(), capturing(tiny_lm.model, [2, 0], found.__setitem__):
        expected = tiny_lm.model(**batch(), output_hidden_states=True).hidden_states
    assert sorted(found) == [0, 2]
    assert torch.equal(tiny_lm.model.model.norm(found[2]), expected[-1])


def test_stopping_runs_no_layer_above(tiny_lm: Any) -> None:
    """The layer whose input is wanted is not entered."""
    handle = tiny_lm.model.model.layers[1].mlp.register_forward_pre_hook(
        lambda *_: pytest.fail("a layer above the cut ran")
    )
    try:
        run_until(tiny_lm.model, batch(), 1)
    finally:
        handle.remove()


def test_running_from_the_trunk_gives_the_same_logits(tiny_lm: Any) -> None:
    """Bit for bit, and the model is as it was afterwards."""
    expected = tiny_lm.model(**batch()).logits
    states = run_until(tiny_lm.model, batch(), 1)
    with running_from(tiny_lm.model, 1, states):
        assert torch.equal(tiny_lm.model(**batch()).logits, expected)
    assert torch.equal(tiny_lm.model(**batch()).logits, expected)
    assert trunk_is_exact(tiny_lm.model, 1, CPU)


def test_a_layer_that_reads_more_than_its_input_is_told(tiny_lm: Any) -> None:
    """A second layer that looks back at the first cannot be run apart."""
    seen: list[torch.Tensor] = []
    layers = tiny_lm.model.model.layers
    first = layers[0].register_forward_hook(lambda _m, _a, output: seen.append(output))
    second = layers[1].register_forward_hook(
        lambda _m, _a, output: output + (seen.pop() if seen else 0)
    )
    try:
        assert not trunk_is_exact(tiny_lm.model, 1, CPU)
    finally:
        first.remove()
        second.remove()


def test_a_forward_that_another_library_put_there_is_put_back(tiny_lm: Any) -> None:
    """Accelerate replaces `forward` on the layer itself where weights are moved about."""
    layer = tiny_lm.model.model.layers[0]
    theirs = layer.forward = functools.partial(type(layer).forward, layer)
    try:
        with forwards_replaced([layer], lambda forward: lambda *args: (forward, args)):
            assert layer.forward(1) == (theirs, (1,))
        assert layer.forward is theirs
    finally:
        del layer.forward
