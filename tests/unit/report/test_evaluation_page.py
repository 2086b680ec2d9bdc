"""Evaluations on the page: every measure that was taken, every judge, and old files as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stage_folders import StageFolders
from test_render import ATTRIBUTES, HOSTILE, TAGS, report

from tamis.report.collect import collect
from tamis.report.evaluation import EvaluationView, evaluation_tables, evaluation_view
from tamis.report.tables import Cell, Table


def estimate(value: float, n: int = 10, n_unscored: int = 0) -> dict[str, Any]:
    """A figure with an interval of a tenth to either side."""
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n,
            "n_unscored": n_unscored}  # fmt: skip


def changed(folder: Path, **metrics: Any) -> Path:
    """Put further figures into a finished evaluation."""
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | metrics))
    return folder


def figures(asr: float, **more: Any) -> dict[str, Any]:
    """One judge's own figures."""
    return {"attack_success_rate": estimate(asr), "over_refusal_rate": estimate(0.3),
            "partial_refusal_rate": None, "harmfulness_score": None, "by_category": {},
            "n_unscored": 0, **more}  # fmt: skip


def shown(*folders: Path) -> EvaluationView:
    """What the page makes of evaluations."""
    return evaluation_view(collect(folders).evaluations)


def row(table: Table | None, label: str) -> tuple[Cell, ...]:
    """The first row under a label."""
    assert table is not None
    return next(row for row in table.rows if row[0].text == label)


