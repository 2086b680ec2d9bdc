"""Keys of a settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.cli.compare_config import CompareConfig
from tamis.cli.config import ScoreSettings, read_settings
from tamis.errors import ConfigError

TWICE = """
finetuning_set: rows.jsonl
labels: labels.jsonl
out: out
methods:
  trivial: {}
  uniform: {}
  trivial: {cue: turns}
"""


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """The last one would win, and one method of two would be missing without a word."""
    path = tmp_path / "compare.yaml"
    path.write_text(TWICE)
    with pytest.raises(ConfigError, match="'trivial' is given twice: keep one") as told:
        read_settings(CompareConfig, path, [])
    assert "line 8" in str(told.value)


def test_the_record_of_a_stage_is_no_settings_file(tmp_path: Path) -> None:
    """It holds the settings below a key, with much else: said so, not as a list of unknown keys."""
    path = tmp_path / "config.yaml"
    path.write_text("stage: rank\nseed: 0\nconfig: {render: {max_prompt_tokens: 96}}\ninputs: {}\n")
    with pytest.raises(ConfigError, match=r"what tamis wrote down of a finished rank.*with --set"):
        read_settings(ScoreSettings, path, [])


def test_one_name_in_two_places_is_no_repetition(tmp_path: Path) -> None:
    """Two methods have an option of one name."""
    path = tmp_path / "compare.yaml"
    path.write_text(TWICE.replace("  trivial: {cue: turns}", "  turns: {name: trivial, cue: turns}"
                                  "\n  keys: {name: trivial, cue: keywords}"))  # fmt: skip
    assert list(read_settings(CompareConfig, path, []).methods) == ["trivial", "uniform", "turns",
                                                                    "keys"]  # fmt: skip


def test_an_option_of_set_is_read_the_same_way() -> None:
    """With all of what it says."""
    with pytest.raises(ConfigError, match="'cue' is given twice"):
        read_settings(CompareConfig, None, ["methods.it={cue: turns, cue: length}"])
