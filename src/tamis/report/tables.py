"""The report's tables: cells of finished text, shown alike by the page and by the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tamis.evaluation.statistics import Estimate
from tamis.report.collect import Collected, flat_settings
from tamis.report.records import Detection, Facts, Interval, RankRecord, SelectRecord
from tamis.report.text import NOT_MEASURED, duration, number, percent, setting, share, short_id

_OUTCOMES = {
    "ok": "scored as they are",
    "truncated": "scored on what is left after shortening the prompt or cutting the response",
    "too_long": "not scored: longer than allowed, and either on_too_long is drop or what must stay "
    "(headers, the system turn) leaves no room for the rest",
    "no_trained_tokens": "not scored: no token of the response is left to learn from",
    "template_refused": "not scored: the chat template refuses the conversation",
}
MAIN_SLICES = ("clear", "hard_negative")
SLICES = {
    "": "all rows",
    "clear": "clear: no harmful rows of tier weak",
    "hard_negative": "against hard negatives",
}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        notes: Smaller lines below.
        title: What a pointer held over it shows.
        kind: "num", "id", "none" (not measured), "head", "name", "plot" or "".
        drawing: An inline SVG instead of text.
    """

    text: str = ""
    notes: tuple[str, ...] = ()
    title: str = ""
    kind: str = ""
    drawing: Markup | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; an empty head shows none."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def count_cell(value: int | None) -> Cell:
    """A count, or "not measured"."""
    return Cell(number(value), kind="num" if value is not None else "none")


def id_cell(identifier: str | None) -> Cell:
    """A shortened id, hash or commit with the whole one in its title."""
    if not identifier:
        return Cell(NOT_MEASURED, kind="none")
    return Cell(short_id(identifier), title=identifier, kind="id")


def interval_cell(found: Interval | Estimate, *, as_percent: bool, counted: bool = False) -> Cell:
    """A number over its 95% interval and, if wanted, what it rests on."""
    shown = percent if as_percent else number
    rests = (
        (f"n = {found.n:,}, unscored {found.n_unscored:,}",)
        if counted and isinstance(found, Estimate) else ()
    )  # fmt: skip
    if shown(found.value) == NOT_MEASURED:
        return Cell(NOT_MEASURED, rests, kind="none")
    bounds = (shown(found.low), shown(found.high))
    # A number without its interval would read as exact.
    interval = "no interval" if NOT_MEASURED in bounds else f"{bounds[0]} to {bounds[1]}"
    return Cell(shown(found.value), (interval, *rests), kind="num")


def detection_tables(ranks: Sequence[RankRecord]) -> tuple[Table | None, Table | None]:
    """Every readout of every ranking against the labels: main slices, and all others."""
    main: list[tuple[Cell, ...]] = []
    others: list[tuple[Cell, ...]] = []
    names = dict.fromkeys(
        name for rank in ranks if rank.quality
        for readout in rank.quality.readouts.values() for name in ("", *readout.slices)
    )  # fmt: skip
    ordered = [n for n in ("", *MAIN_SLICES) if n in names]
    for name in [*ordered, *(n for n in names if n not in ordered)]:
        rows = main if name in ordered else others
        label = SLICES.get(name, name)
        for rank in ranks:
            for readout, whole in (rank.quality.readouts if rank.quality else {}).items():
                found = whole if name == "" else whole.slices.get(name)
                if found is not None:
                    rows.append(_detection_row(label, rank, readout, found))
                    label = ""  # said once per slice
    head = ("Rows", "Method and readout", "AUROC", "Average precision", "Found at 5% FPR",
            "Found at 1% FPR", "n", "Harmful", "Unscored")  # fmt: skip
    caption = "Harmful rows found by each readout, with 95% intervals"
    return (
        Table(caption, head, tuple(main)) if main else None,
        Table("Further slices", head, tuple(others)) if others else None,
    )


def _detection_row(
    label: str, rank: RankRecord, readout: str, found: Detection
) -> tuple[Cell, ...]:
    quality = rank.quality
    decides = quality and len(quality.readouts) > 1 and quality.primary == readout
    notes = ("decides the score",) if decides else ()
    harmful_share = (share(found.n_harmful, found.n),) if found.n else ()
    return (
        Cell(label, kind="head"),
        Cell(f"{rank.scores.method}, {readout}", notes, rank.facts.folder.name, "name"),
        interval_cell(found.auroc, as_percent=False),
        interval_cell(found.average_precision, as_percent=False),
        interval_cell(found.tpr_at_5pct_fpr, as_percent=True),
        interval_cell(found.tpr_at_1pct_fpr, as_percent=True),
        count_cell(found.n), Cell(number(found.n_harmful), harmful_share, kind="num"),
        count_cell(found.n_unscored),
    )  # fmt: skip


