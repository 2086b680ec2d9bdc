"""A stage's folder, and what of it tamis wrote: all that overwriting may delete."""

from __future__ import annotations

import shutil
from pathlib import Path

from tamis.errors import ConfigError

CONFIG, MANIFEST, LOCK, WORK = "config.yaml", "manifest.json", ".lock", "work"
ELSEWHERE = "another folder (--out; out in a settings file)"
"""What to give where a folder cannot be used: some verbs have the option, others the setting."""
_QUARANTINE = "quarantine"  # quarantine.jsonl, quarantine-safe_set.jsonl, ...
_RESULTS = frozenset({
    "scores.parquet", "selector", "ends.jsonl", "ranking.json",
    "kept.jsonl", "dropped.jsonl", "selection.parquet",
    "train.jsonl", "kept.txt",
    "adapter", "mask.safetensors", "mask.json",
    "metrics.json", "generations.jsonl", "likelihoods.jsonl",
    "to_label.jsonl", "ranked.txt", "certificate.json", "refused.json",
    "win_rates.json", "preferences.jsonl",
})  # fmt: skip
_OWN = _RESULTS | {CONFIG, MANIFEST, LOCK, WORK}


def make_folder(folder: Path) -> None:
    """Make a folder for results, unless it is there.

    Raises:
        ConfigError: It is a file or lies below one, or the system makes no folder there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            f"{folder} is a file or lies below one, and results go into a folder. Give {ELSEWHERE}."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"no folder can be made at {folder} ({error.strerror}). Give {ELSEWHERE}."
        ) from error


def empty_quarantine(folder: Path, role: str) -> Path:
    """Return the file of the bad records of a set; what a killed run left of it is removed."""
    path = folder / f"{_QUARANTINE}{'' if role == 'data' else f'-{role}'}.jsonl"
    path.unlink(missing_ok=True)
    return path


def is_quarantine(name: str) -> bool:
    """Whether a file holds bad records."""
    return name.startswith(_QUARANTINE) and name.endswith(".jsonl")


def results(folder: Path) -> list[str]:
    """Name the results that a folder holds."""
    return sorted(path.name for path in folder.iterdir() if path.name in _RESULTS)


def foreign(folder: Path) -> list[Path]:
    """Return what no stage writes into its folder: a user's files, and other stages' folders."""
    return sorted(path for path in folder.iterdir() if not _is_own(path.name))


def clear(folder: Path) -> None:
    """Delete what the stage wrote, but for its lock."""
    for path in deletions(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def deletions(folder: Path) -> list[Path]:
    """Return what `clear` deletes, in order.

    The manifest goes first and the request last: a folder whose clearing was killed is not finished
    and still known as tamis's own.
    """
    found = (path for path in folder.iterdir() if _is_own(path.name) and path.name != LOCK)
    return sorted(found, key=lambda path: (path.name == CONFIG, path.name != MANIFEST, path.name))


def _is_own(name: str) -> bool:
    # A killed writer leaves ".<name>.<random>" behind: see `tamis.files.atomic_path`.
    return name in _OWN or is_quarantine(name) or any(name.startswith(f".{own}.") for own in _OWN)
