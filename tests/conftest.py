"""Fixtures shared by all tests: the labelled data folder, no network, a tiny model in process."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models; several processes share the cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub reads it when first imported
# Not this user's models: what lies there decides who judges where no judge is named.
os.environ["HF_HUB_CACHE"] = str(Path(__file__).resolve().parent / "no-models-here")
_DEFAULT_TEST_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
_skipped_for_data: list[str] = []


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real labelled rows: TAMIS_TEST_DATA, else ../shared/data; skips when absent."""
    folder = Path(os.environ.get("TAMIS_TEST_DATA", _DEFAULT_TEST_DATA))
    if not (folder / "SHA256SUMS").exists():
        pytest.skip("no labelled test data (set TAMIS_TEST_DATA)")
    return folder


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember tests skipped for lack of the labelled data."""
    if report.skipped and "TAMIS_TEST_DATA" in str(report.longrepr):
        _skipped_for_data.append(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End with the number of tests skipped for lack of the labelled data."""
    terminalreporter.write_line(
        f"skipped for lack of labelled test data (TAMIS_TEST_DATA): {len(_skipped_for_data)}"
    )


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Byte-level BPE with ChatML, trained in process."""
    import toy

    return toy.tokenizer()


@pytest.fixture(scope="session")
def tiny_lm() -> LanguageModel:
    """Two-layer random Llama of width 32 with `tiny_tokenizer`; leave it as you found it."""
    import toy

    return toy.tiny_lm()


@pytest.fixture(scope="session")
def toy_guards() -> Iterator[None]:
    """Save the guards of `toy_ranking` to the folder that their cases name, one per process."""
    import toy
    import toy_guard
    from toy_ranking import GUARDS

    toy_guard.saved(toy_guard.classifier(), GUARDS / "classifier")
    toy_guard.saved(toy.llama(), GUARDS / "generative")
    yield
    shutil.rmtree(GUARDS)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse sockets to anywhere but this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else address
        if self.family != socket.AF_UNIX and host not in {"127.0.0.1", "localhost", "::1"}:
            raise OSError(f"tests may not reach {host!r}: only loopback")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