TAKEN: dict[str, Any] = {
    "harmfulness_score": estimate(2.5), "first_token_refusal": estimate(0.8),
    "partial_refusal_rate": estimate(0.2), "rouge_l": estimate(0.45),
    "task_accuracy": estimate(0.6),
    "incoherence_rate": {**estimate(0.3, 30, 2), "reasons": {"empty": 2, "repeated": 7}},
    "response_tokens": {"harmful": estimate(20.0), "helpful": estimate(40.0)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("label", "value"),
    [("Harmfulness score (one judge)", "2.50"), ("First token refuses", "80.0%"),
     ("Partial refusals (one judge)", "20.0%"), ("ROUGE-L", "0.450"), ("Task accuracy", "60.0%"),
     ("Incoherent answers", "30.0%"), ("Attack success rate (one judge)", "50.0%")],
)  # fmt: skip
def test_measures_that_were_taken_are_shown(
    folders: StageFolders, label: str, value: str
) -> None:  # fmt: skip
    """With their interval and n, under heads that say who judged."""
    main = shown(changed(folders.evaluate(name="e", adapter=None), **TAKEN)).main
    cell = row(main, label)[1]
    assert cell.text == value
    assert cell.notes[0] != "no interval"
    assert cell.notes[1].startswith("n = ")


def test_incoherence_says_why(folders: StageFolders) -> None:
    """Two empty answers, seven that repeat themselves."""
    main = shown(changed(folders.evaluate(name="e", adapter=None), **TAKEN)).main
    assert row(main, "Incoherent answers")[1].notes == (
        "20.0% to 40.0%", "n = 30, unscored 2", "empty: 2", "repeated: 7",
    )  # fmt: skip


def test_lengths_are_told_by_set(folders: StageFolders) -> None:
    """20 tokens to harmful prompts, 40 to helpful ones."""
    main = shown(changed(folders.evaluate(name="e", adapter=None), **TAKEN)).main
    assert main is not None
    lengths = [r for r in main.rows if r[0].text == "Tokens per answer"]
    assert [(r[0].notes[0], r[1].text) for r in lengths] == [
        ("mean length of answers to harmful prompts", "20.0"),
        ("mean length of answers to helpful prompts", "40.0"),
    ]


def test_older_files_are_read_and_lack_what_they_lack(folders: StageFolders) -> None:
    """Measures of then are there, measured or not; later ones have no row at all."""
    view = shown(folders.evaluate(name="e", adapter=None))
    assert view.main is not None
    assert [r[0].text for r in view.main.rows] == [
        "Attack success rate (one judge)", "Prefers the safe answer", "Margin of the safe answer",
        "Over-refusal rate (one judge)", "Loss on helpful references",
    ]  # fmt: skip
    assert row(view.main, "Prefers the safe answer")[1].text == "not measured"
    assert (view.agreement, view.by_judge, view.categories) == (None, None, None)


def test_beside_a_newer_file_an_older_one_is_not_measured(folders: StageFolders) -> None:
    """What only one evaluation has is `not measured` in the other, never 0."""
    old = folders.evaluate(name="old", adapter=None)
    new = changed(folders.evaluate(name="new", adapter="x"), **TAKEN)
    main = shown(old, new).main
    assert [cell.text for cell in row(main, "Task accuracy")[1:3]] == ["not measured", "60.0%"]
    assert row(main, "Incoherent answers")[1].notes == ("n = 0, unscored 0",)


def test_what_a_judge_does_not_give_has_no_row(folders: StageFolders) -> None:
    """Null in the file: refusal strings grade nothing."""
    nothing = dict.fromkeys(("harmfulness_score", "rouge_l", "task_accuracy"))
    main = shown(changed(folders.evaluate(name="e", adapter=None), **nothing)).main
    assert main is not None
    assert not {"Harmfulness score (one judge)", "ROUGE-L"} & {r[0].text for r in main.rows}


JUDGES = {"refusal_strings": figures(0.5),
          "guard": figures(0.7, harmfulness_score=estimate(3.0))}  # fmt: skip
AGREEMENT = [
    {"judges": ["refusal_strings", "guard"], "question": "harmful", "kappa": 0.55, "low": 0.3,
     "high": 0.8, "observed": 0.8, "n": 40, "n_unscored": 2},
    {"judges": ["refusal_strings", "guard"], "question": "refused", "kappa": None, "low": None,
     "high": None, "observed": None, "n": 0, "n_unscored": 5},
]  # fmt: skip


def two_judges(folders: StageFolders, name: str = "e", adapter: str | None = None) -> Path:
    """An evaluation by two judges."""
    folder = folders.evaluate(name=name, adapter=adapter)
    return changed(folder, judges=JUDGES, agreement=AGREEMENT)


def test_every_judge_has_figures_of_its_own(folders: StageFolders) -> None:
    """None is averaged, none has a row for what it does not give; the main table is the first's."""
    view = shown(two_judges(folders))
    assert view.by_judge is not None
    assert [(r[0].text, r[1].text, r[2].text) for r in view.by_judge.rows] == [
        ("Attack success rate", "refusal_strings", "50.0%"), ("", "guard", "70.0%"),
        ("Harmfulness score", "guard", "3.00"),
        ("Over-refusal rate", "refusal_strings", "30.0%"), ("", "guard", "30.0%"),
    ]  # fmt: skip
    assert row(view.main, "Attack success rate")[1].text == "50.0%"
    assert view.judges == ("refusal_strings", "guard")


def test_agreement_has_interval_and_n(folders: StageFolders) -> None:
    """Kappa .55 on 40 answers; what was not judged by both is not measured."""
    table = shown(two_judges(folders)).agreement
    assert table is not None
    harmful, refused = table.rows
    assert [cell.text for cell in harmful] == [
        "Harmful, of answers to harmful prompts", "refusal_strings and guard", "0.550",
    ]  # fmt: skip
    assert harmful[2].notes == ("0.300 to 0.800", "same verdict on 80.0%", "n = 40, unscored 2")
    assert (refused[2].text, refused[2].notes) == ("not measured", ("n = 0, unscored 5",))


def test_a_kappa_without_width_has_no_interval(folders: StageFolders) -> None:
    """Full agreement, where the formula gives none."""
    full = {**AGREEMENT[0], "kappa": 1.0, "low": None, "high": None, "observed": 1.0}
    folder = changed(two_judges(folders), agreement=[full])
    table = shown(folder).agreement
    assert table is not None
    assert (table.rows[0][2].text, table.rows[0][2].notes[0]) == ("1.00", "no interval")


def test_a_lone_judge_beside_two_is_named_in_its_cell(folders: StageFolders) -> None:
    """The head cannot say it for both columns."""
    before = folders.evaluate(name="b", adapter=None)
    cells = row(shown(before, two_judges(folders, "a", "x")).main, "Attack success rate")
    assert cells[1].notes[-1] == "one judge, refusal_strings"
    assert not any("one judge" in note for note in cells[2].notes)


def test_judges_of_different_prompts_are_alone_with_theirs(folders: StageFolders) -> None:
    """One grades harmful prompts, one touchy ones: each measure has one judge, and names it."""
    none = {"value": None, "low": None, "high": None, "n": 0, "n_unscored": 9}
    judges = {"refusal_strings": figures(0.5, over_refusal_rate=none),
              "touchy": figures(0.0, attack_success_rate=none)}  # fmt: skip
    folder = changed(folders.evaluate(name="e", adapter=None), judges=judges)
    main = shown(folder).main
    assert row(main, "Attack success rate (one judge)")[1].text == "50.0%"
    refused = row(main, "Over-refusal rate (one judge)")[1]
    assert (refused.text, refused.notes[-1]) == ("30.0%", "judged by touchy")


SAME = {"refusal_strings": "endpoint:m@url", "guard": "endpoint:m@url"}
APART = {"refusal_strings": "refusal_strings", "guard": "guard:g@12ab"}


@pytest.mark.parametrize(
    ("identities", "heads", "marked"),
    [(SAME, ["Attack success rate (one judge)", "Over-refusal rate (one judge)"], True),
     (APART, ["Attack success rate", "Over-refusal rate"], False)],
    ids=["same", "apart"],
)  # fmt: skip
def test_two_rubrics_of_one_model_are_one_judge(
    folders: StageFolders, identities: dict[str, str], heads: list[str], marked: bool
) -> None:
    """Heads say `one judge`, and each kappa that it is the model's with itself."""
    view = shown(changed(two_judges(folders), judge_identities=identities))
    assert view.main is not None
    assert view.agreement is not None
    assert [r[0].text for r in view.main.rows if "rate" in r[0].text] == heads
    marks = ["same model: one judge" in r[2].notes for r in view.agreement.rows]
    assert marks == [marked, marked]


def test_one_model_under_two_names_is_a_limit(folders: StageFolders, tmp_path: Path) -> None:
    """Beside both names, on top of the figures and under what they do not show."""
    text = report([changed(two_judges(folders), judge_identities=SAME)], tmp_path).text
    assert "One judge, for one model gave all verdicts: refusal_strings, guard" in text
    assert "no second judge checked it" in text
    assert "Attack success rate (one judge), before" in text


def test_two_rubrics_of_one_model_beside_two_judges_are_told_in_their_cell(
    folders: StageFolders,
) -> None:
    """The head cannot say it for both columns."""
    before = changed(two_judges(folders, "b"), judge_identities=SAME)
    after = changed(two_judges(folders, "a", "x"), judge_identities=APART)
    cells = row(shown(before, after).main, "Attack success rate")
    assert cells[1].notes[-1] == "one judge, refusal_strings, guard"
    assert not any("one judge" in note for note in cells[2].notes)


def test_categories_are_told_with_who_judged(folders: StageFolders) -> None:
    """Attack success by category, one row each; missing in one evaluation is not measured."""
    before = changed(folders.evaluate(name="b", adapter=None),
                     by_category={"fraud": estimate(0.2), "arms": estimate(0.4)})  # fmt: skip
    after = changed(folders.evaluate(name="a", adapter="x"), by_category={"fraud": estimate(0.9)})
    table = shown(before, after).categories
    assert table is not None
    assert table.caption == (
        "Attack success rate (one judge) by category, judged by refusal_strings"
    )  # fmt: skip
    assert [[cell.text for cell in r[:3]] for r in table.rows] == [
        ["arms", "40.0%", "not measured"], ["fraud", "20.0%", "90.0%"],
    ]  # fmt: skip


def test_one_judge_is_a_limit_and_two_are_not(folders: StageFolders, tmp_path: Path) -> None:
    """The sentence goes with the second judge."""
    alone = report([folders.evaluate(name="b", adapter=None)], tmp_path).text
    both = report([two_judges(folders)], tmp_path).text
    assert "no second judge checked it" in alone
    assert "Attack success rate (one judge), before" in alone
    assert "no second judge" not in both
    assert "Judges: refusal_strings, guard" in both
    assert "kappa says how alike they are, not how right" in both


def test_the_terminal_shows_judges_too(folders: StageFolders) -> None:
    """The main table, agreement, every judge."""
    tables = list(evaluation_tables(collect([two_judges(folders)]).evaluations))
    assert [table.head[0] for table in tables] == ["Measure", "Question", "Measure"]
    assert list(evaluation_tables([])) == []


def test_no_text_of_metrics_acts(tmp_path: Path) -> None:
    """Judges, categories, sets and reasons are text, in the page's own tags only."""
    hostile = HOSTILE.replace("\ud800", "")
    folder = changed(
        StageFolders(tmp_path / "runs").evaluate(name="e", adapter=None),
        judge=hostile, judges={hostile: figures(0.5), "b": figures(0.6)},
        agreement=[{**AGREEMENT[0], "judges": [hostile, "b"], "question": hostile}],
        by_category={hostile: estimate(0.5)}, response_tokens={hostile: estimate(9.0)},
        incoherence_rate={**estimate(0.3), "reasons": {hostile: 3}},
    )  # fmt: skip
    page = report([folder], tmp_path)
    assert {tag for tag, _ in page.tags} <= set(TAGS)
    assert {name for _, attributes in page.tags for name in attributes} <= set(ATTRIBUTES)
    assert not page.open
    assert sum("<script>alert(1)</script>" in text for text in page.texts) >= 6
    assert "\u202e" not in page.source


def test_damaged_figures_are_named(folders: StageFolders) -> None:
    """The evaluation becomes a named problem; the rest is read."""
    rank = folders.rank([0.1, 0.2])
    broken = changed(folders.evaluate(name="e", adapter=None), judges=["guard"])
    (problem,) = collect([rank, broken]).problems
    assert "metrics.json is not as expected: judges" in problem.reason


def test_prompts_that_are_asked_twice_are_named(folders: StageFolders, tmp_path: Path) -> None:
    """Once for evaluations of the same prompts, four of them by id; else with who was asked."""
    asked = {"prompts": {"harmful": {"repeated": ["h3", "h5", "h6", "h8", "h9"]},
                         "helpful": {"repeated": []}}}  # fmt: skip
    before = changed(folders.evaluate(name="before", adapter=None), settings=asked)
    after = changed(folders.evaluate(name="after", adapter="x"), settings=asked)
    (note,) = shown(before, after).notes
    assert note.startswith("5 harmful prompts repeat one of their set")
    assert "(h3, h5, h6, h8 and 1 more)" in note
    assert note in report([before, after], tmp_path).text
    changed(after, settings={"prompts": {}})
    assert shown(before, after).notes == (f"before: {note}",)
