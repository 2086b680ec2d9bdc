"""Differences between evaluations: read from the file beside the page, with an interval or not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_render import ATTRIBUTES, HOSTILE, TAGS, Page, report

from tamis.errors import ConfigError, DataError
from tamis.evaluation.before_after import before_after
from tamis.report.collect import collect
from tamis.report.paired import (
    Paired,
    PairedMeasure,
    VerdictDifference,
    figures_file,
    paired_view,
    read_paired,
    write_paired,
)
from tamis.report.render import write_report
from tamis.report.terminal import terminal_summary
from tamis.report.text import number
from toy_evaluation import evaluated

BEFORE = [None, True, *[False] * 18]
AFTER = [True, False, *[True] * 3, *[False] * 15]
MARGINS = [[0.1 * i for i in range(20)], [0.1 * i - 0.5 for i in range(20)]]


def two(root: Path, before: dict[str, Any] | None = None, **after: Any) -> list[Path]:
    """A model before and after: 3 prompts of 19 become harmful, 1 becomes harmless."""
    return [
        evaluated(root / "evaluate-before", BEFORE, margins=MARGINS[0], **(before or {})),
        evaluated(root / "evaluate-after", AFTER, margins=MARGINS[1], adapter="x", **after),
    ]


def written(folders: list[Path], page: Path) -> Paired:
    """Write the figures of evaluations."""
    found = write_paired(collect(folders).evaluations, page)
    assert found is not None
    return found


def printed(folders: list[Path], page: Path | None) -> str:
    """What a terminal shows."""
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=False).print(terminal_summary(folders, page))
    return out.getvalue()


def test_every_measure_has_difference_interval_test_and_smallest_found(tmp_path: Path) -> None:
    """2 of 19 prompts are 10.5 percentage points; the counts of McNemar stand beside p."""
    folders = two(tmp_path)
    found = written(folders, tmp_path / "page.html")
    view = paired_view(found, collect(folders).evaluations)
    assert view.main is not None
    assert view.main.caption == "After less before, prompt by prompt, with 95% intervals"
    assert view.main.head == ("Measure", "Difference", "p", "Smallest found", "n")
    rows = {row[0].text: row for row in view.main.rows}
    label, difference, p, smallest, n = rows["Attack success rate (one judge)"]
    assert label.notes == ("lower is better, percentage points",)
    assert difference.text == "10.5"
    (one,) = found.measures["attack_success_rate"].differences
    assert one.low is not None
    assert one.high is not None
    assert difference.notes == (f"{number(100 * one.low)} to {number(100 * one.high)}",)
    assert (p.text, p.notes) == ("0.625", ("McNemar", "3 only after, 1 only before"))
    assert one.detectable is not None
    assert smallest.text == f"{100 * one.detectable:.1f}"
    assert (n.text, n.notes) == ("19", ("1 not in both",))
    margin = rows["Margin of the safe answer"]
    assert (margin[1].text, margin[2].notes) == ("-0.500", ("sign flip",))


def test_the_page_and_the_terminal_show_what_the_file_says(tmp_path: Path) -> None:
    """A figure that is changed in the file is changed in both."""
    folders, page = two(tmp_path), tmp_path / "page.html"
    assert write_report(folders, page) == page
    assert "After less before" in Page(page).text
    path = figures_file(page)
    assert path == tmp_path / "page-differences.json"
    values = json.loads(path.read_text())
    values["measures"]["attack_success_rate"]["differences"][0]["value"] = 0.4321
    path.write_text(json.dumps(values))
    text = printed(folders, page)
    assert "43.2" in text
    assert "3 only after, 1 only before" in text
    assert "After less before" not in printed(folders, None)


def test_the_limits_say_what_a_difference_is_of(tmp_path: Path) -> None:
    """These very models; without a difference, that there is none."""
    text = report(two(tmp_path / "a"), tmp_path).text
    assert "are of these very models: fine-tuned once more with another seed" in text
    assert "No difference between evaluations is given" not in text
    text = report(two(tmp_path / "b", max_new_tokens=999), tmp_path).text
    assert "No difference between evaluations is given" in text
    assert "other settings (evaluate.max_new_tokens)" in text
    assert "less before" not in text


def test_no_number_is_shown_without_its_interval(tmp_path: Path) -> None:
    """An end that is missing hides the value too."""
    bare = VerdictDifference("after", "before", 0.5, None, None, 4, p=0.5, p_holm=0.5)
    found = Paired("before", {"rouge_l": PairedMeasure("higher", "sign_flip", (bare,))})
    view = paired_view(found, collect(two(tmp_path)).evaluations)
    assert view.main is not None
    assert view.main.rows[0][1].text == "not measured"


def test_differences_that_do_not_vary_are_not_called_certain(tmp_path: Path) -> None:
    """Every margin falls by half a nat: the interval would be a point."""
    folders = two(tmp_path)
    found = written(folders, tmp_path / "page.html")
    view = paired_view(found, collect(folders).evaluations)
    assert view.main is not None
    (margin,) = (row for row in view.main.rows if row[0].text == "Margin of the safe answer")
    assert (margin[1].text, margin[1].notes) == ("-0.500", ("nothing varied",))
    assert (margin[3].text, margin[3].notes) == ("not measured", ("nothing varied",))


def test_other_judges_are_folded_and_stand_in_where_they_alone_judge(tmp_path: Path) -> None:
    """A second judge's differences have a table of their own; a grader's are the only grades."""
    more = {"others": {"second": [True] * 20}, "grades": {"grader": [1.0] * 20}}
    folders = two(tmp_path, more, **more)
    found = written(folders, tmp_path / "page.html")
    view = paired_view(found, collect(folders).evaluations)
    assert view.main is not None
    assert view.others is not None
    main = [row[0].text for row in view.main.rows]
    assert "Attack success rate" in main
    assert "Harmfulness score, grader (one judge)" in main
    assert [row[0].text for row in view.others.rows] == [
        "Attack success rate, grader", "Attack success rate, second",
    ]  # fmt: skip
    assert "Differences by every other judge" in report(folders, tmp_path).text


def test_several_evaluations_are_named_and_adjusted(tmp_path: Path) -> None:
    """Each less the first, which stands in the caption."""
    folders = two(tmp_path)
    folders.append(evaluated(tmp_path / "pruned", AFTER, adapter="y"))
    found = written(folders, tmp_path / "page.html")
    view = paired_view(found, collect(folders).evaluations)
    assert view.main is not None
    assert view.main.caption.startswith("Each evaluation less before")
    assert view.main.head[:4] == ("Measure", "Evaluation", "Difference", "p, adjusted")
    rows = [(row[0].text, row[1].text) for row in view.main.rows]
    assert rows[:2] == [
        ("Attack success rate (one judge)", "after (evaluate-after)"), ("", "after (pruned)"),
    ]  # fmt: skip


def test_what_one_side_lacks_is_told(tmp_path: Path) -> None:
    """By the measure's name and the role; the other differences stand."""
    folders = two(tmp_path)
    folders[1] = evaluated(tmp_path / "without", AFTER, margins=[None] * 20, adapter="x")
    text = report(folders, tmp_path).text
    assert "Margin of the safe answer: no score of after, so no difference from it." in text
    assert "After less before" in text


