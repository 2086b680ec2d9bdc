"""Evaluations against the first of them: the figures beside the page, and their table.

The figures are made by `tamis.evaluation.before_after` and kept in a JSON file beside the page.
What is shown is read from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from tamis.errors import ConfigError, DataError
from tamis.evaluation.before_after import Test, before_after
from tamis.files import read_json_object, write_json
from tamis.report.collect import Evaluated
from tamis.report.evaluation import n_judges_of
from tamis.report.experiment_arms import DIFFERENCE_HEAD, difference_cells
from tamis.report.experiment_records import ArmDifference
from tamis.report.measures import MEASURES, heading, measure_of
from tamis.report.tables import Cell, Table

KIND = "tamis paired differences"  # how a file of ours is known
_TESTS: Mapping[Test, str] = {"mcnemar": "McNemar", "wilcoxon": "Wilcoxon",
                              "sign_flip": "sign flip"}  # fmt: skip


@dataclass(frozen=True)
class VerdictDifference(ArmDifference):
    """An evaluation minus the first; `arm` and `reference` are their roles.

    Attributes:
        n_only_arm: Prompts with a positive verdict there alone; None for other measures.
        n_only_reference: And in the first alone.
    """

    n_only_arm: int | None = None
    n_only_reference: int | None = None


@dataclass(frozen=True)
class PairedMeasure:
    """One measure, in which direction it is better, and how p was tested."""

    better: Literal["higher", "lower"] | None
    test: Test
    differences: tuple[VerdictDifference, ...] = ()


@dataclass(frozen=True)
class Paired:
    """What the file says; see `before_after`."""

    reference: str
    measures: dict[str, PairedMeasure]
    refused: dict[str, str] = field(default_factory=dict)
    one_sided: dict[str, tuple[str, ...]] = field(default_factory=dict)


def figures_file(page: Path) -> Path:
    """Return where the figures of a page are: beside it."""
    return page.with_name(f"{page.stem}-differences.json")


def write_paired(evaluations: Sequence[Evaluated], page: Path) -> Paired | None:
    """Compare evaluations with the first, keep the figures beside the page, and read them.

    Args:
        evaluations: Before first.
        page: The HTML file; figures of an earlier one are replaced, or removed with one evaluation.

    Returns:
        None with fewer than two evaluations.

    Raises:
        ConfigError: Another's file has the name of the figures.
    """
    path = figures_file(page)
    if path.exists() and not _is_ours(path):
        raise ConfigError(
            f"{path} is no file of a report of tamis, and the figures of {page.name} go there: it "
            "is not replaced. Give --out another name, or remove it."
        )
    if len(evaluations) < 2:
        path.unlink(missing_ok=True)
        return None
    folders = {one.role: one.record.facts.folder for one in evaluations}
    write_json(path, {"kind": KIND, **before_after(folders)})
    return read_paired(path)


def read_paired(path: Path) -> Paired:
    """Read the figures beside a page.

    Raises:
        DataError: The file is damaged.
    """
    try:
        return TypeAdapter(Paired).validate_python(read_json_object(path))
    except ValidationError as error:
        raise DataError(f"{path} is not as a report writes it: {error}") from error


def _is_ours(path: Path) -> bool:
    try:
        return read_json_object(path).get("kind") == KIND
    except DataError:
        return False


@dataclass(frozen=True)
class PairedView:
    """Evaluations against the first.

    Attributes:
        facts: How to read the figures, and why some are not given.
        main: Every measure; None where nothing is compared.
        others: What other judges than the first give; None with one.
    """

    facts: tuple[str, ...] = ()
    main: Table | None = None
    others: Table | None = None


def paired_view(found: Paired | None, evaluations: Sequence[Evaluated]) -> PairedView:
    """Say how evaluations differ from the first of them; nothing without the figures."""
    if found is None:
        return PairedView()
    chosen: dict[str, str] = {}
    for name in found.measures:  # the first judge's, or that of the first who judges such prompts
        chosen.setdefault(name.partition("/")[0], name)
    main = sorted(chosen.values(), key=_place)
    others = sorted((name for name in found.measures if name not in main), key=_place)
    return PairedView(
        tuple(_facts(found)),
        _table("", found, main, evaluations) if main else None,
        _table("every other judge: ", found, others, evaluations) if others else None,
    )


def _place(name: str) -> tuple[int, str]:
    base = name.partition("/")[0]
    return (list(MEASURES).index(base) if base in MEASURES else len(MEASURES), name)


def _table(
    which: str, found: Paired, names: Sequence[str], evaluations: Sequence[Evaluated]
) -> Table:
    several = len({one.arm for name in names for one in found.measures[name].differences}) > 1
    rows = []
    for name in names:
        measured = found.measures[name]
        is_rate = measure_of(name).is_rate
        way = "" if measured.better is None else f"{measured.better} is better"
        note = ", ".join(filter(None, (way, "percentage points" if is_rate else "")))
        base = name.partition("/")[0]
        label = heading(name, max(n_judges_of(one.record, base) for one in evaluations))
        for one in measured.differences:
            _, difference, p, smallest, n = difference_cells(one, 100.0 if is_rate else 1.0)
            p = replace(p, notes=tuple(_tested(measured.test, one)))
            rows.append((
                Cell(label, (note,) if note else (), kind="head"),
                *((Cell(one.arm, kind="name"),) if several else ()),
                difference, p, smallest, n,
            ))  # fmt: skip
            label = note = ""  # said once per measure
    arms = dict.fromkeys(one.arm for name in names for one in found.measures[name].differences)
    who = "each evaluation" if several else "".join(arms)
    _, _, difference_head, p_head, *rest = DIFFERENCE_HEAD
    head = ("Measure", *(("Evaluation",) if several else ()), difference_head,
            p_head if several else "p", *rest)  # fmt: skip
    caption = f"{which}{who} less {found.reference}, prompt by prompt, with 95% intervals"
    return Table(caption[:1].upper() + caption[1:], head, tuple(rows))


def _tested(test: Test, one: VerdictDifference) -> Iterator[str]:
    yield _TESTS[test]
    if one.n_only_arm is not None and one.n_only_reference is not None:
        yield f"{one.n_only_arm:,} only {one.arm}, {one.n_only_reference:,} only {one.reference}"


def _facts(found: Paired) -> Iterator[str]:
    """Say how to read the table, and what is not in it."""
    if found.measures:
        yield (
            "Smallest found is the smallest true difference that these prompts would have shown "
            "with 80% probability: less may be there and not be seen. p is of these very models: "
            "McNemar's exact test for verdicts (prompts with one on either side alone beside it), "
            "Wilcoxon's for a judge's grades, sign flips of the mean for the rest; it is not "
            "adjusted over measures, and of many some differ by chance."
        )
    for role, why in found.refused.items():
        yield (
            f"No difference between {role} and {found.reference} is given, because it would need "
            f"its own interval over pairs of the same prompt, judged alike: {why}."
        )
    for name, roles in found.one_sided.items():
        yield f"{heading(name, 0)}: no score of {' and '.join(roles)}, so no difference from it."
