"""What a benchmark ran on, which rows it read, and how fast the machine multiplies meanwhile."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.models.load import LanguageModel
from tamis.versions import git_sha, versions

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
MATMUL_SIZE = 2048


def test_data() -> Path:
    """Return the folder of labelled rows (TAMIS_TEST_DATA, default ../shared/data)."""
    return Path(os.environ.get("TAMIS_TEST_DATA", PROJECT.parent / "shared" / "data"))


def labelled_rows(n_rows: int, n_safe: int) -> tuple[Examples, Examples]:
    """Return the first rows, in the order of their ids, of the labelled set and its safe set."""
    folder = test_data() / "redorca_mini"
    rows, safe = load_examples(folder / "train.jsonl"), load_examples(folder / "safe.jsonl")
    return rows.restrict(sorted(rows.ids)[:n_rows]), safe.restrict(sorted(safe.ids)[:n_safe])


def environment(lm: LanguageModel | None = None) -> dict[str, Any]:
    """Describe machine, packages, commit and model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
        "git_sha": git_sha(),
        "model": None if lm is None else lm.describe(),
    }


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Time one call, the device's own queue included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def matmul_peak(lm: LanguageModel, repeats: int = 3) -> float:
    """Measure a large square matmul in the model's type, in GFLOP/s (the best of the repeats)."""
    n = MATMUL_SIZE if lm.device.type == "cpu" else 4 * MATMUL_SIZE
    a, b = (torch.ones((n, n), dtype=lm.dtype, device=lm.device) for _ in range(2))
    a @ b
    return 2 * n**3 / min(seconds(lambda: a @ b, lm.device) for _ in range(repeats)) / 1e9


def interleaved(
    arms: dict[str, Callable[[], Any]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Time every arm once per repeat, one after another, so that drift reaches all alike."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name, work in arms.items():
            times[name].append(seconds(work, device))
            print(f"repeat {repeat + 1}/{repeats}  {name}: {times[name][-1]:.1f} s", flush=True)
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Return the median with the smallest and the largest."""
    return {
        "median": statistics.median(values),
        "smallest": min(values),
        "largest": max(values),
    }


def write_result(name: str, found: dict[str, Any]) -> None:
    """Write `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
