"""Peak memory of SEAL beside plain LoRA fine-tuning of the same model, rows and batch.

Every arm runs in a process of its own and reports the largest memory it ever held (resident set; on
a GPU what was allocated there), and the same less what the loaded model takes.

    python benchmarks/peak_memory.py --rows 64 --batch-size 16
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from environment import PROJECT, environment, labelled_rows, write_result

ARMS: dict[str, dict[str, Any]] = {
    "full, small": {},
    "full, fast": {"preset": "fast"},
    "full, exact": {"preset": "exact"},
    "full, exact, gradient checkpointing": {"preset": "exact", "gradient_checkpointing": True},
    "memory_efficient, small": {"algorithm": "memory_efficient"},
    "memory_efficient, exact": {"preset": "exact", "algorithm": "memory_efficient"},
}
LOADED, TRL = "model loaded", "trl epoch, all layers"


def one(arm: str, n_rows: int, batch_size: int) -> dict[str, float]:
    """Run one arm; returns its peak in GiB and its time."""
    import time

    from tamis.data.template import RenderConfig, render
    from tamis.memory import peak_rss_gib
    from tamis.methods.base import rank
    from tamis.methods.seal import SEAL
    from tamis.models.load import load_model

    lm = load_model()
    config = RenderConfig(max_prompt_tokens=96, max_response_tokens=96)
    rows, safe = labelled_rows(n_rows, n_rows)
    start = time.perf_counter()
    if arm == TRL:
        from plain_loops import trl_epoch

        trl_epoch(lm, render(rows, lm.tokenizer, config), SEAL().lora, batch_size=batch_size,
                  learning_rate=SEAL().learning_rate)  # fmt: skip
    elif arm != LOADED:
        method = SEAL.model_validate({**ARMS[arm], "epochs": 1, "batch_size": batch_size,
                                      "safe_batch_size": batch_size})  # fmt: skip
        rank(rows, method, safe_set=safe, model=lm, render=config)
    took = time.perf_counter() - start
    if lm.device.type == "cuda":
        import torch

        return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30, "seconds": took}
    return {"peak_gib": peak_rss_gib(), "seconds": took}


def main() -> None:
    """Run every arm in its own process, or one arm when asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--one")
    parser.add_argument("--out", default="memory")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.rows, arguments.batch_size)))
        return
    found: dict[str, dict[str, float]] = {}
    for arm in (LOADED, TRL, *ARMS):
        command = [sys.executable, __file__, "--one", arm, "--rows", str(arguments.rows),
                   "--batch-size", str(arguments.batch_size)]  # fmt: skip
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[arm] = json.loads(output.splitlines()[-1])
        if arm != LOADED:
            found[arm]["over_trl"] = found[arm]["peak_gib"] / found[TRL]["peak_gib"]
            loaded = found[LOADED]["peak_gib"]
            found[arm]["over_trl_without_the_model"] = (
                (found[arm]["peak_gib"] - loaded) / (found[TRL]["peak_gib"] - loaded)
            )  # fmt: skip
        print(arm, found[arm], flush=True)
    settings = {"rows": arguments.rows, "batch_size": arguments.batch_size}
    write_result(arguments.out, {"environment": environment(), "settings": settings, "arms": found})


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT / "benchmarks"))
    main()
