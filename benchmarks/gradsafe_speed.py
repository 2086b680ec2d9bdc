"""GradSafe's scores with the slices of a batch computed together, against one row after another.

Both arms make the same passes over the same batches; what differs is how many small products each
weight costs. The critical slices are found once, before. The risks of both are compared. Where a
machine is shared, run one thread (OMP_NUM_THREADS=1) and read the seconds of CPU: threads that wait
for one another count as busy.

    python benchmarks/gradsafe_speed.py --rows 40
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from environment import environment, interleaved, labelled_rows, spread, write_result

from tamis.data.template import RenderConfig
from tamis.methods.base import rank
from tamis.methods.gradsafe import GradSafe
from tamis.models import critical_slices, weight_slices
from tamis.models.load import load_model

AT_ONCE: dict[str, Any] = {"row by row": lambda *_: 1, "together": weight_slices.rows_at_once}


def main() -> None:
    """Rank the rows in both ways, one after another, in every repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=96, help="of prompt, and of response")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--out", default="gradsafe_speed")
    arguments = parser.parse_args()
    lm = load_model(dtype="bfloat16")
    rows, _ = labelled_rows(arguments.rows, 1)
    limits = RenderConfig(max_prompt_tokens=arguments.tokens, max_response_tokens=arguments.tokens)
    risks: dict[str, np.ndarray[Any, Any]] = {}
    cpu: dict[str, list[float]] = {arm: [] for arm in AT_ONCE}

    def run(arm: str) -> None:
        critical_slices.rows_at_once = AT_ONCE[arm]  # type: ignore[attr-defined]
        start = time.process_time()
        risks[arm] = -rank(rows, GradSafe(), model=lm, render=limits).values
        cpu[arm].append(time.process_time() - start)

    search = critical_slices.SliceSearch
    find = search.find
    kept: list[critical_slices.FoundSlices] = []

    def found_once(self: Any, progress: Any = None) -> Any:
        if not kept:
            kept.append(find(self, progress))
        return kept[0]

    search.find = found_once  # type: ignore[method-assign]
    run("together")  # the first pass of a process is slower
    cpu["together"].clear()
    times = interleaved({arm: lambda arm=arm: run(arm) for arm in AT_ONCE}, lm.device,
                        arguments.repeats)  # fmt: skip
    apart = np.nanmax(np.abs(risks["together"] - risks["row by row"]))
    found = {
        "environment": environment(lm),
        "settings": vars(arguments),
        "seconds": {arm: spread(each) for arm, each in times.items()},
        "cpu_seconds": {arm: spread(each) for arm, each in cpu.items()},
        "together_over_row_by_row": {
            name: spread([b / a for a, b in zip(of["row by row"], of["together"], strict=True)])
            for name, of in (("seconds", times), ("cpu_seconds", cpu))
        },
        "largest_difference_of_risks": float(apart),
    }
    print(found["seconds"], found["together_over_row_by_row"], apart)
    write_result(arguments.out, found)


if __name__ == "__main__":
    main()
