"""Row losses and their gradients against plain cross-entropy on whole logits, one row at a time."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import toy
from tamis.data.batch import pad_batch
from tamis.data.template import RenderConfig, RenderedRow, RenderedRows, render
from tamis.models import loss
from tamis.models.batches import to_device
from tamis.models.lora import (
    LoraSettings,
    adapter_parameters,
    attach_adapters,
    choose_targets,
    detach_adapters,
)
from tamis.models.loss import has_plain_head, row_losses, token_losses
from tamis.models.row_forward import RowForward
from tamis.models.trunk import run_until
from tamis.rng import scoped_torch_seed

CPU = torch.device("cpu")
# Sums of float32 in another order: a few 1e-7 of losses of about six nats.
CLOSE = {"rtol": 0, "atol": 5e-6}


@functools.cache
def rows() -> RenderedRows:
    """Return seven rows of different lengths."""
    pairs = toy.contaminated_set(7, n_harmful=3, n_safe=1).finetuning_set
    config = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
    return render(pairs, toy.tokenizer(), config)


def plain_loss(model: Any, row: RenderedRow) -> Tensor:
    """Mean cross-entropy of one row from its whole logits, in float32."""
    logits = model(input_ids=torch.tensor([row.input_ids])).logits[0].float()
    return functional.cross_entropy(logits[:-1], torch.tensor(row.labels[1:]))


@torch.no_grad()
def plain_losses(model: Any) -> np.ndarray:
    """Loss of every row, one by one."""
    return np.array([plain_loss(model, row).item() for row in rows()])


def batch_of(*indices: int) -> dict[str, Tensor]:
    """Pad rows to one batch."""
    return to_device(pad_batch([rows()[i] for i in indices]), CPU)


def forward_of(
    model: Any, *, cut: int = 0, max_batch_tokens: int = 200, recompute: bool = False
) -> RowForward:
    """Return a forward over all rows, from their trunk where there is a cut."""

    def trunk(index: int) -> Tensor:
        return run_until(model, batch_of(index), cut)[0]

    return RowForward(
        model, rows(), cut=cut, trunk=trunk if cut else None, device=CPU,
        max_batch_tokens=max_batch_tokens, recompute=recompute,
    )  # fmt: skip


SIZES = {"vocab_size": len(toy.tokenizer()), "hidden_size": 32, "intermediate_size": 64,
         "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip
GPT2_SIZES = {"vocab_size": len(toy.tokenizer()), "n_embd": 32, "n_layer": 3, "n_head": 4,
              "n_positions": 256, "pad_token_id": 0, "bos_token_id": 1,
              "eos_token_id": 2}  # fmt: skip
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2_SIZES),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, SIZES),
    "mistral": (MistralForCausalLM, MistralConfig, {**SIZES, "sliding_window": 8}),
    "phi3": (Phi3ForCausalLM, Phi3Config, SIZES),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {**SIZES, "head_dim": 8, "sliding_window": 8,
                                                 "final_logit_softcapping": 2.0}),
}  # fmt: skip


@functools.cache
def architecture(name: str) -> Any:
    """Make a random three-layer model; "llama" is the toy's own."""
    if name == "llama":
        return toy.llama(3)
    model, config, sizes = ARCHITECTURES[name]
    return toy.random_model(model, config(**sizes))


every_architecture = pytest.mark.parametrize("name", ["llama", *ARCHITECTURES])


@every_architecture
def test_row_losses_are_plain_cross_entropy(name: str) -> None:
    """A padded batch of all rows gives each row's own mean, whatever the architecture."""
    model = architecture(name)
    with torch.no_grad():
        sums, counts = row_losses(model, batch_of(*range(len(rows()))))
    np.testing.assert_allclose((sums / counts).numpy(), plain_losses(model), **CLOSE)


def test_counts_are_the_trained_tokens() -> None:
    """As many losses are summed as labels are trained."""
    _, counts = row_losses(architecture("llama"), batch_of(*range(len(rows()))))
    assert counts.tolist() == rows().column("n_trained_tokens").tolist()


@pytest.mark.parametrize("indices", [(0,), (3, 1), (6, 5, 4, 3, 2, 1, 0)])
def test_company_and_padding_change_no_loss(indices: tuple[int, ...]) -> None:
    """A row's loss is its own in any batch, in any place, at any width."""
    model = architecture("llama")
    with torch.no_grad():
        sums, counts = row_losses(model, batch_of(*indices))
    expected = plain_losses(model)[list(indices)]
    np.testing.assert_allclose((sums / counts).numpy(), expected, **CLOSE)


@pytest.mark.parametrize("padding", [1, 40])
def test_what_is_in_the_padding_does_not_matter(padding: int) -> None:
    """Any token may fill it, and any number of them."""
    model = architecture("llama")
    batch = batch_of(0, 1)
    wide = {
        "input_ids": functional.pad(batch["input_ids"], (0, padding), value=7),
        "attention_mask": functional.pad(batch["attention_mask"], (0, padding)),
        "labels": functional.pad(batch["labels"], (0, padding), value=-100),
    }
    with torch.no_grad():
        narrow, padded = row_losses(model, batch)[0], row_losses(model, wide)[0]
    # Sums over a few dozen tokens of about six nats each.
    np.testing.assert_allclose(padded.numpy(), narrow.numpy(), rtol=1e-6)


