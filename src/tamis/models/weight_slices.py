"""Slices of a weight whose gradients are alike in one set of rows and not in another.

Notation: G is a row's gradient in one weight (out x in); a slice is a row or a column of it; R is
the mean of G over the first set. The gap of a slice is its mean cosine to R's over the first set
minus that over the second. Slices with a gap above a threshold are critical, and only they are kept
of R.

Shapes: P rows of the first set, S of the second, B rows of a batch, T tokens, K and L critical rows
and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRADIENT_BYTES = 2**26  # of rows' gradients at critical slices, held at once


@dataclass(frozen=True)
class CriticalSlices:
    """The critical rows and columns of one weight, and the reference there.

    Attributes:
        rows: Their numbers (int64, K).
        columns: Likewise (int64, L).
        row_reference: R at these rows (float32, K x in).
        column_reference: R at these columns, each as a row (float32, L x out).
    """

    rows: Tensor
    columns: Tensor
    row_reference: Tensor
    column_reference: Tensor

    def __len__(self) -> int:
        return len(self.rows) + len(self.columns)


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of each row of a matrix with the same row of another (.. x n x D and n x D; .. x n).

    0 where either has length 0; NaN where one is not finite.
    """
    length, reference = (torch.where((found := matrix.norm(dim=-1)) == 0, 1.0, found)
                         for matrix in (one, other))  # fmt: skip
    return (one * (other / reference.unsqueeze(-1))).sum(-1) / length


def slice_gaps(first: Tensor, second: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine to the reference over one set minus that over another, by slice.

    Args:
        first: Gradients of one weight (P x out x in).
        second: Likewise (S x out x in).
        reference: out x in.

    Returns:
        Gaps of the rows (out) and of the columns (in), in [-2, 2].
    """

    def means(gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.stack([cosines(g, reference) for g in gradients])
        columns = torch.stack([cosines(g.T, reference.T) for g in gradients])
        return rows.mean(0), columns.mean(0)

    (rows, columns), (other_rows, other_columns) = means(first), means(second)
    return rows - other_rows, columns - other_columns


def critical_slices(
    first: Tensor, second: Tensor, threshold: float
) -> tuple[CriticalSlices, float]:
    """Find the critical slices of one weight.

    Args:
        first: Gradients of the set whose mean is the reference (P x out x in).
        second: Of the other (S x out x in).
        threshold: Slices with a larger gap are critical.

    Returns:
        The slices, and the largest gap of any slice; NaN where none is a number.
    """
    reference = first.mean(0)
    row_gaps, column_gaps = slice_gaps(first, second, reference)
    rows, columns = ((gaps > threshold).nonzero()[:, 0] for gaps in (row_gaps, column_gaps))
    gaps = torch.cat([row_gaps, column_gaps])
    known = gaps[~gaps.isnan()]
    largest = float(known.max()) if len(known) else math.nan
    return CriticalSlices(rows, columns, reference[rows], reference.T[columns]), largest


def cosines_at(slices: CriticalSlices, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Cosines of rows' gradients to the reference at the critical slices (B x (K + L)).

    A row's gradient is sum_t d_t x_t^T; nothing of it is computed beside these slices.

    Args:
        slices: Of the weight.
        inputs: x, what went into the module (B x T x in).
        gradient: d, the gradient of the rows' losses at its output (B x T x out).
    """
    rows = gradient[..., slices.rows].mT @ inputs
    columns = inputs[..., slices.columns].mT @ gradient
    return torch.cat([
        cosines(rows, slices.row_reference), cosines(columns, slices.column_reference)
    ], dim=-1)  # fmt: skip


def rows_at_once(slices: CriticalSlices, inputs: Tensor, gradient: Tensor) -> int:
    """Return how many rows' gradients at the critical slices fit `GRADIENT_BYTES`; at least 1.

    Arguments as in `cosines_at`.
    """
    of_row = max(len(slices.rows) * inputs.shape[-1], len(slices.columns) * gradient.shape[-1])
    return max(1, GRADIENT_BYTES // max(1, 4 * of_row))
