"""The sample a plan measures, and the line through two measurements."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.cli.plan_ranking import Sample, draw_sample, line_minutes, safe_part
from tamis.data.example import Examples
from tamis.data.load import load_examples


def rows(*lengths: int) -> Examples:
    """Rows whose answers have so many characters."""
    return load_examples([{"prompt": f"p{i}", "completion": "x" * n}
                          for i, n in enumerate(lengths)])  # fmt: skip


def lengths_of(examples: Examples) -> np.ndarray:
    """Characters of the answers."""
    return np.array([len(row.messages[-1].content) for row in examples])


def test_a_samples_first_rows_are_those_of_its_first_lengths() -> None:
    """Whatever their order in the file: the line through two sizes needs the tokens of each."""
    three = rows(3, 1, 2)
    sample = Sample(three, [three.ids[0], three.ids[2], three.ids[1]], [3, 2, 1], 6.0, 3)
    for n in (1, 2, 3):
        assert lengths_of(sample.first(n)).sum() == sample.tokens(n)


def test_a_sample_starts_with_the_longest_and_stands_for_all() -> None:
    """Of a hundred rows 32, four of them the longest; all lengths are known."""
    sample = draw_sample(rows(*range(1, 101)), lengths_of, 0)
    assert sample.lengths[:4] == [100, 99, 98, 97]
    assert (len(set(sample.ids)), sample.n_rows) == (32, 100)
    assert sample.all_tokens == 5050.0


def test_safe_rows_come_in_proportion_but_not_fewer_than_a_few() -> None:
    """50 safe rows to 100: 16 to 32, the least number to 2, all of them to 1,000."""
    safe = rows(*range(1, 51))
    assert [len(safe_part(safe, n, 100, 6, 0)) for n in (32, 2, 1000)] == [16, 6, 50]


def test_the_line_tells_what_is_done_once_from_what_is_done_per_row() -> None:
    """1 minute, and 0.1 per token: 2 at 10 tokens and 5 at 40 are 101 at 1,000."""
    assert line_minutes((2.0, 10), (5.0, 40), 1000.0) == pytest.approx(101.0)


@pytest.mark.parametrize("many", [(2.0, 40), (5.0, 10)])
def test_without_growth_there_is_no_line(many: tuple[float, int]) -> None:
    """The same time, or the same rows."""
    assert line_minutes((2.0, 10), many, 1000.0) is None
