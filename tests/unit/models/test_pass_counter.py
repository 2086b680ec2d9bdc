"""Passes per token: what was run, whatever the method calls it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

import toy
from tamis.methods.base import rank
from tamis.methods.loss import Loss
from tamis.methods.saft import SAFT
from tamis.methods.seal import SEAL
from tamis.models.pass_counter import counted_passes
from tamis.models.recompute import recomputing
from tamis.models.trunk import run_until, running_from
from tamis.selection.auto import Auto


def batch(n: int = 6) -> dict[str, torch.Tensor]:
    """One row of n tokens."""
    ids = torch.arange(n)[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def test_a_forward_pass_is_one_pass_per_token(tiny_lm: Any) -> None:
    """And no backward pass."""
    with counted_passes(tiny_lm.model) as count:
        tiny_lm.model(**batch())
    assert count.per_token(6) == {"forward": 1.0, "backward": 0.0, "spared": 0.0}


@torch.no_grad()
def test_layers_that_a_trunk_stands_for_are_not_counted(tiny_lm: Any) -> None:
    """One of two layers up to the trunk, the other one from it."""
    with counted_passes(tiny_lm.model) as count:
        states = run_until(tiny_lm.model, batch(), 1)
        assert count.forward == 6
        with running_from(tiny_lm.model, 1, states):
            tiny_lm.model(**batch())
    assert count.forward == 12


def test_the_cost_of_a_ranking_is_in_its_details() -> None:
    """The base loss is one forward pass; SEAL trains besides, and only above its trunk."""
    data = toy.contaminated_set(8, n_harmful=2, n_safe=8)
    lm = toy.tiny_lm()
    found = rank(data.finetuning_set, Loss(), model=lm).details["passes"]
    assert found["backward"] == 0.0
    assert 1.0 <= found["forward"] < 1.5  # padding
    method = SEAL(epochs=1, trunk_cut=1)
    found = rank(data.finetuning_set, method, safe_set=data.safe_set, model=lm).details["passes"]
    # Safe rows through one adapter and rows through two, in one of two layers.
    assert found["backward"] == pytest.approx(1.5, rel=0.35)
    assert not any(layer._forward_hooks for layer in lm.model.model.layers)


def test_recomputed_layers_are_counted() -> None:
    """Gradient checkpointing runs each trained layer's forward pass once more."""
    lm = toy.tiny_lm()
    found = {}
    for checkpointing in (False, True):
        with counted_passes(lm.model) as count, contextlib.ExitStack() as stack:
            if checkpointing:
                stack.enter_context(recomputing(lm.model, 1))
            lm.model.model.layers[1].requires_grad_(True)
            lm.model(**batch()).logits.sum().backward()
            lm.model.requires_grad_(False)
        found[checkpointing] = count.forward, count.backward
    assert found == {False: (12, 6), True: (18, 6)}


def test_what_kept_features_spare_stands_beside_what_was_run(tmp_path: Path) -> None:
    """Kept losses are read for nothing; what a ranking left itself spares it nothing."""
    data = toy.contaminated_set(8, n_harmful=2, n_safe=8)
    lm = toy.tiny_lm()

    def passes(method: Any) -> Any:
        return rank(data.finetuning_set, method, model=lm, cache=tmp_path).details["passes"]

    first, second = passes(Loss()), passes(Loss())
    assert first["spared"] == second["forward"] == 0.0
    assert second["spared"] == 1.0 <= first["forward"]
    published = SAFT(mode="published")  # states after the first of two layers
    assert [passes(published)["spared"] for _ in range(2)] == [0.0, 0.5]
    twice = Auto(
        signals={name: {"method": "excess", "options": {"trunk_cut": 1}} for name in ("one", "two")}
    )
    safe = {"safe_set": data.safe_set, "model": lm}
    found = [rank(data.finetuning_set, twice, **safe, cache=tmp_path / "own").details["passes"]
             for _ in range(2)]  # fmt: skip
    assert (found[0]["spared"], found[1]["spared"]) == (0.0, 1.0)
    assert found[1]["forward"] < 0.1 < found[0]["forward"]  # a trunk is tried on a few tokens


def test_kept_features_are_told_where_others_are_trained_on(tmp_path: Path) -> None:
    """SEAL runs more than one pass of its own, and is spared one more."""
    data, lm = toy.contaminated_set(8, n_harmful=2, n_safe=8), toy.tiny_lm()
    for spared in (0.0, 1.0):
        found = rank(data.finetuning_set, SEAL(epochs=2, trunk_cut=1), safe_set=data.safe_set,
                     model=lm, cache=tmp_path).details["passes"]  # fmt: skip
        assert found["spared"] == spared
        assert found["forward"] > 1.0