def test_a_row_without_trained_tokens_has_sum_and_count_zero() -> None:
    """It takes part in the batch and leaves the other row's loss alone."""
    model = architecture("llama")
    batch = batch_of(0, 1)
    batch["labels"][1] = -100
    with torch.no_grad():
        sums, counts = row_losses(model, batch)
    assert (sums[1].item(), counts[1].item()) == (0.0, 0)
    assert (sums / counts)[0].item() == pytest.approx(plain_losses(model)[0], abs=5e-6)


def test_token_losses_come_in_row_order() -> None:
    """One loss per trained token, with the row it belongs to, first row first."""
    with torch.no_grad():
        losses, places = token_losses(architecture("llama"), batch_of(2, 0))
    n = rows().column("n_trained_tokens")
    assert places.tolist() == [0] * n[2] + [1] * n[0]
    assert len(losses) == n[2] + n[0]


def test_the_first_position_is_never_a_target() -> None:
    """Nothing precedes it, so its label cannot be predicted even where it is trained."""
    batch = batch_of(0)
    batch["labels"] = batch["input_ids"].clone()
    with torch.no_grad():
        _, counts = row_losses(architecture("llama"), batch)
    assert counts.item() == batch["input_ids"].shape[1] - 1


@pytest.mark.parametrize("rows_at_once", [1, 3, 10_000])
def test_chunks_of_the_projection_change_no_loss(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of one token, three, or all at once."""
    model = architecture("llama")
    monkeypatch.setattr(loss, "CPU_CHUNK", rows_at_once * len(toy.tokenizer()))
    with torch.no_grad():
        sums, counts = row_losses(model, batch_of(*range(len(rows()))))
    np.testing.assert_allclose((sums / counts).numpy(), plain_losses(model), **CLOSE)


@every_architecture
@pytest.mark.parametrize("max_batch_tokens", [1, 10_000])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_the_trunk_and_its_batches_change_no_loss(
    name: str, cut: int, max_batch_tokens: int
) -> None:
    """Lower layers run once and stored, in any micro-batches: the whole model's losses."""
    model = architecture(name)
    forward = forward_of(model, cut=cut, max_batch_tokens=max_batch_tokens)
    found = forward.losses_of(list(range(len(rows()))))
    np.testing.assert_allclose(found, plain_losses(model), **CLOSE)


@pytest.fixture
def adapted(name: str) -> Iterator[Any]:
    """The architecture with a trained-looking adapter on its last two layers."""
    model = copy.deepcopy(architecture(name))
    peft_model = attach_adapters(model, ["only"], LoraSettings(rank=2, layers=(1, 2)), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(peft_model, "only").values():
            parameter.normal_(0.0, 0.2, generator=generator)
    yield peft_model
    detach_adapters(peft_model)


@every_architecture
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cut", [0, 1])
def test_gradients_are_those_of_plain_cross_entropy(
    name: str, cut: int, recompute: bool, adapted: Any
) -> None:
    """Adapter gradients of a weighted sum of row losses, against one row at a time."""
    coefficients = torch.linspace(-0.5, 1.0, len(rows()))  # negative and zero weights too
    parameters = adapter_parameters(adapted, "only")
    plain = sum(c * plain_loss(adapted, row) for c, row in zip(coefficients, rows(), strict=True))
    expected = torch.autograd.grad(plain, list(parameters.values()))
    forward_of(adapted, cut=cut, recompute=recompute).accumulate(range(len(rows())), coefficients)
    for (key, parameter), gradient in zip(parameters.items(), expected, strict=True):
        # float32 sums over tokens, layers and rows: 1e-5 of the largest entry.
        scale = gradient.abs().max().item()
        assert (parameter.grad - gradient).abs().max().item() <= 1e-5 * max(scale, 0.1), key


def test_small_chunks_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is collected chunk by chunk in the forward pass; chunk size is only memory."""
    hidden = torch.randn(11, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    weight = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    bias = torch.linspace(-1, 1, 20)
    labels = torch.arange(11) % 20
    factors = torch.linspace(-1, 2, 11)
    plain = functional.cross_entropy(
        functional.linear(hidden, weight, bias), labels, reduction="none"
    )
    (expected,) = torch.autograd.grad((factors * plain).sum(), hidden)
    monkeypatch.setattr(loss, "CPU_CHUNK", 3 * 20)
    ours = loss._ChunkedCrossEntropy.apply(hidden, weight, bias, labels)
    (found,) = torch.autograd.grad((factors * ours).sum(), hidden)
    torch.testing.assert_close(ours, plain, rtol=0, atol=2e-6)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("gap", [79.0, 81.0, 95.0, 300.0])
def test_tokens_that_are_all_but_impossible_have_finite_losses(gap: float) -> None:
    """Their probability is no float32 any more; the loss and its gradient are."""
    hidden = torch.tensor([[gap, 0.0], [0.0, 1.0]]).requires_grad_(True)
    weight, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0])
    found = loss._ChunkedCrossEntropy.apply(hidden, weight, None, labels)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    torch.testing.assert_close(found.detach(), torch.tensor([gap, 1.3132617]))
    torch.testing.assert_close(gradient[0], torch.tensor([1.0, -1.0]))


def test_chunked_cross_entropy_agrees_with_finite_differences() -> None:
    """Central differences of the loss in one hidden value, in float32."""
    hidden = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_(True)
    weight, labels = torch.linspace(-2, 2, 20).reshape(5, 4), torch.tensor([0, 3, 4])
    total = loss._ChunkedCrossEntropy.apply(hidden, weight, None, labels).sum()
    (gradient,) = torch.autograd.grad(total, hidden)
    step = torch.zeros_like(hidden)
    step[1, 2] = 1e-2

    def at(x: Tensor) -> float:
        with torch.no_grad():
            return loss._ChunkedCrossEntropy.apply(x, weight, None, labels).double().sum().item()

    slope = (at(hidden + step) - at(hidden - step)) / 2e-2
    # Third derivatives are of order 1, so the error is about step^2; float32 adds 1e-5 / step.
    assert gradient[1, 2].item() == pytest.approx(slope, abs=2e-3)


@every_architecture
def test_only_untouched_logits_take_the_fused_path(name: str) -> None:
    """Gemma 2 caps its logits, so its own projection must run; the others' heads are plain."""
    assert has_plain_head(architecture(name)) == (name != "gemma2")


def test_soft_capping_matters_here() -> None:
    """The unfused path is needed: without the cap, the losses differ by far more than rounding."""
    model = copy.deepcopy(architecture("gemma2"))
    capped = plain_losses(model)
    model.config.final_logit_softcapping = None
    assert np.abs(plain_losses(model) - capped).max() > 1e-3


@every_architecture
def test_adapters_go_where_queries_and_values_are(name: str) -> None:
    """Separate projections where they exist, else the fused one, said aloud."""
    targets, note = choose_targets(architecture(name), LoraSettings())
    fused = {"gpt2": ("c_attn",), "phi3": ("qkv_proj",)}
    assert targets == fused.get(name, ("q_proj", "v_proj"))
    assert ("fused attention projection" in note) == (name in fused)


@every_architecture
def test_all_linear_modules_of_the_layers_can_be_adapted(name: str) -> None:
    """Fused or apart, never the embeddings or the output projection; PEFT takes the names."""
    model = copy.deepcopy(architecture(name))
    found, note = choose_targets(model, LoraSettings(targets="all"))
    expected = {
        "gpt2": {"c_attn", "c_proj", "c_fc"},
        "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    }
    apart = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (set(found), note) == (expected.get(name, apart), "")
    settings = LoraSettings(rank=2, targets="all", layers=(2,))
    parameters = adapter_parameters(attach_adapters(model, ["only"], settings, seed=0), "only")
    n_modules = 4 if name in ("gpt2", "phi3") else 7  # of layer 2; GPT-2 has two named c_proj
    assert len(parameters) == 2 * n_modules
    assert all(".2." in key for key in parameters)


def test_bfloat16_losses_are_within_its_resolution() -> None:
    """bfloat16 keeps 8 bits: hidden states are off by up to 2^-8, so losses of six nats by 0.05."""
    half = toy.llama(3, dtype=torch.bfloat16)
    with torch.no_grad():
        sums, counts = row_losses(half, batch_of(*range(len(rows()))))
    exact = copy.deepcopy(half).float()  # the same rounded weights: only arithmetic differs
    assert sums.dtype == torch.float32
    np.testing.assert_allclose((sums / counts).numpy(), plain_losses(exact), rtol=0, atol=0.05)


def test_bfloat16_losses_do_not_tie() -> None:
    """Log-softmax is float32: as bfloat16 numbers, sums of seven rows would take 8-bit values."""
    with torch.no_grad():
        losses, _ = token_losses(toy.llama(3, dtype=torch.bfloat16), batch_of(0, 1, 2))
    assert (losses != losses.bfloat16().float()).float().mean().item() > 0.9


# PEFT 0.21 asks transformers 5 a question by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is:FutureWarning")
def test_an_adapter_on_the_output_projection_counts() -> None:
    """A PEFT adapter made elsewhere may sit there: its part of the logits is part of the loss."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["lm_head"], init_lora_weights=False)
    with scoped_torch_seed(3, "adapter"):
        model = get_peft_model(toy.llama(), config)
    assert not has_plain_head(model.eval())
    with torch.no_grad():
        sums, counts = row_losses(model, batch_of(*range(7)))
        with model.disable_adapter():
            beneath = plain_losses(model)
    np.testing.assert_allclose((sums / counts).numpy(), plain_losses(model), **CLOSE)
    assert np.abs(plain_losses(model) - beneath).min() > 1e-3
