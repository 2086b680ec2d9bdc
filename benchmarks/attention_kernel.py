"""Backward passes with the attention kernel that ranking takes, against torch's fused one.

Rows of any length take it here: the limit above which ranking does not was set by these figures.
In bfloat16 on a CPU: gradients of single rows (`gradient`) and steps of an adapter on all layers
(`excess`). Peak memory is of one pass over all rows of each arm; losses and squared lengths of the
gradients are compared with those of the same weights in float32.

    python benchmarks/attention_kernel.py --rows 40
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from environment import environment, interleaved, labelled_rows, spread, write_result

from tamis.data.template import RenderConfig, render
from tamis.memory import PeakMemory
from tamis.models import attention, row_forward
from tamis.models.adapter_trainer import AdapterTrainer, Part
from tamis.models.batches import batch_tokens
from tamis.models.load import load_model
from tamis.models.lora import LoraSettings
from tamis.models.row_forward import RowForward
from tamis.models.row_gradients import RowGradients, batches_of, products_with

RANK = 16
KERNELS: dict[str, Any] = {
    "fused": lambda *_, **__: contextlib.nullcontext(),
    "chosen": row_forward.attention_with_gradients,
}


def main() -> None:
    """Time both kernels in both kinds of pass, one after another, in every repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=96, help="of prompt, and of response")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="attention")
    arguments = parser.parse_args()
    attention.LONGEST = 2 * arguments.tokens
    lm = load_model(dtype="bfloat16")
    config = RenderConfig(max_prompt_tokens=arguments.tokens, max_response_tokens=arguments.tokens)
    rows = render(labelled_rows(arguments.rows, 1)[0], lm.tokenizer, config)

    def forward(model: Any) -> RowForward:
        return RowForward(model, rows, device=lm.device, max_batch_tokens=batch_tokens(lm.device))

    def gradients(kernel: str) -> np.ndarray[Any, Any]:
        row_forward.attention_with_gradients = KERNELS[kernel]  # type: ignore[assignment]
        found, run = RowGradients(lm.model, rank=RANK, seed=0), forward(lm.model)
        nothing = {name: torch.zeros(1, len(module.weight), RANK)
                   for name, module in found.modules.items()}  # fmt: skip
        batches = batches_of(run, run.order.tolist())
        products = [products_with(found, run, indices, nothing) for indices in batches]
        return torch.cat(products)[:, 1:].double().numpy()

    def steps(kernel: str) -> None:
        row_forward.attention_with_gradients = KERNELS[kernel]  # type: ignore[assignment]
        trainer = AdapterTrainer(lm.model, ["one"], LoraSettings(), seed=0, learning_rate=1e-4,
                                 max_gradient_norm=1.0)  # fmt: skip
        try:
            run = forward(trainer.model)
            for indices in np.array_split(run.order, max(1, len(run.order) // 8)):
                weights = torch.full((len(indices),), 1 / len(indices))
                trainer.descend(run, [Part("one", indices.tolist(), weights)])
        finally:
            trainer.close()

    works: dict[str, Callable[[str], Any]] = {"gradients": gradients, "steps": steps}
    arms = {f"{name}, {kernel}": lambda work=work, kernel=kernel: work(kernel)
            for name, work in works.items() for kernel in KERNELS}  # fmt: skip
    gradients("fused")  # the first pass of a process is slower
    peaks: dict[str, float | None] = {}
    for name, work in arms.items():
        memory = PeakMemory()
        work()
        peaks[name] = memory.found()["peak_rss_gib"]
    times = interleaved(arms, lm.device, arguments.repeats)
    values = {kernel: gradients(kernel) for kernel in KERNELS}
    lm.model.float()
    exact = gradients("fused")
    found = {
        "environment": environment(lm),
        "settings": vars(arguments),
        "tokens": int(rows.lengths[rows.usable].sum()),
        "seconds": {name: spread(each) for name, each in times.items()},
        "chosen_over_fused": {
            name: spread([b / a for a, b in zip(times[f"{name}, fused"], times[f"{name}, chosen"],
                                                strict=True)])
            for name in works
        },
        "peak_rss_gib": peaks,
        "mean_error_against_float32": {
            kernel: dict(zip(("squared_length", "loss"),
                             np.abs(value - exact).mean(0).tolist(), strict=True))
            for kernel, value in values.items()
        },
    }  # fmt: skip
    print(found["chosen_over_fused"], found["peak_rss_gib"], found["mean_error_against_float32"])
    write_result(arguments.out, found)


if __name__ == "__main__":
    main()
