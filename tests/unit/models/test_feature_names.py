"""Names of what a frozen model is asked."""

from __future__ import annotations

import pytest

from tamis.errors import ConfigError
from tamis.models.feature_names import depth_of


@pytest.mark.parametrize(
    ("layer", "depth"), [(0, 0), (1, 1), (12.0, 12), (0.5, 6), (0.99, 12), (0.6, 7)]
)
def test_a_depth_is_a_number_or_a_fraction(layer: float, depth: int) -> None:
    """Of twelve layers; fractions are rounded."""
    assert depth_of(layer, 12) == depth


@pytest.mark.parametrize("layer", [13, 1.5, -1])
def test_a_depth_that_does_not_exist_is_refused(layer: float) -> None:
    """The message counts the layers."""
    with pytest.raises(ConfigError, match=r"does not exist: the model has 12 layers\."):
        depth_of(layer, 12)
