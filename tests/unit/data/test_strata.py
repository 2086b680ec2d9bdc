"""Rows compared with rows like them."""

from __future__ import annotations

import numpy as np
import pytest

import toy
from tamis.data.load import load_examples
from tamis.data.strata import by_length, by_source, centred, standardised, strata_counts
from tamis.data.template import RenderConfig, render

RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "expected"),
    [([5.0, 5, 5, 5], (5, 1)), ([0.0, 0, 0, 4], (0, 3**0.5)), ([NAN], (0, 1))],
)
def test_equal_scores_have_a_spread_too(values: list[float], expected: tuple[int, float]) -> None:
    """The standard deviation where more than half are equal, 1 where all are or none is."""
    assert centred(np.array(values)) == pytest.approx(expected)


def test_standardising_takes_median_and_mad_within_large_strata() -> None:
    """Two strata of sixty rows, one shifted and stretched, end alike."""
    base = np.linspace(-1, 1, 60)
    values, stratum = np.concatenate([base, 5 + 3 * base]), np.repeat([0, 1], 60)
    found = standardised(values, stratum)
    np.testing.assert_allclose(found[:60], found[60:])
    # The median of |x| over an even grid on [-1, 1] is one half.
    assert found[59] == pytest.approx(1 / (1.4826 * np.median(np.abs(base))))


def test_a_stratum_of_mostly_equal_values_is_scaled_too() -> None:
    """Thirty-five of sixty values equal: the standard deviation stands in for a MAD of 0."""
    base = np.concatenate([np.zeros(35), np.arange(1.0, 26.0)])
    values, stratum = np.concatenate([base, 7 + 100 * base]), np.repeat([0, 1], 60)
    found = standardised(values, stratum)
    np.testing.assert_allclose(found[:60], base / base.std())
    np.testing.assert_allclose(found[60:], found[:60])


def test_small_strata_are_standardised_with_all_rows() -> None:
    """Forty-nine rows are too few for a median of their own."""
    values = np.concatenate([np.linspace(0, 1, 60), np.linspace(10, 11, 49)])
    found = standardised(values, np.repeat([0, 1], [60, 49]))
    alone = standardised(values, np.zeros(109, dtype=int))
    assert found[60:].tobytes() == alone[60:].tobytes()


def test_small_strata_are_counted() -> None:
    """Two of three are too small, with 9 rows."""
    found = strata_counts(np.repeat([0, 1, 2], [60, 5, 4]))
    assert found == {"n": 3, "n_small": 2, "rows_in_small": 9}


def test_quarters_of_length_hold_a_quarter_each() -> None:
    """And no row of a higher quarter is shorter than one of a lower."""
    rows = render(toy.contaminated_set(40, n_harmful=10, n_safe=1).finetuning_set,
                  toy.tokenizer(), RENDER)  # fmt: skip
    places = rows.id_order
    quarter, lengths = by_length(rows, places), rows.column("n_response_tokens")[places]
    edges = np.quantile(lengths, [0.25, 0.5, 0.75])
    for k in range(4):
        mine = lengths[quarter == k]
        assert ((mine > edges[k - 1]) | (k == 0)).all()
        assert ((mine <= edges[min(k, 2)]) | (k == 3)).all()


def test_sources_are_those_of_the_records() -> None:
    """In the order asked for; a row that names none is with its like."""
    turns = [{"role": "user", "content": "river"}, {"role": "assistant", "content": "water"}]
    named = [{"messages": turns * n, "source": name} for n, name in enumerate("xyx", start=1)]
    rows = load_examples([*named, {"messages": turns * 4}])
    found = by_source(rows, np.array([3, 2, 1, 0]))
    assert found[1] == found[3]
    assert len(set(found.tolist())) == 3
