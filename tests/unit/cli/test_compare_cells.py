"""Rankings of a comparison that refuse, fail, say nothing, or are there already otherwise."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from rich.console import Console
from test_plan_compare import Labelled, comparison

from tamis.cli.compare import prepare, run_compare
from tamis.cli.compare_config import CompareConfig
from tamis.cli.run_verbs import compare
from tamis.cli.show_comparison import comparison_tables
from tamis.errors import ConfigError, MismatchError, TamisError
from tamis.files import file_sha256
from tamis.methods.base import RankingInputs
from tamis.methods.scores import Scores
from tamis.report.comparison import comparison_view
from tamis.report.stages import read_comparison

HERE, N = __name__, 40


def all_scored(inputs: RankingInputs, value: float, outcome: str = "ok") -> Scores:
    """Every row has one value."""
    rows, n = inputs.finetuning_set, len(inputs.finetuning_set)
    details = {"notes": ["a note of its own"]}
    return Scores("toy", rows.ids, rows.source_ids, np.full(n, value), [outcome] * n, None,
                  details=details)  # fmt: skip


class Silent:
    """Scores nothing."""

    requires: ClassVar[frozenset[str]] = frozenset()

    def rank(self, inputs: RankingInputs) -> Scores:
        """Give a reason."""
        return all_scored(inputs, np.nan, "too_long")


class Refusing(Silent):
    """Refuses all rows until a file is there."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Look for it beside the cache."""
        assert inputs.cache is not None
        if not (inputs.cache.parent / "mended").exists():
            raise ConfigError("give [/more] rows")
        return all_scored(inputs, 0.0)


class Broken(Silent):
    """Has a fault."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Divide by zero rows."""
        raise ValueError(f"{len(inputs.finetuning_set)} / 0")


class Stopped(Silent):
    """The user stops it."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """As Ctrl-C does."""
        raise KeyboardInterrupt


class SecondRefused(Silent):
    """Refuses the second set of rows that it is given."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Count beside the cache."""
        assert inputs.cache is not None
        marks = inputs.cache.parent / "marks"
        marks.mkdir(exist_ok=True)
        (marks / str(len(list(marks.iterdir())))).touch()
        if len(list(marks.iterdir())) == 2:
            raise ConfigError("two harmful rows are too few")
        return all_scored(inputs, 0.0)


def outside(**classes: type) -> dict[str, Any]:
    """Methods of this file by label, with `uniform` after them."""
    named = {label: {"name": f"{kind.__module__}:{kind.__name__}"}
             for label, kind in classes.items()}  # fmt: skip
    return {**named, "uniform": {"name": "uniform"}}


def test_a_method_that_scores_nothing_costs_the_others_nothing(tmp_path: Path) -> None:
    """Its figures are missing, its note says why."""
    found = run_compare(prepare(comparison(tmp_path, outside(silent=Silent), n=N)))
    silent, uniform = found["entries"]
    assert silent["readouts"]["score"]["auroc"]["value"] is None
    assert uniform["readouts"]["score"]["auroc"]["value"] is not None
    assert found["agreement"]["all"][0]["overlap"] is None
    assert silent["notes"] == ["a note of its own", "no row has a score (too_long 40)."]


def test_refused_and_failed_rankings_are_recorded_and_the_others_run(tmp_path: Path) -> None:
    """A refusal in the method's words, a fault with its type and place; then it goes on."""
    config = comparison(tmp_path, outside(no=Refusing, broken=Broken), n=N)
    said: list[str] = []
    found = run_compare(prepare(config), say=said.append)
    assert json.loads((config.out / "comparison.json").read_text()) == found
    assert [entry["method"] for entry in found["entries"]] == ["uniform"]
    no, broken = found["refused"]
    assert no == {"rows": "all", "method": "no", "rankings": ["all/no-0"], "of": 1,
                  "reasons": ["give [/more] rows"]}  # fmt: skip
    assert broken["reasons"][0].startswith("ValueError: 40 / 0 (")
    assert Path(__file__).name in broken["reasons"][0]
    assert said[0] == "1/3  all no-0: refused. give [/more] rows"
    (config.out / "mended").touch()
    again = prepare(config)
    assert again.finished == [False, False, True]
    assert [entry["method"] for entry in run_compare(again)["entries"]] == ["no", "uniform"]


