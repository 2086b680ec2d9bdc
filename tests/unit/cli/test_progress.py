"""Progress: the time shown is of the work at hand, not of the same work done before."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from tamis.cli.progress import ProgressReport


class Clock:
    """Seconds, as a test sets them."""

    now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock instead of the machine's."""
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


def lines(clock: Clock, calls: list[tuple[float, int, int]]) -> list[str]:
    """What is printed where the output is no terminal, for calls at (seconds, done, total)."""
    text = io.StringIO()
    report = ProgressReport(Console(file=text, width=100))
    for seconds, done, total in calls:
        clock.now += seconds
        report("answers", done, total, {})
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


@pytest.mark.parametrize(
    "second",
    [
        [(100, 8, 16), (20, 16, 16)],  # the next cell, in the same steps
        [(100, 4, 32), (20, 32, 32)],  # fewer than the first had done when it was first told
        [(100, 16, 32), (20, 32, 32)],  # as many as the first had in all
        [(100, 20, 32), (20, 32, 32)],  # more
    ],
)  # fmt: skip
def test_the_same_work_on_other_rows_starts_at_zero(
    clock: Clock, second: list[tuple[float, int, int]]
) -> None:
    """Each takes 10 or 20 seconds, with a long pause between them."""
    shown = lines(clock, [(0, 8, 16), (10, 16, 16), *second])
    assert shown[1].endswith("10 s")
    assert shown[-1].endswith("20 s")


def test_work_that_goes_on_keeps_its_time(clock: Clock) -> None:
    """Also where a step is told twice."""
    shown = lines(clock, [(0, 1, 4), (10, 2, 4), (10, 2, 4), (10, 4, 4)])
    assert shown[-1].endswith("30 s")


def test_a_bar_starts_again_too() -> None:
    """It is the same bar, as old as the new work."""
    console = Console(file=io.StringIO(), force_terminal=True)
    report = ProgressReport(console)
    for done in (1, 2):
        report("answers", done, 2, {})
    (bar,) = report._bars.tasks
    bar.start_time = (bar.start_time or 0) - 100
    report("answers", 1, 3, {})
    assert (bar.completed, bar.total) == (1, 3)
    assert (bar.elapsed or 0) < 50


def test_a_small_figure_is_not_zero() -> None:
    """A learning rate has its digits."""
    text = io.StringIO()
    figures = {"loss": 1.23456, "learning_rate": 0.0002}
    ProgressReport(Console(file=text, width=100))("finetune", 1, 1, figures)
    assert "loss 1.235 learning_rate 0.0002" in " ".join(text.getvalue().split())