def outcome_table(rank: RankRecord) -> Table:
    """Rows by rendering outcome, as in the scores."""
    counts = rank.scores.rows_by_outcome()
    rows = tuple(
        (Cell(name), count_cell(n), Cell(share(n, len(rank.scores)), kind="num"),
         Cell(_OUTCOMES.get(name, "not scored, for the reason named")))
        for name, n in counts.items()
    )  # fmt: skip
    caption = f"{rank.facts.folder.name}: rows by outcome"
    return Table(caption, ("Outcome", "Rows", "Share", "Meaning"), rows)


def selection_table(selection: SelectRecord) -> Table:
    """Rows kept, and rows dropped by reason."""
    n, n_kept = len(selection.ids), int(selection.kept.sum())
    rows = [(Cell("kept"), count_cell(n_kept), Cell(share(n_kept, n), kind="num"))]
    rows += [
        (Cell(f"dropped: {reason or 'no reason given'}"), count_cell(count),
         Cell(share(count, n), kind="num"))
        for reason, count in selection.reasons.items()
    ]  # fmt: skip
    caption = f"{selection.facts.folder.name}: kept and dropped rows"
    return Table(caption, ("Rows", "Count", "Share"), tuple(rows))


def settings_table(values: Mapping[str, Any], caption: str) -> Table:
    """Settings by their full names, as `--set` takes them."""
    rows = tuple(
        (Cell(key, kind="id"), Cell(setting(value))) for key, value in flat_settings(values).items()
    )
    return Table(caption, ("Setting", "Value"), rows)


def stage_table(found: Collected) -> Table:
    """One row per stage: what it ran on and what it cost."""
    rows = []
    for record in found.records:
        facts = record.facts
        model = facts.model or {}
        where = ", ".join(str(model[key]) for key in ("device", "dtype") if model.get(key))
        rows.append((
            Cell(facts.folder.name, (facts.stage,), title=str(facts.folder), kind="head"),
            Cell(str(model.get("name", "no model")), tuple(filter(None, (
                f"revision {short_id(str(model['revision']))}" if model.get("revision") else "",
                where,
            ))), title=str(model.get("fingerprint", ""))),
            Cell(str(facts.seed), kind="num"),
            Cell(duration(facts.timings.get("seconds")), kind="num"),
            _memory_cell(facts),
            Cell(facts.finished or NOT_MEASURED),
        ))  # fmt: skip
    head = ("Stage", "Model", "Seed", "Time", "Peak memory", "Finished (UTC)")
    return Table("Stages", head, tuple(rows))


def _memory_cell(facts: Facts) -> Cell:
    """Largest memory of the process during the stage, and of the GPU where one was used."""
    peak, gpu = (facts.memory.get(name) for name in ("peak_rss_gib", "peak_gpu_gib"))
    notes = () if gpu is None else (f"GPU {number(float(gpu))} GiB",)
    if peak is None:
        return Cell(NOT_MEASURED, notes, kind="none")
    return Cell(f"{number(float(peak))} GiB", notes, kind="num")


def input_table(found: Collected) -> Table:
    """What every stage read, with hashes."""
    rows = []
    for record in found.records:
        facts = record.facts
        fingerprints = {"data": facts.data, "safe_set": facts.safe_set}
        for role, entry in facts.inputs.items():
            values = entry if isinstance(entry, Mapping) else {"path": setting(entry)}
            path = str(values.get("path", ""))
            set_facts = fingerprints.get(role)
            rows.append((
                Cell(facts.folder.name, kind="head"), Cell(role),
                Cell(path.rstrip("/").rpartition("/")[2] or path, title=path),
                id_cell(values.get("sha256")),
                id_cell(set_facts.fingerprint) if set_facts else Cell(),
            ))  # fmt: skip
        if facts.model:
            fingerprint = facts.model.get("fingerprint")
            rows.append((
                Cell(facts.folder.name, kind="head"), Cell("model"),
                Cell(str(facts.model.get("name", ""))), Cell(),
                id_cell(None if fingerprint is None else str(fingerprint)),
            ))  # fmt: skip
    head = ("Stage", "Input", "Name", "SHA-256 of the bytes", "Fingerprint of the content")
    return Table("Inputs", head, tuple(rows))


def version_table(found: Collected) -> Table:
    """Versions, one column per distinct set of them."""
    columns: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for record in found.records:
        facts = record.facts
        values = {**facts.versions, "source commit": facts.git_sha or "installed package"}
        columns.setdefault(tuple(values.items()), []).append(facts.folder.name)
    names = dict.fromkeys(name for column in columns for name, _ in column)
    rows = tuple(
        (Cell(name), *(Cell(dict(column).get(name, "not installed")) for column in columns))
        for name in names
    )
    heads = ["all stages"] if len(columns) == 1 else [", ".join(n) for n in columns.values()]
    return Table("Versions", ("Package", *heads), rows)
