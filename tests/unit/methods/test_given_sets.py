"""What a ranking says of the sets it was given: how many rows it learned from, and why not all."""

from __future__ import annotations

import pytest

import toy
from tamis.data.template import RenderConfig
from tamis.methods import build_method
from tamis.methods.base import rank
from tamis.models.load import LanguageModel

TIGHT = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
METHODS = {
    "gradient": {"use_sets": True},
    "excess": {"against": "harmful", "trunk_cut": 1},
    "auto": {
        "signals": {"it": {"method": "excess", "options": {"against": "harmful", "trunk_cut": 1}}}
    },
    "probe": {"layers": (1, 2)},
}


@pytest.mark.parametrize("name", METHODS)
def test_rows_that_nothing_is_learned_from_are_counted(name: str, tiny_lm: LanguageModel) -> None:
    """One of the safe rows and two of the harmful ones are too long; also within a signal."""
    data = toy.contaminated_set(40, n_harmful=16, n_safe=20)
    bad = toy.contaminated_set(20, n_harmful=20, n_safe=1, seed=5).finetuning_set
    pairs = {which: [tuple(turn.content for turn in row.messages) for row in rows]
             for which, rows in (("safe_set", data.safe_set), ("harmful_set", bad))}  # fmt: skip
    long = [("Tell me", f"{word} " * 90) for word in ("water", "stone")]
    given = {
        "safe_set": toy.examples([*pairs["safe_set"], long[0]]),
        "harmful_set": toy.examples([*pairs["harmful_set"], *long]),
        "trusted_set": data.finetuning_set, "trusted_harmful": data.harmful,
    }  # fmt: skip
    read = {"probe": {"safe_set", "trusted_set"}}.get(name, {"safe_set", "harmful_set"})
    if name == "auto":
        del given["trusted_set"], given["trusted_harmful"]
    scores = rank(data.finetuning_set, build_method(name, METHODS[name]), model=tiny_lm,
                  render=TIGHT, **given)  # fmt: skip
    found = scores.details["sets_by_outcome"]
    expected = {"safe_set": {"ok": 20, "too_long": 1}, "harmful_set": {"ok": 20, "too_long": 2},
                "trusted_set": {"ok": 40}}  # fmt: skip
    assert found == {which: expected[which] for which in found}
    assert read <= set(found)
    assert "1 of the 21 rows of the safe set are not used (too_long 1)." in scores.details["notes"]