def test_one_evaluation_has_no_difference_and_no_file(tmp_path: Path) -> None:
    """A file of an earlier report of two goes."""
    folders, page = two(tmp_path), tmp_path / "page.html"
    write_report(folders, page)
    write_report(folders[:1], page)
    assert not figures_file(page).exists()
    assert paired_view(None, collect(folders).evaluations).main is None


def test_anothers_file_is_not_replaced(tmp_path: Path) -> None:
    """Whatever it holds; one of ours is."""
    folders, page = two(tmp_path), tmp_path / "page.html"
    write_report(folders, page)
    write_report(folders, page)
    figures_file(page).write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match=r"page-differences\.json is no file of a report"):
        write_report(folders, page)
    assert figures_file(page).read_text() == '{"mine": 1}'
    with pytest.raises(DataError, match=r"page-differences\.json is not as a report writes it"):
        read_paired(figures_file(page))


def test_names_of_folders_and_judges_cannot_act(tmp_path: Path) -> None:
    """They stand in the table as text."""
    name = HOSTILE.replace("\ud800", "").replace("/", "").replace("\x00", "")
    folders = two(tmp_path, {"others": {name: [True] * 20}}, others={name: [True] * 20})
    folders.append(evaluated(tmp_path / name[:60], AFTER, adapter="y"))
    page = report(folders, tmp_path)
    assert {tag for tag, _ in page.tags} <= set(TAGS)
    assert {name for _, attributes in page.tags for name in attributes} <= set(ATTRIBUTES)
    assert "<script>alert(1)" in page.text


def test_notes_on_judges_stand_on_the_page(tmp_path: Path) -> None:
    """Such as that a judge ranked the rows, knowingly."""
    folder = evaluated(tmp_path / "after", AFTER, adapter="x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["details"]["judge_notes"] = ["the judge <b> is the guard"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "Note: the judge <b> is the guard" in report([folder], tmp_path).text


def test_runs_with_folders_of_the_same_names_are_all_compared(tmp_path: Path) -> None:
    """Every run calls its evaluations alike: the folder above tells them apart."""
    folders = [*two(tmp_path / "seal"), *two(tmp_path / "auto")]
    evaluations = collect(folders).evaluations
    roles = [one.role for one in evaluations]
    assert len(set(roles)) == 4
    assert roles[-1] == "after (auto/evaluate-after)"
    found = before_after({one.role: one.record.facts.folder for one in evaluations})
    differences = found["measures"]["attack_success_rate"]["differences"]
    assert [one["arm"] for one in differences] == roles[1:]
    assert {one["n_compared"] for one in differences} == {3}
