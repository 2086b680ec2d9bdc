"""Evaluations of one model before and after: the paired difference of every measure, with a test.

The unit is the prompt: both models answered the same ones; the difference is after minus before,
prompt by prompt (`tamis.evaluation.paired`). What p tests depends on what a prompt's value is:

    mcnemar     a verdict, yes or no: exact, on the prompts where the models differ
    wilcoxon    a judge's grade, whose steps need not be equally large: signed ranks
    sign_flip   a quantity, or a share that may be a half: the mean, by flipping signs

All of them ask about these very models. That another fine-tuning might turn out otherwise is in no
figure here: each evaluation is of one model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tamis.errors import DataError
from tamis.evaluation.arms import join_arms
from tamis.evaluation.comparable import why_apart
from tamis.evaluation.experiment import MEASURES, of_verdicts, read_values
from tamis.evaluation.paired import paired_difference, prompt_differences
from tamis.evaluation.power import too_few_prompts
from tamis.evaluation.significance import holm, mcnemar, sign_flip_p, wilcoxon_p
from tamis.files import file_sha256
from tamis.rng import numpy_generator
from tamis.runs import read_manifest

Test = Literal["mcnemar", "wilcoxon", "sign_flip"]
TESTS: Mapping[str, Test] = {
    "attack_success_rate": "mcnemar",
    "over_refusal_rate": "mcnemar",
    "partial_refusal_rate": "mcnemar",
    "task_accuracy": "mcnemar",
    "incoherence_rate": "mcnemar",
    "harmfulness_score": "wilcoxon",
}
"""The test of each measure; of all others `sign_flip`."""

Values = dict[str, dict[str, float | None]]
_READ = ("generations.jsonl", "likelihoods.jsonl")


def before_after(folders: Mapping[str, Path], seed: int = 0) -> dict[str, Any]:
    """Compare finished evaluations with the first of them.

    Args:
        folders: By role, such as "before" and "after"; the first is the reference.
        seed: Of the bootstrap and of the sign flips.

    Returns:
        `reference`, its role; `evaluations`, by role their folder and the hashes of what was read;
        `refused`, by role why an evaluation is not compared; `one_sided`, measures of which a
        compared evaluation has no score at all, with its role; `measures`, by name (`measure/judge`
        for another judge than the primary one): `better` ("higher", "lower" or None), `test`, and
        `differences`, one per evaluation: those of `Difference`, `arm` and `reference` (roles), p,
        `p_holm` (over the evaluations), and for verdicts `n_only_arm` and `n_only_reference`.
    """
    reference, *others = folders
    refused: dict[str, str] = {}
    values: dict[str, Values] = {}
    checkable = _checkable(folders)
    for role, folder in folders.items():
        try:
            apart = "; ".join(why_apart(folders[reference], folder))
            if apart:
                refused[role] = f"they differ in more than the model: {apart}"
            else:
                values[role] = _read(folder, checkable)
        except DataError as error:
            refused[role] = str(error)
    compared = [role for role in others if role in values] if reference in values else []
    if reference in refused:
        refused |= dict.fromkeys(others, refused[reference])
    chosen = {role: values[role] for role in (reference, *compared)} if compared else {}
    return {
        "reference": reference,
        "evaluations": {role: _identified(folder) for role, folder in folders.items()},
        "refused": {role: why for role, why in refused.items() if role != reference},
        "one_sided": {
            name: lacking for name in _in_order({name for one in chosen.values() for name in one})
            if (lacking := [role for role, one in chosen.items() if name not in one])
        },
        "measures": _measures(
            chosen, reference, _n_never_answered(folders[reference], checkable), seed
        ),
    }  # fmt: skip


def _read(folder: Path, checkable: set[str]) -> Values:
    try:
        found = read_values(folder, checkable)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} lacks what an evaluation writes of each prompt ({error!r}). Evaluate again "
            "into another folder."
        ) from error
    endless = [
        name for name, values in found.items()
        if any(value is not None and math.isinf(value) for value in values.values())
    ]  # fmt: skip
    if endless:
        raise DataError(
            f"{folder} has infinite values of {', '.join(endless)}, of which there is no mean. "
            "Evaluate again in float32 (--dtype float32) into another folder."
        )
    return found


def _checkable(folders: Mapping[str, Path]) -> set[str]:
    """Ids of helpful prompts whose answer some model's answer was checked against."""
    found: set[str] = set()
    for folder in folders.values():
        try:
            lines = (folder / "generations.jsonl").read_text(encoding="utf-8").split("\n")
            found |= {str(one["id"]) for one in map(json.loads, filter(None, lines))
                      if one.get("right") is not None}  # fmt: skip
        except (OSError, ValueError, KeyError, AttributeError):
            continue  # told where the values are read
    return found


