"""A finished experiment on the page: primary measure first, no difference without interval."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stage_folders import StageFolders
from test_render import ATTRIBUTES, HOSTILE, TAGS, Page, report

from tamis.errors import ConfigError
from tamis.report.collect import collect
from tamis.report.experiment import ExperimentView, experiment_view
from tamis.report.tables import Cell, Table
from tamis.report.terminal import terminal_summary

ASR, MARGIN = "attack_success_rate", "preference_margin"
RECORDED = "2026-01-02T03:04:05+00:00"


def mean(value: float | None, half: float = 0.1, **changes: Any) -> dict[str, Any]:
    """An arm's figures."""
    ends = (None, None) if value is None else (value - half, value + half)
    return {"value": value, "low": ends[0], "high": ends[1], "n": 20, "n_unscored": 2,
            "n_missing": 0, "n_seeds": 3, "seed_sd": 0.05, **changes}  # fmt: skip


def difference(arm: str, reference: str, value: float, half: float, **changes: Any) -> Any:
    """A difference between two arms."""
    return {"arm": arm, "reference": reference, "value": value, "low": value - half,
            "high": value + half, "n": 20, "n_unpaired": 0, "n_unscored": 0, "p": 0.01,
            "p_holm": 0.02, "detectable": 0.28, "n_compared": 2, **changes}  # fmt: skip


def measured(base: float, better: str | None, text: str, **changes: Any) -> dict[str, Any]:
    """Three arms, and both others less `everything`."""
    return {
        "better": better,
        "arms": {"nothing": mean(base, n_seeds=1, seed_sd=None), "everything": mean(base / 2),
                 text: mean(base / 4)},
        "differences": [difference("nothing", "everything", base / 2, 0.2, **changes),
                        difference(text, "everything", -base / 4, 0.4, **changes)],
    }  # fmt: skip


def share(value: float | None, n: int = 10) -> dict[str, Any]:
    """A share of rows with an interval."""
    ends = (None, None) if value is None else (value / 2, (1 + value) / 2)
    return {"value": value, "low": ends[0], "high": ends[1], "n": n, "n_unscored": 0}


def results(text: str = "loss", *, second: str | None = None, **changes: Any) -> dict[str, Any]:
    """The content of a results.json; `text` stands wherever names come from the user."""

    def group(ratio: float, base: float) -> dict[str, Any]:
        measures = {MARGIN: measured(base, "higher", text),
                    ASR: measured(0.4, "lower", text, detectable=None),
                    "incoherence_rate": measured(0.2, "lower", text),
                    "response_tokens": measured(30.0, None, text)}  # fmt: skip
        if second is not None:
            measures[f"{ASR}/{second}"] = measured(0.8, "lower", text)
        return {"part": text, "ratio": ratio, "budget": "steps", "measures": measures}

    kept = {
        "kept": share(0.5),
        "refusals_kept": share(0.25),
        "kept_by_source": {text: share(0.5)},
        "residual_contamination_rate": share(0.2),
        "safe_answers_kept": share(None, 0),
    }
    training = {"part": text, "arm": text, "ratio": 0.5, "budget": "steps", "steps": 45,
                "epochs": 1.5, "n_rows": 240, "n_tokens": 12345, "seconds": 90.0,
                "last_loss": 1.25}  # fmt: skip
    agreement = [{"judges": ["first", second], "question": "harmful", "kappa": 0.6, "low": 0.4,
                  "high": 0.8, "observed": 0.85, "n": 120, "n_unscored": 3, "n_prompts": 20},
                 {"judges": ["first", second], "question": "refused", "kappa": None, "low": None,
                  "high": None, "observed": 1.0, "n": 20, "n_unscored": 0,
                  "n_prompts": 20}]  # fmt: skip
    return {
        "primary": MARGIN, "references": ["everything"],
        "beforehand": {"at": RECORDED, "n_finished": 0, "changes": []},
        "judges": ["first"] if second is None else ["first", second],
        "agreement": [] if second is None else agreement,
        "cells": [], "groups": [group(0.5, 1.0), group(0.75, 2.0)],
        "rows_with_prompts": {"harmful": 0, "over_refusal": 3},
        "selections": [{"part": text, "arm": text, "ratio": 0.5, "n_rows": 40, "n_kept": 18,
                        "n_mixed": 2, "n_trained_on": 20, "kept": kept, "notes": [text]}],
        "trainings": [{**training, "seed": 0}, {**training, "seed": 1}],
        **changes,
    }  # fmt: skip


