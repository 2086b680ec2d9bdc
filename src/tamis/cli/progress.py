"""Progress of long work: live bars on a terminal, one line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tamis.report.text import visible

LINE_EVERY_SECONDS = 15.0  # between lines when the output is no terminal


class ProgressReport:
    """Callable as `report(stage, done, total, figures)`; shows rows or steps per second too."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.is_terminal
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
            MofNCompleteColumn(), TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[int, int]] = {}
        self._last_line = 0.0

    def __enter__(self) -> ProgressReport:
        """Start the bars."""
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Stop the bars."""
        if self._live:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        """Show how far a stage is."""
        now = time.monotonic()
        last, last_total = self._last.get(stage, (-1, total))
        self._last[stage] = done, total
        if done < last or last >= last_total or total != last_total:  # the same work on other rows
            del self._started[stage]
            if stage in self._tasks:
                self._bars.reset(self._tasks[stage], total=total)
        first_time, first_done = self._started.setdefault(stage, (now, done))
        seconds = now - first_time
        rate = (done - first_done) / seconds if seconds > 0 else 0.0
        shown = "  ".join(f"{visible(name)} {_short(value)}" for name, value in figures.items())
        if rate:
            shown += f"  {rate:.2f}/s"
        if self._live:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(visible(stage), total=total, figures="")
            self._bars.update(self._tasks[stage], completed=done, total=total, figures=shown)
        elif done == total or now - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = now
            left = f"  {(total - done) / rate:.0f} s left" if rate and done < total else ""
            self.console.print(
                f"{visible(stage)}: {done}/{total}  {shown}  {seconds:.0f} s{left}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _short(value: float) -> str:
    """Three decimals; of a small number three digits, for .0002 is not 0."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"