def _n_never_answered(folder: Path, checkable: set[str]) -> int:
    """Count the checkable prompts that no model answered: their lines do not tell them apart."""
    try:
        found = read_manifest(folder)["details"]["metrics"]["task_accuracy"] or {}
        return max(0, int(found["n"]) + int(found["n_unscored"]) - len(checkable))
    except (DataError, KeyError, TypeError):
        return 0


def _identified(folder: Path) -> dict[str, Any]:
    """Name what the figures were made from."""
    files = {name: folder / name for name in _READ}
    return {"folder": str(folder), "sha256": {
        name: file_sha256(path) for name, path in files.items() if path.is_file()
    }}  # fmt: skip


def _measures(
    values: Mapping[str, Values], reference: str, n_never_answered: int, seed: int
) -> dict[str, Any]:  # fmt: skip
    """Compare with the reference, measure by measure, in the order of tables."""
    measures = {}
    for name in _in_order({name for one in values.values() for name in one}):
        here = {role: one[name] for role, one in values.items() if name in one}
        others = [role for role in here if role != reference]
        if reference not in here or not others:
            continue  # told as one-sided
        base = name.partition("/")[0]
        test = TESTS.get(base, "sign_flip")
        found = [
            _difference(name, {role: here[role], reference: here[reference]}, test, len(others),
                        seed)
            for role in others
        ]  # fmt: skip
        adjusted = holm([one["p"] for one in found])
        more = n_never_answered if base == "task_accuracy" else 0
        measures[name] = {
            "better": MEASURES.get(base), "test": test,
            "differences": [
                {"arm": role, "reference": reference, **one, "p_holm": p,
                 "n_unpaired": one["n_unpaired"] + more}
                for role, one, p in zip(others, found, adjusted, strict=True)
            ],
        }  # fmt: skip
    return measures


def _in_order(names: Iterable[str]) -> list[str]:
    """Order measures as tables do; unknown ones last."""
    order = {name: i for i, name in enumerate(MEASURES)}
    return sorted(names, key=lambda name: (order.get(name.partition("/")[0], len(order)), name))


def _difference(
    name: str, sides: Mapping[str, Mapping[str, float | None]], test: Test, n_compared: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Subtract the second of two sides from the first, and test that."""
    role, reference = sides
    arms = join_arms([sides[role]], [sides[reference]])
    draw = partial(numpy_generator, seed, "before_after", name, role)
    difference = paired_difference(
        arms.a, arms.b, draw("bootstrap"), verdicts=of_verdicts(name), n_compared=n_compared
    )
    found: dict[str, Any] = {
        **difference.to_json(), "too_few_prompts": too_few_prompts(difference.n, n_compared),
    }  # fmt: skip
    if test == "mcnemar":
        verdicts = mcnemar(arms.a[0].tolist(), arms.b[0].tolist())
        return {**found, "p": verdicts.p, "n_only_arm": verdicts.n_only_a,
                "n_only_reference": verdicts.n_only_b}  # fmt: skip
    differences = prompt_differences(arms.a, arms.b)
    differences = differences[~np.isnan(differences)]
    if test == "wilcoxon":
        return {**found, "p": wilcoxon_p(differences)}
    return {**found, "p": sign_flip_p(differences, draw("flip"))}
