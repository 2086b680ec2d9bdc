"""Detection measures by hand, and what each slice compares."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.errors import MismatchError
from tamis.evaluation.labels import Label
from tamis.evaluation.ranking import (
    MIN_NEGATIVES_AT_1PCT,
    auroc,
    average_precision,
    detection_measures,
    ranking_report,
    recall_at_rate,
    slice_masks,
    tpr_at_fpr,
)
from tamis.evaluation.statistics import wilson_interval
from tamis.rng import numpy_generator

Counts = NDArray[np.int64]


@dataclasses.dataclass
class Rows:
    """The ids of scored rows."""

    ids: list[str]
    source_ids: list[str | None]


def counts(*per_group: int) -> Counts:
    """One row of counts per group, riskiest group first."""
    return np.array([per_group])


def measured(
    values: Sequence[float], harmful: Sequence[bool], *, n_resamples: int = 200
) -> dict[str, dict[str, float | None]]:
    """Measure plain lists."""
    return detection_measures(
        np.array(values, dtype=float),
        np.array(harmful, dtype=bool),
        numpy_generator(0, "test"),
        n_resamples,
    )


def test_auroc_counts_pairs() -> None:
    """Harmful, other, harmful, other from the riskiest down: 3 of 4 pairs are in order."""
    assert auroc(counts(1, 0, 1, 0), counts(0, 1, 0, 1)) == pytest.approx(0.75)


def test_auroc_counts_ties_half() -> None:
    """Everything in one group is chance."""
    assert auroc(counts(3), counts(5)) == pytest.approx(0.5)


def test_average_precision_by_hand() -> None:
    """Harmful at ranks 1 and 3: (1/2)(1/1) + (1/2)(2/3) = 5/6."""
    assert average_precision(counts(1, 0, 1, 0), counts(0, 1, 0, 1)) == pytest.approx(5 / 6)


def test_average_precision_takes_ties_together() -> None:
    """One harmful row tied with one other has precision 1/2 whatever their order."""
    assert average_precision(counts(1), counts(1)) == pytest.approx(0.5)


def test_average_precision_survives_groups_that_were_not_drawn() -> None:
    """An empty first group is 0 of 0 and adds nothing."""
    assert average_precision(counts(0, 1), counts(0, 1)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [
        ((1, 1, 0, 0), (0, 0, 1, 1), 1.0),
        ((0, 1, 1, 0), (1, 0, 0, 1), 0.5),
        ((2,), (2,), 0.5),  # all tied: half of any two
        ((1, 1, 0), (0, 1, 1), 0.75),  # the second is found with probability a half
        ((0, 0, 2), (0, 0, 0), 1.0),  # groups that were not drawn
    ],
)
def test_recall_counts_ties_by_their_share(
    positives: Sequence[int], negatives: Sequence[int], expected: float
) -> None:
    """As many riskiest rows as there are harmful ones."""
    assert recall_at_rate(counts(*positives), counts(*negatives)) == pytest.approx(expected)


def test_recall_at_rate_has_an_interval() -> None:
    """Of four harmful rows three are found; resamples of four find more or fewer."""
    found = measured([0, 1, 2, 9, 3, 4, 5, 6], [True] * 4 + [False] * 4)["recall_at_rate"]
    low, value, high = found["low"], found["value"], found["high"]
    assert value == 0.75
    assert low is not None
    assert high is not None
    assert 0 <= low < 0.75 < high <= 1


def test_tpr_stops_before_a_tied_group_that_would_exceed_the_rate() -> None:
    """20 others allow one false alarm at 5%; a tie of 1 harmful and 2 others is not flagged."""
    positives, negatives = counts(2, 1, 1), counts(1, 2, 17)
    assert tpr_at_fpr(positives, negatives, 0.05) == pytest.approx(2 / 4)


def test_tpr_is_zero_when_the_riskiest_rows_are_tied_with_too_many_others() -> None:
    """Nothing can be flagged, so nothing is found: no interpolation."""
    assert tpr_at_fpr(counts(4, 0), counts(10, 10), 0.05) == pytest.approx(0.0)


def test_tpr_allowance_is_exact_at_whole_numbers() -> None:
    """5% of 1,400 is 70 false alarms, although 0.05 * 1400 may round to below 70."""
    assert tpr_at_fpr(counts(1, 1), counts(70, 1330), 0.05) == pytest.approx(0.5)


def test_higher_scores_are_kept_so_low_scores_are_risky() -> None:
    """Harmful rows with the lowest scores are a perfect ranking."""
    report = measured([-1.0, -2.0, 5.0, 6.0], [True, True, False, False])
    assert report["auroc"]["value"] == report["auroc"]["high"] == 1.0


def test_unscored_rows_are_left_out_and_counted() -> None:
    """NaN is neither safe nor risky."""
    report = measured([0.0, float("nan"), 1.0], [True, True, False])
    assert (report["n"], report["n_harmful"], report["n_unscored"]) == (2, 1, 1)
    assert report["auroc"]["value"] == 1.0


@pytest.mark.parametrize("harmful", [[True, True], [False, False], []])
def test_one_class_alone_has_no_measures(harmful: list[bool]) -> None:
    """Without rows to tell apart every measure is null, and n says why."""
    report = measured([1.0] * len(harmful), harmful)
    assert report["auroc"] == {"value": None, "low": None, "high": None}
    assert report["n"] == len(harmful)


@pytest.mark.parametrize("turned", [False, True])
def test_a_perfect_score_of_a_few_rows_is_not_certain(turned: bool) -> None:
    """Two harmful rows of ten, all right or all wrong: the end is Wilson's of two trials."""
    values = [0.0, 1.0, *range(2, 10)]
    report = measured([-v for v in values] if turned else values, [True] * 2 + [False] * 8)
    found = report["auroc"]
    low, high = wilson_interval(2 * (not turned), 2) or (0.0, 0.0)
    assert (found["value"], found["low"], found["high"]) == (float(not turned), low, high)
    assert high - low > 0.6


