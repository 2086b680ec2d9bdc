"""Cells of an experiment side by side, each in a process of its own."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tamis.cli.experiment_config import Cell, ExperimentConfig
from tamis.cli.processes import Children
from tamis.errors import ConfigError, TamisError

TAIL_CHARACTERS = 600  # of what a failed cell wrote


def run_in_processes(
    config: ExperimentConfig, left: Sequence[Cell], command: Sequence[str], overwrite: bool,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Run cells side by side; a failed one does not stop the others, and none outlives this."""
    if not command:
        raise ConfigError("workers > 1 needs the command line; set workers to 1 from Python.")
    if overwrite:
        raise ConfigError("--overwrite runs with one worker: set workers=1.")
    failed: dict[str, str] = {}
    threads = max(1, (os.cpu_count() or 1) // config.workers)

    free: queue.Queue[int | None] = queue.Queue()
    for worker in range(config.workers):
        free.put(config.gpus[worker % len(config.gpus)] if config.gpus else None)

    def run(cell: Cell) -> None:
        gpu = free.get()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
        status, errors = children.run(
            [sys.executable, "-m", "tamis", "experiment", *command, "--cell", cell.name],
            environment,
        )
        free.put(gpu)
        if status:
            failed[cell.name] = errors.strip()[-TAIL_CHARACTERS:]
        say(f"{'failed' if status else 'done'}  {cell.name}")

    with ThreadPoolExecutor(config.workers) as pool, Children() as children:
        list(pool.map(run, left))
    if failed:
        name, tail = next(iter(failed.items()))
        raise TamisError(
            f"{len(failed)} of {len(left)} cells failed: {', '.join(failed)}. The first, {name}, "
            f"ended with: {tail} The others are done; run again for these."
        )
