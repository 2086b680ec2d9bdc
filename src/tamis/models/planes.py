"""Planes in the space of hidden states: principal axes, fits on them, and one vector for both.

Shapes: n rows, D width of the states, K axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tamis.errors import ConfigError

ROUNDING = 1e-5  # deviations below this share of a value are float32's noise


@dataclass(frozen=True)
class PrincipalAxes:
    """(x - mean) / scale, then less `centre`, projected on `components`.

    Attributes:
        mean: Column means (D).
        scale: Column standard deviations, 1 where a column is constant (D).
        centre: Mean of the standardised rows, subtracted before projecting (D).
        components: Orthonormal axes, largest variance first (K x D).
        variances: Variance along each (K).
    """

    mean: np.ndarray
    scale: np.ndarray
    centre: np.ndarray
    components: np.ndarray
    variances: np.ndarray

    def reduce(self, states: np.ndarray) -> np.ndarray:
        """Return the coordinates of states (n x D) along the axes (n x K)."""
        return np.asarray(((states - self.mean) / self.scale - self.centre) @ self.components.T)

    def plane(self, weight: np.ndarray, bias: float) -> tuple[np.ndarray, float]:
        """Write a plane over the axes as one over the states themselves.

        <c, P ((x - m) / s - u)> + i = <w, x> + b,  w = (P^T c) / s,  b = i - <w, m> - <c, P u>

        Args:
            weight: c (K).
            bias: i.

        Returns:
            w (D) and b.
        """
        back = self.components.T @ weight
        whole = back / self.scale
        return whole, float(bias - whole @ self.mean - back @ self.centre)


def principal_axes(states: np.ndarray, n_components: int) -> PrincipalAxes:
    """Find the axes of some rows.

    Args:
        states: Hidden states (float64, n x D), finite.
        n_components: Axes to keep; fewer where the rows vary along fewer.

    Returns:
        The axes; their signs are fixed by scikit-learn, so equal rows give equal axes.

    Raises:
        ConfigError: The rows have the same states, so no axis is there to find.
    """
    from sklearn.decomposition import PCA

    mean, deviation = states.mean(axis=0), states.std(axis=0)
    # A column that only float32's rounding moves is constant.
    varies = deviation > ROUNDING * np.abs(mean)
    if not varies.any():
        raise ConfigError(
            f"the {len(states)} rows have the same hidden states, so nothing tells them apart. "
            "Give rows that differ, read other positions, or raise render.max_response_tokens."
        )
    scale = np.where(varies, deviation, 1.0)
    scaled = (states - mean) / scale
    # With many rows the D x D covariance is small; with few, the rows are.
    solver = "covariance_eigh" if scaled.shape[0] > scaled.shape[1] else "full"
    pca = PCA(min(n_components, *scaled.shape), svd_solver=solver).fit(scaled)
    # Axes along which the rows do not vary are arbitrary; other rows may vary along them.
    kept = pca.explained_variance_ > ROUNDING * pca.explained_variance_[0]
    return PrincipalAxes(
        mean, scale, pca.mean_, pca.components_[kept], pca.explained_variance_[kept]
    )


def fit_plane(states: np.ndarray, harmful: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Fit a logistic plane with a ridge penalty; both sides weigh the same.

    Args:
        states: Reduced states (n x K).
        harmful: The side of each row (bool, n), both present.
        strength: Inverse of the penalty, C; larger trusts the sides more.

    Returns:
        w (K) and b of the log-odds of harmful.
    """
    from sklearn.linear_model import LogisticRegression

    # Newton's method: a few solves of K x K, where gradient steps to this tolerance take thousands.
    model = LogisticRegression(C=strength, class_weight="balanced", solver="newton-cholesky",
                               tol=1e-8, max_iter=1_000)  # fmt: skip
    model.fit(states, harmful)
    return model.coef_[0], float(model.intercept_[0])
