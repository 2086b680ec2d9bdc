"""The expected time of a comparison: shared work counts once, what cannot be told is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tamis.cli.compare import prepare, run_compare
from tamis.cli.compare_config import CompareConfig, Job
from tamis.cli.plan_compare import Forecast, job_kinds, plan_compare
from tamis.cli.plan_compare_sample import Times
from tamis.errors import DataError, MismatchError
from tamis.methods.base import RankingInputs
from tamis.methods.scores import Scores

N, PAUSE = 400, 0.02  # rows, and seconds a row takes that is not in the cache


class Clock:
    """Time that passes in rankings alone, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def perf_counter(self) -> float:
        """A tick passes with every look."""
        self.pause(1e-4)
        return self.now


CLOCK = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rankings on samples are timed by it."""
    for place in ("plan_compare_sample", "plan_ranking"):
        monkeypatch.setattr(f"tamis.cli.{place}.time", CLOCK)


HERE = __name__


class Slow:
    """Takes PAUSE for every row that no ranking with the same cache has seen."""

    requires: ClassVar[frozenset[str]] = frozenset()
    least_rows = 0

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row 0."""
        rows = inputs.finetuning_set
        if len(rows) < self.least_rows:
            raise ValueError(f"{self.least_rows} rows or more")
        for row in rows.ids:
            mark = None if inputs.cache is None else inputs.cache / "slow" / row
            if mark is None or not mark.exists():
                CLOCK.pause(PAUSE)
            if mark is not None:
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
        n = len(rows)
        return Scores("slow", rows.ids, rows.source_ids, np.zeros(n), ["ok"] * n, None)


class Fussy(Slow):
    """Refuses a sample."""

    least_rows = 50


class Refusing(Slow):
    """Refuses any rows."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Say what it needs."""
        raise DataError(f"{len(inputs.finetuning_set)} rows are too few: give a million")


class Loading(Slow):
    """Needs four seconds the first time, whatever the rows."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Wait for what is not in the cache."""
        assert inputs.cache is not None
        mark = inputs.cache / "loaded"
        if not mark.exists():
            CLOCK.pause(4)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        return super().rank(inputs)


class Seeded(Slow):
    """Needs two seconds and PAUSE for every row with every new seed."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Look for what this seed has left."""
        assert inputs.cache is not None
        cache = inputs.cache / str(inputs.seed)
        if not cache.exists():
            CLOCK.pause(2)
            cache.mkdir(parents=True)
        return super().rank(replace(inputs, cache=cache))


