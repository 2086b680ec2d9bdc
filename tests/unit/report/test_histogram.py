"""Every scored row is in exactly one bin, whatever the scores."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.report.histogram import histogram_svg, make_histogram

CASES = {
    "normal": np.random.default_rng(0).normal(size=5000),
    "heavy tails": np.random.default_rng(0).standard_cauchy(size=2000),
    "with unscored": np.array([1.0, np.nan, 3.0, np.nan, 2.0]),
    "one": np.array([7.0]),
    "equal": np.full(9, -0.25),
    "equal zeros": np.zeros(3),
    "neighbouring floats": np.array([1.0, np.nextafter(1.0, 2)]),
    "far apart": np.array([-1.7e308, 0.0, 1.7e308]),
    "tiny": np.array([0.0, 5e-324]),
    "two values": np.array([0.0] * 500 + [1.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_bins_hold_every_scored_row(name: str) -> None:
    """The counts sum to the number of scored rows; unscored ones are counted apart."""
    values = CASES[name]
    kept = np.arange(len(values)) % 2 == 0
    found = make_histogram(values, kept)
    assert found is not None
    scored = ~np.isnan(values)
    assert found.kept.sum() == (kept & scored).sum()
    assert found.dropped.sum() == (~kept & scored).sum()
    assert found.n_unscored == (~scored).sum()
    assert (np.diff(found.edges) > 0).all()
    assert np.isfinite(found.edges).all()


@pytest.mark.parametrize("name", CASES)
def test_drawings_have_finite_places(name: str) -> None:
    """No place in the drawing is nan or infinite."""
    found = make_histogram(CASES[name])
    assert found is not None
    drawn = histogram_svg(found, float(np.nanmedian(CASES[name])), "scores")
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_without_scores_there_is_no_histogram() -> None:
    """All rows unscored, or none at all."""
    assert make_histogram(np.array([np.nan, np.nan])) is None
    assert make_histogram(np.array([])) is None


def test_the_cut_stands_at_its_place() -> None:
    """A cut a quarter of the way from the lowest to the highest score is drawn at 25%."""
    found = make_histogram(np.linspace(0, 4, 50))
    assert found is not None
    assert '<line class="cut" x1="25.000%"' in histogram_svg(found, 1.0, "scores")


def test_titles_are_escaped() -> None:
    """A drawing's title cannot become markup."""
    found = make_histogram(np.array([1.0, 2.0]))
    assert found is not None
    assert "<b>" not in histogram_svg(found, None, "<b>")
