"""Intervals and series as drawings."""

from __future__ import annotations

import pytest

from tamis.report.charts import intervals_svg, sparkline_svg


def test_what_was_not_measured_is_not_drawn() -> None:
    """None has a lane and no dot: a dot at 0 would read as measured."""
    assert intervals_svg([(0.5, 0.4, 0.6), (None, None, None)]).count("<circle") == 1


def test_an_interval_is_drawn_from_end_to_end() -> None:
    """[0.25, 0.75] covers the middle half."""
    drawn = intervals_svg([(0.5, 0.25, 0.75)])
    assert 'x1="25.00%" x2="75.00%"' in drawn
    assert 'cx="50.00%"' in drawn


@pytest.mark.parametrize(("n", "per_point"), [(2, 1), (400, 1), (401, 2), (1000, 3)])
def test_a_long_series_is_drawn_as_means_of_equal_parts(n: int, per_point: int) -> None:
    """At most 400 points; the caller is told what each is the mean of."""
    drawn = sparkline_svg(tuple(float(i) for i in range(n)), "loss")
    assert drawn is not None
    assert drawn[1] == per_point
    assert drawn[0].split('points="')[1].split('"')[0].count(",") == -(-n // per_point)


def test_a_falling_line_goes_down() -> None:
    """The first point is at the top (y = 0) and the last at the bottom (y = 100)."""
    drawn = sparkline_svg((3.0, 2.0, 1.0), "loss")
    assert drawn is not None
    assert 'points="0.0,0.0 500.0,50.0 1000.0,100.0"' in drawn[0]


@pytest.mark.parametrize("values", [(), (1.0,), (float("nan"), 1.0)])
def test_fewer_than_two_numbers_make_no_line(values: tuple[float, ...]) -> None:
    """There is nothing to join."""
    assert sparkline_svg(values, "loss") is None
