"""The latest renderings with one tokenizer, so that rankings of the same rows render them once.

Rows are known by their ids, which are hashes of what they hold, and by their source ids.
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
        self._kept: collections.OrderedDict[str, RenderedRows] = collections.OrderedDict()

    def render(self, examples: Examples, config: RenderConfig) -> RenderedRows:
        """Render every row; see `tamis.data.template.render`."""
        known = [examples.ids, examples.source_ids, config.model_dump(mode="json")]
        key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        if key not in self._kept:
            self._kept[key] = render(examples, self._tokenizer, config)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
