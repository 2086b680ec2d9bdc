"""Answers of a model in words, kept by key on disk as they come."""

from __future__ import annotations

import json
from pathlib import Path

from tamis.files import json_line


class AnswerCache:
    """Answers by key, one JSON line each, added as they come; lines cut short are left out.

    Args:
        path: The file; None keeps them in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._answers: dict[str, str] = {}
        self._torn = False
        if path is None or not path.exists():
            return
        stored = path.read_bytes()
        self._torn = not stored.endswith(b"\n") and bool(stored)  # killed while it wrote
        for line in stored.decode("utf-8", "replace").split("\n"):
            try:
                entry = json.loads(line)
                self._answers[str(entry["key"])] = str(entry["answer"])
            except (ValueError, KeyError, TypeError):
                continue  # asked again

    def get(self, key: str) -> str | None:
        """Return the answer, or None."""
        return self._answers.get(key)

    def add(self, key: str, answer: str) -> None:
        """Keep an answer."""
        self._answers[key] = answer
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = ("\n" if self._torn else "") + json_line({"key": key, "answer": answer})
        self._torn = False
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode())  # one call: a line is appended whole, or cut by a kill
