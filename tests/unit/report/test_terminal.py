"""The terminal's table: the same numbers, and no control of the terminal by data."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from stage_folders import StageFolders

from tamis.report.terminal import terminal_summary


def printed(folders: list[Path]) -> str:
    """Return what a terminal of 200 characters shows."""
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=False).print(terminal_summary(folders))
    return out.getvalue()


def test_every_stage_and_number_is_there(folders: StageFolders) -> None:
    """Stages, detection, what was kept, before and after."""
    text = printed(folders.everything())
    for expected in ("evaluate-before", "AUROC", "dropped: not among the best 15", "50.0%",
                     "not measured"):  # fmt: skip
        assert expected in text


def test_data_cannot_style_or_steer_the_terminal(tmp_path: Path) -> None:
    """Markup stays text; escape characters are spelled out."""
    text = printed(StageFolders(tmp_path, "[bold]x[/] \x1b[2J").everything())
    assert "\x1b" not in text
    assert "[bold]x[/] ⟨U+001B⟩[2J" in text


def test_unreadable_stages_are_named(folders: StageFolders) -> None:
    """With the reason."""
    paths = folders.everything()
    (paths[0] / "scores.parquet").write_text("damaged")
    assert "not shown" in printed(paths)
