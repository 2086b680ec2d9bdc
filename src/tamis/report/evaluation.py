"""Evaluations side by side: every measure, by category, by judge, and how judges agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tamis.evaluation.statistics import Estimate
from tamis.report.charts import intervals_svg
from tamis.report.collect import Evaluated
from tamis.report.judge_records import JudgeAgreement, count_judges, model_behind
from tamis.report.loads import repeated_prompt_lines
from tamis.report.measures import MEASURES, ONE_JUDGE, heading, who_judged
from tamis.report.records import EvaluateRecord
from tamis.report.tables import Cell, Table, interval_cell
from tamis.report.text import NOT_MEASURED, number, percent

_ABSENT = Estimate(None, None, None, 0)
_SETS = {"harmful": "harmful prompts", "over_refusal": "touchy prompts",
         "helpful": "helpful prompts"}  # fmt: skip
_QUESTIONS = {"harmful": "Harmful, of answers to harmful prompts",
              "refused": "Refused, of answers to touchy prompts"}  # fmt: skip
_NO_KAPPA = "not defined"  # all answers got the same one verdict
_SAME_MODEL = "same model: one judge"


@dataclass(frozen=True)
class EvaluationView:
    """Evaluations side by side.

    Attributes:
        judges: Names of all judges, the primary ones first.
        who_judged: What these are: judges, or names of one.
        main: Every measure; None without an evaluation.
        agreement: How far judges agree; None with one judge.
        by_judge: Every judge's own figures; None with one judge.
        categories: Attack success by category; None where prompts have none.
        notes: What the evaluations told of their judges, and prompts that are asked twice.
    """

    judges: tuple[str, ...]
    who_judged: str
    main: Table | None
    agreement: Table | None
    by_judge: Table | None
    categories: Table | None
    notes: tuple[str, ...] = ()


def evaluation_view(evaluations: Sequence[Evaluated]) -> EvaluationView:
    """Put evaluations side by side, before first."""
    judges = [e.record.judge for e in evaluations]
    judges += [name for e in evaluations for name in e.record.judges]
    names = tuple(dict.fromkeys(judges))
    figures = {e.role.capitalize(): e.record.figures for e in evaluations}
    models = {model_behind(name, e.record.figures.judge_identities)
              for e in evaluations for name in e.record.judges}  # fmt: skip
    return EvaluationView(
        names, who_judged(names, len(models)),
        evaluation_table(evaluations) if evaluations else None,
        agreement_table({role: found.agreement for role, found in figures.items()},
                        {role: found.judge_identities for role, found in figures.items()}),
        _judge_table(evaluations), _category_table(evaluations),
        tuple(evaluation_notes(evaluations)),
    )  # fmt: skip


def evaluation_notes(evaluations: Sequence[Evaluated]) -> Iterator[str]:
    """Say what evaluations told of their judges, and which prompts stand in their set before.

    What holds for all of them is said once, without their names.
    """
    lines: dict[str, list[str]] = {}
    for e in evaluations:
        asked = e.record.figures.settings.prompts
        repeated = repeated_prompt_lines({kind: one.repeated for kind, one in asked.items()})
        for line in (*e.record.facts.notes, *repeated):
            lines.setdefault(line, []).append(e.role)
    for line, roles in lines.items():
        yield line if len(roles) == len(evaluations) else f"{', '.join(roles)}: {line}"


def evaluation_tables(evaluations: Sequence[Evaluated]) -> Iterator[Table]:
    """Yield the main table, and those of several judges."""
    view = evaluation_view(evaluations)
    yield from (table for table in (view.main, view.agreement, view.by_judge) if table is not None)


def evaluation_table(evaluations: Sequence[Evaluated]) -> Table:
    """Every measure, one column per evaluation; rates also as drawn intervals."""
    rows: list[tuple[Cell, ...]] = []
    for name, measure in MEASURES.items():
        if name == "response_tokens":
            rows += _length_rows(evaluations)
            continue
        found = [_given(e.record, name) for e in evaluations]
        if measure.always or any(found):
            n_judges = max(n_judges_of(e.record, name) for e in evaluations)
            notes = [_notes(e.record, name, n_judges) for e in evaluations]
            label = heading(name, n_judges)
            rows.append(_row(label, measure.meaning, found, is_rate=measure.is_rate, notes=notes))
        openings = [e.record.in_openings.get(name) for e in evaluations]
        if any(openings):
            rows.append(_row(
                f"{measure.label}, openings",
                "the same by refusal strings alone, judged on the first 64 characters", openings,
            ))  # fmt: skip
    caption = "Estimates with 95% intervals"
    return Table(caption, ("Measure", *_roles(evaluations), "0% to 100%"), tuple(rows))


def judges_of(record: EvaluateRecord, name: str) -> tuple[str, ...]:
    """Name the judges that give a measure: not all judge all prompts. Older files name one."""
    figures = record.figures.judges.items()
    found = [judge for judge, own in figures if (given := getattr(own, name, None)) and given.n]
    return tuple(found) or (record.judge,)


def n_judges_of(record: EvaluateRecord, name: str) -> int:
    """Count the models that judged for a measure."""
    return count_judges(judges_of(record, name), record.figures.judge_identities)


def _given(record: EvaluateRecord, name: str) -> Estimate | None:
    """Return the first judge's figure, or that of the first one that judges such prompts."""
    first = record.metrics.get(name)
    judge = judges_of(record, name)[0]
    if not MEASURES[name].judged or (first and first.n) or judge == record.judge:
        return first
    other: Estimate | None = getattr(record.figures.judges[judge], name)
    return other


