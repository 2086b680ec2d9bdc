"""How long a ranking will take: it is run on few rows and on more, and the time is the line.

Both samples hold some of the longest rows, and safe rows in proportion to the rows. What a method
does once, such as loading a guard, is then told from what it does for every row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis.data.example import Examples
from tamis.errors import ConfigError, DataError
from tamis.rng import numpy_generator

SAMPLE_ROWS, FEW_ROWS = 32, 8
LONGEST_ROWS = 4  # of the sample: they decide the memory
RENDERED_ROWS = 2000  # lengths are read from so many rows
LEAST_SAFE_ROWS = 4  # fewer, and a method that halves its safe set has nothing to learn from


@dataclass(frozen=True)
class Sample:
    """The rows that are measured, the longest first, and what they stand for."""

    seen: Examples
    ids: list[str]
    lengths: list[int]
    all_tokens: float
    n_rows: int

    def first(self, n: int) -> Examples:
        """Return the rows of the first n ids: those of the first n lengths."""
        return self.seen.restrict(self.ids[:n])

    def tokens(self, n: int) -> int:
        """Return the length of the first n rows, at least 1."""
        return max(1, sum(self.lengths[:n]))


def draw_sample(
    examples: Examples, lengths_of: Callable[[Examples], np.ndarray[Any, Any]], seed: int
) -> Sample:
    """Draw the rows to measure.

    Args:
        examples: All rows.
        lengths_of: Length of each of some rows, in tokens or whatever the time goes with.
        seed: Of the draw.
    """
    order = numpy_generator(seed, "plan").permutation(len(examples))[:RENDERED_ROWS]
    seen = examples.restrict([examples.ids[i] for i in order])
    lengths = lengths_of(seen)
    longest = np.argsort(-lengths, kind="stable")[:LONGEST_ROWS].tolist()
    # Drawn again: a part keeps the order of the file, which may be sorted.
    drawn = numpy_generator(seed, "plan", "sample").permutation(len(seen)).tolist()
    chosen = [*longest, *(i for i in drawn if i not in longest)][:SAMPLE_ROWS]
    return Sample(
        seen, [seen.ids[i] for i in chosen], lengths[chosen].tolist(),
        float(lengths.mean()) * len(examples), len(examples),
    )  # fmt: skip


def safe_part(safe: Examples, n: int, n_rows: int, least: int, seed: int) -> Examples:
    """Return as many safe rows to n rows as there are to all of them, but not fewer than a few."""
    wanted = max(round(len(safe) * n / n_rows), least, LEAST_SAFE_ROWS)
    drawn = numpy_generator(seed, "plan", "safe").permutation(len(safe))[:wanted]
    return safe.restrict([safe.ids[i] for i in drawn])


def line_minutes(
    few: tuple[float, int], many: tuple[float, int], all_tokens: float
) -> float | None:
    """Read the time of all rows off the line through two measurements.

    Args:
        few: Minutes and tokens of the smaller sample.
        many: The same of the larger.
        all_tokens: Tokens of all rows.

    Returns:
        Minutes; None where the time did not grow from one to the other: too few rows, or too quick.
    """
    (few_minutes, few_tokens), (minutes, tokens) = few, many
    if tokens <= few_tokens or minutes <= few_minutes:
        return None
    rate = (minutes - few_minutes) / (tokens - few_tokens)
    return max(0.0, minutes - rate * tokens) + rate * all_tokens


def minutes_of(work: Callable[[], Any]) -> float:
    """Do it and say how long it took."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / 60


def attempted(work: Callable[[], Any]) -> tuple[float, Exception | None]:
    """Do it, and say how long it took and what refused its rows or settings; other faults pass."""
    refusals: list[Exception] = []

    def attempt() -> None:
        try:
            work()
        except (ConfigError, DataError) as error:
            refusals.append(error)

    return minutes_of(attempt), next(iter(refusals), None)


def kept_bytes(folder: Path, scale: float) -> float:
    """Tell the size of kept features from those of a sample.

    Args:
        folder: Features of the sample.
        scale: How many times the sample there is of all rows.

    Returns:
        Bytes: rows' values times `scale`, and once what is kept beside them, such as means.
    """
    return sum(
        path.stat().st_size * (scale if path.name.startswith("part-") else 1.0)
        for path in folder.rglob("*.safetensors")
    )


def asks_endpoint(settings: Any) -> bool:
    """Whether a method, or one that it is made of, asks an endpoint; settings as resolved."""
    if not isinstance(settings, Mapping):
        return False
    return settings.get("backend") == "endpoint" or any(map(asks_endpoint, settings.values()))
