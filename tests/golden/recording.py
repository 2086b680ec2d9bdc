"""Recorded figures as JSON, and what of them has changed.

A table has figures by row and name: scores and readouts by row id, losses by step, cuts by rule.

Tolerance: float32 sums are ordered differently by other processors, libraries and numbers of
threads. Measured with torch 2.13 on AVX2 against two threads, ATEN_CPU_CAPABILITY=default, and MKL,
oneDNN and OpenBLAS held to SSE4.2 or older, all figures of all tables moved by at most 1.4e-6 or
4.6e-6 of the spread of their name, whichever is more (a loss of 6 nats has steps of 4.8e-7; scores
in units of their own spread move most). Ten times that is allowed.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from tamis.versions import versions

Table = Mapping[str, Mapping[str, float]]
ALLOWED = 1.5e-5  # of any figure; see above
ALLOWED_OF_SPREAD = 5e-5
SHOWN = 5  # changes that a message spells out


def environment() -> dict[str, str]:
    """Return what decides the last digits, and names no place on this machine."""
    found = {name: text for name, text in versions().items() if name not in ("tamis", "platform")}
    return {**found, "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"}


def write(path: Path, table: Table) -> None:
    """Write a table, one row per line, with the environment it was made in."""
    rows = [
        f"    {json.dumps(row)}: {json.dumps(_rounded(figures), allow_nan=False)}"
        for row, figures in table.items()
    ]
    made_in = json.dumps(environment(), indent=2).replace("\n", "\n  ")
    text = f'{{\n  "environment": {made_in},\n  "figures": {{\n' + ",\n".join(rows) + "\n  }\n}\n"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Keep seven digits, as many as float32 has."""
    return {name: float(f"{x:.7g}") for name, x in figures.items()}


def complaint(name: str, path: Path, found: Table) -> str:
    """Say what of a table is not as it was recorded; "" where all is.

    Within the tolerance no two rows that are more than twice as far apart can swap, so their order
    needs no check of its own: that the order changed, or not, is said of figures that moved.
    """
    if not path.exists():
        return f"{name} has no record: run `make golden-record`."
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    recorded: Table = record["figures"]
    told = [*_unlike_shapes(recorded, found)] or [*_moves(recorded, found)]
    if not told:
        return ""
    here = environment()
    other = [f"{key} {text}, here {here.get(key)}" for key, text in record["environment"].items()
             if here.get(key) != text]  # fmt: skip
    return "\n  ".join([
        f"{name} no longer gives what was recorded in {path.name}:",
        *told,
        f"recorded with {'; '.join(other)}" if other else "recorded with the same versions and CPU",
        "If this is meant, run `make golden-record` and say why in the commit.",
    ])  # fmt: skip


def _unlike_shapes(recorded: Table, found: Table) -> Iterator[str]:
    """Rows and figures that only one of the two has."""
    for gone in sorted(recorded.keys() - found.keys()):
        yield f"{gone} is gone"
    for new in sorted(found.keys() - recorded.keys()):
        yield f"{new} is new"
    for row in sorted(recorded.keys() & found.keys()):
        unlike = sorted(recorded[row].keys() ^ found[row].keys())
        if unlike:
            yield f"{row}: only one of the two has {', '.join(unlike)}"


def _moves(recorded: Table, found: Table) -> Iterator[str]:
    """Figures beyond the tolerance, the farthest first, and whether rows have swapped."""
    names = dict.fromkeys(name for figures in recorded.values() for name in figures)
    moved: list[tuple[float, str]] = []
    orders: list[str] = []
    for name in names:
        old = {row: figures[name] for row, figures in recorded.items() if name in figures}
        new = {row: found[row][name] for row in old}
        allowed = ALLOWED + ALLOWED_OF_SPREAD * (max(old.values()) - min(old.values()))
        far = {row: abs(new[row] - x) for row, x in old.items()
               if not abs(new[row] - x) <= allowed}  # fmt: skip
        moved += [
            (
                math.inf if math.isnan(by) else by / allowed,
                f"{row}: {name} was {old[row]:.7g} and is {new[row]:.7g}: "
                f"moved by {by:.2g}, allowed is {allowed:.2g}",
            )
            for row, by in far.items()
        ]
        if far:
            apart = [(a, b) for a, b in combinations(old, 2) if abs(old[a] - old[b]) > 2 * allowed]
            swapped = sum((old[a] < old[b]) != (new[a] < new[b]) for a, b in apart)
            orders.append(f"order by {name}: {swapped} of {len(apart)} pairs clearly apart swapped")
    moved.sort(key=lambda move: -move[0])
    yield from (text for _, text in moved[:SHOWN])
    if len(moved) > SHOWN:
        yield f"and {len(moved) - SHOWN} more figures of {sum(map(len, recorded.values()))}"
    yield from orders
