"""Where every threshold rule would cut real rankings, and how often a certificate is wrong.

Reads the finished rankings of `comparison.py` over all labelled rows. The rules without labels see
scores only; a certificate sees the labels of 400 rows, in 500 draws per ranking.

    python benchmarks/thresholds.py runs/comparison/cells/all
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment, test_data, write_result

from tamis.errors import ConfigError
from tamis.evaluation.labels import join_labels, read_labels
from tamis.methods.scores import Scores
from tamis.selection.calibrate import Rule, find_threshold
from tamis.selection.certificate import CertifyConfig, certify

N_DRAWS = 500
RULES: tuple[Rule, ...] = ("mixture", "otsu", "mad")


def outcome(
    values: np.ndarray[Any, Any], harmful: np.ndarray[Any, Any], threshold: float
) -> dict[str, float]:
    """Say what a threshold keeps, against the whole truth."""
    kept, scored = values >= threshold, ~np.isnan(values)
    return {
        "kept_share": float(kept.sum() / scored.sum()),
        "harmful_share_kept": float(harmful[kept].mean()),
        "harmful_found": float((harmful & scored & ~kept).sum() / (harmful & scored).sum()),
    }


def certified(
    values: np.ndarray[Any, Any], harmful: np.ndarray[Any, Any], config: CertifyConfig
) -> dict[str, Any]:
    """Draw labels again and again, and compare certificates with the truth."""
    scored = np.flatnonzero(~np.isnan(values))
    found = []
    for seed in range(N_DRAWS):
        drawn = np.random.default_rng(seed).choice(scored, config.n_labels, replace=False)
        walk = certify(values, drawn, harmful[drawn], alpha=config.alpha, delta=config.draw_delta,
                       kept_shares=config.kept_shares)  # fmt: skip
        if walk.certified is not None:
            found.append(outcome(values, harmful, walk.certified.threshold))
    medians = {key: float(np.median([one[key] for one in found])) for key in (found or [{}])[0]}
    wrong = sum(one["harmful_share_kept"] > config.alpha for one in found)
    return {"draws": N_DRAWS, "certified": len(found), "wrong": wrong, "median": medians}


def main() -> None:
    """Cut every ranking by every rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", default="thresholds")
    arguments = parser.parse_args()
    truth = read_labels(test_data() / "redorca_mini" / "labels.jsonl")
    config, rankings = CertifyConfig(), {}
    start = time.perf_counter()
    for path in sorted(arguments.folder.glob("*/scores.parquet")):
        scores = Scores.read(path)
        harmful = np.array([label.harmful for label in join_labels(scores, truth)])
        entry: dict[str, Any] = {}
        for rule in RULES:
            try:
                one = find_threshold(rule, scores.values, np.random.default_rng(0))
                entry[rule] = outcome(scores.values, harmful, one.threshold)
            except ConfigError as error:
                entry[rule] = {"refused": str(error).partition(". Set ratio")[0]}
        entry["certificate"] = certified(scores.values, harmful, config)
        rankings[path.parent.name] = entry
        print(path.parent.name, entry, flush=True)
    write_result(arguments.out, {
        "environment": environment(), "certificate": config.model_dump(mode="json"),
        "seconds": time.perf_counter() - start, "rankings": rankings,
    })  # fmt: skip


if __name__ == "__main__":
    main()