def test_a_stop_is_no_refusal(tmp_path: Path) -> None:
    """Ctrl-C ends the comparison at once."""
    config = comparison(tmp_path, outside(stopped=Stopped), n=N)
    with pytest.raises(KeyboardInterrupt):
        run_compare(prepare(config))
    assert not (config.out / "comparison.json").exists()
    assert not (config.out / "cells" / "all" / "uniform-0").exists()


def test_figures_of_replaced_rankings_do_not_stay(tmp_path: Path) -> None:
    """A comparison that is stopped while rankings are replaced has no old figures to show."""
    config = comparison(tmp_path, outside(stopped=Silent), n=N)
    run_compare(prepare(config))
    assert run_compare(prepare(config))["entries"]  # finished: they stay while they are measured
    changed = comparison(tmp_path, outside(stopped=Stopped), n=N)
    with pytest.raises(KeyboardInterrupt):
        run_compare(prepare(changed, overwrite=True))
    assert not (config.out / "comparison.json").exists()


def test_the_command_ends_with_the_names_of_what_was_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the figures of the others and the reasons."""
    config = comparison(tmp_path, outside(no=Refusing), n=N)
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    with pytest.raises(TamisError, match="1 rankings were refused: all/no-0"):
        compare(path, plan=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "uniform" in shown
    assert "refused: no on all, 1 of 1 rankings: give [/more] rows" in shown


def test_an_average_says_how_many_draws_were_refused(tmp_path: Path) -> None:
    """One of three: the mean is of two, in the file and on the page."""
    config = comparison(
        tmp_path, outside(it=SecondRefused), n=N,
        parts={"few": {"rate": 0.1, "draws": 4, "methods": ["it"]}},
    )  # fmt: skip
    found = run_compare(prepare(config))  # the first set is all rows
    (entry,) = [entry for entry in found["entries"] if entry["rows"] == "few"]
    assert (entry["n_refused"], entry["readouts"]["score"]["n_cells"]) == (1, 3)
    (refused,) = found["refused"]
    assert (refused["rankings"], refused["of"]) == (["few/it-0"], 4)
    view = comparison_view(read_comparison(config.out))
    assert view.rows[1].main.rows[0][1].notes == ("mean of 3 of 4 rankings, the others refused",)
    assert view.refused is not None
    assert [cell.text for cell in view.refused.rows[0]] == [
        "it", "1 of 4", "two harmful rows are too few",
    ]  # fmt: skip


class Odd(Silent):
    """Flags in words."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Give a column that is no number."""
        found = all_scored(inputs, 0.0)
        return replace(found, columns={"flagged": np.array(["yes"] * len(found))})


class Moody(Silent):
    """Has a second readout, but for the third set of rows that it is given."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Count beside the cache."""
        assert inputs.cache is not None
        marks, found = inputs.cache.parent / "seen", all_scored(inputs, 0.0)
        marks.mkdir(exist_ok=True)
        n = len(list(marks.iterdir()))
        (marks / str(n)).touch()
        return found if n == 2 else replace(found, columns={"score_second": found.values})


def test_what_cannot_be_measured_is_refused_and_the_others_have_their_figures(
    tmp_path: Path,
) -> None:
    """A column of texts, and a readout that not every draw has."""
    config = comparison(
        tmp_path, outside(odd=Odd, moody=Moody), n=N,
        parts={"few": {"rate": 0.1, "draws": 2, "methods": ["moody"]}},
    )  # fmt: skip
    found = run_compare(prepare(config))
    assert [one["method"] for one in found["refused"]] == ["odd"]
    readouts = {(e["rows"], e["method"]): set(e["readouts"]) for e in found["entries"]}
    assert readouts["all", "moody"] == {"score", "second"}
    assert readouts["few", "moody"] == {"score"}


