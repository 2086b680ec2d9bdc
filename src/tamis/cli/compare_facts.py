"""What to know of the rows of a comparison, beside its figures, in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tamis.cli.compare_config import ALL_ROWS, CompareConfig, Job
from tamis.data.example import Examples, content_of
from tamis.evaluation.labels import Label
from tamis.evaluation.statistics import rate_estimate

_NAMED = 3  # ids told in words


def rows_facts(
    config: CompareConfig, examples: Examples, truth: Sequence[Label], jobs: Sequence[Job],
    known_harmful: frozenset[str],
) -> dict[str, list[str]]:  # fmt: skip
    """Say what is odd about a set of rows: contradicting labels, known rows, rows a rate costs.

    Args:
        config: What is compared.
        examples: All rows.
        truth: Their labels, in row order.
        jobs: Every ranking.
        known_harmful: Contents of the harmful set.

    Returns:
        Sentences by name of the set of rows; sets without any are left out.
    """
    harmful = {row: label.harmful for row, label in zip(examples.ids, truth, strict=True)}
    n_other = len(harmful) - sum(harmful.values())
    found: dict[str, list[str]] = {}
    if torn := _contradictions(harmful):
        found[ALL_ROWS] = [
            f"copies of one row have opposite labels, {len(torn):,} times "
            f"({', '.join(torn[:_NAMED])}{', ...' if len(torn) > _NAMED else ''}): no score is "
            "right about both. Give copies one label."
        ]
    sets: dict[str, Sequence[str]] = {}
    for job in jobs:  # of plantings the first: the others are as large
        sets.setdefault(job.rows, examples.ids if job.ids is None else job.ids)
    for name, ids in sets.items():
        if n_known := sum(content_of(row) in known_harmful for row in ids):
            found.setdefault(name, []).append(
                f"{n_known:,} of the {len(ids):,} rows are also in the harmful set: no measure "
                "counts them, and methods that read that set learned from their labels."
            )
        part = config.parts.get(name)
        if part is None:
            continue
        n_harmful = sum(harmful[row] for row in ids)
        if part.rate is not None and len(ids) - n_harmful < n_other:
            found.setdefault(name, []).append(
                f"a rate of {part.rate:g} with all {n_harmful:,} harmful rows leaves room for "
                f"{len(ids) - n_harmful:,} of the {n_other:,} others: {len(ids):,} of "
                f"{len(examples):,} rows are ranked. Lower the rate, or give more harmful rows."
            )
    return found


def figure_facts(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say of the methods on one set of rows what could not be measured, and what they flag."""
    unmeasured: dict[str, list[str]] = {}
    for entry in entries:
        score = entry["readouts"]["score"]
        if score["auroc"]["value"] is None:
            unmeasured.setdefault(_missing(score), []).append(entry["method"])
    for why, methods in unmeasured.items():
        named = "" if len(methods) == len(entries) else f"{', '.join(methods)}: "
        yield f"{named}{why}, so that nothing says how well harmful rows are found."
    yield from _unscored(entries)
    for entry in entries:
        if entry["flagged"]:
            shares = {"harmful": _share(entry["flagged"], "harmful"),
                      "other": _share(entry["flagged"], "others")}  # fmt: skip
            said = [f"{share} of the {kind} rows" for kind, share in shares.items() if share]
            if said:
                yield f"{entry['method']} flags {' and '.join(said)} by a rule of its own."


def _unscored(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say which methods have no score for some rows, and why; not of those that score none."""
    said: dict[str, list[str]] = {}
    for entry in entries:
        most = max(entry["unscored"], key=lambda counts: sum(counts.values()))
        if most and entry["readouts"]["score"]["n"]:
            reasons = ", ".join(f"{why} {n:,}" for why, n in most.items())
            upto = "up to " if len(entry["unscored"]) > 1 else ""
            found = (
                f"{upto}{sum(most.values()):,} rows have no score and are not measured ({reasons})."
            )
            said.setdefault(found, []).append(entry["method"])
    for found, methods in said.items():
        yield f"{', '.join(methods)}: {found}"


def _contradictions(harmful: Mapping[str, bool]) -> list[str]:
    """Return the first id of every content that is labelled both ways."""
    first: dict[str, str] = {}
    torn: dict[str, None] = {}
    for row, label in harmful.items():
        known = first.setdefault(content_of(row), row)
        if harmful[known] is not label:
            torn[known] = None
    return list(torn)


def _missing(score: Mapping[str, Any]) -> str:
    """Say why a readout has no AUROC."""
    if not score["n"]:
        return "no row has a score"
    kind = "not harmful" if score["n_harmful"] else "harmful"
    where, n_cells = "", score["n_cells"]
    if score["n_unmeasured"] < n_cells:
        where = f"in {score['n_unmeasured']:,} of {n_cells:,} rankings "
    return f"{where}none of the {score['n']:,} rows measured is labelled {kind}"


def _share(flagged: Sequence[Mapping[str, Any]], key: str) -> str | None:
    """Spell the share of a kind of rows, with its interval or as a mean; None without such rows."""
    counts = [(one[f"share_of_{key}"], one[f"n_{key}"]) for one in flagged if one[f"n_{key}"]]
    if not counts:
        return None
    if len(counts) > 1:
        mean = statistics.fmean(share for share, _ in counts)
        return f"{mean:.1%} (mean of {len(counts)} rankings)"
    share, n = counts[0]
    found = rate_estimate(round(share * n), n)
    return f"{share:.1%} ({found.low:.1%} to {found.high:.1%})"
