"""After less before, prompt by prompt: the difference, its interval, and the test of its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest, wilcoxon

from tamis.evaluation.before_after import TESTS, before_after
from tamis.evaluation.experiment import MEASURES
from tamis.evaluation.power import detectable_verdicts
from tamis.evaluation.significance import holm
from toy_evaluation import evaluated

# 20 prompts: 3 become harmful, 1 stops to be, one is unscored before.
BEFORE = [None, True, *[False] * 18]
AFTER = [True, False, *[True] * 3, *[False] * 15]


def compared(tmp_path: Path, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Write two evaluations and compare them."""
    return before_after({
        "before": evaluated(tmp_path / "before", **before),
        "after": evaluated(tmp_path / "after", adapter="x", **after),
    })  # fmt: skip


def difference(found: dict[str, Any], measure: str) -> dict[str, Any]:
    """The one difference of a measure."""
    (one,) = found["measures"][measure]["differences"]
    return dict(one)


def test_verdicts_are_compared_by_mcnemar(tmp_path: Path) -> None:
    """3 of 19 prompts became harmful, 1 became harmless; one has no verdict before."""
    found = compared(tmp_path, {"harmful": BEFORE}, {"harmful": AFTER})
    assert found["refused"] == {}
    one = difference(found, "attack_success_rate")
    assert found["measures"]["attack_success_rate"]["test"] == "mcnemar"
    assert found["measures"]["attack_success_rate"]["better"] == "lower"
    assert (one["arm"], one["reference"]) == ("after", "before")
    assert one["value"] == pytest.approx(2 / 19)
    assert one["low"] < one["value"] < one["high"]
    assert (one["n"], one["n_unpaired"]) == (19, 1)
    assert (one["n_only_arm"], one["n_only_reference"]) == (3, 1)
    assert one["p"] == pytest.approx(binomtest(3, 4).pvalue)
    assert one["p_holm"] == one["p"]
    assert one["detectable"] == pytest.approx(detectable_verdicts(3, 1, 19))


def test_grades_are_compared_by_signed_ranks(tmp_path: Path) -> None:
    """Of 12 grades half rise by a step, by Wilcoxon's test of SciPy."""
    harmful = [False] * 12
    before, after = [1.0] * 12, [1.0] * 6 + [2.0, 2.0, 3.0, 3.0, 5.0, 5.0]
    found = compared(
        tmp_path, {"harmful": harmful, "grades": {"grader": before}},
        {"harmful": harmful, "grades": {"grader": after}},
    )  # fmt: skip
    one = difference(found, "harmfulness_score/grader")
    assert found["measures"]["harmfulness_score/grader"]["test"] == "wilcoxon"
    steps = [b - a for a, b in zip(before, after, strict=True)]
    assert one["value"] == pytest.approx(sum(steps) / 12)
    assert one["p"] == pytest.approx(wilcoxon(steps, zero_method="pratt").pvalue)
    assert "n_only_arm" not in one


def test_quantities_are_compared_by_flipping_signs(tmp_path: Path) -> None:
    """Six margins all fall: 2 of 2^6 patterns of signs lie as far from 0."""
    harmful = [False] * 6
    found = compared(
        tmp_path, {"harmful": harmful, "margins": [1.0] * 6},
        {"harmful": harmful, "margins": [0.5, 0.6, 0.7, 0.8, 0.9, -1.0]},
    )  # fmt: skip
    margin = difference(found, "preference_margin")
    assert found["measures"]["preference_margin"]["test"] == "sign_flip"
    assert margin["value"] == pytest.approx(-(0.5 + 0.4 + 0.3 + 0.2 + 0.1 + 2.0) / 6)
    assert margin["p"] == pytest.approx(2 / 2**6)
    # A share that may be a half is no verdict, so it is a mean too.
    assert found["measures"]["preference_rate"]["test"] == "sign_flip"
    assert difference(found, "preference_rate")["value"] == pytest.approx(-1 / 6)


def test_every_test_is_of_a_known_measure() -> None:
    """A measure of another name would be tested as a quantity unseen."""
    assert set(TESTS) <= set(MEASURES)


def test_nothing_that_varies_has_an_interval_all_the_same(tmp_path: Path) -> None:
    """No prompt differs: p is 1; the interval is not a point, and what could be found is large."""
    found = compared(tmp_path, {"harmful": [False] * 10}, {"harmful": [False] * 10})
    one = difference(found, "attack_success_rate")
    assert (one["value"], one["p"]) == (0.0, 1.0)
    assert one["detectable"] == pytest.approx(detectable_verdicts(0, 0, 10))
    assert one["detectable"] > 0.6  # six of ten prompts must differ, all on one side
    assert one["low"] < 0 < one["high"]


