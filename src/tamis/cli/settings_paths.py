"""Paths in a settings file: relative ones lie beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from tamis.models.config import ModelConfig

SettingsT = TypeVar("SettingsT", bound=BaseModel)

# Settings that may name a file or folder in words, wherever they stand: in a section, a judge or a
# method's options. Those of type Path need no mention, nor does the `name` of a model.
IN_WORDS = frozenset({
    "finetuning_set", "safe_set", "harmful_set", "trusted_set", "rows", "chat_template", "policy",
    "guard", "anchors",
})  # fmt: skip


def placed(settings: SettingsT, folder: Path) -> SettingsT:
    """Return settings with every path in them as one from here.

    Args:
        settings: As they were read.
        folder: Where their file lies.
    """
    found: SettingsT = _placed(settings, folder, "")
    return found


def local_files(settings: Any) -> Iterator[tuple[str, Path]]:
    """Yield every file and folder on this machine that settings name, after where they name it."""
    yield from _local_files(settings, "", ())


def beside(folder: Path, value: str | Path) -> str | Path:
    """Return a path of a settings file as one from here.

    A hub id stays as it is; a path beside the file wins over one that does not exist.
    """
    if Path(value).is_absolute():
        return value
    near = folder / Path(value)
    return type(value)(str(near)) if near.exists() or isinstance(value, Path) else value


def _placed(value: Any, folder: Path, name: str) -> Any:
    if isinstance(value, Path) or (isinstance(value, str) and name in IN_WORDS):
        return beside(folder, value)
    if isinstance(value, list | tuple):
        return type(value)(_placed(one, folder, name) for one in value)
    if isinstance(value, Mapping):
        return {key: _placed(one, folder, _role(value, key)) for key, one in value.items()}
    if not isinstance(value, BaseModel):
        return value
    given = {key: getattr(value, key) for key in type(value).model_fields}
    found = _placed(given, folder, "")
    if isinstance(value, ModelConfig) and value.name is not None:
        found["name"] = beside(folder, value.name)
    return value.model_copy(update={key: found[key] for key in given if found[key] != given[key]})


def _local_files(value: Any, name: str, where: Sequence[str]) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path) or (isinstance(value, str) and value and name in IN_WORDS):
        path = Path(value).expanduser()
        if path.exists():
            yield "_".join(where), path
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _local_files(one, name, (*where, str(number)))
    elif isinstance(value, BaseModel | Mapping):
        given = value if isinstance(value, Mapping) else {
            key: getattr(value, key) for key in type(value).model_fields
        }  # fmt: skip
        for key, one in given.items():
            yield from _local_files(one, _role(given, key), (*where, str(key)))


def _role(values: Mapping[str, Any], key: str) -> str:
    """Name a setting; the guard of an endpoint is no file, it has its name there."""
    return "" if key == "guard" and values.get("backend") == "endpoint" else key
