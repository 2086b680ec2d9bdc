"""The trainer's checkpoint folders: which is the newest whole one, and what it says.

Layout and names are those of transformers' Trainer: `checkpoint-<step>`, with the adapter, the
optimiser and, written last, `trainer_state.json`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

_PREFIX = "checkpoint-"
_STATE = "trainer_state.json"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; torn ones, which a kill leaves, are removed.

    The trainer writes its state last, so a checkpoint whose state can be read is whole.
    """
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()]
    for path in sorted(found, key=checkpoint_step, reverse=True):
        try:
            if read_state(path)["global_step"] == checkpoint_step(path):
                return path
        except (OSError, ValueError, KeyError):
            pass
        shutil.rmtree(path)
    return None


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is written."""
    return folder / f"{_PREFIX}{step}"


def checkpoint_step(checkpoint: Path) -> int:
    """Return the optimiser step of a checkpoint folder."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read the trainer's record of a checkpoint: steps, losses, tokens."""
    state: dict[str, Any] = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    return state
