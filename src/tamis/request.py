"""What a stage was asked, compared with what it is asked now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def without(values: Any, path: Sequence[str]) -> Any:
    """Leave out one nested entry; `**` is any depth of mappings and lists, none included."""
    if path[0] == "**":
        if isinstance(values, list):
            return [without(value, path) for value in values]
        if isinstance(values, dict):
            values = {key: without(value, path) for key, value in values.items()}
        return without(values, path[1:])
    if not isinstance(values, dict) or path[0] not in values:
        return values
    rest = {key: value for key, value in values.items() if key != path[0]}
    return rest if len(path) == 1 else {**values, path[0]: without(values[path[0]], path[1:])}


def identity(request: Any) -> Any:
    """Leave out where inputs lay: the same bytes elsewhere are the same request."""
    if not isinstance(request, dict):
        return request
    inputs = request.get("inputs") or {}
    bare = {
        role: {k: v for k, v in entry.items() if k != "path" or "sha256" not in entry}
        for role, entry in inputs.items()
    }
    return {**request, "inputs": bare}


def differences(earlier: Any, wanted: Any, where: str = "") -> str:
    """Name the settings that differ, at most four, with both values."""
    found: list[str] = []

    def walk(a: Any, b: Any, path: str) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in dict.fromkeys([*a, *b]):
                walk(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
        elif a != b:
            found.append(f"{path}: {a!r} there, {b!r} now")

    walk(earlier, wanted, where)
    shown = "; ".join(found[:4])
    return shown + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
