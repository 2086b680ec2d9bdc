"""Intervals and series in inline SVG, without script or style attributes.

Horizontal places are percentages and text has a size of its own, so that a narrow page narrows the
drawing and leaves the words readable. Colours come from the page's classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from tamis.report.text import number

_MAX_POINTS = 400  # of a line; more would not be told apart
_LANE = 16  # pixels between intervals


def intervals_svg(estimates: Sequence[tuple[float | None, float | None, float | None]]) -> Markup:
    """Draw rates as dots on their intervals, one lane each, on a line from 0 to 1.

    Args:
        estimates: Value and both ends of each, in [0, 1]; None where not measured: an empty lane.
    """
    height = _LANE * max(1, len(estimates))
    parts = [
        Markup('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="{1}"/>').format(x, height)
        for x in (0, 50, 100)
    ]
    for lane, (value, low, high) in enumerate(estimates):
        if value is None or not np.isfinite(value):
            continue
        y = _LANE * lane + _LANE / 2
        place = 100 * min(max(value, 0.0), 1.0)
        name = "first" if lane == 0 else "other"
        if low is not None and high is not None:
            parts.append(
                Markup(
                    '<line class="range {}" x1="{:.2f}%" x2="{:.2f}%" y1="{:.1f}" y2="{:.1f}"/>'
                ).format(name, 100 * low, 100 * high, y, y)
            )
        parts.append(
            Markup('<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="4"/>').format(name, place, y)
        )
    return Markup(
        '<svg class="intervals" width="100%" height="{}" aria-hidden="true">{}</svg>'
    ).format(height, Markup("").join(parts))


def sparkline_svg(values: tuple[float, ...], title: str) -> tuple[Markup, int] | None:
    """Draw a series of numbers as one line.

    Args:
        values: At least two, in order; those that are not finite are left out.
        title: What screen readers say.

    Returns:
        The drawing, and how many values each point is the mean of; None for fewer than two values.
    """
    series = np.asarray([v for v in values if np.isfinite(v)], dtype=np.float64)
    if len(series) < 2:
        return None
    per_point = -(-len(series) // _MAX_POINTS)
    starts = np.arange(0, len(series), per_point)
    ends = np.minimum(starts + per_point, len(series))
    points = np.add.reduceat(series, starts) / (ends - starts)
    low, high = float(points.min()), float(points.max())
    if len(points) < 2:
        return None
    x = 1000 * np.arange(len(points)) / (len(points) - 1)
    y = 100 - 100 * (points - low) / (high - low) if high > low else np.full(len(points), 50.0)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    drawing = Markup(
        '<div class="chart spark"><svg role="img" width="100%" height="90" aria-label="{}">'
        '<line class="grid" x1="0" x2="100%" y1="0" y2="0"/>'
        '<line class="grid" x1="0" x2="100%" y1="90" y2="90"/>'
        '<text x="-8" y="4" text-anchor="end">{}</text>'
        '<text x="-8" y="94" text-anchor="end">{}</text>'
        '<svg width="100%" height="90" viewBox="0 0 1000 100" preserveAspectRatio="none">'
        '<polyline points="{}"/></svg></svg>'
        '<div class="axis"><span>step 1</span><span></span><span>step {:,}</span></div></div>'
    ).format(title, number(high), number(low), path, len(series))
    return drawing, per_point
