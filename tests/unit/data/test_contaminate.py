"""Planting: the rate that was asked for, nested draws, nothing that depends on the file's order."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.data.contaminate import planted_ids
from tamis.errors import ConfigError

IDS = [f"row-{i:03d}" for i in range(200)]
HARMFUL = np.arange(200) % 4 == 0  # 50 of 200


def planted(rate: float, **changes: int) -> list[str]:
    """Plant among the same rows."""
    return planted_ids(IDS, HARMFUL, rate, **{"seed": 0, **changes})


@pytest.mark.parametrize(("rate", "n_harmful"), [(0.0, 0), (0.02, 3), (0.05, 8), (0.25, 50)])
def test_the_rate_is_met_with_every_other_row(rate: float, n_harmful: int) -> None:
    """150 rows that are not harmful stay; r / (1 - r) times as many harmful ones join, rounded."""
    found = planted(rate)
    assert sum(HARMFUL[IDS.index(row)] for row in found) == n_harmful
    assert len(found) == 150 + n_harmful


def test_above_the_labels_own_rate_other_rows_are_drawn() -> None:
    """All 50 harmful rows stay, and 50 others make a half."""
    found = planted(0.5)
    assert (len(found), sum(HARMFUL[IDS.index(row)] for row in found)) == (100, 50)


def test_draws_of_one_seed_are_nested() -> None:
    """What is planted at 2% is planted at 5% too: curves over rates differ by rate alone."""
    assert set(planted(0.02)) < set(planted(0.05))


@pytest.mark.parametrize("changes", [{"seed": 1}, {"draw": 1}])
def test_another_seed_or_draw_plants_others(changes: dict[str, int]) -> None:
    """Of 50 rows, three."""
    assert set(planted(0.02)) != set(planted(0.02, **changes))


def test_the_order_of_the_file_plays_no_part() -> None:
    """The same rows are chosen, and come in the order given."""
    turned = planted_ids(IDS[::-1], HARMFUL[::-1], 0.05, seed=0)
    assert turned == planted(0.05)[::-1]


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    """The value is named."""
    with pytest.raises(ConfigError, match=rf"{rate} is not in \[0, 1\)"):
        planted(rate)


def test_a_missing_kind_is_refused() -> None:
    """Nothing can be planted where nothing is harmful."""
    with pytest.raises(ConfigError, match="0 harmful and 200 other rows cannot be mixed"):
        planted_ids(IDS, np.zeros(200, bool), 0.1, seed=0)


@pytest.mark.parametrize(("rate", "kind"), [(0.003, "harmful"), (0.995, "other")])
def test_a_rate_that_means_no_row_is_refused(rate: float, kind: str) -> None:
    """.003 / .997 x 150 is .45 harmful rows, .005 / .995 x 50 is .25 others: none of a kind."""
    with pytest.raises(ConfigError, match=f"rate of {rate} is less than one {kind} row"):
        planted(rate)
