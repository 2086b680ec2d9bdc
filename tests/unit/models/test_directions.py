"""Singular vectors, residuals and whitening by identities; skewness, its error, the two rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tamis.errors import ConfigError
from tamis.models.directions import (
    gap_notes,
    nuisance_fit,
    orient,
    orientation_notes,
    residualise,
    right_singular_vectors,
    safe_margin,
    skewness,
    skewness_error,
    surest,
    whitening,
    without_nuisances,
)
from tamis.rng import torch_generator


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Seeded unit normal values in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch_generator(seed, "normal"))


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_right_singular_vectors_are_those_of_numpy(shape: tuple[int, int]) -> None:
    """Up to sign, from more rows than dimensions and from fewer; variances are s^2 / n."""
    z = normal(*shape)
    vectors, variances = right_singular_vectors(z, 3)
    _, singular, transposed = np.linalg.svd(z.numpy(), full_matrices=False)
    np.testing.assert_allclose(np.abs(transposed[:3] @ vectors.numpy()), np.eye(3), atol=1e-10)
    np.testing.assert_allclose(variances, singular**2 / shape[0], rtol=1e-10)


def test_residuals_are_orthogonal_to_the_nuisances() -> None:
    """And to a constant: least squares leaves nothing of them."""
    states, nuisances = normal(30, 5) + 7, normal(30, 2, seed=1)
    left = residualise(states, nuisances, nuisance_fit(states, nuisances))
    torch.testing.assert_close(left.mean(0), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(nuisances.T @ left, torch.zeros(2, 5, dtype=torch.float64))


def test_without_nuisances_residuals_are_centred_rows() -> None:
    """Q = 0: only the mean goes."""
    states, none = normal(30, 5) + 7, torch.zeros(30, 0, dtype=torch.float64)
    left = residualise(states, none, nuisance_fit(states, none))
    torch.testing.assert_close(left, states - states.mean(0))


def test_nuisances_that_say_the_same_are_no_fault() -> None:
    """A column twice: the same residuals as once."""
    states, once = normal(30, 5), normal(30, 1, seed=1)
    twice = torch.cat([once, once], 1)
    torch.testing.assert_close(
        residualise(states, twice, nuisance_fit(states, twice)),
        residualise(states, once, nuisance_fit(states, once)),
    )


def test_other_rows_lose_what_the_fit_found() -> None:
    """States 2 + 3 x of other rows have no residual under the fit of the first."""
    x = torch.arange(5, dtype=torch.float64)[:, None]
    other = torch.tensor([[10.0], [-4.0]], dtype=torch.float64)
    fitted = nuisance_fit(2 + 3 * x, x)
    torch.testing.assert_close(
        residualise(2 + 3 * other, other, fitted), torch.zeros(2, 1, dtype=torch.float64)
    )


def test_whitened_reference_has_the_identity_as_covariance() -> None:
    """With many rows nothing is shrunk: correlated dimensions of any scale come out white."""
    mixed = normal(20_000, 3) @ torch.tensor(
        [[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64
    )
    reference = mixed * torch.tensor([1.0, 30.0, 1000.0], dtype=torch.float64)
    white = reference @ whitening(reference, reference)
    np.testing.assert_allclose(np.cov(white.numpy().T), np.eye(3), atol=0.02)


def test_what_is_constant_in_the_reference_is_not_blown_up() -> None:
    """A dimension that only the other rows vary in counts as one hundredth of their sd there."""
    rows, reference = normal(50, 2), normal(50, 2, seed=1)
    reference[:, 1] = 0
    white = rows @ whitening(reference, rows)
    assert torch.isfinite(white).all()
    assert float(white[:, 1].std()) < 1e4


def test_reference_rows_that_are_all_alike_are_refused() -> None:
    """There is no covariance to divide by."""
    with pytest.raises(ConfigError, match="the 4 safe rows all have the same state"):
        whitening(torch.ones(4, 2, dtype=torch.float64), normal(50, 2))


def test_skewness_of_one_in_four() -> None:
    """(0, 0, 0, 1): third moment 3/32 over variance (3/16)^1.5 is 2 / sqrt(3)."""
    values = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert skewness(values) == pytest.approx(2 / math.sqrt(3))


def test_skewness_turns_with_the_values() -> None:
    """Turned round, the long tail is on the other side."""
    values = normal(50) ** 2
    assert skewness(-values) == pytest.approx(-skewness(values))


def test_the_error_of_the_skewness_of_even_values_is_that_of_normal_ones() -> None:
    """3,000 values from -1 to 1, flat: .0447, about sqrt(6 / 3000), which is the larger of both."""
    assert skewness_error(torch.linspace(-1, 1, 3000)) == pytest.approx(0.0447, abs=5e-5)


def test_the_error_of_the_skewness_is_that_of_repeated_draws() -> None:
    """Exponential values, skewness 2: the sd over 400 sets of 2,000 within a quarter of it."""
    generator = torch_generator(0, "exponential")
    sets = -torch.rand(400, 2000, dtype=torch.float64, generator=generator).log()
    spread = float(torch.tensor([skewness(values) for values in sets]).std())
    stated = float(np.median([skewness_error(values) for values in sets]))
    assert stated == pytest.approx(spread, rel=0.25)


def test_one_outlier_is_no_minority() -> None:
    """A skewness of 17 from one value in 300 is not three of its own standard errors."""
    values = torch.cat([normal(299), torch.tensor([100.0], dtype=torch.float64)])
    assert skewness(values) > 15
    assert orient(values, None).sign == 0


def test_normal_values_have_no_side() -> None:
    """Chance passes three standard errors in about one of 400 sets; in these 100 not at all."""
    assert [orient(normal(300, seed=seed), None).sign for seed in range(100)] == [0] * 100


def test_the_margin_of_the_safe_set_is_welchs_t() -> None:
    """As in scipy, rows first."""
    rows, safe = normal(40) + 0.5, 2 * normal(9, seed=1)
    expected = stats.ttest_ind(rows.numpy(), safe.numpy(), equal_var=False).statistic
    assert safe_margin(rows, safe) == pytest.approx(float(expected))


ROWS = torch.cat([normal(80), normal(20, seed=1) + 6])  # skewness: harmful above
ABOVE, BELOW = normal(50, seed=2) + 6, normal(50, seed=3) - 6


def test_the_safe_set_is_asked_first() -> None:
    """Safe rows in the long tail: harmful is the other side, and the dispute is told."""
    found = orient(ROWS, ABOVE)
    assert (found.sign, found.rule, found.disputed) == (-1, "safe_set", True)
    assert "another side than the skewness" in orientation_notes(found, 1)[0]


def test_skewness_decides_where_the_safe_set_does_not_tell() -> None:
    """Safe rows like all rows have no margin."""
    found = orient(ROWS, ROWS[::2])
    assert (found.sign, found.rule) == (1, "skewness")


def test_a_rule_can_be_asked_for() -> None:
    """The other one is then not looked at."""
    assert orient(ROWS, ABOVE, rule="skewness").sign == 1
    assert orient(ROWS, ROWS[::2], rule="safe_set").sign == 0


def test_directions_are_compared_by_sign_then_rule_then_margin() -> None:
    """No side < skewness < safe set, whatever the margins; then the larger margin."""
    none = orient(normal(100), None)
    skew = orient(ROWS, None)
    near, far = orient(ROWS, BELOW + 5), orient(ROWS, BELOW)
    found = [far, skew, none, near]
    assert sorted(found, key=lambda one: one.sureness) == [none, skew, near, far]


def test_rules_that_agree_need_no_note() -> None:
    """Safe rows on the short side of the long tail."""
    assert orientation_notes(orient(ROWS, BELOW), 1) == []


def test_a_side_by_skewness_alone_is_doubted() -> None:
    """A tail is not harm."""
    (note,) = orientation_notes(orient(ROWS), 2)
    assert note.startswith("Direction 2: the side is that of the long tail (skewness")


def test_close_variances_are_named() -> None:
    """Of 200 rows an error is a tenth: 1.0 and 0.9 are close, 4.0 and 1.0 are not."""
    (note,) = gap_notes(torch.tensor([4.0, 1.0, 0.9]), 200)
    assert note.startswith("Directions 2 and 3 have nearly the same variance")


def test_close_variances_of_other_directions_are_left_out() -> None:
    """The pair 2 and 3 is of interest for either of them, not for direction 1."""
    variances = torch.tensor([4.0, 1.0, 0.9])
    assert [len(gap_notes(variances, 200, about)) for about in (1, 2, 3)] == [0, 1, 1]


def test_a_fit_on_harmless_rows_leaves_the_harm_that_goes_with_a_nuisance() -> None:
    """States 3 x, plus 4 for harmful rows, which are those with x = 1: 4 is left, or nothing."""
    x, harmless = torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    sets = [(3 * x + 4 * x, x), (3 * harmless, harmless)]
    on_rows, on_harmless = (without_nuisances(sets, fitted_on=i)[0] for i in (0, 1))
    torch.testing.assert_close(on_rows, torch.zeros(4, 1))
    torch.testing.assert_close(on_harmless, 4 * x - 2)


def test_the_surest_direction_is_the_first_where_only_tails_tell() -> None:
    """A longer tail further down is no reason; the safe set's word is."""
    short, long, told = orient(ROWS, None), orient(normal(400) ** 2, None), orient(ROWS, BELOW)
    assert long.margin > short.margin
    assert surest([short, long]) is short
    assert surest([short, long, told]) is told
