"""The main job on real labelled rows: rank by every readout, select, fine-tune, evaluate, report.

Runs the command line, one stage after another (finished stages are skipped), then writes one JSON
file from what the stages wrote. The rows are in the test data folder (TAMIS_TEST_DATA, default
../shared/data beside the project); without it nothing can be measured.

    python benchmarks/redorca_mini.py --out runs/redorca_mini
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from environment import environment, test_data, write_result

LENGTHS = ("--set", "render.max_prompt_tokens=96", "--set", "render.max_response_tokens=96")
N_PROMPTS = 50  # of each evaluation kind
MEASURES = ("auroc", "average_precision", "tpr_at_5pct_fpr")


def commands(data: Path, out: Path) -> list[list[str]]:
    """Return the command of every stage, in order."""
    rows = ["--data", str(data / "redorca_mini" / "train.jsonl")]
    labels = ["--labels", str(data / "redorca_mini" / "labels.jsonl")]
    safe = ["--safe-set", str(data / "redorca_mini" / "safe.jsonl")]
    prompts: list[str] = []
    for flag, name in (("harmful", "harmful"), ("over-refusal", "overrefusal"),
                       ("helpful", "helpful")):  # fmt: skip
        path = out / f"{name}_prompts.jsonl"
        lines = (data / "eval" / f"{name}_prompts.jsonl").read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(lines[:N_PROMPTS]) + "\n", encoding="utf-8")
        prompts += [f"--{flag}", str(path)]
    cache = ["--cache", str(out / "features")]
    seal = ["rank", "seal", *rows, *safe, *labels, *cache, *LENGTHS, "--set", "preset=small"]
    evaluate = ["evaluate", *prompts, *LENGTHS, "--set", "max_new_tokens=24"]
    return [
        [*seal, "--out", str(out / "full")],
        [*seal, "--set", "algorithm=memory_efficient", "--out", str(out / "me")],
        ["rank", "loss", *rows, *labels, *cache, *LENGTHS, "--out", str(out / "loss")],
        ["rank", "uniform", *rows, *labels, "--out", str(out / "uniform")],
        ["select", str(out / "full"), *rows, "--ratio", "0.8", "--out", str(out / "select")],
        ["finetune", "--data", str(out / "select" / "kept.jsonl"), "--max-steps", "40", *LENGTHS,
         "--out", str(out / "finetune")],
        [*evaluate, "--out", str(out / "before")],
        [*evaluate, "--adapter", str(out / "finetune" / "adapter"), "--out", str(out / "after")],
        ["report", *(str(out / name) for name in ("full", "select", "before", "finetune", "after")),
         "--out", str(out / "report.html")],
    ]  # fmt: skip


def collect(out: Path) -> dict[str, Any]:
    """Read the finished stages' figures; a stage that was not run is absent."""
    found: dict[str, Any] = {
        "environment": environment(),
        "stages": {},
        "detection": {},
        "evaluation": {},
    }
    for name in ("full", "me", "loss", "uniform", "select", "finetune", "before", "after"):
        path = out / name / "manifest.json"
        if not path.exists():
            continue
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found["stages"][name] = {
            "seconds": manifest["timings"]["seconds"],
            "peak_rss_gib": manifest["memory"]["peak_rss_gib"],
            "started": manifest["started"],
            "git_sha": manifest["git_sha"],
            "rows_by_outcome": manifest.get("rows_by_outcome"),
            "trained": (manifest.get("details") or {}).get("trained"),
        }
        ranking = out / name / "ranking.json"
        if ranking.exists():
            report = json.loads(ranking.read_text(encoding="utf-8"))
            for readout, measured in report["readouts"].items():
                key = f"{name}/{readout}"
                found["detection"][key] = {"all": _measures(measured)}
                for part in ("clear", "hard_negative"):
                    found["detection"][key][part] = _measures(measured["slices"][part])
        metrics = out / name / "metrics.json"
        if metrics.exists():
            values = json.loads(metrics.read_text(encoding="utf-8"))
            found["evaluation"][name] = {
                k: v for k, v in values.items() if isinstance(v, dict) and "n_unscored" in v
            }
    return found


def _measures(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in (*MEASURES, "n", "n_harmful")}


def main() -> None:
    """Run what is missing, then write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--collect-only", action="store_true")
    arguments = parser.parse_args()
    data = test_data()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.collect_only:
        for command in commands(data, arguments.out):
            subprocess.run([sys.executable, "-m", "tamis", *command], check=True)
    found = collect(arguments.out)
    write_result("redorca_mini", found)
    for name, parts in found["detection"].items():
        print(name, {part: round(values["auroc"]["value"], 3) for part, values in parts.items()})


if __name__ == "__main__":
    main()
