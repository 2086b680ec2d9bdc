"""The latest renderings with one tokenizer, so that rankings of the same rows render them once.

Rows are known by their ids, which are hashes of what they hold, and by their source ids. Rows that
are part of a kept set, as those of another contamination rate are, are taken from there.
"""

from __future__ import annotations

import collections
import hashlib
import json
from typing import Any

from tamis.data.example import Examples
from tamis.data.template import RenderConfig, RenderedRows, render

KEPT = 32  # sets; their rows lie in temporary files, not in memory


class Renderings:
    """Renders sets of rows, and keeps the latest.

    Args:
        tokenizer: Any Hugging Face tokenizer, not changed meanwhile.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._kept: collections.OrderedDict[tuple[str, str], RenderedRows]
        self._kept = collections.OrderedDict()

    def render(self, examples: Examples, config: RenderConfig) -> RenderedRows:
        """Render every row; see `tamis.data.template.render`."""
        known = [examples.ids, examples.source_ids]
        limits = config.model_dump_json()
        key = hashlib.sha256(json.dumps(known).encode()).hexdigest(), limits
        if key not in self._kept:
            found = self._part(examples, limits)
            self._kept[key] = render(examples, self._tokenizer, config) if found is None else found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _part(self, examples: Examples, limits: str) -> RenderedRows | None:
        """Take the rows from a kept set that holds them all; None where there is none."""
        for key, whole in reversed(self._kept.items()):
            if key[1] != limits or len(whole) <= len(examples) or not len(examples):
                continue
            if examples.ids[0] not in whole.ids:
                continue
            rows = zip(whole.ids, whole.source_ids, strict=True)
            place = {row: i for i, row in enumerate(rows)}
            wanted = list(zip(examples.ids, examples.source_ids, strict=True))
            if all(row in place for row in wanted):
                self._kept.move_to_end(key)
                return whole.part([place[row] for row in wanted])
        return None