def written(folder: Path, found: dict[str, Any]) -> Path:
    """Write an experiment's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found))
    return folder


def view(folder: Path, found: dict[str, Any]) -> ExperimentView:
    """What the page makes of a results.json."""
    (record,) = collect([written(folder, found)]).experiments
    return experiment_view(record)


def cells(table: Table, row: int) -> dict[str, Cell]:
    """A row's cells by their heads."""
    return dict(zip(table.head, table.rows[row], strict=True))


def test_an_experiment_alone_is_a_report(tmp_path: Path) -> None:
    """No stage is missed; tags close in order."""
    page = report([written(tmp_path / "run", results())], tmp_path)
    assert not page.open
    assert "No finished stage" not in page.text
    assert "How it was run" not in page.text
    assert "Arms compared 3 in 2 fine-tunings" in page.text


def test_the_primary_measure_comes_first_and_is_marked(tmp_path: Path) -> None:
    """Then what is asked of every arm; incoherence has a column; one judge stands in the head."""
    found = view(tmp_path, results())
    assert found.groups[0].arms.head == (
        "Arm", "Margin of the safe answer (primary)", "Attack success rate (one judge)",
        "Incoherent answers",
    )  # fmt: skip
    assert "the primary measure was fixed beforehand" in found.groups[0].arms.caption
    assert found.facts[0].startswith("Primary measure, fixed beforehand: Margin of the safe")


def test_one_seed_is_warned_of(tmp_path: Path) -> None:
    """With two there is a spread; without any fine-tuning there are no seeds."""
    once = results()["trainings"][:1]
    assert "fine-tuned with one seed" in " ".join(view(tmp_path, results(trainings=once)).warnings)
    for trainings in (results()["trainings"], []):
        found = view(tmp_path, results(trainings=trainings)).warnings
        assert "fine-tuned with one seed" not in " ".join(found)


def test_prompts_that_are_no_task_are_counted(tmp_path: Path) -> None:
    """Beside a task accuracy; without one nobody asks."""
    some = results(n_without_check=7)
    said = "7 helpful prompts have no answer to check: task accuracy counts the others."
    assert said not in view(tmp_path / "a", some).facts
    some["groups"][0]["measures"]["task_accuracy"] = measured(0.4, "higher", "loss")
    assert said in view(tmp_path / "b", some).facts


def test_means_stand_with_interval_prompts_seeds_and_spread(tmp_path: Path) -> None:
    """0.5 +- 0.1 over 20 prompts and 3 seeds; nothing between the seeds of one model."""
    arms = view(tmp_path, results()).groups[0].arms
    everything = cells(arms, 1)["Margin of the safe answer (primary)"]
    assert everything.text == "0.500"
    assert everything.notes == (
        "0.400 to 0.600", "n = 20 x 3, unscored 2", "SD between seeds 0.0500",
    )  # fmt: skip
    nothing = cells(arms, 0)["Attack success rate (one judge)"]
    assert (nothing.text, nothing.notes) == (
        "40.0%", ("30.0% to 50.0%", "n = 20 x 1, unscored 2"),
    )  # fmt: skip


def test_differences_have_interval_p_and_what_would_have_been_found(tmp_path: Path) -> None:
    """0.5 +- 0.2; the smallest difference found, and at which p, stands beside n."""
    table = view(tmp_path, results()).groups[0].differences
    assert table is not None
    assert table.head[:6] == ("Arm", "Less", "Difference", "p, adjusted", "Smallest found", "n")
    shown = [(cell.text, *cell.notes) for cell in table.rows[0][:6]]
    assert shown == [("nothing",), ("everything",), ("0.500", "0.300 to 0.700"), ("0.0200",),
                     ("0.280", "at .05 / 2"), ("20",)]  # fmt: skip
    assert "fixed beforehand" in table.caption


