"""Stage folders to report on."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage_folders import StageFolders


@pytest.fixture
def folders(tmp_path: Path) -> StageFolders:
    """A writer of stage folders with harmless text."""
    return StageFolders(tmp_path / "runs")
