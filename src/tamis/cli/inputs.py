"""What a stage reads, by role: files and folders by their bytes, hub ids by their name."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tamis.cli.settings_paths import local_files
from tamis.data.renderer import RenderConfig
from tamis.errors import ConfigError
from tamis.files import file_sha256
from tamis.methods import build_method, method_class
from tamis.models.config import ModelConfig

if TYPE_CHECKING:
    from tamis.cli.config import MethodConfig


def described(path: str | Path | None) -> dict[str, Any] | None:
    """Identify an input by its bytes; a hub id by its name."""
    if path is None:
        return None
    local = Path(path).expanduser()
    if not local.exists():
        return {"path": str(path)}
    return {"path": str(local.resolve()), "sha256": file_sha256(local)}


def stage_inputs(**paths: str | Path | None) -> dict[str, Any]:
    """Identify every input that was given, by role."""
    return {role: entry for role, path in paths.items() if (entry := described(path))}


def model_inputs(model: ModelConfig, render: RenderConfig) -> dict[str, str | None]:
    """Name the local files that decide what a model does to a row: weights and template."""
    name, template = model.name, render.chat_template
    return {
        "model": name if name and Path(name).expanduser().exists() else None,
        "chat_template": template if template and Path(template).expanduser().is_file() else None,
    }


def method_inputs(method: MethodConfig) -> dict[str, Path]:
    """Name the local files that decide a method's scores: a guard, its policy, anchors; code.

    Code is the file of an outside class, of the method or of one it is made of; what that file
    imports is not followed.
    """
    built = build_method(method.name, method.options)
    settings = built if isinstance(built, BaseModel) else method.options
    found = {f"method_{role}": path for role, path in local_files(settings)}
    for name in (method.name, *methods_within(method.options)):
        if ":" in name:
            with contextlib.suppress(ConfigError):  # no class: a text of an outside method's own
                source = getattr(sys.modules[method_class(name).__module__], "__file__", None)
                found |= {} if source is None else {f"method_code_of_{name}": Path(source)}
    return found


def methods_within(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the methods that a method is made of, at any depth."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from methods_within(value)
        elif key in ("method", "teacher") and isinstance(value, str):
            yield value