def test_what_was_compared_stands_with_the_figures(tmp_path: Path) -> None:
    """Settings, seeds, plantings, files by their bytes: other labels take old figures away."""
    parts = {"few": {"rate": 0.1, "draws": 2, "methods": ["uniform"]}}
    config = comparison(tmp_path, outside(silent=Silent), n=N, parts=parts, seeds=[3, 4])
    found = run_compare(prepare(config))
    entries = {(e["rows"], e["method"]): e for e in found["entries"]}
    whole, few = entries["all", "uniform"], entries["few", "uniform"]
    assert (whole["seeds"], whole["draws"]) == ([3, 4], [3, 4])
    assert (few["seeds"], few["draws"]) == ([3, 3], [0, 1])
    assert found["config"]["parts"]["few"]["rate"] == 0.1
    assert found["inputs"]["labels"]["sha256"] == file_sha256(config.labels)
    assert "tamis" in found["versions"]
    view = comparison_view(read_comparison(config.out))
    assert any(file_sha256(config.labels) in fact for fact in view.facts)
    assert [row[2].notes for row in view.costs.rows if row[0].text == "uniform"] == [
        ("seeds 3, 4",), ("seed 3", "plantings 0, 1"),
    ]  # fmt: skip
    lines = config.labels.read_text().splitlines()
    config.labels.write_text("\n".join(reversed(lines)) + "\n")
    again = prepare(config)
    assert all(again.finished)
    with pytest.raises(KeyboardInterrupt):
        run_compare(again, say=stopped)
    assert not (config.out / "comparison.json").exists()


def stopped(_line: str) -> None:
    """As Ctrl-C does."""
    raise KeyboardInterrupt


class Resumed(Silent):
    """Is stopped the first time."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Leave something to go on from."""
        assert inputs.work is not None
        if not (inputs.work / "begun").exists():
            inputs.work.mkdir(parents=True, exist_ok=True)
            (inputs.work / "begun").touch()
            raise KeyboardInterrupt
        return all_scored(inputs, 0.0)


@pytest.mark.parametrize(
    ("method", "learns"),
    [
        ({"name": "probe"}, True),
        ({"name": "uniform"}, False),
        ({"name": "uniform", "give_labels": True}, True),
        ({"name": "amortized", "teacher": "probe"}, True),
        ({"name": "auto", "signals": {"p": {"method": "probe"}}}, True),
        ({"name": "auto", "signals": {"c": {"method": "contrast"}}}, False),
    ],
)
def test_labels_go_to_what_learns_from_them(
    method: dict[str, Any], learns: bool, tmp_path: Path
) -> None:
    """A method that needs them, one made of such a method, one that is to have them."""
    config = CompareConfig.model_validate({
        "finetuning_set": "rows.jsonl", "labels": "labels.jsonl", "safe_set": "safe.jsonl",
        "out": tmp_path, "methods": {"it": method},
    })  # fmt: skip
    assert config.learns("it") is learns


def test_what_is_given_labels_is_measured_on_other_rows(tmp_path: Path) -> None:
    """It could do without."""
    methods = {"it": {"name": "uniform", "give_labels": True}, "uniform": {}}
    found = run_compare(prepare(comparison(tmp_path, methods, n=N, n_trusted=10)))
    sizes = {e["method"]: (e["uses_labels"], e["readouts"]["score"]["n"]) for e in found["entries"]}
    assert sizes == {"it": (True, 30), "uniform": (False, 40)}


@pytest.mark.parametrize(("learned", "name"), [(False, "none"), (True, "learned from labels")])
def test_labels_that_had_no_say_are_not_counted(learned: bool, name: str, tmp_path: Path) -> None:
    """A method that was given them says whether it learned."""
    kind = Learned if learned else Unlearned
    methods = {"it": {"name": f"{HERE}:{kind.__name__}", "give_labels": True}}
    config = comparison(tmp_path, methods, n=N, n_trusted=10)
    (entry,) = run_compare(prepare(config))["entries"]
    assert (entry["uses_labels"], entry["readouts"]["score"]["n"]) == (learned, 30)
    (row,) = comparison_view(read_comparison(config.out)).costs.rows
    assert row[1].text == name


class Learned(Silent):
    """Learned its weights from labels, it says."""

    learned = True

    def rank(self, inputs: RankingInputs) -> Scores:
        """Say so."""
        return replace(all_scored(inputs, 0.0), details={"weights_learned": self.learned})


class Unlearned(Learned):
    """Had too few labels."""

    learned = False


def test_a_ranking_that_went_on_is_marked(tmp_path: Path) -> None:
    """Its seconds are those since it did."""
    config = comparison(tmp_path, outside(it=Resumed), n=N)
    with pytest.raises(KeyboardInterrupt):
        run_compare(prepare(config))
    found = run_compare(prepare(config))
    assert [entry["n_resumed"] for entry in found["entries"]] == [1, 0]
    shown = Console(width=120, file=io.StringIO())
    shown.print(comparison_tables(found, 120))
    assert "begun before: seconds, memory and passes" in shown.file.getvalue()
    costs = comparison_view(read_comparison(config.out)).costs.rows
    assert [row[3].notes for row in costs] == [("begun before",), ()]


