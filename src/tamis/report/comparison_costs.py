"""What the rankings of a comparison cost: time, memory, passes, and what others spared them."""

from __future__ import annotations

from tamis.report.comparison_records import Compared, ComparisonRecord
from tamis.report.tables import Cell, Table
from tamis.report.text import NOT_MEASURED, duration, number


def cost_table(found: ComparisonRecord) -> Table:
    """Time, memory and passes of every method on every set of rows."""
    rows = []
    for entry in found.entries:
        held = () if entry.start_gib is None else (f"{number(entry.start_gib)} at its start",)
        rows.append((
            Cell(entry.method, (entry.rows,), kind="head"), labels_cell(entry),
            Cell(number(len(entry.seconds)), _drawn(entry), kind="num"),
            Cell(duration(sum(entry.seconds)), _resumed(entry), kind="num"),
            _gib_cell(entry.peak_gib, held), _gib_cell(entry.gpu_gib),
            _number_cell(entry.mean_passes("forward"), _cached(entry)),
            _number_cell(entry.mean_passes("backward")),
        ))  # fmt: skip
    head = ("Method and rows", "Labels", "Rankings", "Time of all", "Peak memory, GiB", "GPU, GiB",
            "Forward passes per token", "Backward passes per token")  # fmt: skip
    caption = (
        "What the rankings cost; passes are means. Cached: an earlier one left what this one reads "
        "of the model, or some of it, and paid for it; alone it would take more. Begun before: "
        "time, memory and passes are those since it went on"
    )
    return Table(caption, head, tuple(rows))


def labels_cell(entry: Compared) -> Cell:
    """Say what a method owes to labels."""
    return Cell(", ".join(entry.label_use)) if entry.label_use else Cell("none", kind="none")


def _gib_cell(value: float | None, notes: tuple[str, ...] = ()) -> Cell:
    if value is None:
        return Cell(NOT_MEASURED, kind="none")
    return Cell(number(float(value)), notes, kind="num")


def _cached(entry: Compared) -> tuple[str, ...]:
    return _counted(entry, entry.n_cached, "cached")


def _resumed(entry: Compared) -> tuple[str, ...]:
    return _counted(entry, entry.n_resumed, "begun before")


def _counted(entry: Compared, n: int, what: str) -> tuple[str, ...]:
    """Say of how many rankings something is true; nothing where of none."""
    if not n:
        return ()
    return (what if n == len(entry.seconds) else f"{n:,} of {len(entry.seconds):,} {what}",)


def _drawn(entry: Compared) -> tuple[str, ...]:
    """Name the seeds, and the plantings where these are others."""
    said = [f"seed{'s' * (len(set(entry.seeds)) > 1)} {_some(entry.seeds)}"] if entry.seeds else []
    if entry.draws != entry.seeds:
        said.append(f"plantings {_some(entry.draws)}")
    return tuple(said)


def _some(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, dict.fromkeys(numbers)))


def _number_cell(value: float | None, notes: tuple[str, ...] = ()) -> Cell:
    if value is None:
        return Cell("none counted", kind="none")
    return Cell(number(float(value)), notes, kind="num")
