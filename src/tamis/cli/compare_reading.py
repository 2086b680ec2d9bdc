"""What all methods of a comparison ask of the model, so that each row is read once for them all."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection
from typing import Any

from tamis.cli.compare_config import CompareConfig
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
    exact = functools.cache(lambda cut: trunk_is_exact(model.model, cut, model.device))
    found: list[dict[str, list[str]]] = []
    for name, settings in config.methods.items():
        if name not in left:
            continue
        # A fault is its ranking's to tell; the others share what they read all the same.
        with contextlib.suppress(Exception):
            reads = reads_of(build_method(settings.name, settings.options), n_layers)
            found.append({
                which: [each.name for each in (Feature.parse(one, n_layers) for one in names)
                        if each.kind != "trunk" or exact(each.depth)]
                for which, names in reads.items()
            })  # fmt: skip
    return merged_reads(found)
