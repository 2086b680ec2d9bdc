"""Thresholds from labels: F-beta with a margin, and harmless rows lost."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import fbeta_score, roc_auc_score

from tamis.errors import ConfigError
from tamis.selection.calibrate_labelled import (
    f_beta_threshold,
    false_positive_rate_threshold,
    find_labelled_threshold,
)


def labelled_pool(n: int = 1000, distance: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of which a quarter, the harmful rows, are lower."""
    harmful = np.arange(n) % 4 == 0
    return np.random.default_rng(0).normal(size=n) - distance * harmful, harmful


def generator() -> np.random.Generator:
    """Same draws in every test."""
    return np.random.default_rng(2)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_f_beta_is_that_of_scikit_learn(beta: float) -> None:
    """The best F is the largest over all thresholds, and F and AUROC are scikit-learn's."""
    values, harmful = labelled_pool()
    found = f_beta_threshold(values, range(60), harmful[:60], generator(), beta=beta).details
    seen = values[:60]
    best = max(fbeta_score(harmful[:60], seen < t, beta=beta, zero_division=0) for t in seen)
    assert found["f_best"] == pytest.approx(best, rel=1e-12)
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(harmful[:60], -seen), rel=1e-12)


def test_f_beta_takes_the_strictest_cut_within_one_standard_error() -> None:
    """The chosen cut has an F within a standard error of the best, and no higher cut has."""
    values, harmful = labelled_pool()
    one = f_beta_threshold(values, range(80), harmful[:80], generator())
    found, seen = one.details, values[:80]
    least = found["f_best"] - found["standard_error"]
    assert one.threshold > found["threshold_best"]
    assert found["f"] >= least
    assert found["f"] == pytest.approx(fbeta_score(harmful[:80], seen < one.threshold, beta=1))
    higher = seen[seen > one.threshold]
    assert all(fbeta_score(harmful[:80], seen < t, beta=1) < least for t in higher)


def test_the_standard_error_is_that_of_resampled_labels() -> None:
    """By a slow loop over other resamples at the best threshold: within a tenth."""
    values, harmful = labelled_pool()
    found = f_beta_threshold(values, range(200), harmful[:200], generator()).details
    flagged, truth = values[:200] < found["threshold_best"], harmful[:200]
    draws = []
    for seed in range(1000):
        rows = np.random.default_rng([9, seed]).integers(0, 200, 200)
        both = (flagged & truth)[rows].sum()
        draws.append(2 * both / (flagged[rows].sum() + truth[rows].sum()))
    assert found["standard_error"] == pytest.approx(np.std(draws, ddof=1), rel=0.1)


def test_a_larger_beta_removes_more() -> None:
    """Missed harm weighs more."""
    values, harmful = labelled_pool()
    cuts = [f_beta_threshold(values, range(300), harmful[:300], generator(), beta=beta).threshold
            for beta in (0.5, 1.0, 2.0)]  # fmt: skip
    assert cuts == sorted(cuts)
    assert cuts[0] < cuts[2]


def test_labels_of_unscored_rows_are_counted_and_passed_over() -> None:
    """They change nothing else, and neither does the order of the labels."""
    values, harmful = labelled_pool()
    bare = f_beta_threshold(values, range(200), harmful[:200], generator())
    more = np.append(values, np.nan)
    order = [1000, *range(199, -1, -1)]
    found = f_beta_threshold(more, order, [True, *harmful[199::-1]], generator())
    assert found.threshold == bare.threshold
    assert (found.details["n_labelled_unscored"], found.details["n_unscored"]) == (1, 1)
    assert found.details["kept_share"] == bare.details["kept_share"]


def test_a_score_that_finds_nothing_is_refused() -> None:
    """The interval of its AUROC holds 0.5."""
    values, harmful = labelled_pool(distance=0.0)
    with pytest.raises(ConfigError, match="do not show that it finds harm"):
        f_beta_threshold(values, range(200), harmful[:200], generator())


def test_a_score_turned_round_is_refused_as_that() -> None:
    """Its AUROC lies below 0.5."""
    values, harmful = labelled_pool()
    with pytest.raises(ConfigError, match="its sign is wrong"):
        f_beta_threshold(-values, range(200), harmful[:200], generator())


def test_a_cut_that_keeps_too_little_is_refused() -> None:
    """Nearly all rows are harmful: the best F removes nearly all."""
    values = np.random.default_rng(0).normal(size=500)
    values[:450] -= 4
    harmful = np.arange(500) < 450
    drawn = range(0, 500, 2)
    with pytest.raises(ConfigError, match="outside 20% to 99%"):
        f_beta_threshold(values, drawn, harmful[::2], generator())


