"""Generation against the same call of transformers' `generate`, answers compared token by token.

Of a prompt only the last position meets the output projection: a slice with gaps, for which torch
multiplied by a copy of the weights for every prompt (bfloat16 on a CPU). Ours hands it over dense.

    python benchmarks/generation_speed.py
    python benchmarks/generation_speed.py --model FOLDER
"""

from __future__ import annotations

import argparse
import resource

import torch
from environment import environment, interleaved, matmul_peak, spread, write_result

from tamis.models.config import ModelConfig
from tamis.models.generate import end_token_ids, generate
from tamis.models.load import load_model
from tamis.rng import torch_generator

PLAIN, OURS = "transformers generate", "tamis generate"


def main() -> None:
    """Time both, one after the other, in every repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=60, help="of a prompt")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="generation")
    arguments = parser.parse_args()
    lm = load_model(ModelConfig(name=arguments.model) if arguments.model else ModelConfig())
    draw = torch_generator(0, "generation speed")
    ids = torch.randint(100, 10_000, (arguments.prompts, arguments.tokens), generator=draw)
    prompts = ids.tolist()
    answers: dict[str, list[list[int]]] = {}
    peak: dict[str, float] = {}

    def measured(name: str, found: list[list[int]]) -> None:
        answers[name] = found
        peak.setdefault(name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    @torch.no_grad()
    def plain() -> None:
        new = lm.model.generate(
            input_ids=ids.to(lm.device), attention_mask=torch.ones_like(ids).to(lm.device),
            max_new_tokens=arguments.new_tokens, do_sample=False, temperature=None, top_p=None,
            top_k=None, repetition_penalty=1.0, pad_token_id=lm.tokenizer.pad_token_id,
            eos_token_id=sorted(end_token_ids(lm)),
        )[:, arguments.tokens :]  # fmt: skip
        measured(PLAIN, new.tolist())

    def ours() -> None:
        measured(OURS, generate(lm, prompts, max_new_tokens=arguments.new_tokens,
                                batch_size=arguments.prompts))  # fmt: skip

    # Ours first: the process's peak only grows.
    times = interleaved({OURS: ours, PLAIN: plain}, lm.device, arguments.repeats)
    same = sum(
        whole[: len(cut)] == cut for whole, cut in zip(answers[PLAIN], answers[OURS], strict=True)
    )
    write_result(arguments.out, {
        "environment": environment(lm),
        "settings": vars(arguments),
        "matmul_gflops": matmul_peak(lm),
        "seconds": {name: spread(found) for name, found in times.items()},
        "speed_relative": spread([a / b for a, b in zip(times[PLAIN], times[OURS], strict=True)]),
        "first_peak_gib": {OURS: peak[OURS] / 2**20, PLAIN: peak[PLAIN] / 2**20},
        "same_answers": same,
    })  # fmt: skip


if __name__ == "__main__":
    main()
