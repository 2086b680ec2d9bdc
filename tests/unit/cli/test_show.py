"""What a verb prints of a stage: whether it was done now, or was there already."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from tamis.cli.show import JUST_NOW, stage_summary


def shown(seconds_ago: float) -> str:
    """Return what is printed of a scoring that ended so long ago."""
    now = datetime.datetime.now(datetime.UTC)
    manifest: dict[str, Any] = {
        "stage": "score", "rows_by_outcome": {"ok": 3}, "timings": {"seconds": 54.5},
        "finished": (now - datetime.timedelta(seconds=seconds_ago)).isoformat(timespec="seconds"),
    }  # fmt: skip
    console = Console(width=200)
    with console.capture() as capture:
        console.print(stage_summary(manifest, Path("out")))
    return capture.get()


def test_a_stage_that_was_there_already_is_not_said_to_be_done() -> None:
    """A repeat takes no 54.5 seconds."""
    assert "score finished in 54.5 s -> out" in shown(0)
    earlier = shown(JUST_NOW + 60)
    assert "score was there already, finished 20" in earlier
    assert "UTC in 54.5 s -> out" in earlier
