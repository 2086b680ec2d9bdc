"""A tiny random chat model, made anew for each test that may change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tamis.models.load import LanguageModel
from toy_endpoint import Script, Server


@pytest.fixture(scope="session")
def make_lm() -> Callable[..., LanguageModel]:
    """Return a maker of tiny models: `make_lm(seed=0, dtype="float32")`."""
    import torch

    import toy

    # Matrices this small are slower on two threads, by far where cores are shared.
    torch.set_num_threads(1)

    def make(*, seed: int = 0, dtype: str = "float32") -> LanguageModel:
        return toy.language_model(toy.llama(seed=seed, dtype=getattr(torch, dtype)))

    return make


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], Server]]:
    """Start servers; closed after the test."""
    pytest.importorskip("openai", reason="openai is not installed (pip install -e '.[endpoint]')")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    servers: list[Server] = []

    def start(script: Script) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
