"""How long a comparison will take, told before it starts.

Every method is run on a sample as its rankings will be: in the order of the comparison, with one
cache for all, so that what it finds already computed costs it nothing here either.
Rankings of a method are of three kinds: its first, one with another seed, one of a part of the rows
with a seed that it was run with before. Each is measured by itself and told for the rows of every
ranking; one that is there takes no time. What cannot be told is said, not guessed.

A first ranking, and one with another seed, is measured on three sets of rows that share nothing.
What the first takes more than the second, of the same size, the cache keeps for good (anchors,
labelled rows): it is counted once, or once per seed. The second and the third, larger, give the
time per row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.cli.compare_config import Job
from tamis.cli.plan_compare_sample import Kind, Measured, Times
from tamis.cli.plan_ranking import Sample, draw_sample, minutes_of
from tamis.rng import numpy_generator

if TYPE_CHECKING:
    from tamis.cli.compare import Prepared
    from tamis.cli.progress import ProgressReport

MEASURED_ROWS = 4000  # of the bootstrap, whose time grows with the rows


@dataclass(frozen=True)
class MethodForecast:
    """What the rankings of one method will take.

    Attributes:
        method: Its label.
        n_left: Rankings to do.
        n_finished: Rankings that are there.
        minutes: Of those to do; None where it cannot be told.
        why: What it rests on, or why it cannot be told.
        refusal: What the method said where it refused rows of the sample; it may refuse rankings.
    """

    method: str
    n_left: int
    n_finished: int
    minutes: float | None
    why: str
    refusal: str | None = None


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
    times: dict[str, Mapping[Kind, Times] | str] = {}
    n_readouts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="tamis-plan-") as folder:
        measured = Measured(prepared, sample, Path(folder)) if left else None
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
        line = _line(name, mine, n_finished, times.get(name, {}), sample)
        lines.append(replace(line, refusal=measured.refusals.get(name) if measured else None))
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


def _line(
    name: str, jobs: Sequence[tuple[Job, Kind]], n_finished: int,
    times: Mapping[Kind, Times] | str, sample: Sample,
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