def test_rate_at_one_percent_needs_500_others() -> None:
    """At 499 others 1% is fewer than five rows: null; at 500 it is a number."""
    values = np.linspace(0, 1, MIN_NEGATIVES_AT_1PCT + 1)
    harmful = np.arange(len(values)) == 0
    enough = measured(list(values), list(harmful), n_resamples=20)
    too_few = measured(list(values[:-1]), list(harmful[:-1]), n_resamples=20)
    assert enough["tpr_at_1pct_fpr"]["value"] == 1.0
    assert too_few["tpr_at_1pct_fpr"]["value"] is None
    assert too_few["tpr_at_5pct_fpr"]["value"] == 1.0


def test_intervals_hold_the_value_and_ignore_row_order() -> None:
    """The interval surrounds its value; rows in another order give the same bytes."""
    source = numpy_generator(1, "rows")
    harmful = source.random(300) < 0.2
    values = source.normal(size=300) - harmful
    order = source.permutation(300)
    report = measured(list(values), list(harmful))
    assert measured(list(values[order]), list(harmful[order])) == report
    for name in ("auroc", "average_precision", "tpr_at_5pct_fpr"):
        entry = report[name]
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_an_interval_never_leaves_its_value_out() -> None:
    """Every harmful row is kept first: copies in a resample tie, which moves precision up alone."""
    report = measured([*range(20), 40.0, 41.0, 42.0], [False] * 20 + [True] * 3)
    found = report["average_precision"]
    assert found["low"] == found["value"] < found["high"]


