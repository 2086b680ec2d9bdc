"""From stage records to what each section of the page says. Text is plain; the page escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tamis.evaluation.statistics import Estimate
from tamis.report.charts import sparkline_svg
from tamis.report.collect import Collected
from tamis.report.evaluation import n_judges_of
from tamis.report.excerpts import EndView, ends_of
from tamis.report.experiment import experiment_limits
from tamis.report.experiment_arms import n_judges
from tamis.report.histogram import histogram_svg, make_histogram
from tamis.report.loads import NAMES, data_facts
from tamis.report.measures import heading
from tamis.report.paired import Paired
from tamis.report.proofs import proof_limits
from tamis.report.records import FinetuneRecord, RankRecord, SelectRecord
from tamis.report.tables import (
    Table,
    detection_tables,
    outcome_table,
    selection_table,
    settings_table,
)
from tamis.report.text import number, percent

_PERCENT_RULES = {"ratio"}
_JUDGED = ("attack_success_rate", "over_refusal_rate")
_ABSENT = Estimate(None, None, None, 0)


@dataclass(frozen=True)
class Chart:
    """A drawing and the sentence below it."""

    drawing: Markup
    caption: str


@dataclass(frozen=True)
class RankView:
    """One ranking."""

    name: str
    method: str
    facts: tuple[str, ...]
    bad_rows: tuple[str, ...]
    outcomes: Table
    notes: tuple[str, ...]
    settings: Table
    chart: Chart | None
    ends: tuple[tuple[str, tuple[EndView, ...], tuple[EndView, ...]], ...] | None


@dataclass(frozen=True)
class StageView:
    """A selection or a fine-tuning."""

    name: str
    facts: tuple[str, ...]
    table: Table | None
    chart: Chart | None


def rank_view(rank: RankRecord, *, with_chart: bool) -> RankView:
    """Say what was ranked, how, and what stands at the ends."""
    facts = rank.facts
    scores = rank.scores
    method = facts.config.get("method")
    n_scored = sum(value == value for value in scores.values.tolist())
    said = [f"{len(scores):,} rows ranked by {scores.method}; {n_scored:,} have a score."]
    sets = {role: getattr(facts, role) for role in NAMES}
    for role, found in sets.items():
        said += data_facts(NAMES[role], found)
    said += _token_facts(rank)
    bad = [
        reason for found in sets.values() if found and found.load
        for reason in found.load.first_bad
    ]  # fmt: skip
    trained = facts.details.get("trained")
    notes = facts.details.get("notes")
    listed = notes if isinstance(notes, Sequence) and not isinstance(notes, str) else []
    chart = None
    if with_chart and (histogram := make_histogram(scores.values)):
        caption = _unscored_note(histogram.n_unscored)
        chart = Chart(histogram_svg(histogram, None, "Histogram of scores"), caption)
    readout = facts.details.get("readout")
    return RankView(
        name=facts.folder.name,
        method=f"{scores.method}, readout {readout}" if readout else scores.method,
        facts=tuple(said),
        bad_rows=tuple(bad),
        outcomes=outcome_table(rank),
        notes=(*((f"Trained: {trained}",) if trained else ()), *(str(note) for note in listed)),
        settings=settings_table(method if isinstance(method, dict) else {}, "Method settings"),
        chart=chart,
        ends=None if rank.ends is None else tuple(ends_of(rank.ends)),
    )


def _token_facts(rank: RankRecord) -> list[str]:
    tokens = rank.scores.n_trained_tokens
    if tokens is None or not len(tokens):
        return []
    return [
        f"{int(tokens.sum()):,} response tokens are trained on, {number(float(tokens.mean()))} per "
        f"row on average, {int(tokens.max()):,} in the longest."
    ]


def _unscored_note(n_unscored: int) -> str:
    return f"{n_unscored:,} rows without a score are not drawn." if n_unscored else ""


def select_view(selection: SelectRecord) -> StageView:
    """Say which rule kept what, and draw it."""
    rule = selection.facts.config.get("select")
    values = rule if isinstance(rule, dict) else {}
    asked = [
        f"{key} {percent(value) if key in _PERCENT_RULES else value}"
        for key in ("ratio", "count", "threshold", "rule") if (value := values.get(key)) is not None
    ]  # fmt: skip
    said = [f"Rule: {', '.join(asked)}."] if asked else []
    if values.get("readout"):
        said.append(f"Selected by readout {values['readout']}.")
    if isinstance(found := selection.facts.details.get("threshold"), int | float):
        said.append(f"Threshold found: {number(float(found))}.")
    said += [f"Note: {note}" for note in selection.facts.details.get("notes", ())]
    if selection.cut is not None:
        said.append(f"Lowest kept score: {number(selection.cut)}.")
    chart = None
    if histogram := make_histogram(selection.scores, selection.kept):
        caption = "Dashed line: lowest kept score. " if selection.cut is not None else ""
        drawing = histogram_svg(histogram, selection.cut, "Histogram of scores, kept and dropped")
        chart = Chart(drawing, caption + _unscored_note(histogram.n_unscored))
    return StageView(selection.facts.folder.name, tuple(said), selection_table(selection), chart)


def finetune_view(tuning: FinetuneRecord) -> StageView:
    """Say what was trained, and draw the loss."""
    training = tuning.training
    said = [f"{training.steps:,} optimiser steps on {training.n_rows:,} rows"]
    if training.epochs is not None:
        said.append(f"{number(float(training.epochs))} passes over the rows")
    if training.n_tokens is not None:
        said.append(f"{training.n_tokens:,} tokens through the model")
    facts = [f"{', '.join(said)}."]
    if training.resumed_at is not None:
        facts.append(f"Continued from a checkpoint at step {training.resumed_at:,}.")
    if training.note:
        facts.append(training.note)
    chart = None
    if training.losses:
        first, last = number(training.losses[0]), number(training.losses[-1])
        facts.append(f"Loss {first} at the first step, {last} at the last, nats per trained token.")
        if drawn := sparkline_svg(training.losses, "Loss per optimiser step"):
            drawing, per_point = drawn
            each = f"mean of {per_point} steps" if per_point > 1 else "one step"
            chart = Chart(
                drawing, f"Training loss in nats per trained token; each point is {each}."
            )
    return StageView(tuning.facts.folder.name, tuple(facts), None, chart)


def limits(found: Collected, paired: Paired | None = None) -> list[str]:
    """Say what these results do not show, given what was and was not measured."""
    said = []
    if found.ranks and not any(rank.quality for rank in found.ranks):
        said.append(
            "No labels were given: nothing here says how many harmful rows were found, or how many "
            "are left."
        )
    if found.comparisons:
        said.append(
            "Intervals of a comparison cover the choice of rows, and of a mean what differs "
            "between its rankings. They overlap more than the methods differ, since all methods "
            "saw the same rows: no test of a difference is made. "
            "Methods were not tuned here; a method whose options were chosen with these labels "
            "would look better than it is."
        )
    if found.ranks or found.selects:
        said.append(
            "The rows at the ends are extremes, not a sample: they do not show where harmful rows "
            "near the cut lie. Someone who knows a ranking method can write rows that it misses."
        )
    if found.evaluations:
        said.append(
            "The intervals of the evaluation cover the choice of prompts only. Training once more "
            "with another seed can move a number by more than its interval."
        )
    said += experiment_limits(found.experiments)
    said += proof_limits(found.proofs)
    said += _judge_limits(found)
    if paired is not None and paired.measures:
        said.append(
            "Differences between evaluations, their intervals and p, are of these very models: "
            "fine-tuned once more with another seed, a model can differ by more. An experiment "
            "with several seeds tells."
        )
    elif len(found.evaluations) > 1:
        said.append(
            "No difference between evaluations is given. Overlapping intervals do not show that "
            "nothing changed."
        )
    if found.finetunes:
        said.append(
            "That the ranking helped is not shown without a second model, fine-tuned for as many "
            "steps on as many rows kept by chance (method uniform)."
        )
    return said


def _judge_limits(found: Collected) -> list[str]:
    asked = [e.record.judges for e in found.evaluations] + [e.judges for e in found.experiments]
    alone = any(n_judges_of(e.record, name) == 1 for e in found.evaluations for name in _JUDGED)
    alone |= any(n_judges(e, name) == 1 for e in found.experiments for name in _JUDGED)
    said = []
    if any("refusal_strings" in judges for judges in asked):
        said.append(
            "The judge refusal_strings looks for 29 published phrases. It cannot tell a harmful "
            "answer from a useless one, misses refusals in other words, and counts phrases such as "
            "“illegal” wherever they stand."
        )
    if alone:
        said.append("Where one judge gave the verdicts, no second judge checked it.")
    if any(len(judges) > 1 for judges in asked):
        said.append(
            "Judges that agree may be wrong together: kappa says how alike they are, not how right."
        )
    return said


def at_a_glance(found: Collected) -> list[tuple[str, str, str]]:
    """Return label, value and note of the few numbers to see first."""
    tiles = [
        ("Rows ranked", f"{len(rank.scores):,}", f"by {rank.scores.method}")
        for rank in found.ranks[:1]
    ]
    for compared in found.comparisons[:1]:
        methods = {entry.method for entry in compared.entries}
        parts = {entry.rows for entry in compared.entries}
        tiles.append(("Methods compared", f"{len(methods):,}", f"on {len(parts):,} sets of rows"))
    for selection in found.selects[:1]:
        n, kept = len(selection.ids), int(selection.kept.sum())
        tiles.append(("Rows kept", f"{kept:,}", f"{percent(kept / n) if n else ''} of {n:,}"))
    for tuning in found.finetunes[:1]:
        steps, rows = tuning.training.steps, tuning.training.n_rows
        tiles.append(("Fine-tuning", f"{steps:,} steps", f"on {rows:,} rows"))
    for experiment in found.experiments[:1]:
        arms = {arm for group in experiment.groups for one in group.measures.values()
                for arm in one.arms}  # fmt: skip
        tiles.append(("Arms compared", f"{len(arms):,}",
                      f"in {len(experiment.trainings):,} fine-tunings"))  # fmt: skip
    for evaluation in found.evaluations[:2]:
        rate = evaluation.record.metrics.get("attack_success_rate", _ABSENT)
        interval = f"{percent(rate.low)} to {percent(rate.high)}" if rate.value is not None else ""
        n_judging = n_judges_of(evaluation.record, "attack_success_rate")
        name = heading("attack_success_rate", n_judging)
        note = f"{interval}, n = {rate.n:,}".lstrip(", ")
        tiles.append((f"{name}, {evaluation.role}", percent(rate.value), note))
    return tiles


def detection(found: Collected) -> tuple[Table | None, Table | None]:
    """Return the detection tables, None without labels."""
    return detection_tables(found.ranks)
