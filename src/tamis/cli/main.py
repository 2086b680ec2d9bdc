"""The command `tamis`."""

from __future__ import annotations

import sys

# The verbs are added to the application when their modules are read.
from tamis.cli import (  # noqa: F401
    certify_verb,
    experiment_verbs,
    run_verbs,
    stage_verbs,
    win_rate,
)
from tamis.cli.app import cli as cli
from tamis.cli.app import stderr
from tamis.errors import TamisError
from tamis.report.text import visible


def main() -> None:
    """Run the command line: errors that a user can fix are one line, exit code 2."""
    try:
        cli()
    except (TamisError, OSError) as error:  # OSError: a folder that cannot be written, a full disk
        # As it is: it may quote data.
        stderr.print(visible(f"error: {error}"), style="bold red", markup=False, highlight=False,
                     soft_wrap=True)  # fmt: skip
        sys.exit(2)
    except KeyboardInterrupt:
        stderr.print("stopped; the same command goes on from here", style="yellow")
        sys.exit(130)
