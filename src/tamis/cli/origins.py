"""Which rankings chose the rows behind an adapter, found by the manifests on the way.

    evaluate -> adapter -> prune -> finetune -> select (or an experiment's rows) -> rank
                                                score -> selector -> rank

Every manifest names what its stage read, by path and hash. A file that is gone or has changed since
leads nowhere, and where the way ends is told: no ranking found is not the same as none made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.cli.inputs import described
from tamis.errors import ConfigError, DataError
from tamis.files import file_sha256, read_json_object

# What leads a step back, by stage. The rows of a ranking may have been chosen by an earlier one.
_LEADS: Mapping[str, tuple[str, ...]] = {
    "evaluate": ("adapter",), "prune": ("adapter",), "finetune": ("data",), "select": ("scores",),
    "rows": ("scores",), "score": ("selector",), "rank": ("data",),
}  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """What chose the rows that models were fine-tuned on.

    Attributes:
        rankings: Folders of the finished rankings that were found.
        lost: Where a way to a ranking ended before one, in words; empty where all is known.
    """

    rankings: tuple[Path, ...] = ()
    lost: tuple[str, ...] = ()

    def details(self) -> Iterator[Mapping[str, Any]]:
        """Yield what every ranking recorded of itself, its guard among it."""
        for folder in self.rankings:
            yield read_json_object(folder / "manifest.json").get("details") or {}

    def to_json(self) -> list[dict[str, Any] | None]:
        """Return the rankings as an evaluation's manifest names them: scores by path and hash."""
        return [described(folder / "scores.parquet") for folder in self.rankings]


def origin_of(models: Sequence[Path], named: Sequence[Path] = ()) -> Origin:
    """Find the rankings behind adapters or evaluations.

    Args:
        models: Adapters, or folders of stages that made or evaluated one. An evaluation without an
            adapter has no origin, and loses none.
        named: Rankings that the user names: their folders or files, or a selection's. What is lost
            of the way from the models is then not missed.

    Returns:
        Every ranking once, in the order found.

    Raises:
        ConfigError: What the user names leads to no ranking.
    """
    found, lost = _follow(models)
    for path in named:
        also, why = _follow([path])
        if not also:
            raise ConfigError(
                f"--scores {path} leads to no finished ranking"
                f"{': ' if why else ''}{'; '.join(why)}. Give the folder of the `tamis rank` that "
                "chose the rows."
            )
        found += also
    return Origin(tuple(dict.fromkeys(found)), () if named else tuple(lost))


def _follow(starts: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Follow every way back to its end: the rankings on it, and where no manifest leads on."""
    rankings: list[Path] = []
    lost: list[str] = []
    left, seen = [path.expanduser() for path in starts], set[Path]()
    while left:
        path = left.pop(0)
        folder, manifest = _stage_of(path)
        if folder is None:
            lost.append(f"{path} is of no stage that could say what chose its rows")
            continue
        if folder in seen:
            continue
        seen.add(folder)
        stage = manifest["stage"]
        if stage == "rank":
            rankings.append(folder)
        for entry in _entries(manifest):
            source = Path(str(entry.get("path")))
            known = source.exists() or not entry.get("sha256")  # a hub's rows have no hash
            if stage == "rank" and known and _stage_of(source)[0] is None:
                continue  # the user's own rows
            if not source.exists():
                lost.append(f"{source}, from which {folder} was made, is not on this machine")
            elif entry.get("sha256") != file_sha256(source):
                lost.append(f"{source} has changed since {folder} was made from it")
            else:
                left.append(source)
    return rankings, lost


def _entries(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what leads back from a stage: path and hash."""
    inputs, details = (manifest.get(part) or {} for part in ("inputs", "details"))
    inputs, details = (part if isinstance(part, Mapping) else {} for part in (inputs, details))
    found = [inputs[role] for role in _LEADS[manifest["stage"]] if role in inputs]
    if manifest["stage"] == "evaluate" and isinstance(details.get("ranked_by"), list):
        found = details["ranked_by"] or found
    yield from (one for one in found if isinstance(one, Mapping))


def _stage_of(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """Return the folder of the stage that a path is, or lies in, and its manifest."""
    path = path.resolve()  # through links, and of "." the folder above
    for folder in (path, path.parent):
        try:
            manifest = read_json_object(folder / "manifest.json")
        except DataError:
            continue
        stage = manifest.get("stage")
        if isinstance(stage, str) and stage in _LEADS:
            return folder, manifest
    return None, {}
