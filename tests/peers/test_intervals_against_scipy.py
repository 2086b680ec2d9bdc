"""Our intervals against SciPy's."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from tamis.evaluation.statistics import wilson_interval

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 40), (7, 40), (20, 40), (149, 150)])
def test_wilson_equals_scipy(k: int, n: int, confidence: float) -> None:
    """Both are the same closed form; they differ by rounding only."""
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(k, n, confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )
