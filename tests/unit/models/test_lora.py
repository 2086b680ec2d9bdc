"""Adapters: where they go, where they start, and that they come off without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import toy
from tamis.errors import ConfigError
from tamis.models.load import LanguageModel
from tamis.models.lora import (
    LoraSettings,
    adapter_parameters,
    attach_adapters,
    choose_targets,
    decoder_layers,
    detach_adapters,
    layer_count,
    lora_config,
    use_adapters,
)

SMALL = LoraSettings(rank=2, alpha=6.0)
IDS = torch.arange(12)[None]


def attached(*names: str, settings: LoraSettings = SMALL, seed: int = 0) -> Any:
    """Put adapters on a fresh tiny model."""
    return attach_adapters(toy.llama(), names, settings, seed=seed)


def test_the_decoder_stack_is_found(tiny_lm: LanguageModel) -> None:
    """As long as the configuration says."""
    assert len(decoder_layers(tiny_lm.model)) == layer_count(tiny_lm.model) == 2


def test_a_model_without_a_stack_is_refused() -> None:
    """The message says what still works."""
    model = toy.llama()
    model.config.num_hidden_layers = 7
    with pytest.raises(ConfigError, match=r"no stack of 7 decoder layers.*Set trunk_cut=0"):
        decoder_layers(model)


def test_query_and_value_are_the_default_targets(tiny_lm: LanguageModel) -> None:
    """As published; nothing to say about it."""
    assert choose_targets(tiny_lm.model, LoraSettings()) == (("q_proj", "v_proj"), "")


def test_given_targets_are_taken(tiny_lm: LanguageModel) -> None:
    """In the order given."""
    settings = LoraSettings(targets=("up_proj", "k_proj"))
    assert choose_targets(tiny_lm.model, settings)[0] == ("up_proj", "k_proj")


def test_unknown_targets_are_refused(tiny_lm: LanguageModel) -> None:
    """The message lists what the model has."""
    with pytest.raises(ConfigError, match=r"names \['query'\].*include: .*q_proj"):
        choose_targets(tiny_lm.model, LoraSettings(targets=("query", "v_proj")))


def test_the_output_projection_is_refused(tiny_lm: LanguageModel) -> None:
    """Its weight is what losses are computed from; the message names modules that will do."""
    with pytest.raises(ConfigError, match=r"names lm_head, the output projection.*q_proj"):
        choose_targets(tiny_lm.model, LoraSettings(targets=("q_proj", "lm_head")))


def test_a_model_without_known_projections_is_refused() -> None:
    """The message says which setting names them."""
    with pytest.raises(ConfigError, match=r"neither q_proj and v_proj.*Set lora\.targets"):
        choose_targets(nn.Sequential(nn.Linear(2, 2)), LoraSettings())


@pytest.mark.parametrize("layers", [(2,), (-1,), (0, 5)])
def test_layers_out_of_range_are_refused(layers: tuple[int, ...], tiny_lm: LanguageModel) -> None:
    """The message gives the range."""
    with pytest.raises(ConfigError, match=r"out of range: LlamaForCausalLM has layers 0 to 1"):
        lora_config(LoraSettings(layers=layers), tiny_lm.model)


def test_all_adapters_start_as_the_base_model(tiny_lm: LanguageModel) -> None:
    """The B factors are zero: logits are bit-equal under each."""
    expected = tiny_lm.model(input_ids=IDS).logits
    model = attached("upper", "lower")
    for name in ("upper", "lower"):
        use_adapters(model, [name])
        assert torch.equal(model(input_ids=IDS).logits, expected)


def test_all_adapters_start_from_the_same_factors() -> None:
    """Two models then differ by nothing but what they are trained on."""
    model = attached("upper", "lower")
    upper, lower = (adapter_parameters(model, name) for name in ("upper", "lower"))
    assert list(upper) == list(lower)
    assert all(torch.equal(upper[key], lower[key]) for key in upper)


def test_the_number_of_adapters_does_not_change_the_first() -> None:
    """Algorithm 2 starts from the same adapter as Algorithm 1."""
    one, two = attached("upper"), attached("upper", "lower")
    first, second = adapter_parameters(one, "upper"), adapter_parameters(two, "upper")
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_the_seed_decides_the_start(seed: int, same: bool) -> None:
    """The A factors, that is; B is zero in any case."""
    first, second = (adapter_parameters(attached("only", seed=s), "only") for s in (0, seed))
    a_factors = [key for key in first if "lora_A" in key]
    assert all(torch.equal(first[key], second[key]) for key in a_factors) == same


def test_attaching_leaves_the_global_generator_alone() -> None:
    """PEFT draws from it; the caller does not notice."""
    before = torch.random.get_rng_state()
    attached("only")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_adapter_has_two_factors_per_target_and_layer() -> None:
    """A is r x in, B is out x r; q is 32 x 32, v is 16 x 32 in the grouped attention."""
    shapes = {
        key.split("layers.")[1]: tuple(parameter.shape)
        for key, parameter in adapter_parameters(attached("only"), "only").items()
    }
    assert shapes == {
        f"{layer}.self_attn.{target}.lora_{factor}.weight": shape
        for layer in (0, 1)
        for target, out in (("q_proj", 32), ("v_proj", 16))
        for factor, shape in (("A", (2, 32)), ("B", (out, 2)))
    }


def test_layers_limit_the_adapters() -> None:
    """Only the named decoder layers get one."""
    model = attached("only", settings=LoraSettings(rank=2, layers=(1,)))
    assert {key.split("layers.")[1][0] for key in adapter_parameters(model, "only")} == {"1"}


def test_the_update_is_alpha_over_rank_times_b_a(tiny_lm: LanguageModel) -> None:
    """Logits equal those of a model whose weights have 6/2 * B A added."""
    peft_model = attached("only")
    with torch.no_grad():
        for parameter in adapter_parameters(peft_model, "only").values():
            parameter.copy_(torch.linspace(-0.2, 0.3, parameter.numel()).reshape(parameter.shape))
    merged = toy.llama()
    factors = adapter_parameters(peft_model, "only")
    with torch.no_grad():
        for key, a in factors.items():
            if "lora_A" in key:
                name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
                merged.get_parameter(name).add_(3.0 * factors[key.replace("_A", "_B")] @ a)
    found, expected = (model(input_ids=IDS).logits for model in (peft_model, merged))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # float32, other order of sums


def test_gradients_reach_only_the_active_adapter() -> None:
    """Neither the base nor the other adapter is trainable."""
    model = attached("upper", "lower")
    use_adapters(model, ["lower"])
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all(".lower." in name for name in trainable)


def test_switching_back_makes_an_adapter_trainable_again() -> None:
    """Steps of two models alternate."""
    model = attached("upper", "lower")
    for name in ("lower", "upper"):
        use_adapters(model, [name])
    assert all(p.requires_grad for p in adapter_parameters(model, "upper").values())


def test_detaching_gives_the_base_model_back(tiny_lm: LanguageModel) -> None:
    """Bit-equal logits, the same modules, no trace of PEFT, nothing trainable."""
    model = toy.llama()
    modules = [(name, type(module)) for name, module in model.named_modules()]
    base = detach_adapters(attach_adapters(model, ["upper", "lower"], SMALL, seed=0))
    assert base is model
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert not hasattr(model, "peft_config")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(input_ids=IDS).logits, tiny_lm.model(input_ids=IDS).logits)


def test_adapters_can_be_attached_again_after_detaching() -> None:
    """A second run on the same model starts where the first one started."""
    model = toy.llama()
    starts = []
    for _ in range(2):
        peft_model = attach_adapters(model, ["only"], SMALL, seed=0)
        found = adapter_parameters(peft_model, "only")
        starts.append({key: value.clone() for key, value in found.items()})
        detach_adapters(peft_model)
    assert all(torch.equal(value, starts[1][key]) for key, value in starts[0].items())


@pytest.mark.parametrize(
    ("options", "match"),
    [({"rank": 0}, "rank"), ({"alpha": 0}, "alpha"), ({"dropout": 1.0}, "dropout")],
)
def test_impossible_shapes_are_refused(options: dict[str, Any], match: str) -> None:
    """Rank and scale are positive, dropout is below one."""
    with pytest.raises(ValueError, match=match):
        LoraSettings.model_validate(options)
