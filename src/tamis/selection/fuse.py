"""Several signals into one: by evidence, by mean ranks, or by weights learned from labelled rows.

Signals are scores, higher = keep. Scores of different methods have no unit in common, so they are
made comparable by their spread over the rows, or by their ranks. Letters in shapes: n rows, m
signals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from tamis.data.strata import centred
from tamis.errors import ConfigError

LEAST_OF_A_KIND = 10  # labelled rows of either kind for learned weights: fewer do worse than none


def shares(values: np.ndarray) -> np.ndarray:
    """Turn scores into their midranks' shares: 0 for the lowest, 1 for the highest (n).

    Ties share a rank; NaN stays NaN. One row alone has 0.5.
    """
    found = np.full(len(values), np.nan)
    known = ~np.isnan(values)
    n = int(known.sum())
    if n:
        found[known] = (rankdata(values[known]) - 0.5) / n
    return found


def rank_mean(signals: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted mean of the signals' rank shares, over the signals a row has.

    Args:
        signals: m arrays of n scores; NaN where a signal has none.
        weights: m positive weights.

    Returns:
        In (0, 1); NaN only where a row has no signal at all.

    Raises:
        ConfigError: Weights and signals do not fit together.
    """
    if len(signals) != len(weights) or not signals or min(weights) <= 0:
        raise ConfigError(f"{len(signals)} signals and weights {list(weights)}: give one positive "
                          "weight for each signal.")  # fmt: skip
    found = np.stack([shares(signal) for signal in signals])
    weight = np.where(np.isnan(found), 0.0, np.asarray(weights, dtype=np.float64)[:, None])
    total = weight.sum(axis=0)
    mean = (np.nan_to_num(found) * weight).sum(axis=0) / np.where(total > 0, total, np.nan)
    return np.asarray(mean, dtype=np.float64)


def evidence(values: np.ndarray, *, only_clears: bool = False) -> np.ndarray:
    """Turn scores into robust z-scores: how far a row is from most rows (n); NaN stays NaN.

    Args:
        values: Scores, higher = keep.
        only_clears: Count only what speaks for a row: values below 0 become 0, and so does a
            missing score. For a signal that is low for other reasons than harm.
    """
    middle, spread = centred(values)
    found = (values - middle) / spread
    return np.nan_to_num(np.maximum(found, 0.0)) if only_clears else np.asarray(found)


def learned_weights(
    signals: Sequence[np.ndarray], harmful: np.ndarray, *, strength: float = 1.0
) -> np.ndarray:
    """Weights of the signals' rank shares that tell labelled rows apart best.

    Args:
        signals: m arrays of rank shares of the labelled rows (n), none of them NaN.
        harmful: The labels (bool, n).
        strength: Inverse of the logistic regression's ridge penalty.

    Returns:
        m weights, larger where a signal keeps the right rows; a signal that points the wrong way
        has weight 0.

    Raises:
        ConfigError: Too few labels of a kind, or no signal points the right way.
    """
    from sklearn.linear_model import LogisticRegression

    n_harmful, n_other = int(harmful.sum()), int((~harmful).sum())
    if min(n_harmful, n_other) < LEAST_OF_A_KIND:
        raise ConfigError(
            f"{n_harmful} harmful and {n_other} other labelled rows are too few to weigh signals: "
            f"{LEAST_OF_A_KIND} of either are needed. Use the rank mean, or label more rows."
        )
    model = LogisticRegression(C=strength, class_weight="balanced", tol=1e-8, max_iter=10_000)
    model.fit(np.stack(list(signals), axis=1), ~harmful)
    weights = np.maximum(model.coef_[0], 0.0)
    if not weights.any():
        raise ConfigError(
            "on the labelled rows every signal points the wrong way: the rows it keeps are the "
            "harmful ones. Check the labels (harmful is true), or choose other signals."
        )
    return np.asarray(weights / weights.sum())
