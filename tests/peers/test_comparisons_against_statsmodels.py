"""Our tests of comparisons against statsmodels'."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import mcnemar as peer_mcnemar
from statsmodels.stats.inter_rater import cohens_kappa as peer_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from tamis.evaluation.agreement import cohens_kappa
from tamis.evaluation.length_control import fit_logistic
from tamis.evaluation.power import detectable_shift
from tamis.evaluation.score_intervals import rate_interval, tango_interval
from tamis.evaluation.significance import holm, mcnemar
from tamis.rng import numpy_generator

pytestmark = pytest.mark.peer


def verdicts(seed: int, n: int = 60) -> tuple[list[bool], list[bool]]:
    """Draw two judges or models that agree in part."""
    source = numpy_generator(seed, "peer comparisons")
    a = source.random(n) < 0.4
    return list(a), list(np.where(source.random(n) < 0.6, a, source.random(n) < 0.7))


def table(a: list[bool], b: list[bool]) -> list[list[int]]:
    """Count pairs, rows by a, columns by b."""
    return [[sum(x == i and y == j for x, y in zip(a, b, strict=True)) for j in (0, 1)]
            for i in (0, 1)]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_holm(n: int, seed: int) -> None:
    """Rounding to two decimals makes ties."""
    p_values = np.round(numpy_generator(seed, "peer holm", n).random(n) ** 2, 2)
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values.tolist()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar(seed: int) -> None:
    """Both exact."""
    a, b = verdicts(seed)
    assert mcnemar(a, b).p == pytest.approx(peer_mcnemar(table(a, b), exact=True).pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_and_its_interval(seed: int) -> None:
    """Both by Fleiss, Cohen and Everitt."""
    a, b = verdicts(seed)
    found, peer = cohens_kappa(a, b), peer_kappa(np.array(table(a, b)))
    assert found.kappa == pytest.approx(peer.kappa, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((peer.kappa_low, peer.kappa_upp), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_logistic_regression_of_shares_and_its_covariance(seed: int) -> None:
    """A binomial GLM of fractional outcomes; its robust covariance lacks the factor n / (n - k)."""
    source = numpy_generator(seed, "peer logistic")
    design = np.column_stack([np.ones(80), source.normal(size=80)])
    y = source.choice([0, 0.5, 1], size=80)
    peer = sm.GLM(y, design, family=sm.families.Binomial()).fit(cov_type="HC0", tol=1e-12)
    coefficients, covariance = fit_logistic(design, y)
    assert coefficients == pytest.approx(peer.params, abs=1e-7)
    assert covariance == pytest.approx(peer.cov_params() * 80 / 78, rel=1e-6)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 100), (3, 100), (50, 100), (300, 300)])
def test_a_rate_of_one_seed(k: int, n: int) -> None:
    """Wilson's."""
    expected = proportion_confint(k, n, method="wilson")
    assert rate_interval(k / n, n) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [7, 100])
def test_tangos_interval_leaves_out_zero_where_mcnemars_score_test_does(n: int) -> None:
    """Without a continuity correction, for all pairs of counts up to 6."""
    for up in range(7):
        for down in range(min(6, n - up) + 1):
            if up + down:
                low, high = tango_interval(up, down, n) or (0, 0)
                p = peer_mcnemar([[n, up], [down, 0]], exact=False, correction=False).pvalue
                assert (low > 0 or high < 0) == (p < 0.05)


@pytest.mark.parametrize("n_compared", [1, 7])
@pytest.mark.parametrize("n", [20, 100])
def test_detectable_shift_has_the_power_of_a_t_test(n: int, n_compared: int) -> None:
    """A sum of two t quantiles comes within 2% of the power by the noncentral t."""
    shift = detectable_shift(n**-0.5, n, n_compared)
    power = TTestPower().power(shift, n, 0.05 / n_compared)
    assert power == pytest.approx(0.8, abs=0.02)
