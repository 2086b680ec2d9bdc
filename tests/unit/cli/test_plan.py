"""A plan's totals and what it refuses."""

from __future__ import annotations

import pytest

from tamis.cli.plan import Plan, StageEstimate
from tamis.errors import ConfigError

PLAN = Plan(
    [
        StageEstimate("rank", 60.0, 3.0, 1.5, "seal on 32 rows"),
        StageEstimate("finetune", 20.0, 8.0, 0.0, "2 of 40 steps"),
    ],
    n_rows=1000,
    tokens_per_row=200.0,
)


def test_minutes_add_up_and_memory_does_not() -> None:
    """Stages run one after another."""
    assert (PLAN.minutes, PLAN.memory_gib) == (80.0, 8.0)
    assert PLAN.to_json()["minutes"] == 80.0


def test_what_fits_is_let_through() -> None:
    """No limit, or limits above the estimate."""
    PLAN.refuse_above(None, None)
    PLAN.refuse_above(80.0, 8.0)


def test_too_long_a_run_is_refused_with_what_would_fit() -> None:
    """35 minutes leave 15 for ranking, a quarter of its 60: of the rows, or of their tokens."""
    message = (
        r"80 minutes, more than --max-minutes 35\. Ranking would fit with about 250 of the 1,000"
    )
    with pytest.raises(
        ConfigError, match=message + r" rows.*at most 50 tokens, where they have 200"
    ):
        PLAN.refuse_above(35.0, None)


def test_no_ranking_fits_beside_long_stages() -> None:
    """Fine-tuning alone takes 20 minutes."""
    with pytest.raises(ConfigError, match="alone leave no time for ranking"):
        PLAN.refuse_above(20.0, None)


def test_too_large_a_run_names_the_stage() -> None:
    """The stage that needs most."""
    with pytest.raises(ConfigError, match=r"finetune is expected to need 8.0 GiB.*max_batch_tok"):
        PLAN.refuse_above(None, 4.0)