@pytest.mark.parametrize(
    ("n_compared", "note"), [(1, "at .05"), (7, "at .05 / 7"), (None, "2.80 standard errors")]
)
def test_the_smallest_difference_says_what_it_rests_on(
    tmp_path: Path, n_compared: int | None, note: str
) -> None:
    """At Holm's strictest step; results written before that was taken into account say so."""
    found = results()
    given = measured(1.0, "higher", "loss", n_compared=n_compared)
    found["groups"][0]["measures"][MARGIN] = given
    table = view(tmp_path, found).groups[0].differences
    assert table is not None
    assert cells(table, 0)["Smallest found"].notes == (note,)


def test_differences_are_drawn_around_zero(tmp_path: Path) -> None:
    """Ends at 0.3 and 0.7 on a line from -0.7 to 0.7: 71.43% and 100%, the dot at 85.71%."""
    table = view(tmp_path, results()).groups[0].differences
    assert table is not None
    assert table.head[-1] == "-0.700 to 0.700"
    drawing = str(table.rows[0][-1].drawing)
    assert 'x1="71.43%" x2="100.00%"' in drawing
    assert 'cx="85.71%"' in drawing


def test_differences_of_rates_are_in_points(tmp_path: Path) -> None:
    """Folded: 0.2 +- 0.2 is 20 points; where nothing varied, nothing could be found."""
    table = view(tmp_path, results()).groups[0].secondary
    assert table is not None
    row = cells(table, 0)
    assert row["Measure"].text == "Attack success rate (one judge)"
    assert row["Measure"].notes == ("lower is better, percentage points",)
    assert (row["Difference"].text, row["Difference"].notes) == ("20.0", ("0 to 40.0",))
    assert (row["Smallest found"].text, row["Smallest found"].notes) == (
        "not measured", ("nothing varied",),
    )  # fmt: skip
    assert all(row[0].text != "Margin of the safe answer" for row in table.rows)


@pytest.mark.parametrize("lacking", ["low", "high", "value"])
def test_a_difference_without_an_interval_is_not_shown(tmp_path: Path, lacking: str) -> None:
    """Neither its number, nor what would have been found, nor a drawing."""
    found = results()
    for group in found["groups"]:
        group["measures"][MARGIN]["differences"][0][lacking] = None
    table = view(tmp_path, found).groups[0].differences
    assert table is not None
    row = cells(table, 0)
    assert (row["Difference"].text, row["Difference"].notes) == ("not measured", ())
    assert row["Smallest found"].text == "not measured"
    assert "circle" not in str(table.rows[0][-1].drawing)


def test_prompts_that_one_arm_lacks_stand_beside_n(tmp_path: Path) -> None:
    """Two prompts and five scores."""
    found = results()
    found["groups"][0]["measures"][MARGIN]["differences"][0] |= {"n_unpaired": 2, "n_unscored": 5}
    table = view(tmp_path, found).groups[0].differences
    assert table is not None
    assert cells(table, 0)["n"].notes == ("2 not in both", "5 scores missing")


def test_equal_values_are_not_certain(tmp_path: Path) -> None:
    """All answers harmful: the resampled interval has no width and is not printed as one."""
    found = results()
    found["groups"][0]["measures"][ASR]["arms"]["nothing"] = mean(1.0, 0.0)
    arms = view(tmp_path, found).groups[0].arms
    assert cells(arms, 0)["Attack success rate (one judge)"].notes[0] == "nothing varied"


def test_what_an_arm_has_not_is_not_measured(tmp_path: Path) -> None:
    """An arm without the measure, and one without any score; neither is 0."""
    found = results()
    arms = found["groups"][0]["measures"][ASR]["arms"]
    del arms["nothing"]
    arms["everything"] = mean(None, n=0, n_unscored=20)
    shown = view(tmp_path, found).groups[0].arms
    column = "Attack success rate (one judge)"
    assert [cells(shown, i)[column].text for i in (0, 1)] == ["not measured"] * 2
    assert cells(shown, 1)[column].notes[0] == "n = 0 x 3, unscored 20"


