"""Our detection measures against scikit-learn's, with and without ties."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from tamis.evaluation.ranking import detection_measures
from tamis.rng import numpy_generator

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("decimals", [0, 1, 12])
@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_sklearn(seed: int, decimals: int) -> None:
    """Rounding to 0 decimals makes large ties, to 12 none."""
    source = numpy_generator(seed, "peer")
    harmful = source.random(800) < 0.2
    values = np.round(source.normal(size=800) - harmful, decimals)
    report = detection_measures(values, harmful, numpy_generator(0, "draws"), 10)
    assert report["auroc"]["value"] == pytest.approx(roc_auc_score(harmful, -values), abs=1e-12)
    assert report["average_precision"]["value"] == pytest.approx(
        average_precision_score(harmful, -values), abs=1e-12
    )
    fpr, tpr, _ = roc_curve(harmful, -values, drop_intermediate=False)
    for name, limit in (("tpr_at_1pct_fpr", 0.01), ("tpr_at_5pct_fpr", 0.05)):
        assert report[name]["value"] == pytest.approx(tpr[fpr <= limit].max(), abs=1e-12)
