"""Judges that nobody named stay those that the work was begun with.

Which judges are usual depends on the machine (`tamis.evaluation.usual_judges`). An evaluation that
goes on, an experiment whose cells run elsewhere: each keeps what its first call found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tamis.errors import DataError
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.evaluation.usual_judges import are_usual
from tamis.files import read_json_object, write_json
from tamis.stage_files import CONFIG

JUDGES = "judges.json"


def begun_judges(config: EvaluateConfig, folder: Path) -> EvaluateConfig:
    """Take the usual judges of the evaluation in a folder, if there is one and none is named."""
    if "judges" in config.model_fields_set:
        return config
    try:
        earlier = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        return _with(config, earlier["config"]["evaluate"]["judges"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return config


def settled_judges(config: EvaluateConfig, out: Path) -> EvaluateConfig:
    """Take the usual judges of an experiment, if none is named; the first call writes them."""
    if "judges" in config.model_fields_set:
        return config
    path = out / JUDGES
    try:
        return _with(config, read_json_object(path)["judges"])
    except (DataError, KeyError):
        write_json(path, {"judges": [judge.model_dump(mode="json") for judge in config.judges]})
        return config


def _with(config: EvaluateConfig, given: Sequence[Any]) -> EvaluateConfig:
    try:
        judges = tuple(JudgeSettings.model_validate(one) for one in given)
    except (ValidationError, TypeError):
        return config
    return config.model_copy(update={"judges": judges}) if are_usual(judges) else config
