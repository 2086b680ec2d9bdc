"""A base in 4 bits: loaded, ranked with, fine-tuned; refused where bitsandbytes is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import toy
from tamis.data.template import RenderConfig, render
from tamis.errors import MissingDependencyError
from tamis.methods.base import rank
from tamis.methods.seal import SEAL
from tamis.models.config import LoraSettings, ModelConfig
from tamis.models.load import LanguageModel, load_model
from tamis.models.row_forward import RowForward
from tamis.training.config import FinetuneConfig
from tamis.training.sft import finetune

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
extra = [
    pytest.mark.extra,
    pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed (make test-all)"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
]
CPU = torch.device("cpu")
RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)


def with_extra(test: Any) -> Any:
    """Mark a test that needs the optional dependency."""
    for mark in extra:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder on disk, its weights in bfloat16 as published ones are."""
    path = tmp_path_factory.mktemp("model")
    toy.llama().to(torch.bfloat16).save_pretrained(path)
    toy.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def four_bit(folder: Path) -> LanguageModel:
    """That model in 4 bits."""
    config = ModelConfig(name=str(folder), load_in_4bit=True)
    return load_model(config, device="cpu", dtype="float32")


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_without_the_package_the_message_names_the_extra(folder: Path) -> None:
    """Before the model is read."""
    with pytest.raises(MissingDependencyError, match=r"pip install -e '\.\[quant\]'"):
        load_model(ModelConfig(name=str(folder), load_in_4bit=True), device="cpu")


@with_extra
def test_linear_layers_are_held_in_4_bits(four_bit: LanguageModel, folder: Path) -> None:
    """Two weights a byte; embeddings stay; it is another model than the unquantised one."""
    layer = four_bit.model.model.layers[0].self_attn.q_proj.weight
    assert (layer.dtype, layer.numel()) == (torch.uint8, 32 * 32 // 2)
    assert four_bit.model.get_input_embeddings().weight.dtype == torch.float32
    assert four_bit.describe()["quantization"] == "nf4"
    plain = load_model(ModelConfig(name=str(folder)), device="cpu", dtype="float32")
    assert plain.fingerprint != four_bit.fingerprint


@with_extra
def test_a_4_bit_model_keeps_its_fingerprint(four_bit: LanguageModel, folder: Path) -> None:
    """Loaded again, to compute in another type, it is the same model: caches find it."""
    for dtype in ("float32", "bfloat16"):
        again = load_model(ModelConfig(name=str(folder), load_in_4bit=True), device="cpu",
                           dtype=dtype)  # fmt: skip
        assert again.fingerprint == four_bit.fingerprint


@with_extra
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}])
def test_seal_ranks_with_a_4_bit_base(four_bit: LanguageModel, settings: dict[str, Any]) -> None:
    """Every row gets a score, the same again: mixed passes or checkpointed ones."""
    data = toy.contaminated_set(16, n_harmful=5, n_safe=8)
    method = SEAL(trunk_cut=1, lora=LoraSettings(rank=2), **settings)
    first, again = (
        rank(data.finetuning_set, method, safe_set=data.safe_set, model=four_bit, render=RENDER)
        for _ in range(2)
    )
    assert np.isfinite(first.values).all()
    assert first.values.tobytes() == again.values.tobytes()


@with_extra
def test_a_pass_without_gradients_leaves_the_layers_differentiable(four_bit: LanguageModel) -> None:
    """On CPUs with AVX512-BF16 the layers would be packed by it, and cut the graph."""
    layer = four_bit.model.model.layers[0].self_attn.q_proj
    x = torch.linspace(-1, 1, 32)[None]
    with torch.no_grad():
        before = layer(x)
    after = layer(x.requires_grad_())
    after.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
    torch.testing.assert_close(after.detach(), before, rtol=0, atol=1e-6)
    assert not getattr(layer, "support_avx512bf16_for_cpu", False)


@with_extra
def test_losses_do_not_depend_on_the_batch(four_bit: LanguageModel) -> None:
    """All rows at once, or each alone."""
    rows = render(toy.contaminated_set(6, n_harmful=2, n_safe=1).finetuning_set,
                  toy.tokenizer(), RENDER)  # fmt: skip
    found = [
        RowForward(four_bit.model, rows, device=CPU, max_batch_tokens=budget).losses_of(range(6))
        for budget in (1, 10_000)
    ]
    # float32 sums in another order.
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=5e-6)


@with_extra
def test_a_fine_tuned_adapter_is_float32(four_bit: LanguageModel, tmp_path: Path) -> None:
    """TRL would round it to bfloat16 on a 4-bit base."""
    data = toy.contaminated_set(8, n_harmful=2, n_safe=1).finetuning_set
    finetune(four_bit, data, FinetuneConfig(max_steps=2), RENDER, out=tmp_path / "adapter",
             work=tmp_path / "work", seed=0)  # fmt: skip
    kept = load_file(next((tmp_path / "adapter").rglob("adapter_model.safetensors")))
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert any(bool(tensor.any()) for name, tensor in kept.items() if "lora_B" in name)