def test_a_comparison_of_refusals_alone_says_so(tmp_path: Path) -> None:
    """There is nothing to show, and why."""
    config = comparison(tmp_path, {"no": outside(no=Refusing)["no"]}, n=N)
    run_compare(prepare(config))
    with pytest.raises(TamisError, match=r"every ranking was refused; no: give \[/more\] rows"):
        read_comparison(config.out)


def test_as_many_labels_as_rows_are_refused(tmp_path: Path) -> None:
    """Nothing would be left to measure on, of all rows or of a part; both numbers are named."""
    methods = outside(learns=Labelled)
    with pytest.raises(ConfigError, match="n_trusted is 40, and 'all' has 40 rows: learns"):
        prepare(comparison(tmp_path, methods, n=N, n_trusted=40))
    few = {"few": {"rate": 0.1}}  # 30 other rows and 3 harmful ones
    with pytest.raises(ConfigError, match="n_trusted is 33, and 'few' has 33 rows"):
        prepare(comparison(tmp_path, methods, n=N, n_trusted=33, parts=few))
    assert len(prepare(comparison(tmp_path, methods, n=N, n_trusted=32, parts=few)).jobs) == 4


def test_rows_of_the_harmful_set_are_not_measured(tmp_path: Path) -> None:
    """Two of the rows, known by content: counted, noted, and no method learned from labels."""
    known = [{"prompt": f"{i:04}", "completion": "yes"} for i in (0, 4)]
    lines = [*known, {"prompt": "other", "completion": "yes"}]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    config = comparison(tmp_path, outside(), n=N, harmful_set=str(tmp_path / "bad.jsonl"))
    found = run_compare(prepare(config))
    (entry,) = found["entries"]
    score = entry["readouts"]["score"]
    assert (score["n"], score["n_harmful"], entry["uses_labels"]) == (38, 8, False)
    assert found["facts"]["all"] == [
        "2 of the 40 rows are also in the harmful set: no measure counts them, and methods that "
        "read that set learned from their labels."
    ]
    (note,) = entry["notes"]
    assert note.startswith("2 rows of the harmful set are also in the fine-tuning set: a method th")
    assert comparison_view(read_comparison(config.out)).notes == tuple(
        f"all: {note}" for note in entry["notes"]
    )


@pytest.mark.parametrize("flat", [True, False])
def test_a_mark_of_options_is_no_option(flat: bool, tmp_path: Path) -> None:
    """Given later, it changes the line of its method and no ranking."""
    plain: dict[str, Any] = {"cues": {"name": "trivial"}, "it": {"name": "uniform"}}
    settings = {"name": "uniform"} if flat else {"name": "uniform", "options": {}}
    marked = {**plain, "it": {**settings, "chosen_with_labels": True}}
    before = run_compare(prepare(comparison(tmp_path, plain, n=N)))["entries"]
    again = prepare(comparison(tmp_path, marked, n=N))
    assert list(again.finished) == [True, True]
    after = run_compare(again)["entries"]
    assert [entry["chosen_with_labels"] for entry in before + after] == [False] * 3 + [True]
    assert [{**entry, "chosen_with_labels": False} for entry in after] == before


def test_rankings_of_other_settings_are_all_named_at_once(tmp_path: Path) -> None:
    """Before anything is run; those that are as asked are not named."""
    parts = {"few": {"rate": 0.1}}
    old = {"same": {"name": "uniform"}, "it": {"name": "uniform"}}
    run_compare(prepare(comparison(tmp_path, old, n=N, parts=parts)))
    changed = comparison(tmp_path, {**old, "it": {"name": "trivial"}, "new": {"name": "uniform"}},
                         n=N, parts=parts)  # fmt: skip
    with pytest.raises(MismatchError, match=r"2 of these .*: all/it-0, few/it-0\. The first: conf"):
        prepare(changed)
    assert prepare(changed, overwrite=True).finished == [True, False, False] * 2


def test_a_set_that_a_method_needs_is_missed_before_any_work(tmp_path: Path) -> None:
    """By the label of the method."""
    with pytest.raises(ValidationError, match=r"methods\.it needs safe_set: set it"):
        comparison(tmp_path, {"it": {"name": "dsir"}}, n=N)
