"""Judges that nobody named stay those that the work was begun with.

Which judges are usual depends on the machine (`tamis.evaluation.usual_judges`). An evaluation that
goes on, an experiment whose cells run elsewhere: each keeps what its first call found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tamis.cli.experiment_beforehand import read_entries
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.evaluation.usual_judges import are_usual
from tamis.stage_files import CONFIG


def begun_judges(config: EvaluateConfig, folder: Path) -> EvaluateConfig:
    """Take the usual judges of the evaluation in a folder, if there is one and none is named."""
    return _with(config, _of_stage(folder))


def settled_judges(config: EvaluateConfig, out: Path) -> EvaluateConfig:
    """Take the usual judges of an experiment's record or cells, if none is named.

    What is returned names its judges: no cell looks for others.

    Raises:
        DataError: The record is damaged.
    """
    if "judges" in config.model_fields_set:
        return config
    cells = sorted((out / "cells").glob("*/*/evaluate"))
    for earlier in (*(entry.judges for entry in read_entries(out)), *map(_of_stage, cells)):
        if (found := _with(config, earlier)) is not config:
            return found
    return config.model_copy(update={"judges": config.judges})


def _of_stage(folder: Path) -> Sequence[Any] | None:
    """Return the judges that an evaluation was asked for, as it keeps them."""
    try:
        earlier = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        return list(earlier["config"]["evaluate"]["judges"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return None


def _with(config: EvaluateConfig, earlier: Sequence[Any] | None) -> EvaluateConfig:
    if "judges" in config.model_fields_set or not earlier:
        return config
    judges = tuple(_read(earlier))
    usual = len(judges) == len(earlier) and are_usual(judges)
    return config.model_copy(update={"judges": judges}) if usual else config


def _read(earlier: Sequence[Any]) -> Iterator[JudgeSettings]:
    for one in earlier:
        try:
            yield JudgeSettings.model_validate(one)
        except ValidationError:
            return
