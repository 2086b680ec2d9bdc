"""Processes end with the one that started them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tamis.errors import ConfigError
from tamis.runs import Stage

PATIENCE = 60.0  # seconds: tests share the machine
PARENT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from tamis.cli.app import cli
from tamis.cli.main import main
from tamis.cli.processes import Children

@cli.command()
def parent():
    child = [sys.executable, "-c", {child!r}]
    with ThreadPoolExecutor(2) as pool, Children() as children:
        list(pool.map(lambda _: children.run(child, {{}}), range(3)))

sys.argv = ["tamis", "parent"]
main()
"""
SLEEPS = "import time; time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def started(child: str) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """Start a parent of two children at a time, of three."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(child=child)])
    here = psutil.Process(parent.pid)
    until(lambda: len(here.children()) == 2)
    return parent, here.children()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_parent_leaves_no_child(number: signal.Signals) -> None:
    """Sent to the parent alone: both children end, and the third is not started."""
    parent, children = started(SLEEPS)
    parent.send_signal(number)
    assert parent.wait(PATIENCE) != 0
    gone, alive = psutil.wait_procs(children, timeout=3)
    assert (len(gone), alive) == (2, [])


def test_a_child_that_does_not_listen_is_ended() -> None:
    """After some seconds of grace."""
    parent, children = started(DEAF)
    time.sleep(1)  # until it is deaf
    parent.terminate()
    assert parent.wait(PATIENCE) == 128 + signal.SIGTERM
    assert psutil.wait_procs(children, timeout=3)[1] == []


def test_a_lock_is_held_as_long_as_its_process_lives(tmp_path: Path) -> None:
    """A process whose parent is dead is at work all the same; a killed one blocks nobody."""
    holder = subprocess.Popen([sys.executable, "-c", f"""
import time
from pathlib import Path
from tamis.runs import Stage
with Stage(Path({str(tmp_path)!r}), "rank", {{}}, {{}}, seed=0) as stage:
    (stage.work / "part").touch()
    time.sleep(600)
"""])  # fmt: skip
    until((tmp_path / "work" / "part").exists)
    with pytest.raises(ConfigError, match="in use by another tamis process"):
        Stage(tmp_path, "rank", {}, {}, seed=0).__enter__()
    holder.kill()
    holder.wait()
    with Stage(tmp_path, "rank", {}, {}, seed=0) as stage:
        assert (stage.work / "part").exists()


VERB = """
import sys, tempfile, time
from pathlib import Path
from tamis.cli.app import cli
from tamis.cli.main import main

@cli.command()
def wait():
    with tempfile.TemporaryDirectory(dir={folder!r}):
        print("at work", flush=True)
        time.sleep(600)

sys.argv = ["tamis", "wait"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_verb_says_that_it_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """And leaves no temporary folder behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", VERB.format(folder=str(tmp_path))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert "the same command goes on from here" in errors
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []
