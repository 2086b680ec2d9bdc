"""Whether what decides how an experiment's figures are read was fixed before there were any."""

from __future__ import annotations

from collections.abc import Iterator

from tamis.report.experiment_records import Change, ExperimentRecord
from tamis.report.measures import heading


def when_fixed(found: ExperimentRecord) -> str:
    """Say in words for a caption whether the primary measure was fixed beforehand."""
    if _primary_change(found) is not None:
        return "not fixed beforehand"
    if found.beforehand is None or found.beforehand.n_finished:
        return "not recorded beforehand"
    return "fixed beforehand"


def primary_fact(found: ExperimentRecord, label: str) -> str:
    """Name the primary measure, and say whether it was fixed beforehand."""
    change = _primary_change(found)
    rest = "All others are secondary."
    if change is None:
        return f"Primary measure, {when_fixed(found)}: {label}. {rest}"
    before = ", ".join(heading(name, 0) for name in change.removed)
    return (
        f"Primary measure {label}, changed from {before} {_moment(change)} were finished: "
        f"{when_fixed(found)}. {rest}"
    )


def changed_warnings(found: ExperimentRecord) -> Iterator[str]:
    """Yield what was changed after cells were finished, in one line."""
    changes = () if found.beforehand is None else found.beforehand.changes
    if not changes:
        return
    told = "; ".join(_told(change) for change in changes)
    fewer = any(change.setting == "arms" and change.removed for change in changes)
    yield (
        f"{found.folder.name}: changed after cells were finished, so not fixed beforehand: {told}."
        + (" p is adjusted over the arms that are left." if fewer else "")
    )


def _primary_change(found: ExperimentRecord) -> Change | None:
    changes = () if found.beforehand is None else found.beforehand.changes
    return next((change for change in changes if change.setting == "primary"), None)


def _told(change: Change) -> str:
    sides = (("removed", change.removed), ("added", change.added))
    names = ", ".join(f"{side} {', '.join(values)}" for side, values in sides if values)
    return f"{change.setting.replace('_', ' ')}: {names} ({_moment(change)})"


def _moment(change: Change) -> str:
    day = change.at[:10]  # of an ISO 8601 time
    return f"on {day} after {change.n_finished:,} of {change.n_cells:,} cells"
