"""Low-rank adapters through PEFT: which modules, attach several to one base, read their state.

Default r = 16, alpha = 16 on the query and value projections, as SEAL's published scripts
(Shen et al., arXiv:2410.07471; hanshen95/SEAL@1538e62). A model whose attention is one fused
projection gets the adapter there, and says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tamis.errors import ConfigError
from tamis.models.config import LoraSettings as LoraSettings
from tamis.rng import scoped_torch_seed

QUERY_VALUE = ("q_proj", "v_proj")
FUSED_ATTENTION = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "in_proj")


def layer_count(model: Any) -> int:
    """Return the number of decoder layers that the model's configuration states."""
    return int(model.config.get_text_config().num_hidden_layers)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the stack of decoder layers of a causal language model.

    Raises:
        ConfigError: No stack as long as `num_hidden_layers` was found.
    """
    wanted = layer_count(model)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise ConfigError(
        f"{type(model).__name__} has no stack of {wanted} decoder layers that tamis recognises. "
        "Set trunk_cut=0 and leave lora.layers unset."
    )


def choose_targets(model: nn.Module, settings: LoraSettings) -> tuple[tuple[str, ...], str]:
    """Choose the modules to adapt.

    Returns:
        The module names, and a note for the user ("" when the default applies).

    Raises:
        ConfigError: Given names do not occur or are the output projection, or neither q/v nor a
            fused projection exists.
    """
    if settings.targets == "all":
        return linear_modules(model), ""
    if settings.targets is not None and (head := _output_projection(model)) in settings.targets:
        raise ConfigError(
            f"lora.targets names {head}, the output projection, which training keeps frozen: "
            "losses are computed from its weight in pieces. Name modules of the decoder layers, "
            f"such as {', '.join(linear_modules(model))}, or set lora.targets=all."
        )
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if settings.targets is not None:
        missing = sorted(set(settings.targets) - present)
        if missing:
            raise ConfigError(
                f"lora.targets names {missing}, which {type(model).__name__} does not have. Its "
                f"modules include: {', '.join(sorted(n for n in present if 'proj' in n))}."
            )
        return settings.targets, ""
    if present.issuperset(QUERY_VALUE):
        return QUERY_VALUE, ""
    fused = tuple(name for name in FUSED_ATTENTION if name in present)
    if fused:
        return fused, (
            f"{type(model).__name__} has no separate q_proj and v_proj: the adapters sit on the "
            f"fused attention projection {', '.join(fused)}."
        )
    raise ConfigError(
        f"{type(model).__name__} has neither q_proj and v_proj nor a known fused attention "
        "projection. Set lora.targets to the module names to adapt."
    )


def _output_projection(model: nn.Module) -> str:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return next(
        (name.rpartition(".")[2] for name, module in model.named_modules() if module is head), ""
    )


def linear_modules(model: nn.Module) -> tuple[str, ...]:
    """Return the names of all linear modules inside the decoder layers, in their order."""
    from transformers.pytorch_utils import Conv1D

    return tuple(dict.fromkeys(
        name.rpartition(".")[2]
        for layer in decoder_layers(model)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ))  # fmt: skip


def lora_config(settings: LoraSettings, model: nn.Module) -> Any:
    """Return PEFT's LoraConfig for a model.

    Raises:
        ConfigError: See `choose_targets`; or a layer number is out of range.
    """
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    targets, _ = choose_targets(model, settings)
    n_layers = layer_count(model)
    if settings.layers is not None and not all(0 <= i < n_layers for i in settings.layers):
        raise ConfigError(
            f"lora.layers {list(settings.layers)} is out of range: {type(model).__name__} has "
            f"layers 0 to {n_layers - 1}."
        )
    transposed = any(
        isinstance(module, Conv1D) and name.rpartition(".")[2] in targets
        for name, module in model.named_modules()
    )
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(targets),
        layers_to_transform=None if settings.layers is None else list(settings.layers),
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )


def attach_adapters(
    model: nn.Module, names: Sequence[str], settings: LoraSettings, *, seed: int
) -> Any:
    """Attach adapters that all start from the same weights, and so from the base model.

    The B factors start at zero, so every adapter starts as the base model; the A factors of the
    first are copied to the others, so that two adapters differ only by what they are trained on.

    Args:
        model: The base causal language model; it is changed in place until `detach_adapters`.
        names: Adapter names.
        settings: Shape and place.
        seed: Seed of the A factors.

    Returns:
        The PeftModel.
    """
    from peft import get_peft_model

    config = lora_config(settings, model)
    with scoped_torch_seed(seed, "lora"), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5 a question by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
        peft_model = get_peft_model(model, config, adapter_name=names[0])
        for name in names[1:]:
            peft_model.add_adapter(name, config)
    first = adapter_parameters(peft_model, names[0])
    with torch.no_grad():
        for name in names[1:]:
            others = adapter_parameters(peft_model, name)
            for key, value in first.items():
                others[key].copy_(value)
    return peft_model


def adapter_parameters(peft_model: Any, adapter: str) -> dict[str, nn.Parameter]:
    """Return one adapter's parameters, by name without the adapter's name, in a fixed order."""
    marker = f".{adapter}."
    return {
        name.replace(marker, "."): parameter
        for name, parameter in sorted(peft_model.named_parameters())
        if marker in name and "lora_" in name
    }


def use_adapters(peft_model: Any, adapters: Sequence[str]) -> None:
    """Let gradients reach these adapters and no others.

    One adapter is also the active one. With several, every row must name its own: a model runs all
    active adapters on top of each other.
    """
    if len(adapters) == 1:
        peft_model.set_adapter(adapters[0])
    else:
        peft_model.base_model.set_adapter(list(adapters))


def detach_adapters(peft_model: Any) -> nn.Module:
    """Remove all adapters and return the base model as it was."""
    base: nn.Module = peft_model.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config
    base.eval().requires_grad_(False)
    return base