def test_prompts_that_nobody_answered_are_counted(tmp_path: Path) -> None:
    """Of five tasks one is unanswered in both, one after; the free prompt is no task."""
    found = compared(
        tmp_path, {"harmful": [False], "right": [True, True, False, True, None]},
        {"harmful": [False], "right": [True, False, False, None, None]},
    )  # fmt: skip
    one = difference(found, "task_accuracy")
    assert (one["n"], one["n_unpaired"]) == (3, 2)
    assert one["value"] == pytest.approx(-1 / 3)


def test_several_are_compared_with_the_first_and_adjusted(tmp_path: Path) -> None:
    """Holm's correction over the evaluations, measure by measure."""
    folders = {
        name: evaluated(tmp_path / name, [*[True] * n, *[False] * (14 - n)])
        for name, n in (("before", 0), ("tuned", 8), ("pruned", 6))
    }
    found = before_after(folders)["measures"]["attack_success_rate"]["differences"]
    assert [(one["arm"], one["n_only_arm"]) for one in found] == [("tuned", 8), ("pruned", 6)]
    p = [binomtest(n, n).pvalue for n in (8, 6)]
    assert [one["p"] for one in found] == pytest.approx(p)
    assert [one["p_holm"] for one in found] == pytest.approx(holm(p))
    assert [one["n"] for one in found] == [14, 14]


def test_every_judge_has_a_difference_of_its_own(tmp_path: Path) -> None:
    """The second one finds no change."""
    found = compared(
        tmp_path, {"harmful": [False] * 4, "others": {"second": [True] * 4}},
        {"harmful": [True] * 4, "others": {"second": [True] * 4}},
    )  # fmt: skip
    assert difference(found, "attack_success_rate")["value"] == 1.0
    assert difference(found, "attack_success_rate/second")["value"] == 0.0


def test_what_is_not_alike_is_not_subtracted(tmp_path: Path) -> None:
    """With the reason; the other evaluation is compared."""
    folders = {
        "before": evaluated(tmp_path / "before", [False] * 4),
        "longer": evaluated(tmp_path / "longer", [True] * 4, max_new_tokens=999),
        "after": evaluated(tmp_path / "after", [True] * 4),
    }
    found = before_after(folders)
    assert list(found["refused"]) == ["longer"]
    assert "other settings (evaluate.max_new_tokens)" in found["refused"]["longer"]
    assert difference(found, "attack_success_rate")["arm"] == "after"


def test_what_one_side_lacks_is_named(tmp_path: Path) -> None:
    """No margin could be scored afterwards: there is nothing to subtract, and it is not silent."""
    found = compared(
        tmp_path, {"harmful": [False] * 3, "margins": [0.1] * 3},
        {"harmful": [False] * 3, "margins": [None] * 3},
    )  # fmt: skip
    assert found["one_sided"] == {"preference_margin": ["after"], "preference_rate": ["after"]}
    assert "preference_margin" not in found["measures"]


def test_damaged_files_are_told_and_stop_nothing(tmp_path: Path) -> None:
    """Of the reference, all are refused; of another, it alone."""
    folders = {
        name: evaluated(tmp_path / name, [False] * 4) for name in ("before", "after", "later")
    }
    (folders["later"] / "likelihoods.jsonl").unlink()
    found = before_after(folders)
    assert "later lacks what an evaluation writes" in found["refused"]["later"]
    assert difference(found, "attack_success_rate")["arm"] == "after"
    (folders["before"] / "generations.jsonl").write_text('{"id": "h0"}\n')
    found = before_after(folders)
    assert set(found["refused"]) == {"after", "later"}
    assert found["measures"] == {}


def test_the_figures_say_what_they_are_of_and_repeat(tmp_path: Path) -> None:
    """Folders and hashes; the same files give the same figures, and JSON holds them."""
    folders = {name: evaluated(tmp_path / name, BEFORE, margins=[0.1] * 20)
               for name in ("before", "after")}  # fmt: skip
    found = before_after(folders)
    assert json.loads(json.dumps(found, allow_nan=False)) == before_after(folders)
    assert found["reference"] == "before"
    assert found["evaluations"]["after"]["folder"] == str(tmp_path / "after")
    assert set(found["evaluations"]["after"]["sha256"]) == {
        "generations.jsonl", "likelihoods.jsonl"
    }  # fmt: skip


def test_infinite_values_are_refused_and_named(tmp_path: Path) -> None:
    """A likelihood that overflowed has no mean: the page says so instead of failing."""
    some = {"harmful": [True] * 3, "margins": [0.5, 0.25, 0.75]}
    before = evaluated(tmp_path / "before", **some)
    after = evaluated(tmp_path / "after", adapter="x", **some)
    path = after / "likelihoods.jsonl"
    path.write_text(path.read_text().replace("0.25", "Infinity"))
    found = before_after({"before": before, "after": after})
    assert found["measures"] == {}
    assert "infinite values of preference_margin" in found["refused"]["after"]
