"""What `tamis compare` and `tamis methods` print."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tamis.methods import METHODS, method_class
from tamis.report.loads import left_out
from tamis.report.text import visible

if TYPE_CHECKING:
    from tamis.cli.plan_compare import Forecast

# What fits 80 characters, and what a wider terminal shows besides, the first first;
# comparison.json has every measure, readout and slice.
_SHOWN = {"auroc": "AUROC", "average_precision": "average precision"}
_WIDER = {"tpr_at_5pct_fpr": "found at 5% FPR", "recall_at_rate": "recall at rate"}
_COLUMN = 19  # characters of an interval with its borders
LABELS_NOTE = (
    "(labels): learned from labels of some of these rows, and measured on the others only."
)
OPTIONS_NOTE = (
    "(options): options chosen with labels of these rows in sight; the figures flatter them."
)
CACHED_NOTE = (
    "cached: an earlier ranking left what this one reads of the model, or some of it, and paid for "
    "it; alone it would take longer."
)
RESUMED_NOTE = "begun before: seconds, memory and passes are those since it went on."


def methods_known() -> list[dict[str, Any]]:
    """Return every method's key, first line, needs, cost per row and source."""
    found = []
    for key in METHODS:
        cls = method_class(key)
        first, _, rest = (cls.__doc__ or "").partition("\n")
        # "Source: ... Needs: ... Cost: ...", each up to the next.
        parts = re.split(r"\b(Source|Needs|Cost):\s", " ".join(rest.split()))
        said = dict(zip(parts[1::2], (part.strip(" .;") for part in parts[2::2]), strict=True))
        needs = sorted(need.replace("_", " ") for need in cls.requires)
        found.append({"method": key, "what": first,
                      "needs": [*needs, *([said["Needs"]] if "Needs" in said else [])],
                      "cost": said.get("Cost", ""), "source": said.get("Source", ""),
                      "presets": sorted(getattr(cls, "presets", {}))})  # fmt: skip
    return found


