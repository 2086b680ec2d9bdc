"""Tamis: rank fine-tuning rows by what they would do to an aligned model, select, tune, prove.

Names are loaded when first used, so that `import tamis` needs neither torch nor a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tamis.cli.config import RunConfig as RunConfig
    from tamis.data.example import Example as Example
    from tamis.data.load import load_examples as load_examples
    from tamis.evaluation.evaluate import evaluate as evaluate
    from tamis.evaluation.judges import Verdict as Verdict
    from tamis.methods.base import RankingInputs as RankingInputs
    from tamis.methods.base import rank as rank
    from tamis.methods.scores import Scores as Scores
    from tamis.report.render import write_report as write_report
    from tamis.selection.select import Selection as Selection
    from tamis.selection.select import select as select
    from tamis.training.sft import finetune as finetune

_HOMES = {
    "load_examples": "tamis.data.load",
    "rank": "tamis.methods.base",
    "select": "tamis.selection.select",
    "finetune": "tamis.training.sft",
    "evaluate": "tamis.evaluation.evaluate",
    "write_report": "tamis.report.render",
    "Example": "tamis.data.example",
    "RankingInputs": "tamis.methods.base",
    "Scores": "tamis.methods.scores",
    "Selection": "tamis.selection.select",
    "Verdict": "tamis.evaluation.judges",
    "RunConfig": "tamis.cli.config",
}

__all__ = [  # noqa: RUF022  verbs in the order of use, then nouns
    "load_examples", "rank", "select", "finetune", "evaluate", "write_report",
    "Example", "RankingInputs", "Scores", "Selection", "Verdict", "RunConfig",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tamis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
