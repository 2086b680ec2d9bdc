"""Rows that come through the `datasets` library: hub ids, saved datasets, Dataset objects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.data.records import reader_for
from tamis.errors import ConfigError, DataError

if TYPE_CHECKING:
    import datasets

_HUB_ID = re.compile(
    r"(?P<name>[\w-][\w.-]*/[\w.-]+)(?::(?P<config>[^:/]+))?(?::(?P<split>[^:]+))?"
)


def looks_like_hub_id(source: str) -> bool:
    """Whether a text can only be meant as "owner/name[[:config]:split]" on the hub."""
    path = Path(source)
    if path.parent.exists() or reader_for(path) is not None:
        return False
    return _HUB_ID.fullmatch(source) is not None


def load_from_hub(source: str) -> datasets.Dataset:
    """Load one split of a hub dataset. Code from the hub is never run.

    Args:
        source: "owner/name", "owner/name:split" or "owner/name:config:split".

    Raises:
        ConfigError: The dataset has several splits and none was named.
        DataError: The hub cannot be reached, or has no such dataset, config or split.
    """
    import datasets

    match = _HUB_ID.fullmatch(source)
    if match is None:
        raise ConfigError(f"{source!r} is no hub id: give owner/name or owner/name:split.")
    config, split = match["config"], match["split"]
    if split is None:
        config, split = None, config
    try:
        loaded = datasets.load_dataset(match["name"], config, split=split)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        # datasets reports a missing network, a missing name and a bad split with different
        # built-in errors; its own text is the best reason there is.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{source!r} is not a path here, and as a hub dataset it cannot be loaded: {reason[0]} "
            "Check the name and the network, or download the files and give their folder."
        ) from error
    return single_split(loaded, source)


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def load_saved(folder: Path) -> datasets.Dataset:
    """Load what `save_to_disk` wrote.

    Raises:
        ConfigError: It has several splits.
        DataError: It is damaged.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, LookupError) as error:
        raise DataError(
            f"{folder} looks like a saved dataset but cannot be loaded ({error}). Save it again."
        ) from error
    return single_split(loaded, str(folder))


def single_split(loaded: Any, name: str) -> datasets.Dataset:
    """Return the only split of a DatasetDict, or the Dataset itself.

    Raises:
        ConfigError: There are several splits; lists them.
    """
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) != 1:
        raise ConfigError(
            f"{name} has the splits {', '.join(map(str, loaded))}: name one (owner/name:split on "
            "the hub, dataset['split'] in Python, the split's own folder on disk)."
        )
    return next(iter(loaded.values()))
