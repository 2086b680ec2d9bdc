"""What is kept is known by its recipe, computed once and written only where there is room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import toy
from tamis.errors import ConfigError
from tamis.models.kept_values import KeptValues
from tamis.models.load import LanguageModel

KEY = b"k" * 16
RECIPE = {"rank": 2, "seed": 0}


def kept(lm: LanguageModel, folder: Path | None, **limits: float) -> KeptValues:
    """Values in a folder, or in memory."""
    return KeptValues(lm, folder, **{"memory_gib": 2.0, "disk_gib": 100.0, **limits})


def counting(calls: list[int]) -> Callable[[], dict[str, torch.Tensor]]:
    """Give two tensors and note that they were asked for."""

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"b": torch.tensor([1 / 3, 2.0]), "a": torch.ones(2, 3)}

    return compute


def test_tensors_are_computed_once(tiny_lm: LanguageModel, tmp_path: Path) -> None:
    """Whoever asks next for the same recipe, however it is written, has the same bits."""
    calls: list[int] = []
    first = kept(tiny_lm, tmp_path).tensors("means", RECIPE, counting(calls))
    turned = dict(reversed(RECIPE.items()))
    again = kept(tiny_lm, tmp_path).tensors("means", turned, counting(calls))
    assert len(calls) == 1
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


@pytest.mark.parametrize("other", ["recipe", "kind", "model"])
def test_other_tensors_are_not_taken(other: str, tiny_lm: LanguageModel, tmp_path: Path) -> None:
    """Of another recipe, kind or model."""
    calls: list[int] = []
    kept(tiny_lm, tmp_path).tensors("means", RECIPE, counting(calls))
    lm = toy.tiny_lm(seed=1) if other == "model" else tiny_lm
    recipe = {**RECIPE, "seed": 1} if other == "recipe" else RECIPE
    kept(lm, tmp_path).tensors("sums" if other == "kind" else "means", recipe, counting(calls))
    assert len(calls) == 2


def test_without_a_folder_tensors_are_not_kept(tiny_lm: LanguageModel) -> None:
    """They are the caller's to hold."""
    calls: list[int] = []
    memory = kept(tiny_lm, None)
    for _ in range(2):
        memory.tensors("means", RECIPE, counting(calls))
    assert len(calls) == 2


def test_rows_are_found_by_name_or_recipe(tiny_lm: LanguageModel, tmp_path: Path) -> None:
    """And only there."""
    stores = {"loss": lambda all_: all_.named("loss"),
              "recipe": lambda all_: all_.made_by("products", RECIPE)}  # fmt: skip
    for number, store in enumerate(stores.values()):
        store(kept(tiny_lm, tmp_path)).append([KEY], [torch.full((1, 2), float(number))])
    again = kept(tiny_lm, tmp_path)
    assert [store(again)[KEY][0, 0].item() for store in stores.values()] == [0.0, 1.0]
    assert KEY not in again.made_by("products", {**RECIPE, "rank": 3})


@pytest.mark.parametrize("limit", ["allowed", "free"])
def test_what_has_no_room_is_refused(
    limit: str, tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says how much is needed, free and allowed; nothing is written."""
    limits = {"disk_gib": 1e-9} if limit == "allowed" else {}
    if limit == "free":
        usage = type("Usage", (), {"free": 31})
        monkeypatch.setattr("tamis.models.kept_values.shutil.disk_usage", lambda _: usage)
    full = kept(tiny_lm, tmp_path, **limits)
    with pytest.raises(ConfigError, match=r"the means need 0\.0 GiB .* allowed\. Raise cache_gib"):
        full.tensors("means", RECIPE, counting([]))  # 32 bytes
    assert list(tmp_path.iterdir()) == []


def test_full_memory_makes_room_in_a_temporary_folder(tiny_lm: LanguageModel) -> None:
    """What was in memory is found as before."""
    small = kept(tiny_lm, None, memory_gib=30 / 2**30)
    small.make_room("losses", 24)
    small.named("loss").append([KEY], [torch.ones(1, 6)])
    assert small.temporary is None
    small.make_room("states", 24, "Read fewer layers. ")
    assert small.temporary is not None
    assert torch.equal(small.named("loss")[KEY], torch.ones(1, 6))
