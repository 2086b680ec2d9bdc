"""What a frozen trunk does to SEAL's ranking: the same rows ranked at several cuts.

Training fewer layers is another model, so its scores differ; whether they find the harmful rows
as well is a question for labels. For every cut: AUROC over all rows and against hard negatives, the
paired difference from the first cut (same bootstrap rows for both), and the rank correlation.

    python benchmarks/cut_quality.py --rows 300 --safe 180 --cuts 0 0.8 0.9
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from environment import environment, labelled_rows, test_data, write_result
from scipy.stats import spearmanr

from tamis.data.template import RenderConfig
from tamis.evaluation.labels import join_labels, read_labels
from tamis.evaluation.ranking import auroc, slice_masks
from tamis.methods.base import rank
from tamis.methods.seal import SEAL
from tamis.models.config import LoraSettings
from tamis.models.load import load_model

N_RESAMPLES = 2_000


def area(values: np.ndarray[Any, Any], harmful: np.ndarray[Any, Any]) -> float:
    """AUROC of scores (higher = keep) against the truth."""
    groups = np.unique(values, return_inverse=True)[1].ravel()
    counts = [np.bincount(groups[side], minlength=groups.max() + 1)[None]
              for side in (harmful, ~harmful)]  # fmt: skip
    return float(auroc(*counts)[0])


def compared(
    values: np.ndarray[Any, Any], first: np.ndarray[Any, Any], harmful: np.ndarray[Any, Any]
) -> dict[str, Any]:
    """AUROC of `values`, and its difference from that of `first`, each with a 95% interval."""
    generator = np.random.default_rng(0)
    sides = [np.flatnonzero(harmful), np.flatnonzero(~harmful)]
    draws = []
    for _ in range(N_RESAMPLES):
        drawn = np.concatenate([generator.choice(side, len(side)) for side in sides])
        pair = [area(scores[drawn], harmful[drawn]) for scores in (values, first)]
        draws.append((pair[0], pair[0] - pair[1]))
    low, high = np.quantile(np.array(draws), [0.025, 0.975], axis=0).tolist()
    value, before = area(values, harmful), area(first, harmful)
    return {
        "auroc": {"value": value, "low": low[0], "high": high[0]},
        "difference": {"value": value - before, "low": low[1], "high": high[1]},
        "n": len(harmful), "n_harmful": int(harmful.sum()),
    }  # fmt: skip


def main() -> None:
    """Rank at every cut and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--safe", type=int, default=180)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--algorithm", choices=("full", "memory_efficient"), default="full")
    parser.add_argument("--cuts", type=float, nargs="+", default=[0, 0.8, 0.9])
    parser.add_argument("--targets", nargs="+", help="modules to adapt; default q_proj v_proj")
    parser.add_argument("--out", default="cut_quality")
    arguments = parser.parse_args()
    lm = load_model()
    rows, safe = labelled_rows(arguments.rows, arguments.safe)
    truth = read_labels(test_data() / "redorca_mini" / "labels.jsonl")
    render = RenderConfig(max_prompt_tokens=96, max_response_tokens=96)
    readouts: dict[float, dict[str, np.ndarray[Any, Any]]] = {}
    found: dict[str, Any] = {"environment": environment(lm), "settings": vars(arguments),
                             "cuts": {}}  # fmt: skip
    for cut in arguments.cuts:
        method = SEAL(algorithm=arguments.algorithm, epochs=arguments.epochs, trunk_cut=cut,
                      lora=LoraSettings(targets=arguments.targets))  # fmt: skip
        start = time.perf_counter()
        scores = rank(rows, method, safe_set=safe, model=lm, render=render)
        took = time.perf_counter() - start
        usable = ~np.isnan(scores.values)
        labels = join_labels(scores, truth)
        harmful = np.array([label.harmful for label in labels])
        hard = slice_masks(labels)["hard_negative"] & usable
        readouts[cut] = {
            name.removeprefix("score_"): values for name, values in scores.columns.items()
            if name.startswith("score_")
        }  # fmt: skip
        first = readouts[arguments.cuts[0]]
        found["cuts"][f"{cut:g}"] = {
            "trained": scores.details["trained"],
            "seconds": took,
            "readouts": {
                name: {
                    "all rows": compared(values[usable], first[name][usable], harmful[usable]),
                    "hard negatives": compared(values[hard], first[name][hard], harmful[hard]),
                    "spearman": float(spearmanr(values[usable], first[name][usable])[0]),
                }
                for name, values in readouts[cut].items()
            },
        }
        for name, values in found["cuts"][f"{cut:g}"]["readouts"].items():
            print(cut, name, values, flush=True)
        write_result(arguments.out, found)


if __name__ == "__main__":
    main()