def test_two_judges_stand_each_on_their_own(tmp_path: Path) -> None:
    """No `one judge`; the second's figures are folded, and kappa has interval and n."""
    found = view(tmp_path, results(second="other"))
    group = found.groups[0]
    assert "Attack success rate" in group.arms.head
    assert group.more is not None
    assert group.more.head == ("Arm", "Tokens per answer", "Attack success rate, other")
    assert found.agreement is not None
    harmful, refused = (cells(found.agreement, i)["All cells"] for i in (0, 1))
    assert (harmful.text, harmful.notes) == (
        "0.600", ("0.400 to 0.800", "same verdict on 85.0%",
                  "n = 120 answers to 20 prompts, unscored 3"),
    )  # fmt: skip
    assert refused.text == "not defined"
    assert "no judges are averaged" in found.facts[1]


def test_a_judge_alone_with_a_measure_is_said(tmp_path: Path) -> None:
    """Two judges, but only the second judges touchy prompts: its figures take the place."""
    found = results(second="other")
    for group in found["groups"]:
        group["measures"]["over_refusal_rate/other"] = measured(0.4, "lower", "loss")
    assert view(tmp_path, found).groups[0].arms.head == (
        "Arm", "Margin of the safe answer (primary)", "Attack success rate",
        "Over-refusal rate, other (one judge)", "Incoherent answers",
    )  # fmt: skip


def test_one_judge_is_said_everywhere(tmp_path: Path) -> None:
    """In the facts, in every head of a judged measure, in the limits; there is no agreement."""
    page = report([written(tmp_path / "run", results())], tmp_path)
    assert "One judge: first." in page.text
    assert "no second judge checked it" in page.text
    assert "Agreement of the judges" not in page.text
    heads = page.text.split("Attack success rate")[1:]
    labels = [text for text in heads if not text.startswith(" attack_success_rate")]
    assert labels
    assert all(text.startswith(" (one judge)") for text in labels)


@pytest.mark.parametrize("same", [True, False])
def test_two_rubrics_of_one_model_are_one_judge(tmp_path: Path, same: bool) -> None:
    """By what the results say of them, without the cells; heads, kappa, facts and limits tell."""
    identities = {"first": "endpoint:m@url", "other": f"endpoint:{'m' if same else 'k'}@url"}
    folder = written(tmp_path / "run", results(second="other", judge_identities=identities))
    found = experiment_view(collect([folder]).experiments[0])
    more, agreement = found.groups[0].more, found.agreement
    assert more is not None
    assert agreement is not None
    assert ("Attack success rate, other (one judge)" in more.head) == same
    assert ("Attack success rate (one judge)" in found.groups[0].arms.head) == same
    assert ("same model: one judge" in cells(agreement, 0)["All cells"].notes) == same
    text = report([folder], tmp_path).text
    assert ("One judge, for one model gave all verdicts: first, other." in text) == same
    assert ("no second judge checked it" in text) == same


def test_a_sweep_sets_the_primary_measure_side_by_side(tmp_path: Path) -> None:
    """Two ratios of one part and budget: one table, drawn over the range of all intervals."""
    (sweep,) = view(tmp_path, results("loss")).sweeps
    assert sweep.caption == "Margin of the safe answer by share kept: loss, equal steps"
    assert sweep.head == ("Arm", "50% kept", "75% kept", "0.150 to 2.10")
    assert [cell.text for cell in sweep.rows[0][1:3]] == ["1.00", "2.00"]
    assert view(tmp_path, {**results(), "groups": results()["groups"][:1]}).sweeps == ()


