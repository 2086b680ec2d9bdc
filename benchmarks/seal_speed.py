"""SEAL's time against a plain loop and against one TRL epoch over the same rows.

Every arm trains float32 adapters on the same base, rows, tokens and labels; loading is left out,
and everything else of ours is counted: trunk, base losses, steps, losses under the final models.
Arms that train all layers are compared with one another, and so are arms that train the layers of
preset `fast`; `fast` is compared with the plain loop on all layers besides.

    python benchmarks/seal_speed.py --rows 500 --safe 300
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from environment import (
    environment,
    interleaved,
    labelled_rows,
    matmul_peak,
    spread,
    write_result,
)
from plain_loops import plain_seal, trl_epoch

from tamis.data.example import Examples
from tamis.data.template import RenderConfig, render
from tamis.methods.base import rank
from tamis.methods.seal import SEAL
from tamis.models.load import LanguageModel, load_model
from tamis.models.lora import layer_count
from tamis.models.trunk import resolve_cut

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=96)
ALL, FAST = "all layers", "layers of fast"


def arms(
    lm: LanguageModel, rows: Examples, safe: Examples, epochs: int, batch_size: int
) -> dict[str, Callable[[], Any]]:
    """Return every arm by name."""
    rendered, rendered_safe = (render(found, lm.tokenizer, RENDER) for found in (rows, safe))
    found: dict[str, Callable[[], Any]] = {}
    for algorithm in ("full", "memory_efficient"):
        for depth, preset in ((FAST, "fast"), (ALL, "exact")):
            ours = SEAL.model_validate(
                {"preset": preset, "algorithm": algorithm, "epochs": epochs,
                 "batch_size": batch_size, "safe_batch_size": batch_size}
            )  # fmt: skip
            n_layers = layer_count(lm.model)
            layers = tuple(range(resolve_cut(ours.trunk_cut, n_layers), n_layers))
            plain = ours.model_copy(
                update={"lora": ours.lora.model_copy(update={"layers": layers})}
            )
            found[f"tamis {algorithm}, {depth}"] = lambda ours=ours: rank(
                rows, ours, safe_set=safe, model=lm, render=RENDER
            )
            found[f"plain {algorithm}, {depth}"] = lambda plain=plain: plain_seal(
                lm, rendered, rendered_safe, plain
            )
    found[f"trl epoch, {ALL}"] = lambda: trl_epoch(
        lm, rendered, SEAL().lora, batch_size=batch_size, learning_rate=SEAL().learning_rate
    )
    return found


def main() -> None:
    """Time all arms, one after another, in every repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--safe", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without", nargs="+", default=[], help="arms to leave out")
    parser.add_argument("--out", default="seal")
    arguments = parser.parse_args()
    lm = load_model()
    rows, safe = labelled_rows(arguments.rows, arguments.safe)
    # Rows too long for the limits are nobody's: the plain loop knows no reasons.
    rows, safe = (
        found.restrict([i for i, ok in zip(found.ids, render(found, lm.tokenizer, RENDER).usable,
                                           strict=True) if ok])
        for found in (rows, safe)
    )  # fmt: skip
    works = arms(lm, rows, safe, arguments.epochs, arguments.batch_size)
    for name in arguments.without:
        del works[name]
    peaks: list[float] = []
    works["matmul"] = lambda: peaks.append(matmul_peak(lm))
    times = interleaved(works, lm.device, arguments.repeats)
    result: dict[str, Any] = {
        "environment": environment(lm),
        "settings": {**vars(arguments), "usable_rows": len(rows), "usable_safe": len(safe)},
        "seconds": {name: spread(values) for name, values in times.items() if name != "matmul"},
        "matmul_gflop_per_second": spread(peaks),
        "speedup_over_reference": {},
        "ratio_to_trl_epoch": {},
    }
    trl = times[f"trl epoch, {ALL}"]
    for name, values in times.items():
        if name.startswith("tamis"):
            same = name.replace("tamis", "plain")
            references = {"same layers": same, "reference on all layers": same.replace(FAST, ALL)}
            # Ratios within a repeat: the machine's mood is the same for both.
            result["speedup_over_reference"][name] = {
                said: spread([p / v for p, v in zip(times[arm], values, strict=True)])
                for said, arm in references.items() if arm in times
            }  # fmt: skip
            result["ratio_to_trl_epoch"][name] = spread(
                [v / t for v, t in zip(values, trl, strict=True)]
            )
    for key in ("speedup_over_reference", "ratio_to_trl_epoch"):
        print(key, result[key])
    write_result(arguments.out, result)


if __name__ == "__main__":
    main()
