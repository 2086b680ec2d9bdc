"""What all methods of a comparison ask of the model, so that each row is read once for them all."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from tamis.cli.compare_config import CompareConfig
from tamis.errors import ConfigError
from tamis.methods import build_method, merged_reads, reads_of


def features_of_all(
    config: CompareConfig, left: Collection[str], model: Any
) -> dict[str, list[str]]:
    """Name the features that rankings to do ask of each set, as far as settings tell.

    Args:
        config: The comparison.
        left: Labels of the methods with rankings to do.
        model: As loaded.
    """
    from tamis.models.feature_names import Feature
    from tamis.models.lora import layer_count
    from tamis.models.trunk import trunk_is_exact

    n_layers = layer_count(model.model)
    found: list[Mapping[str, list[str]]] = []
    for name, settings in config.methods.items():
        if name in left:
            method = build_method(settings.name, settings.options)
            with contextlib.suppress(ConfigError):  # its ranking will say so
                found.append(reads_of(method, n_layers))
    reads = merged_reads(found)
    features = {name: Feature.parse(name, n_layers) for names in reads.values() for name in names}
    vain = {name for name, feature in features.items() if feature.kind == "trunk"
            and not trunk_is_exact(model.model, feature.depth or 0, model.device)}  # fmt: skip
    return {which: [name for name in names if name not in vain] for which, names in reads.items()}
