"""Hub ids and datasets on disk; no network."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from tamis.data.hub import (
    is_saved_dataset,
    load_from_hub,
    load_saved,
    looks_like_hub_id,
    single_split,
)
from tamis.errors import ConfigError, DataError


@pytest.mark.parametrize(
    "source", ["owner/name", "own-er/na.me_1", "owner/name:train", "owner/name:config:test"]
)
def test_hub_ids_are_recognised(source: str) -> None:
    """owner/name with optional split, or config and split, is a hub id."""
    assert looks_like_hub_id(source)


@pytest.mark.parametrize(
    "source", ["name", "a/b/c", "/a/b", "./a/b", "a/", "a/b:", "../b", "no-folder/x.jsonl"]
)
def test_other_texts_are_paths(source: str) -> None:
    """Anything else is a path."""
    assert not looks_like_hub_id(source)


def test_a_path_into_an_existing_folder_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt file in a folder that exists is looked for there, not on the hub."""
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not looks_like_hub_id("data/trian.jsonl")


def test_a_hub_id_without_network_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network the message says that it was neither path nor reachable dataset."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"as a hub dataset it cannot be loaded.*network"):
        load_from_hub("no-such-owner/no-such-name:train")


def test_one_split_needs_no_name() -> None:
    """A DatasetDict of one split is that split."""
    dataset = datasets.Dataset.from_list([{"a": 1}])
    assert single_split(datasets.DatasetDict({"train": dataset}), "x")[0] == {"a": 1}
    assert single_split(dataset, "x") is dataset


def test_several_splits_are_not_chosen_from() -> None:
    """Which split is meant is a question to the user."""
    dataset = datasets.Dataset.from_list([{"a": 1}])
    with pytest.raises(ConfigError, match="splits train, test: name one"):
        single_split(datasets.DatasetDict({"train": dataset, "test": dataset}), "x")


def test_saved_datasets_are_loaded(tmp_path: Path) -> None:
    """A folder of save_to_disk is known by its own files, with or without splits."""
    dataset = datasets.Dataset.from_list([{"a": 1}])
    dataset.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(tmp_path / "dict"))
    for name in ("one", "dict"):
        assert is_saved_dataset(tmp_path / name)
        assert load_saved(tmp_path / name)[0] == {"a": 1}
    assert not is_saved_dataset(tmp_path)


def test_a_damaged_saved_dataset_is_an_error(tmp_path: Path) -> None:
    """A saved dataset without its table is refused with its folder's name."""
    datasets.Dataset.from_list([{"a": 1}]).save_to_disk(str(tmp_path / "one"))
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="looks like a saved dataset but cannot be loaded"):
        load_saved(tmp_path / "one")
