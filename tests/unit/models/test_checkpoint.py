"""Checkpoints: read back bit for bit, refused when they are something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tamis.errors import MismatchError
from tamis.models.checkpoint import (
    named,
    optimizer_tensors,
    read_checkpoint,
    refuse_other,
    restore_optimizer,
    restore_parameters,
    save_checkpoint,
)

TENSORS = {
    "float32": torch.linspace(-1, 1, 6).reshape(2, 3),
    "float64": torch.linspace(-1, 1, 5, dtype=torch.float64) / 3,
    "bfloat16": torch.linspace(-1, 1, 7).bfloat16(),
    "int64": torch.tensor([2**62, -1, 0]),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3.0),
    "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    "empty": torch.empty(0, 4),
}


@pytest.mark.parametrize("name", sorted(TENSORS))
def test_a_tensor_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Type, shape and every bit, NaN and minus zero among them."""
    save_checkpoint(tmp_path / "c", {name: TENSORS[name]}, {})
    found = read_checkpoint(tmp_path / "c")
    assert found is not None
    (back,) = found[0].values()
    assert (back.dtype, back.shape) == (TENSORS[name].dtype, TENSORS[name].shape)
    assert back.reshape(-1).view(torch.uint8).equal(TENSORS[name].reshape(-1).view(torch.uint8))


def test_the_record_comes_back(tmp_path: Path) -> None:
    """Any JSON value."""
    meta = {"step": 7, "name": "é", "nested": {"list": [1, None, 2.5]}}
    save_checkpoint(tmp_path / "c", {}, meta)
    found = read_checkpoint(tmp_path / "c")
    assert found is not None
    assert found[1] == meta


def test_views_and_shared_storage_are_saved_as_their_own_values(tmp_path: Path) -> None:
    """A transposed view and two names of one tensor."""
    base = torch.arange(6.0).reshape(2, 3)
    save_checkpoint(tmp_path / "c", {"view": base.T, "one": base, "two": base}, {})
    found = read_checkpoint(tmp_path / "c")
    assert found is not None
    assert torch.equal(found[0]["view"], base.T)
    assert torch.equal(found[0]["one"], found[0]["two"])


def test_a_missing_file_is_no_checkpoint(tmp_path: Path) -> None:
    """None: there is nothing to resume."""
    assert read_checkpoint(tmp_path / "absent") is None


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """The message says what to do with it."""
    (tmp_path / "c").write_bytes(b"something else entirely")
    with pytest.raises(MismatchError, match=r"not a checkpoint of tamis.*Remove it"):
        read_checkpoint(tmp_path / "c")


def test_safetensors_without_our_record_are_refused(tmp_path: Path) -> None:
    """A model's weights are no checkpoint."""
    save_file({"x": torch.ones(2)}, tmp_path / "c")
    with pytest.raises(MismatchError, match="not a checkpoint of tamis"):
        read_checkpoint(tmp_path / "c")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    """Half a checkpoint is never half restored."""
    save_checkpoint(tmp_path / "c", {"x": torch.ones(100)}, {})
    whole = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MismatchError, match="not a checkpoint of tamis"):
        read_checkpoint(tmp_path / "c")


def test_a_new_checkpoint_replaces_the_old_one(tmp_path: Path) -> None:
    """And leaves no other file behind."""
    for step in (1, 2):
        save_checkpoint(tmp_path / "c", {"x": torch.tensor(step)}, {"step": step})
    found = read_checkpoint(tmp_path / "c")
    assert found is not None
    assert found[1] == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def descend(parameters: list[Tensor], optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Take steps with gradients that depend on the step."""
    for step in steps:
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.linspace(-1, 1 + step, parameter.numel()).reshape(
                parameter.shape
            ) * (i + 1)
        optimizer.step()


def fresh() -> tuple[list[Tensor], torch.optim.Optimizer]:
    """Two parameters and AdamW."""
    parameters = [torch.ones(2, 3), torch.zeros(4)]
    return parameters, torch.optim.AdamW(parameters, lr=0.1, betas=(0.9, 0.95))


def test_an_optimizer_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Three steps, saved and put back, and three more: as six without a stop."""
    undisturbed, optimizer = fresh()
    descend(undisturbed, optimizer, range(6))

    first, optimizer = fresh()
    descend(first, optimizer, range(3))
    state = {**named("p", {str(i): p for i, p in enumerate(first)}),
             **optimizer_tensors(optimizer, "adam")}  # fmt: skip
    save_checkpoint(tmp_path / "c", state, {})

    found = read_checkpoint(tmp_path / "c")
    assert found is not None
    second, optimizer = fresh()
    restore_parameters({str(i): p for i, p in enumerate(second)}, "p", found[0])
    restore_optimizer(optimizer, "adam", found[0])
    descend(second, optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, second, strict=True))


def test_an_optimizer_before_its_first_step_has_no_state() -> None:
    """Restoring nothing leaves it as new."""
    _, optimizer = fresh()
    assert optimizer_tensors(optimizer, "adam") == {}
    restore_optimizer(optimizer, "adam", {})
    assert optimizer.state_dict()["state"] == {}


def test_optimizers_are_told_apart_by_their_prefix() -> None:
    """`adam` and `adam2` in one checkpoint do not mix."""
    state: dict[str, Tensor] = {}
    for prefix, steps in (("adam", 1), ("adam2", 5)):
        parameters, optimizer = fresh()
        descend(parameters, optimizer, range(steps))
        state |= optimizer_tensors(optimizer, prefix)
    _, restored = fresh()
    restore_optimizer(restored, "adam", state)
    assert restored.state_dict()["state"][0]["step"].item() == 1


MADE_OF = {"settings": {"epochs": 2, "layers": (0, 1)}, "seed": 0}


def test_a_checkpoint_of_the_same_ranking_is_let_through(tmp_path: Path) -> None:
    """Also one that is not there."""
    refuse_other(tmp_path / "c", MADE_OF)
    save_checkpoint(tmp_path / "c", {}, {"step": 1, "made_of": MADE_OF})
    refuse_other(tmp_path / "c", {"seed": 0, "settings": {"layers": [0, 1], "epochs": 2}})


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"made_of": {**MADE_OF, "seed": 4}}, r"seed: 4 there, 0 now"),
        ({"made_of": {**MADE_OF, "settings": {"epochs": 3, "layers": [0, 1]}}},
         r"settings\.epochs: 3 there, 2 now"),
        ({"step": 3}, "does not say of which"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_ranking_is_refused(
    meta: dict[str, object], message: str, tmp_path: Path
) -> None:
    """The message names what differs and the ways on."""
    save_checkpoint(tmp_path / "c", {}, meta)
    with pytest.raises(MismatchError, match=rf"\({message}\).* give another work folder"):
        refuse_other(tmp_path / "c", MADE_OF)
