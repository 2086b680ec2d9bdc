"""Scores as a histogram, in inline SVG drawn by the rules of `tamis.report.charts`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tamis.report.text import number

_MIN_BINS, _MAX_BINS = 10, 60
_HEIGHT = 200  # pixels of the plot


@dataclass(frozen=True)
class Histogram:
    """Scored rows by score.

    Attributes:
        edges: Ascending bin edges [b + 1]; bins are half-open, the last one closed.
        kept: Rows per bin that a selection kept; all rows where there is no selection [b].
        dropped: Rows per bin that it dropped [b].
        n_unscored: Rows without a score; in no bin.
    """

    edges: NDArray[np.float64]
    kept: NDArray[np.int64]
    dropped: NDArray[np.int64]
    n_unscored: int


def make_histogram(
    scores: NDArray[np.float64], kept: NDArray[np.bool_] | None = None
) -> Histogram | None:
    """Count scores in bins of equal width (Freedman and Diaconis's width, 10 to 60 bins).

    Args:
        scores: Finite or NaN [n].
        kept: Whether a selection kept the row [n]; None without one.

    Returns:
        The counts; None when no row has a score.
    """
    scored = ~np.isnan(scores)
    values = scores[scored]
    if not len(values):
        return None
    chosen = np.ones(len(values), dtype=bool) if kept is None else kept[scored]
    edges = _edges(values)
    counts = [
        np.histogram(values[mask], bins=edges)[0].astype(np.int64) for mask in (chosen, ~chosen)
    ]
    return Histogram(edges, counts[0], counts[1], int((~scored).sum()))


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    # Halved before the difference is taken: two finite scores can be infinitely far apart.
    reach = high / 2 - low / 2
    # Equal scores, or scores closer than floats can divide, make one bin.
    if reach <= _MAX_BINS * float(np.spacing(max(abs(low), abs(high)))):
        return np.array([low, high if high > low else np.nextafter(low, np.inf)])
    quarter, three_quarters = np.quantile(values / 2, [0.25, 0.75])
    width = 2 * (three_quarters - quarter) / len(values) ** (1 / 3)
    wanted = reach / width if width > 0 else _MAX_BINS
    n_bins = int(np.ceil(np.clip(wanted, _MIN_BINS, _MAX_BINS)))
    edges = 2 * (low / 2 + reach * (np.arange(n_bins + 1) / n_bins))
    edges[0], edges[-1] = low, high
    return np.asarray(edges, dtype=np.float64)


def histogram_svg(histogram: Histogram, cut: float | None, title: str) -> Markup:
    """Draw the bars, kept below dropped, and the selection's cut as a dashed line.

    Args:
        histogram: The counts.
        cut: Lowest kept score; None draws no line.
        title: What screen readers say.
    """
    edges = histogram.edges
    low, reach = float(edges[0]), float(edges[-1] / 2 - edges[0] / 2)
    totals = histogram.kept + histogram.dropped
    tallest = int(totals.max())

    def place(score: float) -> float:
        return 100 * ((score / 2 - low / 2) / reach) if reach else 50.0

    parts = [_grid(tallest)]
    for i, total in enumerate(totals.tolist()):
        if not total:
            continue
        x, right = place(float(edges[i])), place(float(edges[i + 1]))
        if not reach:
            x, right = 45.0, 55.0
        told = f"{number(float(edges[i]))} to {number(float(edges[i + 1]))}: {total:,} rows"
        bottom = float(_HEIGHT)
        bars = []
        for name, counts in (("kept", histogram.kept), ("dropped", histogram.dropped)):
            if count := int(counts[i]):
                height = max(1.0, _HEIGHT * count / tallest)  # one row must not vanish
                bottom -= height
                bars.append(
                    Markup(
                        '<rect class="{}" x="{:.3f}%" y="{:.2f}" width="{:.3f}%" height="{:.2f}"/>'
                    ).format(name, x, bottom, max(0.1, 0.94 * (right - x)), height)
                )
                told += f", {count:,} {name}" if histogram.dropped.any() else ""
        parts.append(Markup("<g><title>{}</title>{}</g>").format(told, Markup("").join(bars)))
    if cut is not None and edges[0] <= cut <= edges[-1]:
        parts.append(
            Markup('<line class="cut" x1="{0:.3f}%" x2="{0:.3f}%" y1="-8" y2="{1}"/>').format(
                place(cut), _HEIGHT
            )
        )
    ticks = (edges[0], edges[0] + reach, edges[-1])
    return Markup(
        '<div class="chart"><svg role="img" width="100%" height="{}" aria-label="{}">{}</svg>'
        '<div class="axis"><span>{}</span><span>{}</span><span>{}</span></div></div>'
    ).format(_HEIGHT, title, Markup("").join(parts), *(number(float(tick)) for tick in ticks))


def _grid(tallest: int) -> Markup:
    """Draw three horizontal lines with the number of rows they stand for."""
    lines = []
    for count in sorted({0, tallest // 2, tallest}):
        y = _HEIGHT * (1 - count / tallest)
        lines.append(
            Markup(
                '<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>'
                '<text x="-8" y="{1:.1f}" text-anchor="end">{2:,}</text>'
            ).format(y, y + 4, count)
        )
    return Markup("").join(lines)
