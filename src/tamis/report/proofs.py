"""Certificates, win rates and prunings: what the page and the terminal say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tamis.report.measures import ONE_JUDGE
from tamis.report.proof_records import (
    CertifyRecord,
    Proof,
    PrunedFactor,
    PruneRecord,
    Verdict,
    WinRate,
    WinRateRecord,
)
from tamis.report.tables import Cell, Table, count_cell, interval_cell, settings_table
from tamis.report.text import NOT_MEASURED, number, percent, share

_LAYER = re.compile(r"\.(\d+)\.")  # the first number in a weight's name


@dataclass(frozen=True)
class ProofView:
    """One certificate, win rate or pruning.

    Attributes:
        name: Its folder's.
        facts: What it says, in sentences.
        tables: Its figures.
        settings: How it was made.
    """

    name: str
    facts: tuple[str, ...]
    tables: tuple[Table, ...]
    settings: Table


def proof_views(proofs: Sequence[Proof], kind: type[Proof]) -> list[ProofView]:
    """Show those of one kind, in the order given."""
    return [_view(proof) for proof in proofs if isinstance(proof, kind)]


def _view(proof: Proof) -> ProofView:
    if isinstance(proof, CertifyRecord):
        section, facts, tables = "certify", _certificate_facts(proof), _certificate_tables(proof)
    elif isinstance(proof, WinRateRecord):
        section, facts, tables = "", _win_rate_facts(proof), iter([win_rate_table(proof)])
    else:
        section, facts, tables = "prune", _prune_facts(proof), _prune_tables(proof)
    found = proof.facts.config
    values = found.get(section) if section else found
    name = proof.facts.folder.name
    return ProofView(
        name, tuple(facts), tuple(tables),
        settings_table(values if isinstance(values, dict) else {}, f"{name}: settings"),
    )  # fmt: skip


def _certificate_facts(record: CertifyRecord) -> Iterator[str]:
    found, facts = record.verdict, record.facts
    whole = None if found is None else found.delta_of_all_attempts
    if found is None:
        wanted = facts.config.get("certify")
        n = wanted.get("n_labels") if isinstance(wanted, dict) else None
        yield f"{number(n)} rows are drawn and wait for their labels: nothing is certified."
        return
    yield (
        f"Fixed before the labels: at most {percent(found.alpha)} of the kept rows are harmful "
        f"(alpha), wrong with a probability of at most {percent(found.delta)} (delta, of attempt "
        f"{found.attempt}{'' if whole is None else f'; {percent(whole)} over all attempts'})."
    )
    yield (
        f"{found.n_labels:,} rows were labelled, drawn uniformly from {found.n_scored:,} scored "
        f"ones; {found.n_harmful:,} of them are harmful. {found.n_unscored:,} rows without a score "
        "are never kept."
    )
    if found.n_unsure_counted_harmful:
        yield f"{found.n_unsure_counted_harmful:,} rows left open were counted as harmful."
    yield from _statement(found)


def _statement(found: Verdict) -> Iterator[str]:
    if not found.certified:
        yield f"Refused: {found.refusal or 'no threshold is certified.'}"
        return
    if found.guarantee:
        yield found.guarantee[:1].upper() + found.guarantee[1:]
    yield (
        f"Threshold: {found.threshold!r}. It keeps {number(found.n_kept)} rows; of the "
        f"{number(found.n_labels_kept)} labelled ones among them {number(found.n_harmful_kept)} "
        "are harmful."
    )


def _certificate_tables(record: CertifyRecord) -> Iterator[Table]:
    found = record.verdict
    if found is None or not found.walk.steps:
        return
    rows = tuple(
        (count_cell(step.n_kept), Cell(share(step.n_kept, found.n_scored), kind="num"),
         Cell(number(step.threshold), kind="num"), count_cell(step.n_labelled),
         count_cell(step.n_harmful), Cell(percent(step.upper_bound), kind="num"),
         Cell(number(step.p_value), kind="num"))
        for step in found.walk.steps
    )  # fmt: skip
    head = ("Rows kept", "Share", "Threshold", "Labelled", "Harmful", "Harmful share at most", "p")
    yield Table(
        f"{record.facts.folder.name}: thresholds tried, the smallest set first; the last that has "
        f"p <= {number(found.delta)} is certified", head, rows,
    )  # fmt: skip


def _win_rate_facts(record: WinRateRecord) -> Iterator[str]:
    for role in ("model", "reference"):
        entry = record.facts.inputs.get(role)
        path = entry.get("path") if isinstance(entry, dict) else None
        yield f"{role.capitalize()}: the answers in {path or 'a folder that is not named'}."
    yield from (f"Note: {note}" for note in record.facts.notes)


def win_rate_table(record: WinRateRecord) -> Table:
    """One row per judge and set of prompts, with the judges of each set counted."""
    judges: dict[str, set[str]] = {}
    for entry in record.entries:
        judges.setdefault(entry.set, set()).add(entry.identity or entry.judge)
    alone = {name for name, found in judges.items() if len(found) == 1}
    everywhere = judges and len(alone) == len(judges)
    head = f"Win rate ({ONE_JUDGE})" if everywhere else "Win rate"
    rows = tuple(
        _win_rate_row(entry, (ONE_JUDGE,) if entry.set in alone and not everywhere else ())
        for entry in record.entries
    )
    return Table(
        f"{record.facts.folder.name}: wins against the reference with 95% intervals; 50% is as "
        "good",
        ("Judge", head, "At equal length", "Wins, ties, losses", "Orders disagree", "Found"), rows,
    )  # fmt: skip


def _win_rate_row(entry: WinRate, notes: tuple[str, ...]) -> tuple[Cell, ...]:
    rate, equal = entry.win_rate, entry.at_equal_length
    value = interval_cell(rate, as_percent=True)
    rests = f"n = {rate.n:,}, unscored {rate.n_unscored:,}"
    if entry.n_identical:
        rests += f"; {entry.n_identical:,} identical, not asked"
    controlled = interval_cell(equal, as_percent=True)
    why = () if equal.not_fitted is None else (equal.not_fitted,)
    asked = f"{entry.rubric}, {entry.set.replace('_', '-')} prompts"
    return (
        Cell(entry.judge, (asked,), entry.identity or "", "head"),
        replace(value, notes=(*value.notes, rests, *notes)),
        replace(controlled, notes=(*controlled.notes, *why)),
        Cell(f"{rate.n_wins:,}, {rate.n_ties:,}, {rate.n_losses:,}", kind="num"),
        Cell(f"{rate.n_inconsistent:,} of {rate.n:,}", kind="num"),
        Cell(percent(rate.detectable),
             kind="none" if percent(rate.detectable) == NOT_MEASURED else "num"),
    )  # fmt: skip


def _prune_facts(record: PruneRecord) -> Iterator[str]:
    found = record.pruning
    if found.restored is not None:
        yield f"Restored: the adapter as it was before {found.restored}."
        return
    settings = record.facts.config.get("prune")
    asked = settings if isinstance(settings, dict) else {}
    removed, weights = _totals(found.tensors)
    yield (
        f"Taken out: {removed:,} of {weights:,} weights of the adapter; asked for: "
        + ", ".join(f"{name} {value}" for name, value in asked.items()) + "."
    )  # fmt: skip
    yield from (f"Note: {note}" for note in found.notes)


def _prune_tables(record: PruneRecord) -> Iterator[Table]:
    layers: dict[str, list[PrunedFactor]] = {}
    for tensor in record.pruning.tensors:
        place = _LAYER.search(tensor.name)
        layers.setdefault(place[1] if place else "outside the layers", []).append(tensor)
    if not layers:
        return
    rows = []
    for name in sorted(layers, key=lambda text: (not text.isdigit(), len(text), text)):
        removed, weights = _totals(layers[name])
        rows.append((Cell(name, kind="head"), count_cell(weights), count_cell(removed),
                     Cell(share(removed, weights), kind="num")))  # fmt: skip
    yield Table(
        f"{record.facts.folder.name}: weights taken out, by layer",
        ("Layer", "Weights", "Taken out", "Share"), tuple(rows),
    )  # fmt: skip


def _totals(tensors: Sequence[PrunedFactor]) -> tuple[int, int]:
    return sum(one.n_removed for one in tensors), sum(one.n_weights for one in tensors)


def proof_limits(proofs: Sequence[Proof]) -> Iterator[str]:
    """Yield what these do not show."""
    if any(isinstance(proof, CertifyRecord) and proof.verdict for proof in proofs):
        yield (
            "A certificate holds over the draw of the labelled rows, if the ranking was fixed "
            "before the labels, the labels are right and all draws for this purpose were counted "
            "as attempts. It does not say that a model trained on the kept rows is safe."
        )
    if any(isinstance(proof, WinRateRecord) for proof in proofs):
        yield (
            "A win rate is a judge's taste. Its interval covers the choice of prompts, not the "
            "judge, nor another seed of fine-tuning."
        )
    if any(isinstance(proof, PruneRecord) for proof in proofs):
        yield (
            "How much was taken out of an adapter says nothing of what it does now: only an "
            "evaluation before and after the pruning does."
        )
