"""Time and memory per row as the data grow: ranking with a tiny model, selecting with none.

Each size runs in a process of its own, so that its peak memory is its own.

    python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import PROJECT, environment, write_result

from tamis.data.example import Examples
from tamis.memory import peak_rss_gib

SIZES = (1_000, 10_000, 100_000)
SELECTED = (100_000, 1_000_000, 10_000_000)
CLAIMS = (("loss", SIZES), ("seal", SIZES), ("score", SIZES), ("select", SELECTED))


def written_rows(path: Path, n: int) -> Examples:
    """Write n rows of some twenty tokens and load them."""
    import toy
    from tamis.data.load import load_examples

    with path.open("w") as stream:
        for i in range(n):
            prompt = f"Tell me about the {toy.TOPICS[i % 8]} {i}"
            answer = f"gently share {toy.TOPICS[i * 3 % 8]} {i % 97}"
            stream.write(json.dumps({"prompt": prompt, "completion": answer}) + "\n")
    return load_examples(path)


def rank_rows(method: str, n: int) -> dict[str, float]:
    """Rank n rows of some twenty tokens with a model of two layers of width 32."""
    sys.path.insert(0, str(PROJECT / "tests"))
    import toy
    from tamis.methods import build_method
    from tamis.methods.base import rank

    options = {"epochs": 1, "batch_size": 64, "safe_batch_size": 64, "trunk_cut": 1}
    found = build_method(method, options if method == "seal" else {})
    lm = toy.tiny_lm()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = written_rows(Path(folder) / "rows.jsonl", n)
        loaded = time.perf_counter()
        safe = rows.restrict(rows.ids[:500])
        rank(rows, found, safe_set=safe, model=lm, work=Path(folder) / "work")
        ranked = time.perf_counter()
    return {"load_seconds": loaded - start, "rank_seconds": ranked - loaded}


def score_rows(_: str, n: int) -> dict[str, float]:
    """Score n rows by a plane on their states, keeping none of these."""
    import numpy as np

    sys.path.insert(0, str(PROJECT / "tests"))
    import toy
    from tamis.data.template import render
    from tamis.models.state_selector import StateSelector

    lm, names = toy.tiny_lm(), ("state:1:response_mean", "state:1:prompt_last")
    with tempfile.TemporaryDirectory() as folder:
        examples = written_rows(Path(folder) / "rows.jsonl", n)
        start = time.perf_counter()
        rows = render(examples, lm.tokenizer)
        rendered = time.perf_counter()
        width = int(lm.model.config.hidden_size)
        selector = StateSelector("amortized", names, np.ones(width * len(names)), 0.0,
                                 lm.fingerprint, rows.fingerprint)  # fmt: skip
        assert not np.isnan(selector.score(lm, rows)).any()
        scored = time.perf_counter()
    return {"render_seconds": rendered - start, "score_seconds": scored - rendered}


def select_rows(_: str, n: int) -> dict[str, float]:
    """Read a score table of n rows, select four fifths, and count what is kept."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tamis.methods.scores import Scores
    from tamis.selection.select import select

    values = np.random.default_rng(0).normal(size=n)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        ids = pa.array([f"{i * 2654435761 % 2**64:016x}-0" for i in range(n)])
        pq.write_table(
            pa.table({"id": ids, "source_id": pa.nulls(n, pa.string()), "score": values,
                      "outcome": pa.array(["ok"]).take(pa.array(np.zeros(n, dtype=np.int64))),
                      "n_trained_tokens": np.full(n, 20)}),
            path,
        )  # fmt: skip
        del ids
        start = time.perf_counter()
        scores = Scores.read(path)
        read = time.perf_counter()
        kept = int(select(scores, ratio=0.8).kept.sum())
        selected = time.perf_counter()
    assert kept == n * 4 // 5
    return {"read_seconds": read - start, "select_seconds": selected - read}


def main() -> None:
    """Run every size in its own process, or one size when asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=[name for name, _ in CLAIMS], action="append")
    parser.add_argument("--one", nargs=2, metavar=("WORK", "ROWS"))
    arguments = parser.parse_args()
    if arguments.one:
        name, n = arguments.one[0], int(arguments.one[1])
        work = {"select": select_rows, "score": score_rows}.get(name, rank_rows)
        print(json.dumps({**work(name, n), "peak_rss_gib": peak_rss_gib()}))
        return
    found: dict[str, Any] = {"environment": environment(), "work": {}}
    chosen = arguments.only or [name for name, _ in CLAIMS]
    for name, sizes in [claim for claim in CLAIMS if claim[0] in chosen]:
        for n in sizes:
            command = [sys.executable, __file__, "--one", name, str(n)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            figures = json.loads(output.splitlines()[-1])
            seconds = sum(value for key, value in figures.items() if key.endswith("_seconds"))
            figures["microseconds_per_row"] = seconds / n * 1e6
            found["work"][f"{name} {n:,}"] = figures
            print(f"{name} {n:,}: {figures}", flush=True)
    write_result("growth" if not arguments.only else "growth_" + "_".join(chosen), found)


if __name__ == "__main__":
    main()
