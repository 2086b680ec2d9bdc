"""Whether a judge is the guard that ranked the rows, by its name, files or weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tamis.files import file_sha256

_WEIGHTS = (".safetensors", ".bin", ".gguf")  # how the names of files with weights end


def is_rankers_guard(identity: str, ranking: Mapping[str, Any]) -> bool:
    """Whether a judge is the guard that ranked the rows: its verdicts then prove nothing.

    Where both fingerprints are known they decide; else the last part of the models' names, so that
    a guard at an endpoint is recognised under another address, or equal files of weights, so that
    a copy in a folder of another name is.

    Args:
        identity: Of the judge, loaded or not.
        ranking: The ranking's `details`, as in `Scores` and its manifest.
    """
    guard = ranking.get("guard")
    kind, _, rest = identity.partition(":")
    if kind not in ("guard", "endpoint") or not isinstance(guard, Mapping):
        return False
    name, _, end = rest.rpartition("@")
    theirs = guard.get("fingerprint")
    if kind == "guard" and end and theirs:
        return end == str(theirs)
    other = str(guard.get("name"))
    return _last_part(name) == _last_part(other) or _same_weights(Path(name), Path(other))


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()


def _same_weights(one: Path, other: Path) -> bool:
    """Whether all files with weights of one model lie in the other's folder too."""
    found = [
        [file for file in ([model] if model.is_file() else model.glob("*"))
         if file.suffix in _WEIGHTS and file.is_file()]
        for model in (one, other)
    ]  # fmt: skip
    few, many = sorted(found, key=len)
    if not few or not {f.stat().st_size for f in few} <= {f.stat().st_size for f in many}:
        return False  # gigabytes are read where they may be equal only
    return {file_sha256(file) for file in few} <= {file_sha256(file) for file in many}
