"""Principal axes and planes: identities on numbers whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.models.planes import fit_plane, principal_axes


def rows(n: int = 40, width: int = 6, seed: int = 0) -> np.ndarray:
    """Rows with columns of very different scale."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, width)) * 10.0 ** np.arange(width) + np.arange(width)


def test_axes_are_orthonormal_and_the_largest_variance_comes_first() -> None:
    """What principal means."""
    axes = principal_axes(rows(), 4)
    np.testing.assert_allclose(axes.components @ axes.components.T, np.eye(4), atol=1e-12)
    assert (np.diff(axes.variances) <= 0).all()


def test_all_axes_keep_all_distances() -> None:
    """Projecting on as many axes as columns is a rotation of the standardised rows."""
    found = rows()
    reduced = principal_axes(found, 6).reduce(found)
    scaled = (found - found.mean(0)) / found.std(0)
    expected = np.linalg.norm(scaled[0] - scaled[1])
    assert np.linalg.norm(reduced[0] - reduced[1]) == pytest.approx(expected)


@pytest.mark.parametrize("n", [4, 40])
def test_axes_without_variance_are_left_out(n: int) -> None:
    """Four rows vary along three axes, a constant column along none."""
    found = rows(n)
    found[:, 2] = 7.0
    axes = principal_axes(found, 60)
    assert len(axes.components) == min(n - 1, 5)
    assert np.isfinite(axes.reduce(rows(3, seed=1))).all()


def test_a_column_that_only_rounding_moves_counts_as_constant() -> None:
    """Standardised, float32's noise would weigh as much as any other column."""
    found = rows()
    found[:, 1] = 1.0 + 1e-7 * np.arange(40)
    axes = principal_axes(found, 60)
    assert axes.scale[1] == 1.0


def test_a_plane_over_axes_is_the_same_plane_over_states() -> None:
    """One vector and one number give what standardising, projecting and the fit give."""
    found, others = rows(), rows(seed=3)
    axes = principal_axes(found, 3)
    weight, bias = np.array([0.5, -2.0, 1.5]), 0.25
    vector, offset = axes.plane(weight, bias)
    np.testing.assert_allclose(others @ vector + offset, axes.reduce(others) @ weight + bias)


def test_the_fitted_plane_has_no_gradient_left() -> None:
    """At the optimum of the balanced log-loss with a ridge penalty |w|^2 / (2 C)."""
    states = rows(30, 2) / np.array([1.0, 10.0])
    harmful = states[:, 0] + 0.3 * states[:, 1] > 0.4
    weight, bias = fit_plane(states, harmful, 0.7)
    share = np.where(harmful, len(harmful) / (2 * harmful.sum()),
                     len(harmful) / (2 * (~harmful).sum()))  # fmt: skip
    residual = share * (1 / (1 + np.exp(-(states @ weight + bias))) - harmful)
    np.testing.assert_allclose(0.7 * residual @ states + weight, 0.0, atol=1e-5)
    assert residual.sum() == pytest.approx(0.0, abs=1e-5)


def test_both_sides_weigh_the_same() -> None:
    """Doubling one side's rows does not move the plane."""
    states = rows(30, 2) / np.array([1.0, 10.0])
    harmful = states[:, 0] > 0.5
    doubled = np.concatenate([states, states[harmful], states[~harmful], states[~harmful]])
    sides = np.concatenate([harmful, np.ones(harmful.sum(), bool),
                            np.zeros(2 * (~harmful).sum(), bool)])  # fmt: skip
    first, _ = fit_plane(states, harmful, 1.0)
    second, _ = fit_plane(doubled, sides, 1.0 * len(states) / len(doubled))
    np.testing.assert_allclose(first, second, rtol=1e-4)
