"""A teacher's scores learned from hidden states: do they carry over to rows it never saw?

Takes finished rankings of the labelled rows. For each, over random halvings: the plane is learned
on one half's scores; the other half is scored by it, and the half itself by planes that did not see
the row's fold. Both AUROCs are of rows on which no plane was fitted.

    python benchmarks/amortized.py --teacher runs/redorca_mini/full --cache runs/comparison/cache
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment, spread, test_data, write_result

from tamis.data.folds import content_folds
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig
from tamis.evaluation.labels import join_labels, read_labels
from tamis.methods.amortized import Amortized, cross_fitted, fit_ridge
from tamis.methods.base import RankingInputs
from tamis.methods.scores import Scores
from tamis.models.feature_names import depth_of
from tamis.models.load import load_model
from tamis.models.lora import layer_count

HALVINGS = 10


def auroc(scores: np.ndarray, harmful: np.ndarray) -> float:
    """AUROC of minus the scores."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(harmful, -scores))


def halvings(
    states: np.ndarray, scores: np.ndarray, harmful: np.ndarray, ids: list[str], folds: int
) -> dict[str, list[float]]:
    """Measure the teacher, the held-out folds of one half, and the other half."""
    found: dict[str, list[float]] = {"teacher": [], "own half": [], "other half": []}
    targets = (scores - scores.mean()) / scores.std()
    for number in range(HALVINGS):
        generator = np.random.default_rng(number)
        mine = content_folds(ids, 2, generator) == 0
        fold = content_folds([row for row, own in zip(ids, mine, strict=True) if own], folds,
                             generator)  # fmt: skip
        own, _ = cross_fitted(states[mine], targets[mine], fold)
        weight, bias, _ = fit_ridge(states[mine], targets[mine])
        found["teacher"].append(auroc(scores[~mine], harmful[~mine]))
        found["own half"].append(auroc(own, harmful[mine]))
        found["other half"].append(auroc(states[~mine] @ weight + bias, harmful[~mine]))
    return found


def main() -> None:
    """Measure every teacher given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", type=Path, action="append", required=True)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    folder, settings = test_data() / "redorca_mini", Amortized()
    lm, examples = load_model(), load_examples(folder / "train.jsonl")
    render = RenderConfig(max_prompt_tokens=96, max_response_tokens=96)
    inputs = RankingInputs(examples, model=lm, cache=arguments.cache, render=render)
    depths = [depth_of(layer, layer_count(lm.model)) for layer in settings.layers]
    states = inputs.states("finetuning_set", [f"state:{depth}:{reading}" for depth in depths
                                              for reading in settings.readings])  # fmt: skip
    order = inputs.rendered().id_order
    truth = join_labels(examples, read_labels(folder / "labels.jsonl"))
    harmful = np.array([label.harmful for label in truth])[order]
    ids = [examples.ids[i] for i in order]
    found: dict[str, Any] = {"environment": environment(lm), "teachers": {}}
    for teacher in arguments.teacher:
        scores = Scores.read(teacher)
        by_id = dict(zip(scores.ids, scores.values, strict=True))
        values = np.array([by_id[row] for row in ids])
        assert not np.isnan(values).any(), "the teacher was rendered otherwise"
        measured = halvings(states, values, harmful, ids, settings.folds)
        gaps = [a - b for a, b in zip(measured["own half"], measured["other half"], strict=True)]
        found["teachers"][str(teacher)] = {
            "method": scores.method, "depths": depths,
            **{name: spread(each) for name, each in measured.items()},
            "mean_own_half": float(np.mean(measured["own half"])),
            "mean_other_half": float(np.mean(measured["other half"])), "gap": spread(gaps),
        }  # fmt: skip
        print(teacher, {name: round(float(np.mean(each)), 4) for name, each in measured.items()})
    write_result("amortized", found)


if __name__ == "__main__":
    main()
