"""Cosines of slices, their gaps and the critical ones against literal loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tamis.models import weight_slices
from tamis.models.weight_slices import (
    CriticalSlices,
    cosines,
    cosines_at,
    critical_slices,
    rows_at_once,
    slice_gaps,
)
from tamis.rng import torch_generator


def random(*shape: int, purpose: str = "gradients") -> Tensor:
    """Return a standard normal tensor (float64) with a ramp added, so no axis is alike."""
    drawn = torch.randn(*shape, dtype=torch.float64, generator=torch_generator(0, purpose))
    return drawn + torch.linspace(0, 1, shape[-1], dtype=torch.float64)


FIRST, SECOND = random(3, 5, 4, purpose="first"), random(2, 5, 4, purpose="second")


def cosine(one: Tensor, other: Tensor) -> float:
    """<a, b> / |a| |b|, number by number."""
    pairs = list(zip(one.tolist(), other.tolist(), strict=True))
    lengths = [math.sqrt(sum(x * x for x in vector)) for vector in zip(*pairs, strict=True)]
    return sum(a * b for a, b in pairs) / (lengths[0] * lengths[1])


def literal_gaps() -> tuple[list[float], list[float]]:
    """Gaps of the five rows and four columns, written out."""
    reference = (FIRST[0] + FIRST[1] + FIRST[2]) / 3
    rows, columns = [], []
    for o in range(5):
        near = sum(cosine(g[o, :], reference[o, :]) for g in FIRST) / 3
        rows.append(near - sum(cosine(g[o, :], reference[o, :]) for g in SECOND) / 2)
    for i in range(4):
        near = sum(cosine(g[:, i], reference[:, i]) for g in FIRST) / 3
        columns.append(near - sum(cosine(g[:, i], reference[:, i]) for g in SECOND) / 2)
    return rows, columns


def test_cosines_are_those_of_the_rows() -> None:
    """Whatever their lengths."""
    one, other = FIRST[0], 7 * FIRST[1]
    expected = [cosine(a, b) for a, b in zip(one, other, strict=True)]
    assert cosines(one, other).tolist() == pytest.approx(expected, abs=1e-14)


def test_a_slice_of_length_zero_has_cosine_zero() -> None:
    """On either side; one that is no number has none."""
    one = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [math.inf, 1.0], [math.nan, 1.0]])
    other = torch.tensor([[1.0, 2.0], [0.0, 0.0], [4.0, 3.0], [1.0, 1.0], [1.0, 1.0]])
    found = cosines(one, other).tolist()
    assert found[:3] == pytest.approx([0.0, 0.0, 0.96])
    assert math.isnan(found[3])
    assert math.isnan(found[4])


def test_gaps_are_differences_of_mean_cosines_against_loops() -> None:
    """Each set's mean is over its own number of rows: three and two."""
    rows, columns = slice_gaps(FIRST, SECOND, FIRST.mean(0))
    expected = literal_gaps()
    assert rows.tolist() == pytest.approx(expected[0], abs=1e-14)
    assert columns.tolist() == pytest.approx(expected[1], abs=1e-14)


def test_critical_slices_are_those_above_the_threshold() -> None:
    """The reference is kept there and nowhere else."""
    rows, columns = literal_gaps()
    threshold = sum(sorted([*rows, *columns])[5:7]) / 2  # three of nine gaps are larger
    found, largest = critical_slices(FIRST, SECOND, threshold)
    assert found.rows.tolist() == [o for o in range(5) if rows[o] > threshold]
    assert found.columns.tolist() == [i for i in range(4) if columns[i] > threshold]
    assert 0 < len(found.rows) < len(found) == 3
    assert largest == pytest.approx(max(*rows, *columns), abs=1e-14)
    reference = FIRST.mean(0)
    for number, one in zip(found.rows.tolist(), found.row_reference, strict=True):
        assert torch.equal(one, reference[number, :])
    for number, one in zip(found.columns.tolist(), found.column_reference, strict=True):
        assert torch.equal(one, reference[:, number])


def test_a_gap_as_large_as_the_threshold_is_not_above_it() -> None:
    """Orthogonal to opposite: 1 - (-1) = 2 in the only row, and in both columns of length one."""
    first, second = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[-1.0, -1.0]]])
    assert len(critical_slices(first, second, 2.0)[0]) == 0
    assert len(critical_slices(first, second, 1.9)[0]) == 3


def test_gradients_that_are_no_numbers_have_no_critical_slice() -> None:
    """And no largest gap."""
    found, largest = critical_slices(torch.full((2, 3, 2), math.nan), torch.ones(2, 3, 2), -1.0)
    assert len(found) == 0
    assert math.isnan(largest)


def test_cosines_at_slices_are_those_of_the_whole_gradient() -> None:
    """sum_t d_t x_t^T of both rows built entry by entry, then its critical rows and columns."""
    inputs, gradient = random(2, 6, 4, purpose="inputs"), random(2, 6, 5, purpose="outputs")
    slices, _ = critical_slices(FIRST, SECOND, 0.3)
    assert len(slices.rows) * len(slices.columns) > 0
    reference = FIRST.mean(0)
    found = cosines_at(slices, inputs, gradient)
    for b in range(2):
        whole = torch.zeros(5, 4, dtype=torch.float64)
        for t in range(6):
            for o in range(5):
                for i in range(4):
                    whole[o, i] += gradient[b, t, o] * inputs[b, t, i]
        expected = [cosine(whole[o, :], reference[o, :]) for o in slices.rows.tolist()]
        expected += [cosine(whole[:, i], reference[:, i]) for i in slices.columns.tolist()]
        assert found[b].tolist() == pytest.approx(expected, abs=1e-14)


def test_as_many_rows_at_once_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three critical rows of 4 and one column of 5 numbers: 48 bytes a row; always one."""
    slices = CriticalSlices(torch.arange(3), torch.arange(1), torch.ones(3, 4), torch.ones(1, 5))
    for budget, expected in ((480, 10), (479, 9), (10, 1)):
        monkeypatch.setattr(weight_slices, "GRADIENT_BYTES", budget)
        assert rows_at_once(slices, torch.ones(20, 6, 4), torch.ones(20, 6, 5)) == expected
