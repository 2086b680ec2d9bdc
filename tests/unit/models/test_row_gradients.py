"""Gradients of rows: the drawn factors, what is stored and when, means and their geometry.

That the gradients are autograd's is in tests/oracle/test_row_gradients.py.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import toy
from tamis.data.template import RenderConfig, RenderedRows, render
from tamis.errors import ConfigError
from tamis.models import row_gradients
from tamis.models.features import FeatureCache
from tamis.models.gradient_products import GradientProducts, geometry
from tamis.models.load import LanguageModel
from tamis.models.row_forward import RowForward
from tamis.models.row_gradients import RowGradients, store_products
from tamis.models.row_store import RowStore

LIKE = torch.empty(1, 400)


@functools.cache
def rows() -> RenderedRows:
    """Return six rows."""
    found = toy.contaminated_set(6, n_harmful=3, n_safe=1).finetuning_set
    return render(found, toy.tokenizer(), RenderConfig())


def forward_of(lm: LanguageModel, tokens: int = 100) -> RowForward:
    """All rows, a few at a time."""
    return RowForward(lm.model, rows(), device=lm.device, max_batch_tokens=tokens)


def directions_of(gradients: RowGradients, forward: RowForward) -> dict[str, Tensor]:
    """One direction: the first row's gradient."""
    found: dict[str, Tensor] = {}
    gradients.visit(forward, [0], found.__setitem__)
    return found


def test_factors_are_uniform_within_one_over_the_root_of_their_inputs(
    tiny_lm: LanguageModel,
) -> None:
    """400 inputs: within 1/20, with variance 1 / 1200, up to four standard errors of 6,400."""
    drawn = RowGradients(tiny_lm.model, rank=16, seed=0).factor("any", LIKE)
    assert drawn.shape == (16, 400)
    assert drawn.abs().max().item() <= 1 / 20
    # The variance of x^2 of a uniform x is 4/45 of bound^4.
    error = (4 / 45) ** 0.5 / 400 / 80
    assert drawn.square().mean().item() == pytest.approx(1 / 1200, abs=4 * error)


def test_factors_depend_on_seed_and_module_alone(tiny_lm: LanguageModel) -> None:
    """Not on which of them is drawn first."""
    one, other = (RowGradients(tiny_lm.model, rank=2, seed=3) for _ in range(2))
    first = one.factor("a", LIKE), one.factor("b", LIKE)
    second = other.factor("b", LIKE), other.factor("a", LIKE)
    assert torch.equal(first[0], second[1])
    assert torch.equal(first[1], second[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], RowGradients(tiny_lm.model, rank=2, seed=4).factor("a", LIKE))


def test_modules_are_those_of_the_upper_layers(tiny_lm: LanguageModel) -> None:
    """Queries and values of layer 1 on."""
    found = RowGradients(tiny_lm.model, rank=2, seed=0, first_layer=1).modules
    assert list(found) == ["1.self_attn.q_proj", "1.self_attn.v_proj"]


def test_layers_without_the_modules_are_refused(tiny_lm: LanguageModel) -> None:
    """There is no gradient to take."""
    with pytest.raises(ConfigError, match="no down_proj in the decoder layers from 2 on"):
        RowGradients(tiny_lm.model, rank=2, seed=0, first_layer=2, targets=("down_proj",))