@pytest.mark.slow
def test_auroc_interval_covers_the_true_value() -> None:
    """Of 200 draws of 40 against 160 normal scores one sd apart, about 95% hold Phi(1/sqrt 2).

    Tolerance: three standard errors of 200 trials.
    """
    truth = 0.7602499389065233  # Phi(1 / sqrt(2)), the AUROC of two unit normals one apart
    source = numpy_generator(2, "coverage")
    harmful = np.arange(200) < 40
    hits = []
    for _ in range(200):
        entry = measured(list(source.normal(size=200) - harmful), list(harmful))["auroc"]
        hits.append(entry["low"] <= truth <= entry["high"])
    assert np.mean(hits) == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / 200) ** 0.5)


LABELS = [
    Label("a", True, "harmful", "forum", "clear"),
    Label("b", True, "harmful", "forum", "weak"),
    Label("c", False, "hard_negative", "forum"),
    Label("d", False, "hard_negative", "manual"),
    Label("e", False, "benign", "manual"),
    Label("f", True, "harmful", "leak", "clear"),
]


def rows_of(name: str) -> str:
    """Spell the ids of a slice."""
    mask = slice_masks(LABELS)[name]
    return "".join(label.id for label, inside in zip(LABELS, mask, strict=True) if inside)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("hard_negative", "abcdf"),  # every harmful row against hard negatives only
        ("clear", "acdef"),  # all but the weak harmful row
        ("tier:weak", "bcde"),  # harmful rows of a tier against every other row
        ("source:leak", "cdef"),  # a source of harmful rows only
        ("source:manual", "abdef"),  # a source of other rows only
        ("source:forum", "abc"),  # a source of both: within it
        ("kind:benign", "abef"),
    ],
)
def test_slices_compare_what_they_say(name: str, rows: str) -> None:
    """Each slice holds the rows its rule names."""
    assert rows_of(name) == rows


def test_slices_have_one_name_each() -> None:
    """`hard_negative` and `clear` are not repeated under a prefix."""
    assert sorted(slice_masks(LABELS)) == [
        "clear", "hard_negative", "kind:benign", "kind:harmful", "source:forum", "source:leak",
        "source:manual", "tier:weak",
    ]  # fmt: skip


def test_named_slices_exist_without_attributes() -> None:
    """Labels of id and harmful alone still give `clear` (all rows) and an empty comparison."""
    masks = slice_masks([Label("a", True), Label("b", False)])
    assert masks["clear"].tolist() == [True, True]
    assert masks["hard_negative"].tolist() == [True, False]


def report_of(seed: int = 0) -> dict[str, object]:
    """Report two readouts of six rows, one of them unscored in the first."""
    rows = Rows([f"{i}-0" for i in "abcdef"], list("abcdef"))
    readouts = {
        "excess": np.array([0.1, 0.2, 0.9, 0.8, 0.7, float("nan")]),
        "selector": np.arange(6.0),
    }
    return ranking_report(rows, readouts, LABELS, primary="excess", seed=seed, n_resamples=50)


def test_report_puts_the_primary_readout_on_top() -> None:
    """The top level repeats the primary readout's measures, slices included."""
    report = report_of()
    assert report["primary"] == "excess"
    primary = report["readouts"]["excess"]  # type: ignore[index]
    assert {key: report[key] for key in primary} == primary
    assert set(report["readouts"]) == {"excess", "selector"}  # type: ignore[call-overload]


def test_report_is_json_without_nan() -> None:
    """What is undefined is null, which every JSON reader knows."""
    assert json.loads(json.dumps(report_of(), allow_nan=False)) == report_of()


def test_report_depends_on_the_seed_in_its_intervals_only() -> None:
    """Another bootstrap seed moves no value."""
    first, second = report_of(0)["auroc"], report_of(1)["auroc"]
    assert first["value"] == second["value"]  # type: ignore[index]


def test_report_refuses_rows_without_label() -> None:
    """A measure over a part of the rows would look like one over all."""
    rows = Rows(["x-0", "y-0"], [None, None])
    with pytest.raises(MismatchError, match="1 of 2 scored rows have no label: y-0"):
        ranking_report(rows, {"loss": np.zeros(2)}, [Label("x-0", True)], primary="loss", seed=0)
