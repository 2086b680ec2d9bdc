"""A plan's totals and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tamis.cli.config import RunConfig
from tamis.cli.plan import Plan, StageEstimate, given_sets, plan_run
from tamis.cli.plan_ranking import kept_bytes
from tamis.cli.show import plan_table
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


UNTOLD = Plan(
    [StageEstimate("rank", None, None, None, "saft stops", "[b]give 50 rows"), PLAN.stages[1]],
    n_rows=1000, tokens_per_row=200.0,
)  # fmt: skip


def test_a_stage_that_cannot_be_told_is_in_no_total_and_said() -> None:
    """Neither as 0 nor in silence; what the method said stands below, as it is."""
    assert (UNTOLD.minutes, UNTOLD.memory_gib) == (20.0, 8.0)
    assert UNTOLD.to_json()["untold"] == UNTOLD.untold == ["rank"]
    assert PLAN.to_json()["untold"] == []
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(plan_table(UNTOLD))
    shown = console.file.getvalue()
    rank = next(line for line in shown.splitlines() if "saft stops" in line)
    assert "not told" in rank
    assert "0.0" not in rank
    assert "20.0" in next(line for line in shown.splitlines() if "without rank" in line)
    assert "may refuse all of them: [b]give 50 rows" in shown


@pytest.mark.parametrize("limits", [(500.0, None), (None, 500.0)])
def test_a_limit_is_not_kept_to_by_what_cannot_be_told(
    limits: tuple[float | None, float | None],
) -> None:
    """However high: it was asked for a promise."""
    UNTOLD.refuse_above(None, None)
    with pytest.raises(ConfigError, match=r"rank stops on the few rows .*give 50 rows\)"):
        UNTOLD.refuse_above(*limits)


def test_what_is_kept_once_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """300 bytes of rows are 3,000 of ten times as many; 50 of means stay 50."""
    for name, n_bytes in (("loss/part-a", 100), ("loss/part-b", 200), ("means-x/tensors", 50)):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(n_bytes))
    assert kept_bytes(tmp_path, 10.0) == 3050.0
    assert kept_bytes(tmp_path / "none", 10.0) == 0.0


def test_a_set_that_the_method_needs_is_missed_before_any_work() -> None:
    """Neither the rows nor the model are there, and neither is what the message says."""
    config = RunConfig.model_validate({
        "finetuning_set": "/none/rows.jsonl", "out": "/none/out", "method": {"name": "seal"},
        "model": {"name": "/none/model"},
    })  # fmt: skip
    with pytest.raises(ConfigError, match="'seal' needs safe_set: give --safe-set"):
        plan_run(config)


def test_the_trusted_set_is_read_as_the_data_are(tmp_path: Path) -> None:
    """As `tamis run` reads it; the safe set has a format of its own."""
    lines = {
        "trusted": [{"id": "a", "q": "Name a pet.", "a": "A cat."},
                    {"id": "b", "q": "Name a tree.", "a": "An oak."}],
        "labels": [{"id": "a", "harmful": False}, {"id": "b", "harmful": True}],
        "safe": [{"prompt": "Name a river.", "completion": "The Rhine."}],
    }  # fmt: skip
    for name, found in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in found))
    config = RunConfig.model_validate({
        "finetuning_set": "/none/rows.jsonl", "out": tmp_path / "out", "safe_data": {},
        "data": {"fields": {"prompt": "q", "response": "a"}},
        "safe_set": str(tmp_path / "safe.jsonl"), "trusted_set": str(tmp_path / "trusted.jsonl"),
        "trusted_labels": tmp_path / "labels.jsonl",
    })  # fmt: skip
    found = given_sets(config)
    assert (len(found["safe_set"]), len(found["trusted_set"])) == (1, 2)
    assert found["trusted_harmful"].tolist() == [False, True]
