"""What a result was made with: versions of packages, and the commit of the source tree."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

REPORTED_PACKAGES = (
    "tamis", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "pyarrow", "numpy",
    "scikit-learn", "scipy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in REPORTED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def git_sha() -> str | None:
    """Return the commit of the source tree this package runs from, None when installed."""
    here = Path(__file__).resolve().parents[2]
    if not (here / "pyproject.toml").exists():
        return None  # installed: a repository around it, if any, is somebody else's
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
        return result.stdout.strip() or None
    return None
