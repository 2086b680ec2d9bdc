"""What `tamis compare` and `tamis methods` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tamis.methods import METHODS, method_class

# What fits 80 characters; comparison.json has every measure, readout and slice.
_SHOWN = {"auroc": "AUROC", "average_precision": "average precision"}


def methods_known() -> list[dict[str, Any]]:
    """Return every method's key, first line, needs and source."""
    found = []
    for key in METHODS:
        cls = method_class(key)
        first, _, rest = (cls.__doc__ or "").partition("\n")
        source = " ".join(rest.partition("Source:")[2].split())
        needs = sorted(need.replace("_", " ") for need in cls.requires)
        found.append({"method": key, "what": first, "needs": needs, "source": source,
                      "presets": sorted(getattr(cls, "presets", {}))})  # fmt: skip
    return found


def method_table(known: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the methods as a table."""
    table = Table(title="Ranking methods (docs/methods.md has the settings that reproduce a paper)")
    for heading in ("Key", "Score", "Needs", "Source", "Presets"):
        table.add_column(heading)
    for method in known:
        table.add_row(method["method"], Text(method["what"]),
                      ", ".join(method["needs"]) or "nothing", Text(method["source"]),
                      ", ".join(method["presets"]))  # fmt: skip
    return table


def comparison_tables(found: Mapping[str, Any]) -> RenderableType:
    """Return one table per set of rows, and what the cues say."""
    parts: list[RenderableType] = []
    for rows in dict.fromkeys(entry["rows"] for entry in found["entries"]):
        entries = [entry for entry in found["entries"] if entry["rows"] == rows]
        score = entries[0]["readouts"]["score"]
        table = Table(title=f"{rows}: {score['n']:,} rows, {score['n_harmful']:,} harmful",
                      title_justify="left")  # fmt: skip
        table.add_column("Method", no_wrap=True)
        for heading in (*_SHOWN.values(), "AUROC, hard negatives", "Seconds"):
            table.add_column(heading, justify="right")
        for entry in entries:
            score = entry["readouts"]["score"]
            label = entry["method"] + (" (labels)" if entry["uses_labels"] else "")
            hard = score["slices"].get("hard_negative")
            cells = [_interval(score[name]) for name in _SHOWN]
            cells.append(_interval(hard["auroc"]) if hard else "-")
            table.add_row(Text(label), *cells, f"{sum(entry['seconds']):,.0f}")
        parts.append(table)
        parts += [Text(sentence, "yellow") for sentence in found["cues"].get(rows, ())]
    return Group(*parts)


def _interval(measure: Mapping[str, float | None]) -> str:
    if measure["value"] is None:
        return "-"
    return f"{measure['value']:.3f}\n({measure['low']:.3f} to {measure['high']:.3f})"
