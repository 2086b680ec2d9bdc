"""Does a ranking hold when the mixture or the safe set is made of other sources?

Nothing is set anew: one method with its defaults, on parts of the labelled rows (ordinary rows of
some sources only, single-turn rows only) and with safe sets from which sources are left out. Only a
method that finds the harm, and not a source or a count of turns, holds everywhere; `trivial` has
the same rows beside it. All harmful rows are still of one source.

    python benchmarks/other_mixtures.py --cache runs/comparison/cache
    python benchmarks/other_mixtures.py --cache runs/comparison/cache --method auto
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment, test_data, write_result

from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig
from tamis.errors import ConfigError
from tamis.evaluation.labels import Label, join_labels, read_labels
from tamis.evaluation.ranking import detection_measures
from tamis.methods import build_method
from tamis.methods.base import rank
from tamis.methods.scores import Scores
from tamis.models.load import load_model
from tamis.rng import numpy_generator

SMALL = ("code_alpaca", "gpteacher", "glaive")
# Ordinary rows of these sources beside the harmful rows and the hard negatives.
ORDINARY = {
    "every source": ("",),
    "alpaca": ("alpaca_en_demo",),
    "code, role play, tools": SMALL,
    "preference data": ("dpo_en_demo", "kto_en_demo"),
}
# Sources left out of the safe set.
WITHOUT = {
    "whole safe set": (),
    "without hh-rlhf": ("hh-rlhf",),
    "without SafeInstruct": ("SafeInstruct",),
    "without code, role play, tools": SMALL,
    "alpaca and SafeInstruct only": (*SMALL, "hh-rlhf", "dpo_en_demo", "kto_en_demo"),
}
BOTH_WAYS = ("ordinary rows: every source", "single-turn rows")  # with every safe set


def from_one_of(source: str | None, beginnings: Sequence[str]) -> bool:
    """Whether a source's name begins with one of these."""
    return any((source or "").startswith(beginning) for beginning in beginnings)


def mixtures(rows: Examples, labels: Sequence[Label]) -> dict[str, list[str]]:
    """Name the ids of every part of the rows."""
    found = {
        f"ordinary rows: {name}": [
            row for row, label in zip(rows.ids, labels, strict=True)
            if label.kind != "benign" or from_one_of(label.source, sources)
        ]
        for name, sources in ORDINARY.items()
    }  # fmt: skip
    found["single-turn rows"] = [
        row for place, row in enumerate(rows.ids)
        if sum(message.role == "user" for message in rows[place].messages) == 1
    ]  # fmt: skip
    return found


def safe_sets(safe: Examples, path: Path) -> dict[str, Examples]:
    """Name the safe sets."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    source = {line["id"]: line["source"] for line in lines}
    return {
        name: safe.restrict([
            row for row, own in zip(safe.ids, safe.source_ids, strict=True)
            if own is not None and not from_one_of(source[own], sources)
        ])
        for name, sources in WITHOUT.items()
    }  # fmt: skip


def measured(scores: Scores, truth: dict[str, Label], name: str) -> dict[str, Any]:
    """Measure clear harmful rows against all others, and against hard negatives."""
    labels = [truth[row] for row in scores.ids]
    harmful = np.array([label.harmful for label in labels])
    hard = np.array([label.kind == "hard_negative" for label in labels])
    clear = np.array([label.tier != "weak" for label in labels])
    draw = numpy_generator(0, "other mixtures", name)
    return {
        part: detection_measures(scores.values[mask], harmful[mask], draw)
        for part, mask in (("clear", clear), ("clear, hard negatives", clear & (harmful | hard)))
    }


def main() -> None:
    """Rank every part with every safe set that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--method", default="contrast")
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    folder, lm = test_data() / "redorca_mini", load_model()
    rows, safe = load_examples(folder / "train.jsonl"), load_examples(folder / "safe.jsonl")
    labels = join_labels(rows, read_labels(folder / "labels.jsonl"))
    truth = dict(zip(rows.ids, labels, strict=True))
    parts, safes = mixtures(rows, labels), safe_sets(safe, folder / "safe_sources.jsonl")
    found = []
    for (part, ids), (without, trusted) in itertools.product(parts.items(), safes.items()):
        if part not in BOTH_WAYS and len(trusted) < len(safe):
            continue
        chosen = rows.restrict(ids)
        entry: dict[str, Any] = {"rows": part, "safe_set": without, "n_safe": len(trusted)}
        for method in (arguments.method, "trivial"):
            try:
                scores = rank(chosen, build_method(method, {}), safe_set=trusted, model=lm,
                              render=RenderConfig(max_prompt_tokens=96, max_response_tokens=96),
                              cache=arguments.cache)  # fmt: skip
            except ConfigError as error:
                entry[method] = {"refused": str(error)}
                print(f"{part}; {without}: {method} refused: {error}", flush=True)
                continue
            entry[method] = measured(scores, truth, f"{part} {without}")
            both = [entry[method][name]["auroc"]["value"] for name in entry[method]]
            print(f"{part}; {without}: {method}", *(f"{value:.3f}" for value in both), flush=True)
        found.append(entry)
    write_result(f"other_mixtures_{arguments.method}", {"environment": environment(lm),
                                                        "entries": found})  # fmt: skip


if __name__ == "__main__":
    main()
