"""Hypergeometric p-values, bounds and label counts against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.selection.finite_population import labels_needed, p_values, upper_bound


@pytest.mark.parametrize(
    ("n_kept", "n_labelled", "n_harmful", "alpha", "expected"),
    [
        # 2 of 10 would be too many: C(8,5) / C(10,5) = 56 / 252
        (10, 5, 0, 0.1, 56 / 252),
        # and with one found: + 2 C(8,4) / 252 = 140 / 252
        (10, 5, 1, 0.1, 196 / 252),
        # 3 of 8: C(5,4) / C(8,4) = 5 / 70; one found: + 3 C(5,3) / 70
        (8, 4, 0, 0.25, 5 / 70),
        (8, 4, 1, 0.25, 35 / 70),
        # 30 of 100, although 0.29 * 100 is 28.999... in floating point
        (100, 1, 0, 0.29, 70 / 100),
        # all 1,000, although alpha * 1,000 rounds up to 1,000: one is found harmless, or none known
        (1000, 1, 0, 1 - 1e-12, 0.0),
        (1000, 0, 0, 1 - 1e-12, 1.0),
        # no label says nothing; every row labelled says all: 1 of 5 would be too many
        (50, 0, 0, 0.1, 1.0),
        (5, 5, 0, 0.1, 0.0),
        (5, 5, 1, 0.1, 1.0),
    ],
)
def test_p_value(
    n_kept: int, n_labelled: int, n_harmful: int, alpha: float, expected: float
) -> None:
    """P(at most k harmful labels) if floor(alpha N) + 1 rows were harmful."""
    assert p_values(n_kept, n_labelled, n_harmful, alpha) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("n_kept", "n_labelled", "n_harmful", "delta", "expected"),
    [
        # P(none of 5 | H of 10 harmful) is 1, 126/252, 56/252 for H = 0, 1, 2
        (10, 5, 0, 0.3, 0.1),
        (10, 5, 0, 0.2, 0.2),
        (10, 5, 0, 0.6, 0.0),
        (10, 0, 0, 0.1, 1.0),
        (10, 10, 3, 0.1, 0.3),
    ],
)
def test_upper_bound(
    n_kept: int, n_labelled: int, n_harmful: int, delta: float, expected: float
) -> None:
    """The largest harmful share that the labels leave possible."""
    assert upper_bound(n_kept, n_labelled, n_harmful, delta) == expected


def test_a_bound_within_alpha_is_a_p_value_within_delta() -> None:
    """The two say the same of every count."""
    kept = np.array([40] * 21)
    found = np.arange(21)
    passed = p_values(kept, [20] * 21, found, 0.3) <= 0.1
    assert (upper_bound(kept, [20] * 21, found, 0.1) <= 0.3).tolist() == passed.tolist()
    assert passed.any()
    assert not passed.all()


def test_labels_needed_without_a_harmful_row() -> None:
    """Of 10 kept rows, 2 are too many: C(8,m) / C(10,m) is 2/15 for 6 labels and 1/15 for 7.

    Of 15 labels among 20 rows fewer than 7 fall among the 10 kept with a probability of
    (252 + 210 * 10) / 15504 = 0.15, of 14 with (210 + 252 * 10 + 210 * 45) / 38760 = 0.31.
    """
    assert labels_needed(10, 20, 0.0, 0.1, 0.1) == 15


def test_more_labels_are_needed_near_alpha() -> None:
    """About 1 / gap^2: from a gap of 5 points to one of 2, some four to eight times as many."""
    far, near = (labels_needed(10**6, 10**6, share, 0.1, 0.1) for share in (0.05, 0.08))
    assert far is not None
    assert near is not None
    assert 4 <= near / far <= 8


def test_no_number_of_labels_certifies_too_much_harm() -> None:
    """None rather than a number."""
    assert labels_needed(100, 1000, 0.2, 0.1, 0.1) is None