def test_what_was_kept_is_told_with_intervals(tmp_path: Path) -> None:
    """Harm left, safe answers, refusals and sources; labels that are not there are not 0."""
    found = view(tmp_path, results())
    assert found.kept is not None
    row = cells(found.kept, 0)
    assert row["Arm"].notes == ("loss", "50% kept", "loss")
    assert (row["Rows trained on"].text, row["Rows trained on"].notes) == (
        "20", ("18 kept of 40", "2 mixed in"),
    )  # fmt: skip
    assert (row["Harmful left"].text, row["Harmful left"].notes) == (
        "20.0%", ("10.0% to 60.0%", "of 10"),
    )  # fmt: skip
    assert row["Refusals kept"].text == "25.0%"
    assert (row["Safe answers kept"].text, row["Safe answers kept"].notes) == (
        "not measured", ("of 0",),
    )  # fmt: skip
    assert row["Harmless rows kept"].text == "not measured"
    (source,) = found.sources
    assert [cell.text for cell in source.rows[0]] == ["loss", "50.0%"]


def test_every_fine_tuning_is_told(tmp_path: Path) -> None:
    """Steps, rows, passes, tokens, time and the last loss."""
    trainings = view(tmp_path, results()).trainings
    assert trainings is not None
    assert [cell.text for cell in trainings.rows[1][1:]] == [
        "1", "45", "240", "1.50", "12,345", "1 min 30 s", "1.25",
    ]  # fmt: skip


def test_unequal_steps_are_a_warning(tmp_path: Path) -> None:
    """Where the budget says equal steps and one model took more."""
    found = results()
    assert not any(" took " in sentence for sentence in view(tmp_path, found).warnings)
    found["trainings"][0]["steps"] = 40
    shown = view(tmp_path, found)
    assert "Equal steps: 2 fine-tunings of 40 to 45 optimiser steps." in shown.facts
    assert any("took 40 to 45" in sentence for sentence in shown.warnings)


def test_rows_that_are_prompts_are_a_warning_on_top(tmp_path: Path) -> None:
    """Only the sets that have some; three rows."""
    page = report([written(tmp_path / "run", results())], tmp_path)
    care = page.text.split("Read with care")[1].split("All arms answered")[0]
    assert "nearly so: 3 with over-refusal ones." in care


def test_a_primary_measure_that_is_missing_is_a_warning(tmp_path: Path) -> None:
    """Its other figures are shown without a mark."""
    found = results()
    for group in found["groups"]:
        del group["measures"][MARGIN]
    shown = view(tmp_path, found)
    assert sum("preference_margin was not measured" in text for text in shown.warnings) == 2
    assert shown.groups[0].differences is None
    assert not any("primary" in head for head in shown.groups[0].arms.head)


def test_no_text_of_an_experiment_acts(tmp_path: Path) -> None:
    """Arms, parts, judges, sources, notes and measures are text, in the page's own tags only."""
    hostile = HOSTILE.replace("\ud800", "")
    found = results(hostile, second=hostile, primary=hostile, references=[hostile])
    found["judges"][0] = hostile + "1"
    found["rows_with_prompts"][hostile] = 1
    for group in found["groups"]:
        group["measures"][hostile] = measured(1.0, "higher", hostile)
        group["budget"] = hostile
    folder = written(tmp_path / "<b>run", found)
    page = report([folder], tmp_path)
    assert {tag for tag, _ in page.tags} <= set(TAGS)
    assert {name for _, attributes in page.tags for name in attributes} <= set(ATTRIBUTES)
    assert not page.open
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in page.source


def printed(folder: Path, width: int = 100) -> str:
    """Return what a terminal of so many characters shows."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(terminal_summary([folder]))
    return out.getvalue()


def test_the_terminal_has_the_same_tables(tmp_path: Path) -> None:
    """Means, differences with what would have been found, agreement, rows, warnings."""
    text = printed(written(tmp_path / "run", results(second="other")))
    flat = " ".join(text.split())
    for expected in ("0.400 to 0.600", "0.300 to 0.700", "Smallest found", "0.0200",
                     "same verdict on 85.0%", "Harmful left", "18 kept of 40",
                     "3 with over-refusal ones"):  # fmt: skip
        assert expected in flat
    assert max(map(len, text.splitlines())) <= 100


def test_a_narrow_terminal_cuts_no_figure(tmp_path: Path) -> None:
    """A long arm's name is folded before a column of figures is lost."""
    text = printed(written(tmp_path / "run", results("seal+safeinstruct")), width=80)
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│ nothing")]
    assert [row[-1].strip() for row in rows if row[1].strip() == "everything"] == ["20", "20"]


