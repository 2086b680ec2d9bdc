"""Names that users give are shown as they are: they style nothing and stop nothing."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tamis.cli.app import say
from tamis.cli.plan import Plan, StageEstimate
from tamis.cli.plan_compare import Forecast, MethodForecast
from tamis.cli.progress import ProgressReport
from tamis.cli.show import _audit_table, plan_table
from tamis.cli.show_comparison import forecast_table
from tamis.data.audit import Audit, Finding

NAME = "[red]arm[/odd]\x1b[2J"  # a style, an end of none, and an order to the terminal
SHOWN = "[red]arm[/odd]⟨U+001B⟩[2J"


def shown(what: Any) -> str:
    """What a wide terminal shows."""
    console = Console(width=200, file=io.StringIO())
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_lines_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """What `say` is given stands on the second stream."""
    say(f"1/2  {NAME}")
    assert capsys.readouterr().err == f"1/2  {SHOWN}\n"


@pytest.mark.parametrize("live", [False, True])
def test_progress_is_no_markup(live: bool) -> None:
    """On a terminal and elsewhere."""
    out = io.StringIO()
    with ProgressReport(Console(file=out, force_terminal=live, width=200)) as report:
        report(NAME, 1, 1, {NAME: 0.5})
    assert f"{SHOWN} 0.500" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_plans_are_no_markup() -> None:
    """Stages, and what they were measured on."""
    plan = Plan([StageEstimate(NAME, 1.0, 1.0, 1.0, NAME)], 1, 1.0)
    assert shown(plan_table(plan)).count(SHOWN) == 2


def test_forecasts_are_no_markup() -> None:
    """A method's label, and that of one whose time is not told."""
    found = Forecast((MethodForecast(NAME, 2, 1, None, NAME),), 1.0)
    assert shown(forecast_table(found)).count(SHOWN) == 3


def test_audits_are_no_markup() -> None:
    """Outcomes of any method, ids, reasons and notes."""
    none, some = Finding(0, ()), Finding(1, (NAME,))
    found = Audit(
        n_rows=1, outcomes={NAME: 1}, lengths=(), n_tokens=1, n_trained_tokens=1,
        trained_token_share=None, cut_prompts=none, cut_responses=none, n_cut_prompt_tokens=0,
        n_cut_response_tokens=0, duplicated_bos=some, special_text=some,
        set_aside={NAME: (NAME,)}, generation_matches_training=None, notes=(NAME,), fingerprint="",
    )  # fmt: skip
    assert shown(_audit_table(found)).count(SHOWN) == 6
