"""The frozen trunk: stop a model at a layer, or run it from there.

When only layers at or above `cut` are trained, everything below gives the same output at every
visit. It can be computed once (`run_until`) and fed to layer `cut` later (`running_from`); the
layers below are passed through. Masks, positions and the rest stay the model's own.

Shapes: B rows, T tokens of the longest, D hidden size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tamis.errors import ConfigError
from tamis.models.lora import decoder_layers


class _Reached(Exception):
    """The layer whose input was wanted has been reached."""


def resolve_cut(trunk_cut: float, n_layers: int) -> int:
    """Turn a number of layers, or a fraction of them in (0, 1), into the first trained layer.

    Raises:
        ConfigError: No layer would be left to train.
    """
    cut = round(trunk_cut * n_layers) if 0 < trunk_cut < 1 else trunk_cut
    if not 0 <= cut < n_layers or cut != int(cut):
        raise ConfigError(
            f"trunk_cut={trunk_cut} leaves no layer to train, or cuts one in two: the model has "
            f"{n_layers} layers. Set a whole number from 0 to {n_layers - 1}, or a fraction up to "
            f"{(n_layers - 1) / n_layers:.2f}."
        )
    return int(cut)


def trunk_reads(trunk_cut: float, n_layers: int) -> dict[str, list[str]]:
    """Name what training above a trunk reads of its two sets; see `Method.reads`.

    Raises:
        ConfigError: `trunk_cut` leaves no layer to train.
    """
    cut = resolve_cut(trunk_cut, n_layers)
    trunk = [f"trunk:{cut}"] if cut else []
    return {"finetuning_set": ["loss", *trunk], "safe_set": trunk}


def layers_of(model: Any) -> Any:
    """Return the decoder layers of a model, PEFT-wrapped or not."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return decoder_layers(base)


@contextlib.contextmanager
def capturing(
    model: Any, depths: Sequence[int], keep: Callable[[int, Tensor], None], *, stop: bool = False
) -> Iterator[None]:
    """Hand over hidden states while the model runs.

    Args:
        model: A causal language model.
        depths: After how many layers; 0 is the embeddings' output, the number of layers the last
            layer's, before the final norm.
        keep: Called with a depth and the states there (B x T x D).
        stop: End the forward pass at the deepest of them; the block then ends early, silently.
    """
    layers = layers_of(model)
    deepest = max(depths, default=None)

    def entering(depth: int) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(depth, args[0] if args else kwargs["hidden_states"])
            if stop and depth == deepest:
                raise _Reached

        return hook

    def leaving(_module: Any, _args: Any, output: Any) -> None:
        keep(len(layers), output[0] if isinstance(output, tuple) else output)
        if stop:
            raise _Reached

    handles = [
        layers[depth].register_forward_pre_hook(entering(depth), with_kwargs=True)
        if depth < len(layers)
        else layers[-1].register_forward_hook(leaving)
        for depth in depths
    ]
    try:
        with contextlib.suppress(_Reached):
            yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run_until(model: Any, batch: Mapping[str, Tensor], cut: int) -> Tensor:
    """Return the input of layer `cut` (B x T x D), without running that layer or any above."""
    found: list[Tensor] = []
    with capturing(model, [cut], lambda _, states: found.append(states), stop=True):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return found[0]


@contextlib.contextmanager
def running_from(model: Any, cut: int, states: Tensor) -> Iterator[None]:
    """Replace the input of layer `cut` (B x T x D), and skip the layers below."""

    def feed(
        _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": states}

    layers = layers_of(model)
    handle = layers[cut].register_forward_pre_hook(feed, with_kwargs=True)
    try:
        with forwards_replaced(layers[:cut], lambda _: _pass_through):
            yield
    finally:
        handle.remove()


@contextlib.contextmanager
def forwards_replaced(
    layers: Iterable[Any], replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Let each layer run `replacement(its own forward)`; hooks on the layer stay outside of it."""
    own = [(layer, vars(layer).get("forward")) for layer in layers]
    try:
        for layer, _ in own:
            layer.forward = replacement(layer.forward)
        yield
    finally:
        for layer, before in own:
            if before is not None:  # put there by another library, to move weights about
                layer.forward = before
            else:
                del layer.forward


def is_passed_through(layer: Any) -> bool:
    """Whether a layer is skipped at the moment: a trunk stands for it."""
    return vars(layer).get("forward") is _pass_through


def _pass_through(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden_states


@torch.no_grad()
def trunk_is_exact(model: Any, cut: int, device: torch.device) -> bool:
    """Whether running from the trunk's output gives the whole model's logits, on four tokens."""
    ids = torch.arange(4, device=device).unsqueeze(0)
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    wanted = model(**whole, use_cache=False).logits
    try:
        with running_from(model, cut, run_until(model, whole, cut)):
            found = model(**whole, use_cache=False).logits
    except (RuntimeError, TypeError, AttributeError, IndexError, KeyError):
        return False
    return torch.allclose(found.float(), wanted.float(), rtol=1e-3, atol=1e-3)