def test_a_narrow_terminal_shows_incoherence_beside_every_measure(tmp_path: Path) -> None:
    """The primary measure, three others and it; ends of intervals stay whole in 80 characters."""
    found = results("seal+safeinstruct")
    for group in found["groups"]:
        for name in ("over_refusal_rate", "helpful_loss"):
            group["measures"][name] = measured(0.8, "lower", "seal+safeinstruct")
    lines = printed(written(tmp_path / "run", found), width=80).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    everything = next(i for i, row in enumerate(rows) if row[:1] == ["everything"])
    assert rows[everything] == ["everything", "0.500", "20.0%", "40.0%", "0.400", "10.0%"]
    ends = [" ".join(two) for two in zip(*rows[everything + 1 : everything + 3], strict=True)]
    assert ends[-1] == "0% to 20.0%"
    assert any("Incoherent" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_names_cannot_style_or_steer_the_terminal(tmp_path: Path) -> None:
    """Also not in captions, which hold parts' names."""
    text = printed(written(tmp_path / "run", results("[bold]x[/] \x1b[2J")))
    assert "\x1b" not in text
    assert "[bold]x[/] ⟨U+001B⟩[2J, 50% kept" in text


def test_an_experiment_beside_stages(folders: StageFolders, tmp_path: Path) -> None:
    """Both are shown, also where a folder holds both one level down."""
    folders.rank([0.1, 0.2])
    written(folders.root / "experiment", results())
    page: Page = report([folders.root], tmp_path)
    assert "2 rows ranked by seal" in page.text
    assert "loss, 50% kept, equal steps" in page.text


@pytest.mark.parametrize(
    ("change", "said"),
    [({"groups": []}, "has no arms"), ({"judges": []}, "has no judges"),
     ({"groups": [{"part": "all"}]}, "groups.0.ratio"), ({"primary": None}, "primary")],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """With what is wrong in it."""
    with pytest.raises(ConfigError, match=rf"results\.json(.|\n)*{said}"):
        collect([written(tmp_path / "run", results(**change))])


def test_an_unfinished_experiment_is_named_as_such(tmp_path: Path) -> None:
    """Rows are chosen, results are not there yet."""
    (tmp_path / "run" / "rows").mkdir(parents=True)
    (tmp_path / "run" / "cells").mkdir()
    with pytest.raises(ConfigError, match="the experiment is not finished"):
        collect([tmp_path / "run"])


def test_too_few_prompts_are_said_instead_of_a_smallest_difference(tmp_path: Path) -> None:
    """Also of results written before this was known."""
    found = results()
    given = measured(1.0, "higher", "loss", n=3, n_compared=None)
    found["groups"][0]["measures"][MARGIN] = given
    table = view(tmp_path, found).groups[0].differences
    assert table is not None
    smallest = cells(table, 0)["Smallest found"]
    assert (smallest.text, smallest.notes) == (
        "not measured",
        ("too few prompts to find anything",),
    )


def test_rows_that_pruning_goes_by_are_counted_apart(tmp_path: Path) -> None:
    """By role and set of prompts; a set without any is not named."""
    counts = {"harmful_set": {"harmful": 2, "helpful": 0}, "safe_set": {"harmful": 0}}
    found = results(rows_with_prompts={}, pruning_rows_with_prompts=counts)
    (warning,) = view(tmp_path, found).warnings
    assert "rows of the harmful set, by which weights are pruned" in warning
    assert "2 with harmful ones." in warning


def test_prompts_that_stand_twice_are_named(tmp_path: Path) -> None:
    """They count again in every interval."""
    repeated = {"harmful": [], "over_refusal": ["o2", "o7"]}
    found = results(rows_with_prompts={}, repeated_prompts=repeated)
    (warning,) = view(tmp_path, found).warnings
    assert "2 over-refusal prompts repeat one of their set" in warning
    assert "(o2, o7)" in warning