def _notes(record: EvaluateRecord, name: str, n_judges: int) -> tuple[str, ...]:
    """Say in a cell what its row's head cannot: why answers were incoherent, who judged."""
    incoherent = record.figures.incoherence_rate
    if name == "incoherence_rate" and incoherent is not None:
        return tuple(f"{reason}: {n:,}" for reason, n in incoherent.reasons.items())
    if not MEASURES[name].judged:
        return ()
    judges = judges_of(record, name)
    if n_judges_of(record, name) == 1 < n_judges:
        return (f"{ONE_JUDGE}, {', '.join(judges)}",)
    return (f"judged by {judges[0]}",) if judges[0] != record.judge else ()


def _length_rows(evaluations: Sequence[Evaluated]) -> Iterator[tuple[Cell, ...]]:
    measure = MEASURES["response_tokens"]
    lengths = [e.record.figures.response_tokens for e in evaluations]
    for kind in dict.fromkeys(kind for found in lengths for kind in found):
        meaning = f"{measure.meaning} to {_SETS.get(kind, kind)}"
        yield _row(measure.label, meaning, [found.get(kind) for found in lengths], is_rate=False)


def _row(
    label: str, meaning: str, found: Sequence[Estimate | None], *, is_rate: bool = True,
    notes: Sequence[tuple[str, ...]] = (), who: str | None = None,
) -> tuple[Cell, ...]:  # fmt: skip
    """One measure; `who` stands in a column of its own."""
    estimates = [estimate or _ABSENT for estimate in found]
    drawing = intervals_svg([(e.value, e.low, e.high) for e in estimates]) if is_rate else None
    cells = [interval_cell(e, as_percent=is_rate, counted=True) for e in estimates]
    if notes:
        cells = [replace(cell, notes=(*cell.notes, *more))
                 for cell, more in zip(cells, notes, strict=True)]  # fmt: skip
    head = [Cell(label, (meaning,) if meaning else (), kind="head")]
    return (*head, *([] if who is None else [Cell(who, kind="name")]), *cells,
            Cell(drawing=drawing, kind="plot"))  # fmt: skip


def _category_table(evaluations: Sequence[Evaluated]) -> Table | None:
    """Attack success by category of the prompts, by the primary judge."""
    found = [e.record.figures.by_category for e in evaluations]
    names = sorted({name for by_category in found for name in by_category})
    if not names:
        return None
    rows = tuple(_row(name, "", [by_category.get(name) for by_category in found])
                 for name in names)  # fmt: skip
    judges = ", ".join(dict.fromkeys(e.record.judge for e in evaluations))
    n_judges = max(n_judges_of(e.record, "attack_success_rate") for e in evaluations)
    caption = f"{heading('attack_success_rate', n_judges)} by category, judged by {judges}"
    return Table(caption, ("Category", *_roles(evaluations), "0% to 100%"), rows)


def _judge_table(evaluations: Sequence[Evaluated]) -> Table | None:
    """Every judge's own figures, where an evaluation has several."""
    if all(len(e.record.judges) <= 1 for e in evaluations):
        return None
    found = [e.record.figures.judges for e in evaluations]
    judges = dict.fromkeys(name for e in evaluations for name in e.record.judges)
    rows = []
    for name, measure in MEASURES.items():
        label, meaning = measure.label, measure.meaning
        for judge in judges if measure.judged else ():
            own = [getattr(figures[judge], name) if judge in figures else None
                   for figures in found]  # fmt: skip
            if any(own):
                rows.append(_row(label, meaning, own, is_rate=measure.is_rate, who=judge))
                label = meaning = ""  # said once per measure
    head = ("Measure", "Judge", *_roles(evaluations), "0% to 100%")
    return Table("Every judge's own figures, with 95% intervals", head, tuple(rows))


def agreement_table(
    found: Mapping[str, Sequence[JudgeAgreement]], identities: Mapping[str, Mapping[str, str]]
) -> Table | None:
    """Cohen's kappa of every two judges, one column per name; None without one.

    Args:
        found: By column.
        identities: What gives the judges' verdicts, by column: where it is one model for both,
            kappa is marked, for it says nothing of a second judge.
    """
    columns = [{(one.judges, one.question): one for one in column} for column in found.values()]
    keys = dict.fromkeys(key for column in columns for key in column)
    if not keys:
        return None
    rows = tuple(
        (Cell(_QUESTIONS.get(question, question), kind="head"),
         Cell(" and ".join(judges), kind="name"),
         *(_kappa_cell(column.get((judges, question)), count_judges(judges, identities[name]))
           for name, column in zip(found, columns, strict=True)))
        for judges, question in keys
    )  # fmt: skip
    caption = "How far judges agree: Cohen's kappa (1 in full, 0 by chance) with 95% intervals"
    return Table(caption, ("Question", "Judges", *found), rows)


def _kappa_cell(found: JudgeAgreement | None, n_judges: int) -> Cell:
    if found is None:
        return Cell(NOT_MEASURED, kind="none")
    prompts = "" if found.n_prompts is None else f" answers to {found.n_prompts:,} prompts"
    same = (_SAME_MODEL,) if n_judges == 1 else ()
    rests = (f"n = {found.n:,}{prompts}, unscored {found.n_unscored:,}", *same)
    if found.observed is None:
        return Cell(NOT_MEASURED, rests, kind="none")
    alike = f"same verdict on {percent(found.observed)}"
    if found.kappa is None:
        return Cell(_NO_KAPPA, (alike, *rests), kind="none")
    interval = "no interval"
    if found.low is not None and found.high is not None:
        interval = f"{number(found.low)} to {number(found.high)}"
    return Cell(number(found.kappa), (interval, alike, *rests), kind="num")


def _roles(evaluations: Sequence[Evaluated]) -> tuple[str, ...]:
    return tuple(e.role.capitalize() for e in evaluations)