def method_table(known: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the methods as a table that fits a narrow terminal."""
    table = Table(title="Ranking methods (docs/methods.md has the settings that reproduce a paper)",
                  show_lines=True, title_justify="left")  # fmt: skip
    table.add_column("Key", no_wrap=True)
    table.add_column("What it is")
    for method in known:
        text = Text(method["what"])
        for name, said in (("Needs", ", ".join(method["needs"]) or "nothing"),
                           ("Cost", method["cost"]), ("Source", method["source"]),
                           ("Presets", ", ".join(method["presets"]))):  # fmt: skip
            if said:
                text.append(f"\n{name}: {said}", "dim")
        table.add_row(method["method"], text)
    return table


def forecast_table(found: Forecast) -> RenderableType:
    """Return what a comparison will take, method by method."""
    table = Table(title="Expected time", title_justify="left")
    table.add_column("Method", no_wrap=True)
    for heading in ("Rankings to do", "There already", "Minutes"):
        table.add_column(heading, justify="right")
    table.add_column("Measured on")
    for method in found.methods:
        minutes = f"{method.minutes:.1f}" if method.minutes is not None else (
            "refused" if method.refusal else "not told"
        )  # fmt: skip
        table.add_row(Text(visible(method.method)), f"{method.n_left:,}",
                      f"{method.n_finished:,}", minutes, Text(visible(method.why)))  # fmt: skip
    table.add_row("reading and measuring", "", "", f"{found.measuring_minutes:.1f}", "")
    table.add_section()
    untold = Text(visible(f"without {', '.join(found.untold)}" if found.untold else ""))
    table.add_row("all", f"{sum(m.n_left for m in found.methods):,}",
                  f"{sum(m.n_finished for m in found.methods):,}", f"{found.minutes:.1f}",
                  untold)  # fmt: skip
    refused = [
        Text(visible(f"{m.method} refuses a few of the rows, and may refuse its rankings: "
                     f"{m.refusal}"), "yellow")
        for m in found.methods if m.refusal
    ]  # fmt: skip
    return Group(table, *refused)


def comparison_tables(found: Mapping[str, Any], width: int = 80) -> RenderableType:
    """Return one table per set of rows, and what the cues say.

    Args:
        found: What `run_compare` gave; what was refused comes last.
        width: Characters of the terminal.
    """
    parts: list[RenderableType] = []
    for rows in dict.fromkeys(entry["rows"] for entry in found["entries"]):
        entries = [entry for entry in found["entries"] if entry["rows"] == rows]
        parts.append(_rows_table(rows, entries, width))
        parts += [Text(visible(fact), "yellow") for fact in found["facts"].get(rows, ())]
        parts += [Text(visible(sentence), "yellow") for sentence in found["cues"].get(rows, ())]
    if any(entry["uses_labels"] for entry in found["entries"]):
        parts.append(Text(LABELS_NOTE, "dim"))
    if any(entry["chosen_with_labels"] for entry in found["entries"]):
        parts.append(Text(OPTIONS_NOTE, "dim"))
    if any(entry["n_cached"] for entry in found["entries"]):
        parts.append(Text(CACHED_NOTE, "dim"))
    if any(entry["n_resumed"] for entry in found["entries"]):
        parts.append(Text(RESUMED_NOTE, "dim"))
    parts += [
        Text(visible(left_out(role, load["n_quarantined"], load["n_read"], load["quarantine"])),
             "yellow")
        for role, load in found.get("sets", {}).items() if load["n_quarantined"]
    ]  # fmt: skip
    parts += [
        Text(visible(f"refused: {one['method']} on {one['rows']}, {len(one['rankings'])} of "
                     f"{one['of']} rankings: {' '.join(one['reasons'])}"), "yellow")
        for one in found["refused"]
    ]  # fmt: skip
    return Group(*parts)


def refusal_summary(found: Mapping[str, Any]) -> str | None:
    """Name the rankings of a comparison that were refused; None where all are there."""
    names = [name for one in found["refused"] for name in one["rankings"]]
    if not names:
        return None
    return (
        f"{len(names):,} rankings were refused: {', '.join(names)}. The reasons stand above and in "
        "comparison.json, with the figures of the others; the same command tries these again."
    )


def _rows_table(rows: str, entries: Sequence[Mapping[str, Any]], width: int) -> Table:
    """One set of rows; methods that owe something to labels stand below the others."""
    names = [visible(entry["method"]) + _mark(entry) for entry in entries]
    room = width - max(map(len, names)) - (len(_SHOWN) + 1) * _COLUMN - 16  # seconds and borders
    shown = {**_SHOWN, **dict(list(_WIDER.items())[: max(0, room // _COLUMN)])}
    most = max((entry["readouts"]["score"] for entry in entries), key=lambda found: found["n"])
    title = f"{visible(rows)}: {most['n']:,} rows, {most['n_harmful']:,} harmful"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("Method", no_wrap=True)
    for heading in (*shown.values(), "AUROC, hard negatives", "Seconds"):
        table.add_column(heading, justify="right")
    for marked in (False, True):
        table.add_section()
        for name, entry in zip(names, entries, strict=True):
            if bool(_mark(entry)) is marked:
                score = entry["readouts"]["score"]
                hard = score["slices"].get("hard_negative")
                cells = [_interval(score[measure]) for measure in shown]
                cells.append(_interval(hard["auroc"]) if hard else "-")
                if score["n_cells"] > 1:
                    name += f"\nmean of {score['n_cells']}"
                if score["n"] < most["n"]:  # some rows unscored, or taken to learn from
                    name += f"\nof {score['n']:,} rows"
                table.add_row(Text(name), *cells, _seconds(entry))
    return table


def _mark(entry: Mapping[str, Any]) -> str:
    """Say what a method owes to labels of the rows."""
    uses = {"labels": entry["uses_labels"], "options": entry["chosen_with_labels"]}
    marks = ", ".join(mark for mark, there in uses.items() if there)
    return f" ({marks})" if marks else ""


def _seconds(entry: Mapping[str, Any]) -> str:
    """Seconds of all rankings, how many, and how many read the cache or were begun before."""
    n = len(entry["seconds"])
    shown = f"{sum(entry['seconds']):,.0f}" + (f"\nall {n}" if n > 1 else "")
    for count, what in ((entry["n_cached"], "cached"), (entry["n_resumed"], "begun before")):
        if count:
            shown += f"\n{what}" if count == n else f"\n{count} of {n} {what}"
    return shown


def _interval(measure: Mapping[str, float | None]) -> str:
    if measure["value"] is None:
        return "-"
    return f"{measure['value']:.3f}\n({measure['low']:.3f} to {measure['high']:.3f})"
