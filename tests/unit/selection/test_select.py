"""Selection: which rows a rule keeps, ties, rows without a score, joins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tamis.errors import ConfigError, DataError, MismatchError
from tamis.methods.scores import Scores
from tamis.selection.select import best_first, count_for_ratio, match_to_data, select


def scores(values: dict[str, float]) -> Scores:
    """Make scores from values by id; NaN has a reason."""
    array = np.array(list(values.values()), dtype=np.float64)
    return Scores(
        method="test",
        ids=list(values),
        source_ids=[None] * len(values),
        values=array,
        outcome=["too_long" if np.isnan(v) else "ok" for v in array],
        n_trained_tokens=None,
    )


@pytest.mark.parametrize(
    ("ratio", "n", "count"),
    [(0.8, 1900, 1520), (0.5, 5, 3), (0.35, 10, 4), (1, 7, 7), (0.01, 5, 1)],
)
def test_ratio_counts_all_rows(ratio: float, n: int, count: int) -> None:
    """floor(ratio * n + 0.5), at least one; 0.35 * 10 is the half that the user wrote."""
    assert count_for_ratio(ratio, n) == count


def test_highest_scores_are_kept_in_the_rows_order() -> None:
    """Higher = keep; the order stays the data's."""
    assert select(scores({"a": 1, "b": 3, "c": 2}), count=2).kept_ids == ["b", "c"]


def test_equal_scores_are_ordered_by_id() -> None:
    """A rerun, or another order of the rows, keeps the same rows."""
    one = select(scores({"c": 0, "a": 0, "b": 0}), count=2)
    other = select(scores({"b": 0, "c": 0, "a": 0}), count=2)
    assert sorted(one.kept_ids) == sorted(other.kept_ids) == ["a", "b"]


@pytest.mark.parametrize("options", [{"beta": 2}, {"mad_c": 2}, {"rate": 0.1}, {"confidence": 0.9}])
@pytest.mark.parametrize("chosen", [{"ratio": 0.5}, {"rule": "otsu"}])
def test_an_option_of_another_rule_is_refused(options: Any, chosen: Any) -> None:
    """It would change nothing."""
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} is for rule=.* change nothing with"):
        select(scores({"a": 1, "b": 2, "c": 3}), **chosen, **options)


def test_more_rows_than_there_are_cannot_be_had() -> None:
    """Whatever is done with unscored ones; the advice is what helps."""
    with pytest.raises(ConfigError, match=r"count=9 rows are to be kept of 2\. Lower count\.$"):
        select(scores({"a": 1, "b": 2}), count=9)


def test_threshold_keeps_the_score_itself() -> None:
    """A score equal to the threshold is kept, and is the cut."""
    found = select(scores({"a": 1.0, "b": 0.5}), threshold=1.0)
    assert (found.kept_ids, found.cut) == (["a"], 1.0)


@pytest.mark.parametrize(
    ("asked", "n_notes"),
    [({"ratio": 0.9}, 1), ({"ratio": 0.5}, 1), ({"count": 2}, 1), ({"count": 1}, 0),
     ({"ratio": 0.9, "unscored": "keep"}, 0)],
)  # fmt: skip
def test_a_selection_that_drops_no_row_for_its_score_says_so(asked: Any, n_notes: int) -> None:
    """Where as many rows are asked for as have a score, or more, unscored ones alone go."""
    values = {"a": 1, "b": 2, "c": float("nan"), "d": float("nan")}
    found = select(scores(values), **asked)
    assert len(found.notes) == n_notes
    assert all("2 of 4 have a score: all of these are kept" in note for note in found.notes)


def test_unscored_rows_are_dropped_with_their_reason() -> None:
    """They are never ranked among the others, and never lost without a word."""
    found = select(scores({"a": 1, "b": float("nan")}), ratio=1)
    assert found.dropped == {"b": "unscored: too_long"}


