"""Reading rows once for all methods of the comparison, against once for every method that asks.

Reading alone is timed: what `reads` of the methods names, in their order, with a cache on disk.

    python benchmarks/one_reading.py --rows 120 --safe 40
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from comparison import METHODS
from environment import environment, interleaved, labelled_rows, spread, write_result

from tamis.data.template import RenderConfig, render
from tamis.methods import build_method, merged_reads, reads_of
from tamis.models.features import FeatureCache
from tamis.models.load import load_model
from tamis.models.lora import layer_count


def main() -> None:
    """Time both, one after another, in every repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--safe", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    lm = load_model()
    config = RenderConfig(max_prompt_tokens=96, max_response_tokens=96)
    rows, safe = (render(some, lm.tokenizer, config)
                  for some in labelled_rows(arguments.rows, arguments.safe))  # fmt: skip
    sets = {"finetuning_set": rows, "safe_set": safe}
    built = {}
    for group in METHODS.values():
        for label, options in group.items():
            given = {k: v for k, v in options.items() if k not in ("name", "chosen_with_labels")}
            built[label] = build_method(options.get("name", label), given)
    reads = {label: reads_of(method, layer_count(lm.model)) for label, method in built.items()}
    union = merged_reads(reads.values())

    def read(*, once: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            cache = FeatureCache(lm, Path(folder))
            for which, names in union.items() if once else ():
                if which in sets:
                    cache.read_with(sets[which], names)
            for wanted in reads.values():
                for which, names in wanted.items():
                    if which in sets:
                        cache.ensure(sets[which], names)

    FeatureCache(lm).ensure(safe, ["loss"])  # the first pass of a process is slower
    arms = {"each method reads": lambda: read(once=False), "one reading": lambda: read(once=True)}
    times = interleaved(arms, lm.device, arguments.repeats)
    each, once = times.values()
    found = {
        "environment": environment(lm),
        "settings": {**vars(arguments), "reads": reads},
        "seconds": {name: spread(values) for name, values in times.items()},
        "one_reading_over_each": spread([b / a for a, b in zip(each, once, strict=True)]),
    }
    print(found["one_reading_over_each"])
    write_result("one_reading", found)


if __name__ == "__main__":
    main()
