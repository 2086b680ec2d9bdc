"""What follows from the rankings of a comparison: averages, agreement, what the cues reach."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.cli.compare_config import ALL_ROWS, CompareConfig, Job
from tamis.cli.compare_facts import figure_facts

if TYPE_CHECKING:
    from tamis.evaluation.compare import Cell

CUES = "trivial"


def summary(
    config: CompareConfig, cells: Sequence[Cell], measures: Sequence[Mapping[str, Any]],
    refused: Mapping[Job, str],
) -> dict[str, Any]:  # fmt: skip
    """Average cells, compare methods with one another and with the cues.

    Args:
        config: What was compared.
        cells: The rankings that ended well.
        measures: Of each of them.
        refused: Why the others did not.

    Returns:
        The content of `comparison.json`, but for what is known of the rows.
    """
    from tamis.evaluation.compare import agreement, averaged, cue_statements

    entries: list[dict[str, Any]] = []
    for rows, method, places in _groups(cells):
        reports = [measures[place] for place in places]
        readouts = {
            name: {
                **averaged([report["readouts"][name] for report in reports]),
                "slices": {
                    part: averaged([report["readouts"][name]["slices"][part] for report in reports])
                    for part in reports[0]["readouts"][name]["slices"]
                    if all(part in report["readouts"][name]["slices"] for report in reports)
                },
            }
            for name in reports[0]["readouts"]
            if all(name in report["readouts"] for report in reports)
        }
        mine = [cells[place] for place in places]
        entries.append({
            "rows": rows, "method": method, "config": config.methods[method].resolved(),
            "uses_labels": config.needs_labels(method)
            or (config.learns(method) and any(cell.learned for cell in mine)),
            "unscored": [_unscored(cell) for cell in mine],
            "chosen_with_labels": config.methods[method].chosen_with_labels,
            "n_refused": sum((job.rows, job.method) == (rows, method) for job in refused),
            "notes": list(dict.fromkeys(note for cell in mine for note in cell.notes)),
            "draws": [cell.seed for cell in mine],
            "seeds": [cell.seed if rows == ALL_ROWS else config.seeds[0] for cell in mine],
            "seconds": [cell.seconds for cell in mine],
            **{name: _largest([getattr(cell, name) for cell in mine])
               for name in ("peak_gib", "start_gib", "gpu_gib")},
            "passes": [dict(cell.passes) for cell in mine],
            "n_cached": sum(cell.cached for cell in mine),
            "n_resumed": sum(cell.resumed for cell in mine),
            "flagged": [report["flagged"] for report in reports if "flagged" in report],
            "readouts": readouts,
        })  # fmt: skip
    facts: dict[str, list[str]] = {}
    statements: dict[str, list[str]] = {}
    agreements: dict[str, list[dict[str, Any]]] = {}
    for rows in dict.fromkeys(cell.rows for cell in cells):
        here = [entry for entry in entries if entry["rows"] == rows]
        facts[rows] = list(figure_facts(here))
        cues = [e for e in here if e["config"]["name"] == CUES]
        if cues:
            named = {name: found for name, found in cues[0]["readouts"].items() if name != "score"}
            others = {e["method"]: e["readouts"]["score"] for e in here if e not in cues}
            statements[rows] = cue_statements(others, named)
        first = {cell.method: cell for cell in reversed(cells) if cell.rows == rows}
        same = [c for c in first.values() if c.seed == min(f.seed for f in first.values())]
        agreements[rows] = agreement(list(reversed(same)), config.selection_ratio)
    return json.loads(json.dumps({  # type: ignore[no-any-return]
        "entries": entries, "refused": _refusals(cells, refused), "facts": facts,
        "cues": statements,
        "agreement": agreements, "selection_ratio": config.selection_ratio,
    }))  # fmt: skip


def _refusals(cells: Sequence[Cell], refused: Mapping[Job, str]) -> list[dict[str, Any]]:
    """Say of every method on a set of rows how many of its rankings were refused, and why."""
    found = []
    for rows, method in dict.fromkeys((job.rows, job.method) for job in refused):
        mine = {
            job: why for job, why in refused.items() if (job.rows, job.method) == (rows, method)
        }
        n_done = sum((cell.rows, cell.method) == (rows, method) for cell in cells)
        found.append({
            "rows": rows, "method": method, "rankings": [job.name for job in mine],
            "of": len(mine) + n_done, "reasons": list(dict.fromkeys(mine.values())),
        })  # fmt: skip
    return found


def _unscored(cell: Cell) -> dict[str, int]:
    """Count the rows of a ranking without a score, by reason."""
    bare = np.isnan(cell.scores.values).tolist()
    return dict(Counter(itertools.compress(cell.scores.outcome, bare)))


def _groups(cells: Sequence[Cell]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield (rows, method, places of their cells), in the order of the configuration."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, cell in enumerate(cells):
        places.setdefault((cell.rows, cell.method), []).append(place)
    for (rows, method), found in places.items():
        yield rows, method, found


def _largest(values: Sequence[float | None]) -> float | None:
    """Return the largest, None if one is not known: it might have been larger."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