class Labelled:
    """Is given labels of some rows."""

    requires: ClassVar[frozenset[str]] = frozenset({"trusted_set"})

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row 0."""
        rows, n = inputs.finetuning_set, len(inputs.finetuning_set)
        return Scores("labelled", rows.ids, rows.source_ids, np.zeros(n), ["ok"] * n, None)


class Halving(Slow):
    """Needs its whole safe set."""

    requires: ClassVar[frozenset[str]] = frozenset({"safe_set"})

    def rank(self, inputs: RankingInputs) -> Scores:
        """Refuse a part of it."""
        if inputs.safe_set is None or len(inputs.safe_set) < 30:
            raise ValueError("30 safe rows or more")
        return super().rank(inputs)


ENDPOINT = {"name": "guard", "backend": "endpoint", "guard": "g",
            "endpoint": {"base_url": "http://127.0.0.1:9/v1"}}  # fmt: skip


ENDPOINT_OPTIONS = {name: value for name, value in ENDPOINT.items() if name != "name"}


def comparison(folder: Path, methods: dict[str, Any], n: int = N, **settings: Any) -> CompareConfig:
    """Settings of a comparison of labelled rows of equal length."""
    rows = [{"id": f"r{i}", "prompt": f"{i:04}", "completion": "yes"} for i in range(n)]
    labels = [{"id": f"r{i}", "harmful": i % 4 == 0} for i in range(n)]
    for name, lines in (("rows", rows), ("labels", labels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return CompareConfig.model_validate({
        "finetuning_set": str(folder / "rows.jsonl"), "labels": folder / "labels.jsonl",
        "out": folder / "out", "methods": methods, **settings,
    })  # fmt: skip


def expected(config: CompareConfig) -> Forecast:
    """The expected time of a comparison."""
    return plan_compare(prepare(config))


def test_the_first_ranking_does_the_work_of_later_ones() -> None:
    """Another seed, a part with a known seed, a part with a new one, and another method."""
    order = [("all", "a", 0), ("all", "b", 0), ("all", "a", 1), ("p", "a", 1), ("p", "b", 2)]
    todo = [Job(rows, None, method, seed, seed) for rows, method, seed in order]
    assert job_kinds(todo) == ["first", "first", "seed", "part", "seed"]


def test_shared_work_is_counted_once(tmp_path: Path) -> None:
    """400 rows of 20 ms are 8 s; the second seed and the second method find them in the cache."""
    slow = {"name": f"{HERE}:Slow"}
    found = expected(comparison(tmp_path, {"one": slow, "two": slow}, seeds=[0, 1]))
    one, two = (method.minutes for method in found.methods)
    assert one is not None
    assert two is not None
    assert one * 60 == pytest.approx(N * PAUSE, rel=0.5)  # a pause is never shorter, often longer
    assert two < 0.3 * one
    assert [method.n_left for method in found.methods] == [2, 2]
    assert found.minutes >= one + two
    assert not (tmp_path / "out").exists()


def test_what_is_done_once_is_neither_scaled_nor_forgotten(tmp_path: Path) -> None:
    """4 seconds once and 400 rows of 20 ms are 12; the rows alone would be 8."""
    (it,) = expected(comparison(tmp_path, {"it": {"name": f"{HERE}:Loading"}})).methods
    assert it.minutes is not None
    assert it.minutes * 60 == pytest.approx(4 + N * PAUSE, rel=0.25)


def test_what_is_done_once_a_seed_is_neither_scaled_nor_forgotten(tmp_path: Path) -> None:
    """Two seeds of 2 seconds and 400 rows of 20 ms are 20; a part of known rows adds nothing."""
    (it,) = expected(comparison(tmp_path, {"it": {"name": f"{HERE}:Seeded"}}, seeds=[0, 1],
                                parts={"few": {"rate": 0.1}})).methods  # fmt: skip
    assert it.minutes is not None
    assert it.minutes * 60 == pytest.approx(2 * (2 + N * PAUSE), rel=0.25)


def test_finished_rankings_take_no_time(tmp_path: Path) -> None:
    """And they have filled the cache for the method that is added later."""
    slow = {"name": f"{HERE}:Slow"}
    run_compare(prepare(comparison(tmp_path, {"one": slow}, n=40)))
    one, two = expected(comparison(tmp_path, {"two": slow, "one": slow}, n=40)).methods[::-1]
    assert (one.n_left, one.n_finished, one.minutes) == (0, 1, 0.0)
    assert (two.n_left, two.n_finished) == (1, 0)
    assert two.minutes is not None
    assert two.minutes * 60 < 0.3 * 40 * PAUSE


def test_rankings_that_will_be_replaced_are_to_be_done(tmp_path: Path) -> None:
    """With --overwrite another method under the old label is run, on all rows and on a part."""
    old = {"it": {"name": "uniform"}, "learns": {"name": f"{HERE}:Labelled"}}
    parts = {"few": {"rate": 0.1}}
    settings: dict[str, Any] = {"n": 40, "n_trusted": 20, "parts": parts}
    run_compare(prepare(comparison(tmp_path, old, **settings)))
    changed = {**old, "it": {"name": "trivial"}}
    prepared = prepare(comparison(tmp_path, changed, **settings), overwrite=True)
    it, learns = plan_compare(prepared).methods
    assert (it.n_left, it.n_finished) == (2, 0)
    assert (learns.n_left, learns.n_finished) == (0, 2)


def test_a_method_that_refuses_a_few_safe_rows_is_given_all(tmp_path: Path) -> None:
    """30 safe rows are 2 to 32 of 400 rows; with all of them it runs, and its time is told."""
    safe = [{"prompt": f"s{i}", "completion": "no"} for i in range(30)]
    (tmp_path / "safe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in safe))
    config = comparison(tmp_path, {"it": {"name": f"{HERE}:Halving"}},
                        safe_set=str(tmp_path / "safe.jsonl"))  # fmt: skip
    (it,) = expected(config).methods
    assert it.minutes is not None
    assert it.minutes * 60 == pytest.approx(N * PAUSE, rel=0.5)


def test_known_rows_that_take_no_longer_are_a_constant() -> None:
    """A fit of a minute, whatever the rows; of unknown rows that would be a guess."""
    assert Times((1.0, 10), (0.9, 40), cached=True).minutes(4000) == 1.0
    assert Times((1.0, 10), (0.9, 40)).minutes(4000) is None
    assert Times((1.0, 10), (2.0, 20), once=5.0).minutes(100) == pytest.approx(15.0)


def test_rows_without_a_token_to_train_on_give_a_bound_or_nothing() -> None:
    """As where the limits leave none of the sample."""
    assert Times((0.2, 0), (0.1, 0)).minutes(0) == 0.1
    assert Times((2.0, 0), (1.0, 0)).minutes(0) is None


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ({"name": f"{HERE}:Fussy"}, "on a few rows it stops (50 rows or more)"),
        (ENDPOINT, "asks an endpoint"),
        (
            {"name": "auto", "signals": {"it": {"method": "guard", "options": ENDPOINT_OPTIONS}}},
            "asks an endpoint",
        ),
    ],
)
def test_what_cannot_be_told_is_said(tmp_path: Path, method: dict[str, Any], why: str) -> None:
    """A method that refuses a sample, one that costs money to ask: no number, and the reason."""
    found = expected(comparison(tmp_path, {"it": method, "uniform": {"name": "uniform"}},
                                safe_set=str(tmp_path / "rows.jsonl")))  # fmt: skip
    it, uniform = found.methods
    assert it.minutes is None
    assert why in it.why
    assert uniform.minutes is not None
    assert found.untold == ["it"]
    assert found.to_json()["minutes"] == found.minutes < 1


def test_a_refusal_of_the_sample_is_told_in_full(tmp_path: Path) -> None:
    """What the method said; another fault is none."""
    it, fussy = expected(comparison(tmp_path, {
        "it": {"name": f"{HERE}:Refusing"}, "fussy": {"name": f"{HERE}:Fussy"},
    })).methods  # fmt: skip
    assert it.minutes is None
    assert it.refusal is not None
    assert it.refusal.endswith("rows are too few: give a million")
    assert fussy.refusal is None


def test_a_ranking_of_other_rows_is_replaced_on_demand_only(tmp_path: Path) -> None:
    """The message names the way out, and the way works."""
    methods = {"it": {"name": "uniform"}}
    run_compare(prepare(comparison(tmp_path, methods, n=40)))
    changed = comparison(tmp_path, methods, n=44)
    with pytest.raises(MismatchError, match="--overwrite to replace them"):
        prepare(changed)
    found = run_compare(prepare(changed, overwrite=True))
    assert found["entries"][0]["readouts"]["score"]["n"] == 44
