"""The command `tamis`."""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType

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

_STOPPED = "stopped; the same command goes on from here"
_INTERRUPTED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # exit codes, as in shells


def main() -> None:
    """Run the command line: errors that a user can fix are one line, exit code 2.

    SIGTERM unwinds like Ctrl-C, so that temporary files go and locks are left.
    """
    with contextlib.suppress(ValueError):  # not in the main thread, where signals cannot be set
        signal.signal(signal.SIGTERM, _terminated)
    try:
        cli()
    except (TamisError, OSError) as error:  # OSError: a folder that cannot be written, a full disk
        # As it is: it may quote data.
        stderr.print(visible(f"error: {error}"), style="bold red", markup=False, highlight=False,
                     soft_wrap=True)  # fmt: skip
        sys.exit(2)
    except KeyboardInterrupt:
        stderr.print(_STOPPED, style="yellow")
        sys.exit(_INTERRUPTED)
    except SystemExit as error:  # typer turns Ctrl-C into one
        if error.code in (_INTERRUPTED, _TERMINATED):
            stderr.print(_STOPPED, style="yellow")
        raise


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)
