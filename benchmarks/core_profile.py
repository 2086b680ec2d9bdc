"""Where the time of ranking goes: the trunk, losses, and SEAL's steps of both algorithms.

For each part: tokens per second, the rate of the arithmetic that is counted (matrix products, as
torch counts them), the machine's own matmul rate measured beside it, and the operations that take
most of the time.

    python benchmarks/core_profile.py --rows 64
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from environment import environment, interleaved, labelled_rows, matmul_peak, spread, write_result
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tamis.data.template import RenderConfig, render
from tamis.methods.seal import SEAL, Selector, seal_step, selector_weights
from tamis.models.bilevel import BilevelRun, TwoStreams
from tamis.models.features import FeatureCache
from tamis.models.load import load_model

N_OPERATIONS = 12
MANY_ROWS = 1_000_000


def main() -> None:
    """Measure every part, then count and profile it once more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="core_profile")
    arguments = parser.parse_args()
    lm = load_model()
    rows, safe = (
        render(found, lm.tokenizer, RenderConfig(max_prompt_tokens=96, max_response_tokens=96))
        for found in labelled_rows(arguments.rows, arguments.rows)
    )
    method = SEAL()
    found: dict[str, Any] = {"environment": environment(lm), "rows": len(rows), "parts": {}}
    features = FeatureCache(lm)
    run = BilevelRun(
        features, rows, safe, adapters=["upper", "lower"], lora=method.lora,
        trunk_cut=method.trunk_cut, learning_rate=method.learning_rate,
        max_gradient_norm=method.max_gradient_norm, max_batch_tokens=None, seed=0, work=None,
        progress=lambda _: None, settings=method.model_dump(mode="json"),
    )  # fmt: skip
    streams = TwoStreams(
        run.finetuning, run.safe, batch_size=method.batch_size,
        safe_batch_size=method.safe_batch_size, seed=0,
    )  # fmt: skip
    n = streams.steps_per_epoch
    places = [streams.places(step)[1] for step in range(n)]
    visited = [run.finetuning.order[found.numpy()] for found in places]
    tokens = int(sum(run.finetuning.rows.lengths[v].sum() for v in visited))
    safe_tokens = int(
        sum(run.safe.rows.lengths[streams.safe_rows(step)].sum() for step in range(n))
    )

    def steps(adapters: int) -> Callable[[], None]:
        def work() -> None:
            selector = Selector(len(run.finetuning.order), method)
            kept = dict(run.trainer.parameters)
            if adapters == 1:
                del run.trainer.parameters["lower"]
            for step in range(n):
                seal_step(run, selector, streams.safe_rows(step), places[step], 0.1)
            run.trainer.parameters.update(kept)

        return work

    def base_pass() -> None:
        FeatureCache(lm).ensure(rows, ["loss", f"trunk:{run.forward.cut}"])

    parts: dict[str, tuple[Callable[[], Any], int]] = {
        "base losses and trunk": (base_pass, tokens),
        "losses from the trunk": (lambda: run.losses_under("upper", "upper"), tokens),
        "steps of full": (steps(2), 2 * tokens + safe_tokens),
        "steps of memory_efficient": (steps(1), tokens + safe_tokens),
    }
    peaks: list[float] = []
    arms = {name: work for name, (work, _) in parts.items()}
    times = interleaved(
        {**arms, "matmul": lambda: peaks.append(matmul_peak(lm))}, lm.device, arguments.repeats
    )
    for name, (work, n_tokens) in parts.items():
        with FlopCounterMode(display=False) as counter:
            work()
        flops = counter.get_total_flops()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work()
        took = spread(times[name])
        found["parts"][name] = {
            "seconds": took,
            "tokens": n_tokens,
            "tokens_per_second": n_tokens / took["median"],
            "gflop": flops / 1e9,
            "gflop_per_second": flops / 1e9 / took["median"],
            "share_of_time": operations(profiler),
        }
        shares = found["parts"][name]["share_of_time"]
        print(f"{name}: {n_tokens / took['median']:.0f} tokens/s, "
              f"{flops / 1e9 / took['median']:.0f} GFLOP/s", flush=True)  # fmt: skip
        for operation, share in shares.items():
            print(f"    {share:6.1%}  {operation}")
    found["selector_seconds_of_a_million_rows"] = selector_seconds(arguments.repeats)
    print(f"selector of a million rows: {found['selector_seconds_of_a_million_rows']}")
    found["matmul_gflop_per_second"] = spread(peaks)
    print(f"matmul: {found['matmul_gflop_per_second']}")
    run.close()
    write_result(arguments.out, found)


def selector_seconds(repeats: int) -> dict[str, dict[str, float]]:
    """Time what a step does with the selector alone: weights of a batch, then step (c)."""
    found = {}
    places, costs = torch.arange(0, MANY_ROWS, MANY_ROWS // 16), torch.ones(16)
    for optimizer, rate in (("mirror", 0.5), ("adam", 5e-3)):
        method = SEAL.model_validate(
            {"selector_optimizer": optimizer, "selector_learning_rate": rate}
        )
        selector = Selector(MANY_ROWS, method)

        def step(selector: Selector = selector, method: SEAL = method) -> None:
            selector_weights(selector.logits, method.activation)[places]
            selector.step(places, costs)

        step()
        times = interleaved({optimizer: step}, torch.device("cpu"), repeats)
        found[optimizer] = spread(times[optimizer])
    return found


def operations(profiler: Any) -> dict[str, float]:
    """Share of the time that each kind of operation takes itself, largest first."""
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:N_OPERATIONS]
    return {event.key: event.self_cpu_time_total / total for event in largest}


if __name__ == "__main__":
    torch.set_grad_enabled(True)
    main()
