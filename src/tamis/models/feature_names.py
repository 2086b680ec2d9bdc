"""What a frozen model can be asked of a row, and how it is read off a batch of hidden states.

The names are listed in `tamis.models.features`.

Shapes: B rows, T tokens of the longest, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.data.rendered import UNTRAINED
from tamis.errors import ConfigError

READINGS = ("response_mean", "response_first", "response_last", "prompt_last")


def depth_of(layer: float, n_layers: int) -> int:
    """Turn a number of layers, or a fraction of the depth in (0, 1), into a number of layers.

    Raises:
        ConfigError: It is neither.
    """
    depth = round(layer * n_layers) if 0 < layer < 1 else layer
    if depth != int(depth) or not 0 <= depth <= n_layers:
        raise ConfigError(
            f"layer {layer:g} does not exist: the model has {n_layers} layers. Set a whole number "
            f"from 0 (the embeddings) to {n_layers}, or a fraction between 0 and 1."
        )
    return int(depth)


def depths_of(layers: Iterable[float], n_layers: int) -> list[int]:
    """Return the number of layers that each of these is, see `depth_of`."""
    return [depth_of(layer, n_layers) for layer in layers]


def state_names(depths: Iterable[int], readings: Sequence[str]) -> list[str]:
    """Name the states at some depths, all positions of one beside each other."""
    return [f"state:{depth}:{reading}" for depth in depths for reading in readings]


@dataclass(frozen=True)
class Feature:
    """A name, taken apart.

    Attributes:
        name: As asked.
        kind: "loss", "trunk" or "state".
        depth: After how many layers; None for losses.
        reading: Which positions of a state.
    """

    name: str
    kind: str
    depth: int | None = None
    reading: str = ""

    @classmethod
    def parse(cls, name: str, n_layers: int) -> Feature:
        """Read a name.

        Raises:
            ConfigError: There is no such feature.
        """
        kind, _, rest = name.partition(":")
        depth, _, reading = rest.partition(":")
        if name == "loss":
            return cls(name, kind)
        known = (kind == "trunk" and not reading) or (kind == "state" and reading in READINGS)
        if known and depth.isdecimal() and int(depth) <= n_layers - (kind == "trunk"):
            return cls(name, kind, int(depth), reading)
        raise ConfigError(
            f"feature {name!r} does not exist. Names are loss, trunk:C with C below {n_layers}, "
            f"and state:L:READING with L from 0 to {n_layers} and one of {', '.join(READINGS)}."
        )

    def of_batch(self, states: Tensor, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Take each row's vectors (k x D, on the CPU) out of padded states (B x T x D)."""
        if self.kind == "trunk":
            lengths = batch["attention_mask"].sum(1).tolist()
            return [row[:length] for row, length in zip(states.cpu(), lengths, strict=True)]
        trained = batch["labels"] != UNTRAINED
        if self.reading == "response_mean":
            weights = trained.to(torch.float32)
            found = torch.einsum("btd,bt->bd", states.float(), weights) / weights.sum(1)[:, None]
        else:
            first = trained.int().argmax(1)
            last = trained.shape[1] - 1 - trained.flip(1).int().argmax(1)
            places = {"response_first": first, "response_last": last, "prompt_last": first - 1}
            found = states[torch.arange(len(states)), places[self.reading].clamp(min=0)].float()
        return list(found.cpu()[:, None])
