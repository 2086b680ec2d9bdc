"""Running the methods of a comparison on a sample of its rows, as `plan_compare` needs them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tamis.cli.plan_ranking import Sample, asks_endpoint, line_minutes, minutes_of, safe_part
from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.errors import TamisError
from tamis.methods import build_method
from tamis.report.text import clipped
from tamis.rng import numpy_generator

if TYPE_CHECKING:
    from tamis.cli.compare import Prepared

Kind = Literal["first", "seed", "part"]
MOST_SAFE_ROWS = 500  # to run a method on all of them several times
REASON_CHARACTERS = 120
LITTLE_MINUTES = 0.2  # a bound as low as this is as good as an estimate


@dataclass(frozen=True)
class Times:
    """Minutes and tokens of two sets of rows, minutes that come once, whether rows are known."""

    few: tuple[float, int]
    many: tuple[float, int]
    once: float = 0.0
    cached: bool = False

    def minutes(self, tokens: float) -> float | None:
        """Of a ranking of so many tokens; None where the sample does not tell."""
        found = line_minutes(self.few, self.many, tokens)
        if found is None and self.cached:  # what is done for a row is done: the rest is constant
            found = max(self.few[0], self.many[0])
        if found is None:  # at most in proportion
            most = self.many[0] * max(1.0, tokens / max(1, self.many[1]))
            found = most if most <= LITTLE_MINUTES else None
        return None if found is None else found + self.once


class Measured:
    """Runs methods on parts of the sample, with one cache for all of them.

    Attributes:
        n_readouts: Of every method that was run.
        refusals: What methods said that refused rows of the sample, in full.
    """

    def __init__(self, prepared: Prepared, sample: Sample, work: Path) -> None:
        config = prepared.config
        self._prepared, self._sample, self._work = prepared, sample, work
        self._runs = itertools.count()
        others = config.safe_data or config.data
        self._safe, self._harmful = (
            None if given is None else load_examples(given, others)
            for given in (config.safe_set, config.harmful_set)
        )
        self.n_readouts: dict[str, int] = {}
        self.refusals: dict[str, str] = {}
        quarter = max(1, len(sample.ids) // 4)
        # The longest rows come first in a sample; they are in the largest set.
        self._rows = {"cold": slice(-quarter, None), "few": slice(-2 * quarter, -quarter),
                      "many": slice(0, max(1, len(sample.ids) - 2 * quarter))}  # fmt: skip

    def times(self, name: str, kinds: set[Kind]) -> Mapping[Kind, Times] | str:
        """Return the time of every kind asked for, or why it cannot be told."""
        method = self._prepared.config.methods[name]
        if asks_endpoint(method.resolved()):
            return "cannot be told: it asks an endpoint, and asking costs"
        try:
            cold, whole_safe = self._cold(name)
            found: dict[Kind, Times] = {}
            wanted: list[Kind] = ["first", "seed", "part"]
            for kind in wanted:
                # The first fills the cache, for the other kinds and for other methods.
                if kind == "first" or kind in kinds:
                    if kind == "seed":  # gradients of anchors, for one, are kept by seed
                        cold = self._run(name, "cold", kind, whole_safe)[0]
                    few, many = (self._run(name, size, kind, whole_safe)
                                 for size in ("few", "many"))  # fmt: skip
                    once = 0.0 if kind == "part" else max(0.0, cold - few[0])
                    found[kind] = Times(few, many, once, kind != "first")
        except Exception as error:  # a method that needs more rows must not end the comparison
            if isinstance(error, TamisError):
                self.refusals[name] = str(error)
            why = clipped(" ".join(str(error).split()), REASON_CHARACTERS)[0]
            return f"cannot be told: on a few rows it stops ({why})"
        return found

    def _cold(self, name: str) -> tuple[float, bool]:
        """Run for the first time; return the minutes, and whether the whole safe set is needed.

        A method that refuses a few safe rows is given all: its work on them then comes once. What
        it did before it refused is in the cache, so that time counts too.
        """
        start = time.perf_counter()
        whole_safe = False
        try:
            self._run(name, "cold", "first", whole_safe)
        except Exception:
            if self._safe is None or len(self._safe) > MOST_SAFE_ROWS:
                raise
            whole_safe = True
            self._run(name, "cold", "first", whole_safe)
        return (time.perf_counter() - start) / 60, whole_safe

    def _run(self, name: str, size: str, kind: Kind, whole_safe: bool) -> tuple[float, int]:
        """Rank some rows of the sample; return minutes and tokens."""
        from tamis.methods.base import rank

        config = self._prepared.config
        method = config.methods[name]
        built = build_method(method.name, method.options)
        # A part of the rows is one fewer, where there are two, so that it is another set.
        chosen = list(zip(self._sample.ids, self._sample.lengths, strict=True))[self._rows[size]]
        chosen = chosen[1:] or chosen if kind == "part" else chosen
        rows = self._sample.seen.restrict([row for row, _ in chosen])
        seed = 1 if kind == "seed" else 0
        sets: dict[str, Any] = {"harmful_set": self._harmful}
        if self._safe is not None:
            least = len(self._safe) if whole_safe else getattr(built, "safe_batch_size", 1)
            sets["safe_set"] = safe_part(self._safe, len(rows), self._sample.n_rows, least, seed=0)
        if "trusted_set" in built.requires:
            sets["trusted_set"], sets["trusted_harmful"] = self._trusted(seed)
        work = self._work / f"run-{next(self._runs)}"
        scores: list[Any] = []
        minutes = minutes_of(lambda: scores.append(rank(
            rows, built, **sets, model=self._prepared.model if "model" in built.requires else None,
            render=config.render, seed=seed, work=work, cache=self._work / "cache",
            name=method.name, also=self._prepared.also,
        )))  # fmt: skip
        self.n_readouts[name] = len(scores[0].readouts())
        return minutes, sum(length for _, length in chosen)

    def _trusted(self, seed: int) -> tuple[Examples, np.ndarray[Any, Any]]:
        """Draw as many labelled rows as every ranking is given."""
        examples, truth = self._prepared.examples, self._prepared.truth
        order = numpy_generator(seed, "plan", "trusted").permutation(len(examples))
        drawn = np.sort(order[: self._prepared.config.n_trusted])
        harmful = np.array([truth[i].harmful for i in drawn], dtype=bool)
        return examples.restrict([examples.ids[i] for i in drawn]), harmful
