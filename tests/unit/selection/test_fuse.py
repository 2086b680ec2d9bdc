"""Fusing signals: rank shares, weighted means, learned weights."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.errors import ConfigError
from tamis.selection.fuse import evidence, learned_weights, rank_mean, shares

NAN = float("nan")


def test_shares_are_midranks() -> None:
    """Of four scored rows, two tied: (1 - 1/2)/4, (2.5 - 1/2)/4 twice, (4 - 1/2)/4."""
    found = shares(np.array([3.0, 1.0, NAN, 3.0, 9.0]))
    np.testing.assert_allclose(found, [0.5, 0.125, NAN, 0.5, 0.875])


def test_shares_do_not_know_the_unit() -> None:
    """Any rising change of a score leaves its shares alone."""
    values = np.array([0.3, -2.0, 5.0, 1.0])
    assert shares(np.exp(values)).tolist() == shares(values).tolist()


def test_evidence_is_a_robust_z_score() -> None:
    """Median 3, MAD 1: one far row moves neither; what is missing stays missing."""
    values = np.array([1.0, 2, 3, 4, 1000, NAN])
    np.testing.assert_allclose(evidence(values)[:4], np.array([-2, -1, 0, 1]) / 1.4826)
    assert np.isnan(evidence(values)[5])


def test_a_signal_that_only_clears_never_accuses() -> None:
    """Nothing below zero, and nothing for a row without a score."""
    found = evidence(np.array([1.0, 2, 3, 4, 1000, NAN]), only_clears=True)
    np.testing.assert_allclose(found[:4], np.array([0, 0, 0, 1]) / 1.4826)
    assert found[5] == 0


def test_the_mean_is_weighted() -> None:
    """Three quarters of one signal and a quarter of its reverse."""
    up = np.array([1.0, 2.0])
    np.testing.assert_allclose(rank_mean([up, -up], [3.0, 1.0]), [0.375, 0.625])


def test_a_missing_signal_is_left_out_of_the_mean() -> None:
    """Not taken for the worst; a row without any signal has no score."""
    found = rank_mean([np.array([1.0, 2.0, NAN]), np.array([NAN, 1.0, NAN])], [1.0, 1.0])
    np.testing.assert_allclose(found, [0.25, (0.75 + 0.5) / 2, NAN])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    """One positive weight for each signal."""
    with pytest.raises(ConfigError, match="give one positive weight for each"):
        rank_mean([np.arange(3.0), np.arange(3.0)], weights)


def labelled(n: int = 60) -> tuple[list[np.ndarray], np.ndarray]:
    """A signal that knows, one that does not, and one that points the wrong way."""
    generator = np.random.default_rng(0)
    harmful = np.arange(n) % 3 == 0
    knows = -1.0 * harmful + 0.3 * generator.normal(size=n)
    return [shares(x) for x in (knows, generator.normal(size=n), -knows)], harmful


def test_what_knows_gets_the_weight() -> None:
    """What points the wrong way gets none."""
    signals, harmful = labelled()
    weights = learned_weights(signals, harmful)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] > 0.5
    assert weights[2] == 0.0


def test_signals_that_all_point_the_wrong_way_are_refused() -> None:
    """Most likely the labels are turned round."""
    signals, harmful = labelled()
    with pytest.raises(ConfigError, match="every signal points the wrong way"):
        learned_weights(signals[:1], ~harmful)


def test_too_few_labels_are_refused() -> None:
    """The message counts them."""
    signals, _ = labelled(9)
    with pytest.raises(ConfigError, match="2 harmful and 7 other labelled rows are too few"):
        learned_weights(signals, np.arange(9) < 2)
