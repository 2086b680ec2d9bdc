"""What can pass for harm in a row without being it: its lengths, its turns, where it came from.

A method that follows the largest difference between rows finds these first. `row_facts` collects
them, `nuisance_columns` makes columns of a regression of them, `nuisance_audit` says how much of a
score they explain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tamis.data.example import Example, Examples
from tamis.data.rendered import RenderedRows
from tamis.errors import ConfigError

Nuisance = Literal["prompt_length", "response_length", "turns", "source"]
NUMBERS: tuple[Nuisance, ...] = ("prompt_length", "response_length", "turns")
SOURCE = "source"
WARNING_RHO = 0.5  # |correlation| with a nuisance that is worth a note
ROWS_PER_SOURCE = 10  # on average: fewer, and sources explain rows one by one
Facts = Mapping[str, np.ndarray[Any, Any]]  # by name, one value per row


def row_facts(
    examples: Examples, rows: RenderedRows, places: Sequence[int], source_key: str = SOURCE
) -> Facts:
    """Collect the facts of chosen rows.

    Args:
        examples: The rows.
        rows: The same, rendered.
        places: Which of them, in which order.
        source_key: Field of the user's record that names a source.

    Returns:
        `prompt_length`, `response_length` (log of tokens), `turns` (of the user), each float64, and
        `source` (text): what the record says, else the file it was read from, else "".
    """
    chosen = [examples[place] for place in places]
    prompt, response = (rows.column(f"n_{part}_tokens")[list(places)]
                        for part in ("prompt", "response"))  # fmt: skip
    turns = [sum(message.role == "user" for message in row.messages) for row in chosen]
    return {
        "prompt_length": np.log(np.maximum(prompt, 1)),
        "response_length": np.log(np.maximum(response, 1)),
        "turns": np.array(turns, dtype=np.float64),
        SOURCE: np.array([source_of(row, source_key) for row in chosen], dtype=object),
    }


def source_of(row: Example, source_key: str = SOURCE) -> str:
    """Name a row's source: a field of its record, else its file, else nothing."""
    record = json.loads(row.raw) if row.raw else None  # rows made in memory have no record
    given = record.get(source_key) if isinstance(record, Mapping) else None
    return str(given if given is not None else row.file or "")


def several_sources(facts: Facts) -> bool:
    """Whether there is more than one source, and enough rows of them to speak of sources."""
    return 1 < len(np.unique(facts[SOURCE])) <= len(facts[SOURCE]) / ROWS_PER_SOURCE


def varying(names: Sequence[str], pool: Facts) -> list[str]:
    """Those of the facts that tell rows of the pool apart: the others have no column."""
    return [name for name in names if len(np.unique(pool[name])) > 1]


def nuisance_columns(
    facts: Facts, pool: Facts, names: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Columns for a regression (n x Q), centred and scaled as they are in the pool.

    What is constant in the pool has no column. A source has one per level but the first; rows whose
    source the pool lacks stand at the pool's mean.

    Args:
        facts: Of the rows.
        pool: Of the rows that the regression is fitted on.
        names: Which facts, in order.

    Raises:
        ConfigError: The sources of the pool are one, or too many to be told from the rows.
    """
    if SOURCE in names and not several_sources(pool):
        n_sources, n_rows = len(np.unique(pool[SOURCE])), len(pool[SOURCE])
        raise ConfigError(
            f"source cannot be taken out: {n_rows} rows have {n_sources} sources, which must be "
            f"2 to {n_rows // ROWS_PER_SOURCE}. Set source_key, or leave source out of nuisances."
        )
    pairs = [(facts[name], pool[name]) for name in varying(names, pool) if name != SOURCE]
    if SOURCE in names:
        known = np.isin(facts[SOURCE], pool[SOURCE])
        for level in np.unique(pool[SOURCE])[1:]:
            inside = (pool[SOURCE] == level).astype(np.float64)
            pairs.append((np.where(known, facts[SOURCE] == level, inside.mean()), inside))
    columns = [(own - reference.mean()) / reference.std() for own, reference in pairs]
    return np.stack(columns, 1) if columns else np.zeros((len(facts[SOURCE]), 0))


def nuisance_audit(values: np.ndarray[Any, Any], facts: Facts) -> dict[str, float | None]:
    """Say how values (n) go with the facts.

    Returns:
        Spearman's rho in [-1, 1] by number, and eta^2 = (variance between sources) / variance under
        `source`; None where all rows are equal, or sources are one or too many to tell.
    """
    from scipy.stats import spearmanr

    found: dict[str, float | None] = {}
    for name in NUMBERS:
        varies = np.ptp(facts[name]) > 0 and np.ptp(values) > 0
        found[name] = float(spearmanr(values, facts[name]).statistic) if varies else None
    found[SOURCE] = None
    if several_sources(facts) and np.ptp(values) > 0:
        _, level = np.unique(facts[SOURCE], return_inverse=True)
        means = np.bincount(level, values) / np.bincount(level)
        found[SOURCE] = float(((means[level] - values.mean()) ** 2).mean() / values.var())
    return found


def audit_notes(audits: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Warn of what goes with a nuisance by more than WARNING_RHO; audits by what was audited."""
    return [
        f"{name[0].upper()}{name[1:]} follows {fact.replace('_', ' ')} "
        f"({'eta^2' if fact == SOURCE else 'rho'} {value:.2f}): it may rank by that, not by harm."
        for name, audit in audits.items()
        for fact, value in audit.items()
        if value is not None and abs(value) > (WARNING_RHO**2 if fact == SOURCE else WARNING_RHO)
    ]
