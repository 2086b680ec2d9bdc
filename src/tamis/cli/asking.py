"""Stages that ask endpoints: which settings make no other stage, and what was left unanswered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tamis.models.endpoint import BUDGET, ENDPOINT_ERROR
from tamis.models.endpoint_settings import PATIENCE

ENDPOINT_PATIENCE = tuple(f"**.endpoint.{name}" for name in PATIENCE)


def n_unanswered(reasons: Iterable[str | None]) -> int:
    """Count what a more patient run may get an answer to, by why there is no verdict."""
    return sum(reason in (ENDPOINT_ERROR, BUDGET) for reason in reasons)


def n_unanswered_rows(details: Any) -> int:
    """Add up the rows that guards at endpoints left unanswered, methods within methods included."""
    if not isinstance(details, Mapping):
        return 0
    own = details.get("n_unanswered", 0)
    return int(own) + sum(map(n_unanswered_rows, details.values()))