def test_too_few_harmful_labels_are_refused() -> None:
    """Five of either kind are the least."""
    values, _ = labelled_pool()
    with pytest.raises(ConfigError, match="4 harmful and 96 harmless"):
        f_beta_threshold(values, range(100), np.arange(100) < 4, generator())


SCORES = np.arange(100.0)


@pytest.mark.parametrize(
    ("rate", "confidence", "threshold"),
    [
        (0.05, None, 5.0),  # five of a hundred are below 5
        (0.07, None, 7.0),  # 0.07 * 100 is 7.000000000000001
        (0.01, None, 1.0),
        # P(Binomial(100, 0.05) >= k) is 0.9629 for 2, 0.8817 for 3: the second lowest
        (0.05, 0.95, 1.0),
        (0.05, 0.88, 2.0),
    ],
)
def test_at_most_the_rate_is_lost(rate: float, confidence: float | None, threshold: float) -> None:
    """The k-th lowest of 100 harmless scores 0, 1, ..."""
    one = false_positive_rate_threshold(SCORES, SCORES, rate=rate, confidence=confidence)
    assert one.threshold == threshold
    assert one.details["n_harmless_below"] == threshold
    assert one.details["kept_share"] == (100 - threshold) / 100


def test_a_confident_rate_holds_for_further_rows() -> None:
    """Over 2,000 draws of 100 uniform scores the share below t exceeds 5% in at most a tenth.

    k is 2 where a confidence of 0.9 is asked for, so exactly P(Binomial(100, 0.05) <= 1) = 0.0371;
    4 standard errors of 2,000 draws are 0.017.
    """
    draws = np.random.default_rng(4).random((2000, 100))
    cuts = [false_positive_rate_threshold(d, d, rate=0.05, confidence=0.9).threshold for d in draws]
    assert np.mean(np.array(cuts) > 0.05) == pytest.approx(0.0371, abs=0.017)


def test_unscored_harmless_rows_are_counted() -> None:
    """They are no evidence either way."""
    known = np.append(SCORES, [np.nan] * 3)
    one = false_positive_rate_threshold(np.append(SCORES, np.nan), known, rate=0.05)
    assert (one.threshold, one.details["n_harmless"], one.details["n_harmless_unscored"]) == (
        5.0, 100, 3)  # fmt: skip
    assert (one.details["n_scored"], one.details["n_unscored"]) == (100, 1)


@pytest.mark.parametrize(
    ("n", "rate", "confidence", "said"),
    [
        (19, 0.05, None, "19 harmless rows .* too few .* 20 are needed"),
        (58, 0.05, 0.95, "58 harmless rows .* with confidence 0.95: 59 are needed"),  # 0.95^59
        (50, 1.0, None, "rate=1 is not between"),
        (50, 0.1, 0.0, "confidence=0 is not between"),
    ],
)
def test_too_few_rows_for_the_rate_are_refused(
    n: int, rate: float, confidence: float | None, said: str
) -> None:
    """With how many it takes."""
    with pytest.raises(ConfigError, match=said):
        false_positive_rate_threshold(SCORES, SCORES[:n], rate=rate, confidence=confidence)


@pytest.mark.parametrize(("rate", "confidence", "n"), [(0.05, None, 20), (0.05, 0.95, 59)])
def test_just_enough_rows_give_the_lowest_possible_cut(
    rate: float, confidence: float | None, n: int
) -> None:
    """With one row fewer it is refused, see above."""
    one = false_positive_rate_threshold(SCORES, SCORES[:n], rate=rate, confidence=confidence)
    assert one.threshold == (1.0 if confidence is None else 0.0)


def test_a_label_that_is_no_bool_is_refused() -> None:
    """None would count as harmless, and "false" as harmful."""
    values, harmful = labelled_pool()
    for odd in (None, "false"):
        with pytest.raises(ConfigError, match=r"label 3 is .*, neither True nor False"):
            f_beta_threshold(
                values, range(60), [*harmful[:3], odd, *harmful[4:60]], generator()
            )  # fmt: skip
        with pytest.raises(ConfigError, match=r"label 0 is .*, neither True nor False"):
            find_labelled_threshold(
                "false_positive_rate", values, [str(i) for i in range(1000)], generator(),
                labels={"4": odd},  # type: ignore[dict-item]
            )  # fmt: skip
