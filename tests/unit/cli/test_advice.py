"""What help and messages advise can be done with the verb that says it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.main import get_command
from typer.testing import CliRunner

from tamis.cli import main
from tamis.cli.config import RunConfig
from tamis.errors import ConfigError, MismatchError
from tamis.runs import Stage, locked


def test_help_names_options_that_the_verb_has() -> None:
    """Every `--word` in the help of an option is an option beside it."""
    command = get_command(main.cli)
    wrong = [
        f"{name} {option.opts[0]}: {word}"
        for name, verb in command.commands.items()
        for option in verb.params
        for word in re.findall(r"--[a-z][a-z-]*", getattr(option, "help", None) or "")
        if not any(word in (*one.opts, *one.secondary_opts) for one in verb.params)
    ]
    assert not wrong


def test_another_folder_is_advised_where_verbs_have_no_out(tmp_path: Path) -> None:
    """Both ways to give one are said: `--out`, and `out` in a settings file."""
    with Stage(tmp_path, "rank", {}, {}, seed=0) as stage:
        (stage.work / "part").touch()
    both = r"another folder \(--out; out in a settings file\)"
    with pytest.raises(MismatchError, match=both), Stage(tmp_path, "rank", {}, {}, seed=1):
        pass
    with locked(tmp_path), pytest.raises(ConfigError, match=both), locked(tmp_path):
        pass


def test_a_negative_seed_is_refused() -> None:
    """It asks for a random one elsewhere, and would be one among others here."""
    command = ["rank", "uniform", "--data", "/none", "--out", "/none/out", "--seed", "-1"]
    result = CliRunner().invoke(main.cli, command)
    assert (result.exit_code, "--seed" in result.output) == (2, True)
    with pytest.raises(ValidationError, match="seed"):
        RunConfig.model_validate({"finetuning_set": "x", "out": "y", "seed": -1})
