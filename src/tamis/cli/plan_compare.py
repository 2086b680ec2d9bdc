"""How long a comparison will take, told before it starts.

Every method is run on a sample as its rankings will be: in the order of the comparison, with one
cache for all, so that what it finds already computed costs it nothing here either.
Rankings of a method are of three kinds: its first, one with another seed, one of a part of the rows
with a seed that it was run with before. Each is measured by itself and told for the rows of every
ranking; one that is there takes no time. What cannot be told is said, not guessed.

A first ranking is measured on three sets of rows that share nothing. What the first takes more than
the second, of the same size, the cache keeps for good (anchors, labelled rows): it is counted once.
The second and the third, larger, give the time per row.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tamis.cli.compare_config import Job
from tamis.cli.plan_ranking import (
    Sample,
    asks_endpoint,
    draw_sample,
    line_minutes,
    minutes_of,
    safe_part,
)
from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.methods import build_method
from tamis.report.text import clipped
from tamis.rng import numpy_generator

if TYPE_CHECKING:
    from tamis.cli.compare import Prepared
    from tamis.cli.progress import ProgressReport

Kind = Literal["first", "seed", "part"]
MEASURED_ROWS = 4000  # of the bootstrap, whose time grows with the rows
MOST_SAFE_ROWS = 500  # to run a method on all of them several times
REASON_CHARACTERS = 120
LITTLE_MINUTES = 0.2  # a bound as low as this is as good as an estimate


@dataclass(frozen=True)
class MethodForecast:
    """What the rankings of one method will take.

    Attributes:
        method: Its label.
        n_left: Rankings to do.
        n_finished: Rankings that are there.
        minutes: Of those to do; None where it cannot be told.
        why: What it rests on, or why it cannot be told.
    """

    method: str
    n_left: int
    n_finished: int
    minutes: float | None
    why: str


@dataclass(frozen=True)
class Forecast:
    """What a comparison will take.

    Attributes:
        methods: One line each, in the order of the configuration.
        measuring_minutes: Reading the rows of every ranking and measuring its scores.
    """

    methods: tuple[MethodForecast, ...]
    measuring_minutes: float

    @property
    def minutes(self) -> float:
        """Of everything that can be told."""
        return self.measuring_minutes + sum(method.minutes or 0.0 for method in self.methods)

    @property
    def untold(self) -> list[str]:
        """Methods whose time is not in the sum."""
        return [method.method for method in self.methods if method.minutes is None]

    def to_json(self) -> dict[str, Any]:
        """Return everything, with the totals."""
        return {**asdict(self), "minutes": self.minutes, "untold": self.untold}


def plan_compare(prepared: Prepared, report: ProgressReport | None = None) -> Forecast:
    """Measure every method that has rankings to do on a sample of the rows.

    Args:
        prepared: The comparison.
        report: Progress of the measurement.
    """
    config, jobs, finished = prepared.config, prepared.jobs, prepared.finished
    kinds = job_kinds(jobs)
    # What is there has filled the cache: those methods are run first, whatever their order.
    order = sorted(config.methods, key=lambda name: not any(
        job.method == name and there for job, there in zip(jobs, finished, strict=True)
    ))  # fmt: skip
    left = {job.method for job, there in zip(jobs, finished, strict=True) if not there}
    sample = draw_sample(prepared.examples, prepared.lengths, 0)
    times: dict[str, Mapping[Kind, _Times] | str] = {}
    n_readouts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="tamis-plan-") as folder:
        measured = _Measured(prepared, sample, Path(folder)) if left else None
        for number, name in enumerate(order if measured else ()):
            assert measured is not None
            wanted = {kind for job, kind, there in zip(jobs, kinds, finished, strict=True)
                      if job.method == name and not there}  # fmt: skip
            times[name] = measured.times(name, wanted)
            n_readouts[name] = measured.n_readouts.get(name, 1)
            if report:
                report("measuring the time", number + 1, len(order), {})
    lines = []
    for name in config.methods:
        mine = [(job, kind) for job, kind, there in zip(jobs, kinds, finished, strict=True)
                if job.method == name and not there]  # fmt: skip
        n_finished = sum(job.method == name for job in jobs) - len(mine)
        lines.append(_line(name, mine, n_finished, times.get(name, {}), sample))
    seconds = prepared.read_seconds * (len(jobs) - sum(finished))
    measuring = sum(_n_rows(job, sample) * n_readouts.get(job.method, 1) for job in jobs)
    return Forecast(tuple(lines), seconds / 60 + measuring * _measuring_minutes(prepared))


def job_kinds(jobs: Sequence[Job]) -> list[Kind]:
    """Say of every ranking what of its work an earlier one has done."""
    methods: set[str] = set()
    seeds: set[tuple[str, int]] = set()
    kinds: list[Kind] = []
    for job in jobs:
        known = job.method in methods
        kinds.append(
            "first" if not known else "part" if (job.method, job.seed) in seeds else "seed"
        )
        methods.add(job.method)
        seeds.add((job.method, job.seed))
    return kinds


@dataclass(frozen=True)
class _Times:
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
            most = self.many[0] * max(1.0, tokens / self.many[1])
            found = most if most <= LITTLE_MINUTES else None
        return None if found is None else found + self.once


def _line(
    name: str, jobs: Sequence[tuple[Job, Kind]], n_finished: int,
    times: Mapping[Kind, _Times] | str, sample: Sample,
) -> MethodForecast:  # fmt: skip
    """Add up the rankings of one method."""
    if not jobs:
        return MethodForecast(name, 0, n_finished, 0.0, "finished")
    if isinstance(times, str):
        return MethodForecast(name, len(jobs), n_finished, None, times)
    per_row = sample.all_tokens / sample.n_rows
    each = [times[kind].minutes(per_row * _n_rows(job, sample)) for job, kind in jobs]
    known = [minutes for minutes in each if minutes is not None]
    on = f"{len(sample.ids)} rows"
    if len(known) < len(each):
        why = f"cannot be told: of {on}, the smaller part took as long as the larger"
        return MethodForecast(name, len(jobs), n_finished, None, why)
    return MethodForecast(name, len(jobs), n_finished, sum(known), on)


def _n_rows(job: Job, sample: Sample) -> int:
    return sample.n_rows if job.ids is None else len(job.ids)


class _Measured:
    """Runs methods on parts of the sample, with one cache for all of them."""

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
        quarter = max(1, len(sample.ids) // 4)
        # The longest rows come first in a sample; they are in the largest set.
        self._rows = {"cold": slice(-quarter, None), "few": slice(-2 * quarter, -quarter),
                      "many": slice(0, max(1, len(sample.ids) - 2 * quarter))}  # fmt: skip

    def times(self, name: str, kinds: set[Kind]) -> Mapping[Kind, _Times] | str:
        """Return the time of every kind asked for, or why it cannot be told."""
        method = self._prepared.config.methods[name]
        if asks_endpoint(method.resolved()):
            return "cannot be told: it asks an endpoint, and asking costs"
        try:
            cold, whole_safe = self._cold(name)
            found: dict[Kind, _Times] = {}
            wanted: list[Kind] = ["first", "seed", "part"]
            for kind in wanted:
                # The first fills the cache, for the other kinds and for other methods.
                if kind == "first" or kind in kinds:
                    few, many = (self._run(name, size, kind, whole_safe)
                                 for size in ("few", "many"))  # fmt: skip
                    once = max(0.0, cold - few[0]) if kind == "first" else 0.0
                    found[kind] = _Times(few, many, once, kind != "first")
        except Exception as error:  # a method that needs more rows must not end the comparison
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
            name=method.name,
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


def _measuring_minutes(prepared: Prepared) -> float:
    """Time the measures of one readout, per row, on random scores and the real labels."""
    from tamis.evaluation.compare import Cell, cell_measures
    from tamis.methods.scores import Scores

    order = numpy_generator(0, "plan", "measures").permutation(len(prepared.examples))
    chosen = np.sort(order[:MEASURED_ROWS])
    rows = prepared.examples.restrict([prepared.examples.ids[i] for i in chosen])
    values = numpy_generator(0, "plan", "scores").random(len(rows))
    scores = Scores("plan", rows.ids, rows.source_ids, values, ["ok"] * len(rows), None)
    cell = Cell("all", "plan", 0, scores)
    found = minutes_of(lambda: cell_measures(cell, prepared.labels, 0, prepared.shapes.slices))
    return found / len(rows)
