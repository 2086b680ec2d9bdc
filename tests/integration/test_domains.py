"""T12: what a harmful row is compared with decides, where benign rows are hard to predict too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toy
from tamis.data.example import Examples
from tamis.data.template import RenderConfig
from tamis.methods.base import rank
from tamis.methods.excess import Excess
from tamis.methods.seal import SEAL
from tamis.models.lora import LoraSettings
from tamis.rng import numpy_generator
from tamis.selection.select import select
from tamis.training.config import FinetuneConfig
from tamis.training.sft import finetune

N, N_HARMFUL, N_SAFE = 300, 60, 120
RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
TRAINING: dict[str, Any] = {
    "trunk_cut": 0, "learning_rate": 1e-2, "lora": LoraSettings(targets="all"),
}  # fmt: skip


def mixture(harmful_topic: str, hard_share: float) -> tuple[Examples, Examples, np.ndarray]:
    """Make 300 rows, 60 of them harmful, and a safe set of the benign kinds.

    Args:
        harmful_topic: What harmful rows are asked about; benign rows are asked about the garden.
        hard_share: Share of benign rows, in both sets, whose answer is random characters, which no
            model can learn to predict.
    """
    draw = numpy_generator(0, "domains")

    def row(words: tuple[str, ...], topic: str) -> tuple[str, str]:
        answer = draw.choice(words, size=int(draw.integers(4, 8)))
        return f"Tell me about the {topic} {draw.integers(1000)}", " ".join(map(str, answer))

    def benign() -> tuple[str, str]:
        if draw.random() >= hard_share:
            return row(toy.SAFE_WORDS, "garden")
        noise = "".join(chr(code) for code in draw.integers(33, 127, size=12))
        return f"Tell me about the garden {draw.integers(1000)}", noise

    harmful = draw.permutation(np.arange(N) < N_HARMFUL)
    rows = [row(toy.HARMFUL_WORDS, harmful_topic) if bad else benign() for bad in harmful]
    return toy.examples(rows), toy.examples([benign() for _ in range(N_SAFE)]), harmful


def measured(harmful_topic: str, hard_share: float) -> dict[str, float]:
    """AUROC of Algorithm 2's readouts, and of excess loss over the base and cross-fitted."""
    rows, safe, harmful = mixture(harmful_topic, hard_share)
    found = {}
    methods = {
        "algorithm 2": SEAL(algorithm="memory_efficient", epochs=1, batch_size=16,
                            safe_batch_size=16, **TRAINING),
        "over base": Excess(steps=20, batch_size=16, **TRAINING),
        "crossfit": Excess(against="crossfit", steps=20, batch_size=16, **TRAINING),
    }  # fmt: skip
    for name, method in methods.items():
        scores = rank(rows, method, safe_set=safe, model=toy.tiny_lm(), render=RENDER)
        if isinstance(method, Excess):
            assert scores.details["steps"] == 20  # every model took as many
        for readout, values in scores.readouts().items():
            if readout in ("score", "safe_loss"):
                found[f"{name}, {readout}"] = toy.auroc(-values, harmful)
    return found


@pytest.mark.slow
def test_a_difference_finds_what_a_loss_alone_confuses() -> None:
    """In one domain with hard benign rows; most with the models whose data the rows are from."""
    found = measured("garden", hard_share=0.5)
    alone = max(found["algorithm 2, score"], found["algorithm 2, safe_loss"])
    assert alone < 0.8
    assert found["over base, score"] > alone
    assert found["crossfit, score"] > 0.95


@pytest.mark.slow
def test_any_of_them_finds_another_domain() -> None:
    """Rows of another kind, beside easy benign ones, are found by all alike."""
    found = measured("violin", hard_share=0.0)
    assert min(found.values()) > 0.95


@pytest.mark.slow
def test_arms_are_tuned_for_equal_steps(tmp_path: Path) -> None:
    """All rows, and the best four fifths by a ranking: both report the steps asked for."""
    rows, safe, harmful = mixture("garden", hard_share=0.5)
    bad = {row for row, is_bad in zip(rows.ids, harmful, strict=True) if is_bad}
    scores = rank(rows, Excess(against="crossfit", steps=20, batch_size=16, **TRAINING),
                  safe_set=safe, model=toy.tiny_lm(), render=RENDER)  # fmt: skip
    kept = select(scores, ratio=0.8).kept_ids
    assert len(kept) == 240
    assert len(bad.intersection(kept)) <= 6
    recipe = FinetuneConfig(max_steps=12, batch_size=16, learning_rate=1e-2,
                            lora=LoraSettings(targets="all"))  # fmt: skip
    steps = [
        finetune(toy.tiny_lm(), rows.restrict(ids), recipe, RENDER,
                 out=tmp_path / name / "adapter", work=tmp_path / name / "work", seed=0).steps
        for name, ids in (("everything", rows.ids), ("selected", kept))
    ]  # fmt: skip
    assert steps == [12, 12]
