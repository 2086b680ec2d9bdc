"""`tamis run`'s file: paths relative to it, keys found by their last part, faults by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tamis.cli.config import RankSettings, RunConfig, read_settings
from tamis.cli.pipeline import run_pipeline
from tamis.errors import ConfigError


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Data, model and template beside the file are found; hub ids stay as they are."""
    for name in ("rows.jsonl", "template.jinja"):
        (tmp_path / name).write_text("x")
    (tmp_path / "model").mkdir()
    values = {
        "finetuning_set": "rows.jsonl", "safe_set": "owner/name", "out": "out",
        "model": {"name": "model"}, "render": {"chat_template": "template.jinja"},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    config = RunConfig.read(tmp_path / "run.yaml")
    assert config.finetuning_set == str(tmp_path / "rows.jsonl")
    assert config.safe_set == "owner/name"
    assert config.out == tmp_path / "out"
    assert config.model.name == str(tmp_path / "model")
    assert config.render.chat_template == str(tmp_path / "template.jinja")


def test_a_bare_key_finds_its_section() -> None:
    """`epochs=2` is the method's, `max_prompt_tokens=96` the rendering's."""
    settings = read_settings(RankSettings, None, ["epochs=2", "max_prompt_tokens=96"])
    assert settings.method.resolved()["epochs"] == 2
    assert settings.render.max_prompt_tokens == 96


@pytest.mark.parametrize(
    ("text", "said"),
    [("epcohs=2", "method.epochs"), ("epochs", "has no '='"), ("epochs=[", "not YAML"),
     ("render.max_prompt_tokens=0", "max_prompt_tokens")],
)  # fmt: skip
def test_faults_are_named(text: str, said: str) -> None:
    """What was given and what would do."""
    with pytest.raises(ConfigError, match=said):
        read_settings(RankSettings, None, [text])


def test_a_run_refuses_to_select_by_labels(tmp_path: Path) -> None:
    """At once, not after hours of ranking."""
    config = read_settings(RunConfig, None, ["select={rule: f_beta}"], {
        "finetuning_set": str(tmp_path / "rows.jsonl"), "out": str(tmp_path / "out"),
    })  # fmt: skip
    with pytest.raises(ConfigError, match="f_beta goes by labels"):
        run_pipeline(config)
    assert not (tmp_path / "out").exists()
