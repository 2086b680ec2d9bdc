"""Losses and gradients of chosen rows: order, batches, what running from a trunk leaves behind.

That they are the whole model's is in tests/oracle/test_losses.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import toy
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig, RenderedRows, render
from tamis.models.features import FeatureCache
from tamis.models.lora import LoraSettings, adapter_parameters, attach_adapters, detach_adapters
from tamis.models.row_forward import RowForward

CPU = torch.device("cpu")


@functools.cache
def rows() -> RenderedRows:
    """Return seven rows of different lengths; the fourth is too long and set aside."""
    usable = toy.contaminated_set(6, n_harmful=3, n_safe=1).finetuning_set
    records = [{"prompt": r.messages[0].content, "completion": r.messages[1].content}
               for r in usable]  # fmt: skip
    records.insert(3, {"prompt": "Tell me", "completion": "water " * 60})
    config = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
    return render(load_examples(records), toy.tokenizer(), config)


USABLE = [0, 1, 2, 4, 5, 6]


def forward_of(model: Any, *, cut: int = 1, max_batch_tokens: int = 150) -> RowForward:
    """Return a forward that runs from its trunk."""
    cache = FeatureCache(toy.language_model(model), max_batch_tokens=max_batch_tokens)
    cache.ensure(rows(), [f"trunk:{cut}"])
    return RowForward(
        model, rows(), cut=cut, trunk=cache.trunk(rows(), cut), device=CPU,
        max_batch_tokens=max_batch_tokens,
    )  # fmt: skip


@pytest.fixture
def adapted() -> Iterator[Any]:
    """A fresh tiny model with an adapter on its second layer; B is a ramp, so it matters."""
    peft_model = attach_adapters(toy.llama(), ["only"], LoraSettings(rank=2, layers=(1,)), seed=0)
    with torch.no_grad():
        for name, parameter in adapter_parameters(peft_model, "only").items():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    yield peft_model
    detach_adapters(peft_model)


def test_rows_are_worked_in_the_order_of_their_ids(tiny_lm: Any) -> None:
    """Unusable rows are left out; the file's order plays no part."""
    order = forward_of(tiny_lm.model).order.tolist()
    assert sorted(order) == USABLE
    ids = [rows().ids[i] for i in order]
    assert ids == sorted(ids)


@pytest.mark.parametrize("max_batch_tokens", [1, 60, 100, 100_000])
def test_micro_batches_hold_every_row_once_within_the_budget(
    max_batch_tokens: int, tiny_lm: Any
) -> None:
    """Rows times longest row; a row longer than the budget stands alone."""
    forward = forward_of(tiny_lm.model, max_batch_tokens=max_batch_tokens)
    groups = [[USABLE[place] for place in places] for places in forward._places(USABLE)]
    assert sorted(i for group in groups for i in group) == USABLE
    for group in groups:
        padded = len(group) * max(len(rows()[i].input_ids) for i in group)
        assert padded <= max_batch_tokens or len(group) == 1


def test_layers_below_the_cut_are_not_run(tiny_lm: Any) -> None:
    """Their attention is never entered once the trunk is built."""
    forward = forward_of(tiny_lm.model)
    attention = tiny_lm.model.model.layers[0].self_attn
    handle = attention.register_forward_pre_hook(lambda *_: pytest.fail("a frozen layer ran"))
    try:
        forward.losses_of(USABLE)
    finally:
        handle.remove()


@pytest.mark.parametrize("fails", [True, False])
def test_running_from_the_trunk_leaves_the_model_as_it_was(fails: bool, tiny_lm: Any) -> None:
    """No hook and no replaced method stays, whether or not the run succeeds."""
    forward = forward_of(tiny_lm.model)
    ids = torch.arange(8)[None]
    before = tiny_lm.model(input_ids=ids).logits
    if fails:

        def fail(*_: Any) -> None:
            raise KeyboardInterrupt

        handle = tiny_lm.model.model.layers[1].mlp.register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            forward.losses(USABLE)
        handle.remove()
    else:
        forward.losses(USABLE)
    assert not [m for m in tiny_lm.model.modules() if "forward" in vars(m)]
    assert not [m for m in tiny_lm.model.modules() if m._forward_pre_hooks]
    assert torch.equal(tiny_lm.model(input_ids=ids).logits, before)


@pytest.mark.parametrize("indices", [[0], [6, 1, 4], [5, 4, 2, 0]])
def test_losses_come_in_the_order_asked_for(indices: list[int], adapted: Any) -> None:
    """Though micro-batches run the longest rows first."""
    forward = forward_of(adapted, max_batch_tokens=60)
    alone = np.array([forward.losses_of([i])[0] for i in indices])
    np.testing.assert_allclose(forward.losses_of(indices), alone, rtol=0, atol=5e-6)
    found = forward.accumulate(indices, torch.zeros(len(indices)))
    np.testing.assert_allclose(found.numpy(), alone, rtol=0, atol=5e-6)


def gradients(model: Any) -> list[torch.Tensor]:
    """Copy the adapter's gradients."""
    return [p.grad.clone() for p in adapter_parameters(model, "only").values()]


def test_gradients_add_up_over_calls(adapted: Any) -> None:
    """Two sets accumulate into one step: the sum of both calls' gradients."""
    forward = forward_of(adapted)
    apart = []
    for indices in ([0, 1], [4, 5, 6]):
        adapted.zero_grad(set_to_none=True)
        forward.accumulate(indices, torch.ones(len(indices)))
        apart.append(gradients(adapted))
    adapted.zero_grad(set_to_none=True)
    for indices in ([0, 1], [4, 5, 6]):
        forward.accumulate(indices, torch.ones(len(indices)))
    for together, first, second in zip(gradients(adapted), *apart, strict=True):
        torch.testing.assert_close(together, first + second, rtol=1e-5, atol=1e-6)


def test_weights_of_zero_cost_no_backward_pass(adapted: Any) -> None:
    """As with g = 0: the rows are read for their losses and leave no gradient."""
    forward = forward_of(adapted)
    forward.accumulate(USABLE, torch.zeros(len(USABLE)))
    assert all(p.grad is None for p in adapter_parameters(adapted, "only").values())


def test_coefficients_belong_to_their_rows(adapted: Any) -> None:
    """A weight of one on one row of three gives that row's gradient alone."""
    forward = forward_of(adapted, max_batch_tokens=60)
    forward.accumulate([4], torch.ones(1))
    alone = gradients(adapted)
    adapted.zero_grad(set_to_none=True)
    forward.accumulate([6, 4, 0], torch.tensor([0.0, 1.0, 0.0]))
    for found, expected in zip(gradients(adapted), alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
