"""Commands in processes of their own, none of which outlives the block that started them."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType

GRACE_SECONDS = 5.0  # between asking a process to end and ending it


class Children:
    """Runs commands from any thread until its block ends.

    What ends the block, an error, Ctrl-C or SIGTERM (which `tamis.cli.main` makes an exception),
    ends every process that still runs. Nothing can be done where the parent is killed outright
    (SIGKILL): its children then run to their end.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Children:
        """Begin with no process."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """End what runs; nothing is started any more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            process.kill()

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
        """Run a command to its end; return its status and what it wrote as errors.

        Raises:
            InterruptedError: The block ended.
        """
        with self._lock:
            if self._stopped:
                raise InterruptedError
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            self._running.add(process)
        _, errors = process.communicate()
        with self._lock:
            self._running.discard(process)
            if self._stopped:
                raise InterruptedError
        return process.returncode, errors