def test_unscored_rows_count_against_a_ratio_when_kept() -> None:
    """unscored=keep fills the count with them first."""
    found = select(scores({"a": 1, "b": float("nan"), "c": 2}), count=2, unscored="keep")
    assert found.kept_ids == ["b", "c"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"count": 3}, ConfigError, "count=3"),
        ({"count": 1, "unscored": "keep"}, ConfigError, "unscored=keep keeps 2 rows"),
        ({"ratio": 0.5, "unscored": "fail"}, DataError, "b .too_long."),
        ({"threshold": 9.0}, ConfigError, "no row would be kept"),
        ({"threshold": float("nan")}, ConfigError, "threshold"),
        ({"ratio": 0}, ConfigError, "ratio"),
        ({"ratio": 1.5}, ConfigError, "ratio"),
        ({}, ConfigError, "exactly one of ratio, count, threshold and rule"),
        ({"threshold": 0.0, "rule": "mad"}, ConfigError, "not threshold, rule"),
        ({"rule": "median"}, ConfigError, "select.rule"),
        ({"rule": "mad"}, ConfigError, "rule=mad finds no threshold: 1 rows have a score"),
        ({"ratio": 0.5, "count": 1}, ConfigError, "exactly one"),
    ],
)
def test_impossible_rules_are_refused(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    """Each with what was given and what to set; a selection is never silently empty."""
    found = scores({"a": 1, "b": float("nan"), "c": float("nan")})
    with pytest.raises(error, match=said):
        select(found, **options)


class Rows:
    """Rows by id."""

    def __init__(self, *ids: str) -> None:
        self.ids = list(ids)
        self.source_ids: list[str | None] = [None] * len(ids)


def test_scores_are_joined_by_id_in_the_datas_order() -> None:
    """The order of the scores does not matter."""
    found = match_to_data(scores({"a": 1, "b": 2}), Rows("b", "a"))
    assert found.values.tolist() == [2, 1]


def test_a_row_without_score_is_named() -> None:
    """Data that was not ranked is refused."""
    with pytest.raises(MismatchError, match=r"1 of 2 rows .* z"):
        match_to_data(scores({"a": 1}), Rows("a", "z"))


def test_scored_rows_absent_from_the_data_need_subset() -> None:
    """Fewer rows than were ranked may be a mistake, so it is asked for."""
    with pytest.raises(MismatchError, match="--subset"):
        match_to_data(scores({"a": 1, "b": 2}), Rows("a"))
    assert match_to_data(scores({"a": 1, "b": 2}), Rows("a"), subset=True).ids == ["a"]


@pytest.mark.parametrize("n", [0, 1, 2, 500])
def test_order_is_by_score_then_id_whatever_the_ties(n: int) -> None:
    """As sorting pairs does: highest score first, equal scores by id, unscored rows left out."""
    values = np.round(np.random.default_rng(n).normal(size=n), 1)
    values[::7] = np.nan
    ids = [f"{i * 7919 % 9973:04d}" for i in range(n)]
    scores = Scores("x", ids, [None] * n, values, ["odd" if np.isnan(v) else "ok" for v in values],
                    None)  # fmt: skip
    expected = sorted((-v, row_id) for v, row_id in zip(values, ids, strict=True) if v == v)
    assert [(-values[i], ids[i]) for i in best_first(scores)] == expected


def labelled() -> tuple[Scores, dict[str, bool]]:
    """Scores of 200 rows, of which the lowest quarter is harmful and every second one labelled."""
    values = {f"r{i:03}": float(i) for i in range(200)}
    return scores(values), {name: i < 50 for i, name in enumerate(values) if i % 2}


def test_f_beta_selects_by_labels_of_some_rows() -> None:
    """Labels that the score tells apart without a fault: the cut is the first harmless one."""
    rows, labels = labelled()
    found = select(rows, rule="f_beta", labels=labels, beta=2)
    assert found.found is not None
    assert (found.cut, found.found.details["n_labelled"], found.found.details["beta"]) == (
        51,
        100,
        2,
    )
    assert len(found.kept_ids) == 149


def test_a_false_positive_rate_is_of_the_harmless_rows() -> None:
    """Labelled ones, 51 to 199: a tenth of 75 lies below 65. Given ones go before labels."""
    rows, labels = labelled()
    assert select(rows, rule="false_positive_rate", labels=labels, rate=0.1).cut == 65
    given = np.arange(100, 200, dtype=np.float64)
    assert select(rows, rule="false_positive_rate", harmless=given, rate=0.1).cut == 110


@pytest.mark.parametrize("rule", ["f_beta", "false_positive_rate"])
def test_rules_by_labels_need_them(rule: Any) -> None:
    """The error names the option; labels of other rows are none."""
    rows, _ = labelled()
    for labels in (None, {"elsewhere": True}):
        with pytest.raises(ConfigError, match=rf"rule={rule} needs .*--labels"):
            select(rows, rule=rule, labels=labels)
