"""A finished experiment: its tables, and what to know before reading them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tamis.report.evaluation import agreement_table
from tamis.report.experiment_arms import (
    arms_table,
    group_name,
    n_judges,
    primary_differences,
    secondary_differences,
    sweep_tables,
)
from tamis.report.experiment_beforehand import changed_warnings, primary_fact, when_fixed
from tamis.report.experiment_records import ExperimentRecord, Group
from tamis.report.experiment_rows import (
    budget_facts,
    kept_table,
    source_tables,
    training_table,
)
from tamis.report.judge_records import count_judges
from tamis.report.loads import load_lines, prompts_shared, repeated_prompt_lines
from tamis.report.measures import MEASURES, heading, who_judged
from tamis.report.tables import Cell, Table

# Beside the primary measure; the others are folded.
MAIN = ("attack_success_rate", "over_refusal_rate", "helpful_loss", "incoherence_rate")


@dataclass(frozen=True)
class GroupView:
    """Arms that are compared with each other.

    Attributes:
        name: Part, ratio and budget.
        arms: Every arm's means, the primary measure first.
        differences: Of the primary measure, arm by arm and reference; None without one.
        more: The means of all other measures, other judges' among them; None without one.
        secondary: Differences of every measure but the primary one; None without one.
    """

    name: str
    arms: Table
    differences: Table | None
    more: Table | None
    secondary: Table | None


@dataclass(frozen=True)
class ExperimentView:
    """One experiment.

    Attributes:
        name: Its folder's.
        facts: What to know before reading the tables.
        warnings: What makes figures doubtful.
        groups: Arms side by side.
        sweeps: The primary measure over parts, ratios and budgets.
        agreement: How far judges agree; None with one.
        kept: What every arm trained on; None where nothing was trained.
        sources: Kept share by source.
        trainings: Every fine-tuning; None without one.
        measures: What the measures are.
    """

    name: str
    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    groups: tuple[GroupView, ...]
    sweeps: tuple[Table, ...]
    agreement: Table | None
    kept: Table | None
    sources: tuple[Table, ...]
    trainings: Table | None
    measures: Table


def experiment_view(found: ExperimentRecord) -> ExperimentView:
    """Say how the arms of an experiment did."""
    budgets, unequal = budget_facts(found.trainings)
    return ExperimentView(
        name=found.folder.name,
        facts=(*_facts(found), *load_lines(found.sets), *budgets),
        warnings=(*_warnings(found), *unequal),
        groups=tuple(_group_view(found, group) for group in found.groups),
        sweeps=tuple(sweep_tables(found)),
        agreement=agreement_table(
            {"All cells": found.agreement}, {"All cells": found.judge_identities}
        ),
        kept=kept_table(found.selections),
        sources=tuple(source_tables(found.selections)),
        trainings=training_table(found.trainings),
        measures=_measure_table(found),
    )


def experiment_limits(found: Sequence[ExperimentRecord]) -> list[str]:
    """Say what experiments do not show."""
    if not found:
        return []
    return [
        "Intervals of an experiment cover the choice of prompts and, as far as so few can tell, of "
        "seeds of fine-tuning; the spread between seeds stands beside them. Rankings and draws of "
        "rows were made once, with one seed.",
        "p is adjusted over the arms of one reference, not over measures, references or groups: of "
        "many secondary differences some differ by chance.",
        "Likelihood measures compare arms on one model. They are not comparable between models.",
    ]


def _facts(found: ExperimentRecord) -> Iterator[str]:
    label = heading(found.primary, n_judges(found, found.primary))
    yield primary_fact(found, label)
    first, *others = found.judges
    if others:
        who = who_judged(found.judges, count_judges(found.judges, found.judge_identities))
        yield (
            f"{who}: {', '.join(found.judges)}. Verdicts are those of {first} unless another is "
            "named; no judges are averaged."
        )
    else:
        yield f"One judge: {first}."
    if found.n_without_check and any("task_accuracy" in group.measures for group in found.groups):
        yield (
            f"{found.n_without_check:,} helpful prompts have no answer to check: task accuracy "
            "counts the others."
        )


def _warnings(found: ExperimentRecord) -> Iterator[str]:
    yield from changed_warnings(found)
    if counts := prompts_shared(found.rows_with_prompts):
        yield (
            f"{found.folder.name}: rows, those mixed in included, whose request is an evaluation "
            f"prompt, or nearly so: {counts}. An arm that trains on them may repeat what it has "
            "read."
        )
    for role, by_set in found.pruning_rows_with_prompts.items():
        if counts := prompts_shared(by_set):
            yield (
                f"{found.folder.name}: rows of the {role.replace('_', ' ')}, by which weights are "
                f"pruned, whose request is an evaluation prompt, or nearly so: {counts}. A pruned "
                "arm was made for them, so that its figures say less of others."
            )
    for line in repeated_prompt_lines(found.repeated_prompts):
        yield f"{found.folder.name}: {line}"
    if found.trainings and len({training.seed for training in found.trainings}) == 1:
        yield (
            f"{found.folder.name}: every arm was fine-tuned with one seed. Intervals and p are of "
            "these very models: how far another seed of the same arm would lie from them is not "
            "known, and it can be farther than arms lie apart. Give three seeds or more."
        )
    for group in found.groups:
        if found.primary not in group.measures:
            yield (
                f"{found.folder.name}, {group_name(group)}: the primary measure {found.primary} "
                "was not measured."
            )


def _group_view(found: ExperimentRecord, group: Group) -> GroupView:
    names = list(group.measures)
    wanted = [next((name for name in names if name.partition("/")[0] == base), "") for base in MAIN]
    main = [name for name in dict.fromkeys((found.primary, *wanted)) if name in names]
    others = [name for name in names if name not in main]
    secondary = [name for name in names if name != found.primary]
    title = group_name(group)
    return GroupView(
        title,
        arms_table(
            f"{title}: means with 95% intervals; the primary measure was {when_fixed(found)}",
            found,
            group,
            main,
        ),
        primary_differences(found, group),
        arms_table(f"{title}: further measures", found, group, others) if others else None,
        secondary_differences(found, group, secondary),
    )


def _measure_table(found: ExperimentRecord) -> Table:
    used = {name.partition("/")[0] for group in found.groups for name in group.measures}
    rows = tuple(
        (Cell(measure.label, kind="head"), Cell(name, kind="id"), Cell(measure.meaning))
        for name, measure in MEASURES.items() if name in used
    )  # fmt: skip
    return Table("What the measures are", ("Measure", "In results.json", "Meaning"), rows)
