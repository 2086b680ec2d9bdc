"""What methods, rules and training gave on the toy when recorded: nothing changes silently."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import recording
from recording import Table

import toy
from tamis.methods.scores import Scores
from tamis.methods.seal import SEAL
from tamis.models.config import LoraSettings
from tamis.rng import numpy_generator
from tamis.selection.calibrate import Rule, find_threshold
from tamis.selection.calibrate_labelled import f_beta_threshold, false_positive_rate_threshold
from tamis.selection.certificate import certify
from tamis.training.config import FinetuneConfig
from tamis.training.sft import finetune
from toy_ranking import CASES, RENDER, few_rows, inputs_for, ranked

RECORDED = Path(__file__).parent / "recorded"
pytestmark = [
    pytest.mark.golden,
    # PEFT 0.21 asks transformers 5 a question by its old name.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning"),
]


def by_row(scores: Scores) -> Table:
    """Every number that a ranking gives of each row."""
    columns = {"score": scores.values, **scores.columns}
    figures = {name: column for name, column in columns.items() if column.dtype.kind in "fiub"}
    return {
        row: {name: float(column[i]) for name, column in figures.items()}
        for i, row in enumerate(scores.ids)
    }


def seal_trajectory(preset: str, **changes: Any) -> Table:
    """Figures of every step of SEAL with a preset, then what it gives of every row."""
    steps: dict[str, dict[str, float]] = {}

    def keep(stage: str, done: int, _total: int, figures: Mapping[str, float]) -> None:
        if stage == "training":
            steps[f"step {done}"] = dict(figures)

    # Of three layers the preset `small` trains one; of two, none would be left.
    inputs = inputs_for(toy.tiny_lm(3), report=keep)
    scores = SEAL.model_validate({"preset": preset, **changes}).rank(inputs)
    return {**steps, **by_row(scores)}


def finetuning_losses() -> Table:
    """Loss of every step of fine-tuning with TRL."""
    config = FinetuneConfig(
        epochs=2, batch_size=4, learning_rate=1e-2, scheduler="cosine", warmup_ratio=0.3,
        weight_decay=0.01, lora=LoraSettings(rank=4),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        found = finetune(
            toy.tiny_lm(), few_rows().finetuning_set, config, RENDER,
            out=Path(folder) / "adapter", work=Path(folder) / "work", seed=3,
        )  # fmt: skip
    return {f"step {i}": {"loss": loss} for i, loss in enumerate(found.losses, 1)}


def thresholds() -> Table:
    """What every rule finds: 300 scores of which 60 are lower, by six, or by three with labels."""
    scores = numpy_generator(3, "golden").normal(size=300)
    harmful = np.arange(300) < 60
    apart, mixed, labelled = scores - 6 * harmful, scores - 3 * harmful, np.arange(0, 300, 3)
    labels = harmful[labelled]
    found = {rule: find_threshold(rule, apart, numpy_generator(3, rule))
             for rule in get_args(Rule)}  # fmt: skip
    found["f_beta"] = f_beta_threshold(mixed, labelled, labels, numpy_generator(3, "f_beta"))
    found["false_positive_rate"] = false_positive_rate_threshold(mixed, mixed[200:])
    walk = certify(mixed, labelled, labels, kept_shares=(0.2, 0.4, 0.6, 0.8, 0.9))
    rules = {rule: {"threshold": one.threshold, **numbers(one.details)}
             for rule, one in found.items()}  # fmt: skip
    steps = enumerate(walk.to_json()["steps"], 1)
    return {**rules, **{f"certify {i}": numbers(step) for i, step in steps}}


def numbers(details: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is a single number."""
    return {name: float(x) for name, x in details.items() if isinstance(x, int | float)}


def table_of(case: str) -> Table:
    """What one method gives with the settings of a case."""
    return by_row(ranked(case, inputs_for(toy.tiny_lm())))


TABLES: Mapping[str, Callable[[], Table]] = {
    **{case: functools.partial(table_of, case) for case in CASES},
    "trajectory-seal-small": lambda: seal_trajectory("small"),
    # Smaller batches than published, so that twelve rows make several steps an epoch.
    "trajectory-seal-paper": lambda: seal_trajectory("paper", batch_size=4, safe_batch_size=4),
    "finetuning": finetuning_losses,
    "thresholds": thresholds,
}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_nothing_has_changed_since_it_was_recorded(
    name: str, pytestconfig: pytest.Config, toy_guards: None
) -> None:
    """Every figure is the recorded one, within ten times what float32 sums differ by."""
    path = RECORDED / f"{name}.json"
    found = TABLES[name]()
    complaint = recording.complaint(name, path, found)
    if complaint and pytestconfig.getoption("--golden-record", default=False):
        recording.write(path, found)
        pytest.skip(f"recorded anew: {complaint}")
    if complaint:
        pytest.fail(complaint, pytrace=False)


def test_every_record_is_compared() -> None:
    """No file is left of a method that is gone."""
    assert {path.stem for path in RECORDED.iterdir()} <= set(TABLES)
