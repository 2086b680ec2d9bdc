"""Reading losses and activations, against a bare forward pass over the same tokens.

The bare pass is `model(**batch)` in padded batches sorted by length, whose outputs nobody keeps;
the loop runs one row at a time. Ours gathers, stores and hashes besides.

    python benchmarks/scoring_speed.py --rows 128
    python benchmarks/scoring_speed.py --rows 1900 --only selector --out scoring_selector
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from environment import environment, interleaved, labelled_rows, matmul_peak, spread, write_result

from tamis.data.batch import pad_batch, token_budget_batches
from tamis.data.template import RenderConfig, render
from tamis.methods.amortized import Amortized
from tamis.models.batches import batch_tokens, to_device
from tamis.models.feature_names import depth_of
from tamis.models.features import FeatureCache
from tamis.models.load import load_model
from tamis.models.lora import layer_count
from tamis.models.state_selector import StateSelector

BARE, LOOP = "bare forward, sorted batches", "bare forward, one row at a time"


def main() -> None:
    """Time all arms, one after another, in every repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="scoring")
    parser.add_argument("--only", default="", help="of ours, arms whose name has this word")
    arguments = parser.parse_args()
    lm = load_model()
    config = RenderConfig(max_prompt_tokens=96, max_response_tokens=96)
    rows = render(labelled_rows(arguments.rows, 1)[0], lm.tokenizer, config)
    usable = [i for i, ok in enumerate(rows.usable) if ok]
    n_tokens = int(rows.lengths[usable].sum())
    sorted_places = token_budget_batches(rows.lengths[usable], batch_tokens(lm.device))
    groups = [[usable[place] for place in places] for places in sorted_places]
    middle = round(0.6 * layer_count(lm.model))

    @torch.no_grad()
    def bare(batches: Sequence[Sequence[int]]) -> None:
        for indices in batches:
            batch = to_device(pad_batch([rows[i] for i in indices]), lm.device)
            lm.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                     use_cache=False)  # fmt: skip

    def reading(*names: str) -> Callable[[], None]:
        return lambda: FeatureCache(lm).ensure(rows, names)

    states = [f"state:{middle}:response_mean", f"state:{middle}:prompt_last"]
    every = [f"state:{depth}:response_mean" for depth in range(1, layer_count(lm.model) + 1)]
    read = [f"state:{depth_of(layer, layer_count(lm.model))}:{reading}"
            for layer in Amortized().layers for reading in Amortized().readings]  # fmt: skip
    width = int(lm.model.config.hidden_size)
    selector = StateSelector("amortized", tuple(read), np.ones(width * len(read)), 0.0,
                             lm.fingerprint, rows.fingerprint)  # fmt: skip
    peaks: list[float] = []
    arms: dict[str, Callable[[], Any]] = {
        BARE: lambda: bare(groups),
        LOOP: lambda: bare([[i] for i in usable]),
        "losses": reading("loss"),
        f"states after layer {middle}": reading(*states),
        "states after every layer": reading(*every),
        "losses and states after every layer": reading("loss", *every),
        "scores of an amortized selector": lambda: selector.score(lm, rows),
        "matmul": lambda: peaks.append(matmul_peak(lm)),
    }
    arms = {name: arm for name, arm in arms.items()
            if name in (BARE, "matmul") or arguments.only in name}  # fmt: skip
    bare(groups[:1])
    times = interleaved(arms, lm.device, arguments.repeats)
    times.pop("matmul")
    found = {
        "environment": environment(lm),
        "settings": {**vars(arguments), "tokens": n_tokens, "usable_rows": len(usable)},
        "tokens_per_second": {
            name: spread([n_tokens / value for value in values]) for name, values in times.items()
        },
        "matmul_gflop_per_second": spread(peaks),
        "speed_over_bare_forward": ratios(times, BARE),
        **({"speed_over_one_row_at_a_time": ratios(times, LOOP)} if LOOP in times else {}),
    }
    for key in [key for key in found if key.startswith(("tokens_per", "speed_over"))]:
        print(key, {name: round(value["median"], 2) for name, value in found[key].items()})
    write_result(arguments.out, found)


def ratios(times: dict[str, list[float]], reference: str) -> dict[str, dict[str, float]]:
    """Speed of every arm over the reference's, within each repeat."""
    return {
        name: spread([r / v for r, v in zip(times[reference], values, strict=True)])
        for name, values in times.items()
        if name != reference
    }


if __name__ == "__main__":
    main()
