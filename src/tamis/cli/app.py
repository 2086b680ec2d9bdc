"""The command line's application and its second stream, to which the verbs are added."""

from __future__ import annotations

import typer
from rich.console import Console

cli = typer.Typer(
    name="tamis", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Keep aligned language models aligned: rank fine-tuning rows, select, tune, prove.",
)  # fmt: skip
stderr = Console(stderr=True)
