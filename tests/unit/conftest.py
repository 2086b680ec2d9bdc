"""A tiny random chat model, made anew for each test that may change it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tamis.models.load import LanguageModel


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
