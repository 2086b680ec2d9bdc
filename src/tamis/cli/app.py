"""The command line's application and its second stream, to which the verbs are added."""

from __future__ import annotations

import typer
from rich.console import Console

from tamis.report.text import visible

cli = typer.Typer(
    name="tamis", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Keep aligned language models aligned: rank fine-tuning rows, select, tune, prove.",
)  # fmt: skip
stderr = Console(stderr=True)


def say(line: str) -> None:
    """Print a line on the second stream as it is: names in it are a user's, no markup."""
    stderr.print(visible(line), markup=False, highlight=False, soft_wrap=True)
