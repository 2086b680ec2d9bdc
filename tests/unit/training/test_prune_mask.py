"""The mask file: what it holds, the way back, and what it is not put on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tamis.errors import ConfigError, MismatchError
from tamis.training.prune_mask import (
    ADAPTER_WEIGHTS,
    AdapterWeights,
    read_adapter,
    restored,
    write_adapter,
    write_mask,
)

A = torch.tensor([[1.0, -2.0, 3.0], [float("inf"), -0.0, 5e-45]])
OTHER = torch.arange(4, dtype=torch.bfloat16)
PLACES = {"a": torch.tensor([0, 4, 5])}
ORIGINAL = AdapterWeights({"a": A, "other": OTHER}, {"format": "pt"})


def bits(weights: AdapterWeights) -> list[bytes]:
    """Return what the tensors are made of."""
    tensors = [weights.tensors[name] for name in ("a", "other")]
    return [bytes(tensor.view(torch.uint8).flatten().tolist()) for tensor in tensors]


def test_the_mask_holds_places_and_values(tmp_path: Path) -> None:
    """Row by row, and as many of each row as there are."""
    write_mask(tmp_path / "mask.safetensors", ORIGINAL, PLACES)
    found = load_file(tmp_path / "mask.safetensors")
    assert found.keys() == {"a.places", "a.values"}
    assert found["a.places"].tolist() == [0, 4, 5]
    assert found["a.values"].tolist() == [1.0, -0.0, float(A[1, 2])]


def test_what_is_left_has_zeros_in_those_places() -> None:
    """W (1 - M); other tensors are the same."""
    found = ORIGINAL.without(PLACES)
    assert found.tensors["a"].tolist() == [[0, -2, 3], [float("inf"), 0, 0]]
    assert found.tensors["other"] is OTHER


def test_odd_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Minus zero and a denormal included."""
    path = tmp_path / "mask.safetensors"
    write_mask(path, ORIGINAL, PLACES)
    assert bits(restored(ORIGINAL.without(PLACES), path)) == bits(ORIGINAL)


@pytest.mark.parametrize("name", ["a", "other"])
def test_a_mask_is_not_put_on_another_adapter(tmp_path: Path, name: str) -> None:
    """One changed weight, pruned or not, is another adapter."""
    path = tmp_path / "mask.safetensors"
    write_mask(path, ORIGINAL, PLACES)
    pruned = ORIGINAL.without(PLACES)
    changed = pruned.tensors[name].clone()
    changed.view(-1)[-1] = 7.0
    other = AdapterWeights({**pruned.tensors, name: changed}, None)
    with pytest.raises(MismatchError, match="was not made with this adapter"):
        restored(other, path)


def test_a_damaged_mask_is_found_out(tmp_path: Path) -> None:
    """Its values no longer give the adapter that its header names."""
    path = tmp_path / "mask.safetensors"
    write_mask(path, ORIGINAL, PLACES)
    with safe_open(path, framework="pt") as stored:
        header = stored.metadata()
    tensors = load_file(path)
    tensors["a.values"][0] = 1.5
    save_file(tensors, path, metadata=header)
    with pytest.raises(MismatchError, match="is damaged"):
        restored(ORIGINAL.without(PLACES), path)


def test_another_file_is_no_mask(tmp_path: Path) -> None:
    """Even where it is safetensors."""
    path = tmp_path / "mask.safetensors"
    save_file({"a": A}, path)
    with pytest.raises(MismatchError, match="is not a mask"):
        restored(ORIGINAL, path)


def test_a_mask_of_another_layout_is_refused(tmp_path: Path) -> None:
    """Masks once held columns; what a key means is not guessed."""
    path = tmp_path / "mask.safetensors"
    write_mask(path, ORIGINAL, PLACES)
    with safe_open(path, framework="pt") as stored:
        header = stored.metadata()
    tensors = {name.replace("places", "columns"): found for name, found in load_file(path).items()}
    save_file(tensors, path, metadata=header)
    with pytest.raises(MismatchError, match=r"no mask of this version: it holds a\.columns"):
        restored(ORIGINAL.without(PLACES), path)


def test_a_missing_mask_is_refused(tmp_path: Path) -> None:
    """With the folder that holds one."""
    with pytest.raises(ConfigError, match=r"does not exist.*the folder that `tamis prune` wrote"):
        restored(ORIGINAL, tmp_path / "mask.safetensors")


def test_weights_in_another_format_are_not_read(tmp_path: Path) -> None:
    """A pickle is never opened."""
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match=r"holds no adapter_model\.safetensors"):
        read_adapter(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    """One line that names the file."""
    (tmp_path / ADAPTER_WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_adapter(tmp_path)


def test_an_adapter_is_never_written_over_itself(tmp_path: Path) -> None:
    """The only copy of the fine-tuning's result stays."""
    with pytest.raises(ConfigError, match="holds the adapter that is read"):
        write_adapter(ORIGINAL, tmp_path / "." / "x" / "..", like=tmp_path)
