"""Peak memory of one piece of work after a larger one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SIZE = 200_000_000  # bytes, zeroed so that they are resident
GIB = SIZE / 2**30
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="a mark of Linux")


def measured(code: str) -> list[float | None]:
    """Run code in a process of its own and read the numbers it prints."""
    start = f"from tamis import memory; from tamis.memory import PeakMemory; SIZE = {SIZE}\n"
    # Through a shell: getrusage counts what the process was before it became Python, and a copy of
    # the tests' own process is large.
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, start + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [None if word == "None" else float(word) for word in done.stdout.split()]


@linux
def test_what_came_before_is_not_counted() -> None:
    """A small piece of work after a large one has a small peak."""
    large, small = measured(
        "m = PeakMemory(); x = bytearray(b'1') * SIZE; del x; print(m.found()['peak_rss_gib'])\n"
        "m = PeakMemory(); print(m.found()['peak_rss_gib'])"
    )
    assert large is not None
    assert small is not None
    assert large > GIB
    assert small < large - 0.9 * GIB


@linux
def test_what_is_held_is_in_the_peak_and_in_the_start() -> None:
    """Loaded before and still there: both figures have it, their difference has not."""
    peak, start = measured(
        "x = bytearray(b'1') * SIZE; m = PeakMemory(); found = m.found()\n"
        "print(found['peak_rss_gib'], found['start_rss_gib'])"
    )
    assert peak is not None
    assert start is not None
    assert start > GIB
    assert peak - start < 0.1 * GIB


def test_without_a_mark_to_set_back_only_a_new_peak_is_known() -> None:
    """A system without /proc: the second piece of work is larger, the third is not."""
    first, second, third = measured(
        "from pathlib import Path\n"
        "memory._CLEAR = memory._STATUS = Path('/no/such/file')\n"
        "def work(n):\n"
        "    m = PeakMemory(); x = bytearray(b'1') * n; del x\n"
        "    print(m.found()['peak_rss_gib'])\n"
        "work(SIZE); work(2 * SIZE); work(SIZE)"
    )
    assert first is not None
    assert second is not None
    assert second > first + 0.9 * GIB
    assert third is None