@pytest.mark.parametrize("save_rows", [1, 3, 100])
def test_a_stopped_pass_goes_on_with_the_same_bits(
    save_rows: int, tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after its second batch: what was stored is not run again."""
    monkeypatch.setattr(row_gradients, "SAVE_ROWS", save_rows)
    gradients, forward = RowGradients(tiny_lm.model, rank=2, seed=0), forward_of(tiny_lm)
    keys = [bytes([i]) * 16 for i in range(len(rows()))]
    directions = directions_of(gradients, forward)
    whole = RowStore(None)
    store_products(gradients, forward, keys, directions, whole)

    def stop(done: int, _total: int, _figures: Any) -> None:
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_products(gradients, forward, keys, directions, RowStore(tmp_path), stop)
    again = RowStore(tmp_path)
    stored = len(again)
    assert stored > 0 or save_rows == 100
    totals: list[int] = []
    store_products(
        gradients, forward, keys, directions, again, lambda _, total, __: totals.append(total)
    )
    assert set(totals) == {len(rows()) - stored}
    for key in keys:
        assert torch.equal(again[key], whole[key])


def test_rows_with_equal_keys_run_once(tiny_lm: LanguageModel) -> None:
    """Equal tokens, equal gradient."""
    gradients, forward = RowGradients(tiny_lm.model, rank=2, seed=0), forward_of(tiny_lm)
    seen: list[int] = []
    store_products(
        gradients, forward, [b"a", b"b", b"a", b"b", b"a", b"a"],
        directions_of(gradients, forward), RowStore(None), lambda _, n, __: seen.append(n),
    )  # fmt: skip
    assert set(seen) == {2}


def products(lm: LanguageModel, work: Path | None, **changes: Any) -> GradientProducts:
    """Two sets that are halves of the rows, in one adapter."""
    settings: dict[str, Any] = {"rank": 2, "seed": 0, "trunk_cut": 0, "targets": None, **changes}
    halves = [RenderedRows.from_rows(((rows()[i], None, False) for i in chosen), rows().facts)
              for chosen in ((0, 1, 2), (3, 4, 5))]  # fmt: skip
    return GradientProducts(
        FeatureCache(lm, work), {"one": halves[0], "other": halves[1]}, max_batch_tokens=None,
        gradient_checkpointing=False, progress=lambda _: None, **settings,
    )  # fmt: skip


def test_means_are_read_back_without_the_model(make_lm: Any, tmp_path: Path) -> None:
    """Bit for bit and in the same order."""
    lm = make_lm()
    first = products(lm, tmp_path).means()
    again = products(lm, tmp_path)
    lm.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    found = again.means()
    assert list(found) == list(first)
    assert all(torch.equal(found[name], mean) for name, mean in first.items())


@pytest.mark.parametrize("change", [{"rank": 3}, {"seed": 1}, {"trunk_cut": 1},
                                    {"targets": ("q_proj",)}])  # fmt: skip
def test_another_adapter_has_other_means(
    change: dict[str, Any], tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    """Nothing of an earlier ranking in the same folder is taken for its own."""
    products(tiny_lm, tmp_path).means()
    found = products(tiny_lm, tmp_path, **change).means()
    expected = products(tiny_lm, None, **change).means()
    assert {name: mean.shape for name, mean in found.items()} == {
        name: mean.shape for name, mean in expected.items()
    }
    assert all(torch.equal(found[name], mean) for name, mean in expected.items())


def test_running_from_the_trunk_gives_the_upper_layers_products(tiny_lm: LanguageModel) -> None:
    """Those of q and v of layer 1 in a model whose layer 0 ran once; |g|^2 is smaller than whole.

    The rows' losses are the whole model's.
    """
    whole, upper = products(tiny_lm, None), products(tiny_lm, None, trunk_cut=1)
    means = whole.means()
    of_upper = {name: mean for name, mean in means.items() if name.startswith("1.")}
    found, expected = upper.of_rows(rows(), of_upper), whole.of_rows(rows(), means)
    assert (found[:, 2] < expected[:, 2]).all()
    np.testing.assert_allclose(found[:, 3], expected[:, 3], rtol=0, atol=5e-6)


def test_geometry_of_two_means_in_two_modules() -> None:
    """(3, 0; 0) and (0, 4; 3): lengths 3 and 5, at right angles; with itself a cosine of 1."""
    lengths, cosines = geometry(
        {"a": torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]]), "b": torch.tensor([[[0.0]], [[3.0]]])}
    )
    assert lengths.tolist() == [3.0, 5.0]
    assert cosines.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_mean_of_length_zero_has_no_cosine() -> None:
    """NaN, without a warning."""
    _, cosines = geometry({"a": torch.tensor([[[0.0]], [[2.0]]])})
    assert np.isnan(cosines[0]).all()
    assert cosines[1, 1] == 1.0
