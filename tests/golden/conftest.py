"""The option that records; pytest knows it only where tests/golden is named on its command line."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--golden-record`."""
    parser.addoption("--golden-record", action="store_true", help="rewrite what has changed")
