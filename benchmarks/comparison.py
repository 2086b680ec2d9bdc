"""Every method that needs no guard, on real labelled rows, at several shares of harmful rows.

Writes a configuration, runs `tamis compare` on it and keeps the figures. A finished ranking is not
run again, so that `--only` can do one group of methods after another. It writes no result: that is
of all groups, by the run without it, which takes over what is finished.

    python benchmarks/comparison.py --out runs/comparison
    python benchmarks/comparison.py --out runs/comparison --only states
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from environment import environment, test_data, write_result

# Defaults were chosen with these labels in sight (docs/LOG.md).
IN_SIGHT = {"chosen_with_labels": True}
# label: settings. Groups by what they cost: nothing or one forward pass, models tuned on the safe
# set or gradients, models tuned on the mixture.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "states": {
        "trivial": {},
        "uniform": {},
        "dsir": {},
        "loss": {},
        "saft": {**IN_SIGHT},
        "saft-published": {"name": "saft", "preset": "published"},
        "contrast": {**IN_SIGHT},
        "probe": {},
        "direction": {},
    },
    "independent": {
        "excess": {},
        "auto": {**IN_SIGHT},
        "amortized": {"teacher": "excess"},
        "gradient": {},
        "direction-datashield": {"name": "direction", "variant": "datashield"},
        "gradsafe": {},
    },
    "mixture": {
        "excess-crossfit": {"name": "excess", "against": "crossfit", "folds": 2},
        "seal": {"preset": "fast", **IN_SIGHT},
    },
}
# At further rates these read what the ranking of all rows has left in the cache, or no model.
CACHED = ("trivial", "loss", "saft", "saft-published", "contrast", "excess", "auto", "gradient",
          "gradsafe")  # fmt: skip
AT_5_PERCENT = ("excess-crossfit", "seal")
SHOWN = (
    "auroc",
    "average_precision",
    "tpr_at_5pct_fpr",
    "recall_at_rate",
    "n",
    "n_harmful",
    "n_cells",
)
KEPT = ("rows", "method", "uses_labels", "chosen_with_labels", "seconds", "peak_gib", "passes",
        "flagged")  # fmt: skip
SLICES = ("all", "clear", "hard_negative", "source:hh-rlhf/harmless-base/chosen", "turns:1",
          "turns:2+", "length:1", "length:2", "length:3", "length:4")  # fmt: skip
DRAWS = 10  # plantings at 2% and 5%, and drawings of 100 labels


def configuration(data: Path, out: Path, groups: list[str]) -> dict[str, Any]:
    """Return the settings of `tamis compare` for some groups of methods."""
    folder = data / "redorca_mini"
    methods = {label: found for group in groups for label, found in METHODS[group].items()}
    parts: dict[str, dict[str, Any]] = {}

    def part(name: str, chosen: tuple[str, ...], **settings: Any) -> None:
        here = [label for label in chosen if label in methods]
        if here:
            parts[name] = {**settings, "methods": here}

    part("planted-0", CACHED, rate=0.0)
    part("planted-2", CACHED, rate=0.02, draws=DRAWS)
    part("planted-5", CACHED, rate=0.05, draws=DRAWS)
    for share in ("10", "30"):
        rows = out / f"c{share}.txt"
        ids = json.loads((folder / "variants" / f"c{share}.json").read_text(encoding="utf-8"))
        rows.write_text("\n".join(ids["ids"]) + "\n", encoding="utf-8")
        part(f"c{share}", CACHED, rows=str(rows))
    part("labels", ("probe",), rate=0.2, draws=DRAWS)
    part("once-planted-5", AT_5_PERCENT, rate=0.05)
    return {
        "finetuning_set": str(folder / "train.jsonl"),
        "safe_set": str(folder / "safe.jsonl"),
        "labels": str(folder / "labels.jsonl"),
        "out": str(out),
        "render": {"max_prompt_tokens": 96, "max_response_tokens": 96},
        "methods": methods,
        "parts": parts,
    }


def figures(out: Path) -> dict[str, Any]:
    """Reduce `comparison.json` to one line per method and set of rows."""
    found = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    lines: list[dict[str, Any]] = []
    for entry in found["entries"]:
        readouts = {
            name: {part: _short(values) for part, values in
                   {"all": readout, **readout["slices"]}.items() if part in SLICES}
            for name, readout in entry["readouts"].items()
            if name == "score" or entry["method"] == "trivial"
        }  # fmt: skip
        lines.append({**{name: entry[name] for name in KEPT}, "readouts": readouts})
    settings = {entry["method"]: entry["config"] for entry in found["entries"]}
    return {"environment": environment(), "settings": settings, "entries": lines,
            "refused": found["refused"], "cues": found["cues"],
            "agreement": found["agreement"]["all"]}  # fmt: skip


def _short(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in SHOWN}


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing; then, of all groups, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=[*METHODS], action="append")
    arguments = parser.parse_args(words)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    config = out / "compare.yaml"
    chosen = arguments.only or list(METHODS)
    settings = configuration(test_data(), out, chosen)
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    (out / "comparison.json").unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-m", "tamis", "compare", str(config), "--no-plan"],
                          check=False)  # fmt: skip
    if not (out / "comparison.json").exists():  # refused rankings fail the command, and are figures
        sys.exit(done.returncode)
    if arguments.only:
        print("no result is written with --only: run without it for the figures of all groups")
    else:
        write_result("comparison", figures(out))


if __name__ == "__main__":
    main()
