"""The toy ranking problem: settings that make every method quick, and inputs that satisfy each.

Shared by what every method promises (contract) and by what it gave when it was recorded (golden).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import toy
from tamis.data.template import RenderConfig
from tamis.methods import METHODS, build_method
from tamis.methods.base import RankingInputs, check_inputs
from tamis.methods.scores import Scores
from tamis.models.load import LanguageModel

# Where the fixture `toy_guards` saves the guards that these tests rank with.
GUARDS = Path(tempfile.gettempdir()) / f"tamis-toy-guards-{os.getpid()}"
# Settings that make a method quick on a few rows; a method without an entry runs as it is.
TINY_SEAL: Mapping[str, Any] = {
    "epochs": 2, "batch_size": 4, "safe_batch_size": 4, "trunk_cut": 1, "learning_rate": 1e-2,
    "checkpoint_every_steps": 2,
}  # fmt: skip
QUICK: Mapping[str, Mapping[str, Any]] = {
    "amortized": {"teacher": "seal", "teacher_options": TINY_SEAL, "layers": (1, 2), "folds": 3},
    "auto": {"signals": {
        "contrast": {"method": "contrast", "options": {"anchors": "none", "layers": [1, 2]}},
        "loss": {"method": "loss", "weight": 0.25},
    }},
    "contrast": {"anchors": "none", "layers": (1, 2)},
    "excess": {"steps": 4, "batch_size": 2, "trunk_cut": 1, "learning_rate": 1e-2,
               "checkpoint_every_steps": 2},
    "probe": {"layers": (1, 2), "strengths": (0.01, 0.1)},
    "saft": {"min_margin": 0.0, "min_anchors": 0.0},  # twelve rows cannot tell a side
    "seal": TINY_SEAL,
    "gradient": {"use_sets": True},
    "gradsafe": {"use_sets": True, "threshold": 0.3},  # so few prompts have no larger gap
    "direction": {"use_sets": True},
    "guard": {"backend": "classifier", "guard": str(GUARDS / "classifier"), "device": "cpu",
              "dtype": "float32"},
}  # fmt: skip
PUBLISHED: Mapping[str, Any] = {
    "algorithm": "memory_efficient", "selector_optimizer": "adam", "selector_learning_rate": 5e-3,
    "trunk_cut": 0,
}  # fmt: skip
WRITER: Mapping[str, Any] = {
    "guard": str(GUARDS / "generative"), "min_word_probability": 0, "device": "cpu",
    "dtype": "float32",
}  # fmt: skip
# Method and settings by the name of the case: every method once, and other paths of some.
CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, QUICK.get(name, {})) for name in METHODS},
    "dsir-harmful": ("dsir", {"against": "harmful_set", "text": "response"}),
    "saft-published": ("saft", {"preset": "published"}),
    "gradient-anchors": ("gradient", {"variant": "he", "anchors_per_set": 2, "trunk_cut": 1}),
    "gradsafe-anchors": ("gradsafe", {}),
    "direction-anchors": ("direction", {}),
    "direction-datashield": ("direction", {"variant": "datashield", "use_sets": True}),
    "guard-generative": ("guard", WRITER),
    "seal-published": ("seal", {**QUICK["seal"], **PUBLISHED}),
    "excess-crossfit": ("excess", {**QUICK["excess"], "against": "crossfit", "first_tokens": 4}),
    "excess-harmful": ("excess", {**QUICK["excess"], "against": "harmful", "strata": "length"}),
}
RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")


@functools.cache
def few_rows() -> toy.ContaminatedSet:
    """Return twelve rows to rank and six safe ones: three steps an epoch."""
    return toy.contaminated_set(12, n_harmful=4, n_safe=6)


@functools.cache
def known_rows() -> toy.ContaminatedSet:
    """Return other rows of both kinds, for methods that learn from labels or harmful rows."""
    return toy.contaminated_set(20, n_harmful=10, n_safe=1, seed=5)


def inputs_for(lm: LanguageModel, **changes: Any) -> RankingInputs:
    """Return inputs that satisfy every method."""
    rows, known = few_rows(), known_rows()
    whole = RankingInputs(
        rows.finetuning_set, rows.safe_set, model=lm, render=RENDER, seed=3,
        harmful_set=known.finetuning_set.restrict(
            [i for i, bad in zip(known.finetuning_set.ids, known.harmful, strict=True) if bad]
        ),
        trusted_set=known.finetuning_set, trusted_harmful=known.harmful,
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def ranked(case: str, inputs: RankingInputs, **settings: Any) -> Scores:
    """Check and rank, as the command line does."""
    name, quick = CASES[case]
    method = build_method(name, {**quick, **settings})
    check_inputs(method, inputs, name)
    scores: Scores = method.rank(inputs)
    return scores
