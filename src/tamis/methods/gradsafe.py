"""GradSafe: does complying with a row's prompt pull the weights as complying with unsafe ones does?

A prompt is answered with the one word "Sure" and the end token; G is the gradient of that loss in
one of the model's attention and MLP weights (out x in). With U unsafe and S safe prompts,

    R      = mean over U of G                       the reference
    gap_k  = mean over U of cos_k(G, R) - mean over S of cos_k(G, R)
    risk_i = mean of cos_k(G_i, R) over all slices k of all weights with gap_k > threshold

where cos_k is the cosine of slice k, one row or one column of G, and 0 where either has length 0.
The score is minus the risk; `flagged` is risk >= flag_at. Only the slices with a large gap, the
critical ones, are kept of R, and of a row's gradient nothing else is computed.

It reads prompts alone: rows with one prompt have one score, whatever their answers, and harm that
is in the answer alone is not seen. A safe answer to an unsafe request scores as the request does.

Source: Xie, Fang, Pi, Gong 2024, "GradSafe", ACL 2024, arXiv:2402.13494, its zero-shot form;
xyq7/GradSafe@44903a4 find_critical_parameters.py, test_xstest.py: two prompts on each side,
threshold 1, flags from 0.25 on.
Differs: the prompts of both sides are the shipped anchors' (or of given sets), not the two and two
of the release; the model's chat template and the row's own system turn stand for Llama-2's template
with a fixed system text; weights are the linear modules of the decoder layers, biases left out;
each side's mean is over its own number of prompts (the release divides both by that of the unsafe
ones); cosines are float32 sums, not half precision; a gradient that is not finite gives no score
(`no_gradient`), where the release counts it as 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from tamis.data.anchors import load_anchors, shipped_anchors
from tamis.data.example import Examples, Message, ParsedRow, content_hash
from tamis.data.rendered import RenderedRows
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores
from tamis.models.critical_slices import FoundSlices, SliceSearch

TARGET = "Sure"
TARGET_TOKENS = 64  # room for it: the limit on responses is for the user's rows
PROMPTS_NOTE = (
    "gradsafe reads prompts alone: rows with one prompt have one score, harm in an answer is not "
    "seen, and a safe answer to an unsafe request ranks as the request does. Read it beside a "
    "method that reads answers."
)


def prompts_of(rows: Examples, places: Iterable[int]) -> tuple[Examples, list[int]]:
    """Answer the distinct prompts of some rows with "Sure".

    Args:
        rows: Rows whose last turn is an answer.
        places: Which of them.

    Returns:
        One row per distinct prompt, ordered by content; and for each place the number of its own.
    """
    contents: list[str] = []
    first: dict[str, int] = {}
    for place in places:
        contents.append(content_hash(rows[place].messages[:-1]))
        first.setdefault(contents[-1], place)
    order = sorted(first)
    answer = Message("assistant", TARGET)
    found = (rows[first[content]] for content in order)
    number = {content: k for k, content in enumerate(order)}
    return Examples.from_records(
        ParsedRow((*row.messages[:-1], answer), row.source_id) for row in found
    ), [number[content] for content in contents]


class GradSafe(Method):
    """Minus the likeness of a prompt's gradient to that of unsafe prompts (higher = keep).

    Source: Xie et al. 2024, arXiv:2402.13494. Cost: one forward and backward pass per prompt.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})

    anchors: Path | None = None
    """Folder of anchors, as `tamis.data.anchors` describes it, whose unsafe and ordinary requests
    are the known prompts; None takes the shipped ones."""
    use_sets: bool = False
    """Take the harmful set's prompts as unsafe and the safe set's as safe ones, instead of
    anchors. A safe set that answers unsafe requests is of no use here."""
    prompts_per_side: int = Field(2, ge=1)
    """Unsafe, and as many safe, prompts (2 as published): of the usable distinct ones those with
    the lowest hashes. Means over more have smaller gaps: lower the threshold with them."""
    threshold: float = Field(1.0, gt=-2, lt=2)
    """Gap of cosines above which a slice is critical; gaps lie in [-2, 2]."""
    flag_at: float = Field(0.25, ge=-1, le=1)
    """Risk from which on a row is flagged; in [-1, 1]."""
    modules: tuple[str, ...] | None = Field(None, min_length=1)
    """Last parts of the names of the linear modules whose weights count; None is all of the
    decoder layers."""
    max_batch_tokens: int | None = Field(None, ge=1)
    """Tokens run at once, padding included; None is 1,024 on a CPU and 16,384 on a GPU. Changes
    speed and memory, not the result."""

    @model_validator(mode="after")
    def _one_source_of_prompts(self) -> GradSafe:
        if self.use_sets and self.anchors is not None:
            raise ValueError("anchors and use_sets both say what the prompts are: set one of them")
        return self

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row; unusable rows are NaN with their outcome.

        Raises:
            NoTrainedTokensError: No row, or no row of a given set, has a trained token.
            ConfigError: A set is missing, no slice is critical, or the modules do not exist or are
                not run over rows and tokens.
        """
        rows = inputs.rendered()
        rows.check_usable("finetuning_set")
        known = self._known(inputs)
        search = SliceSearch(
            inputs.features, known["unsafe"], known["safe"], modules=self.modules,
            threshold=self.threshold, max_batch_tokens=self.max_batch_tokens,
            folder=inputs.cache or inputs.work,
        )  # fmt: skip
        slices = search.find(inputs.progress("critical slices"))
        self._refuse_none(slices)
        prompts, own = prompts_of(inputs.finetuning_set, rows.id_order)
        asked = self._rendered(inputs, prompts)
        risk = np.full(len(rows), np.nan)
        risk[rows.id_order] = search.mean_cosines(asked, slices, inputs.progress("gradients"))[own]
        outcome = rows.column("outcome").astype(object)
        outcome[rows.usable & np.isnan(risk)] = "no_gradient"
        flagged = np.where(np.isnan(risk), np.nan, risk >= self.flag_at)
        return Scores(
            method="gradsafe",
            ids=rows.ids,
            source_ids=inputs.finetuning_set.source_ids,
            values=-risk,
            outcome=outcome.tolist(),
            n_trained_tokens=rows.column("n_trained_tokens"),
            columns={"flagged": flagged},
            details={
                "notes": [PROMPTS_NOTE],
                "distinct_prompts": len(prompts),
                "flagged": int(np.nansum(flagged)),
                "critical_slices": slices.counts(),
                "largest_gap": slices.largest_gap,
                "known_prompts": {
                    name: [own or row for own, row in zip(found.source_ids, found.ids, strict=True)]
                    for name, found in known.items()
                },
            },
        )

    def _known(self, inputs: RankingInputs) -> dict[str, RenderedRows]:
        """Render the known prompts that count."""
        if self.use_sets:
            if inputs.harmful_set is None or inputs.safe_set is None:
                raise ConfigError("use_sets=true needs a --harmful-set and a --safe-set.")
            given = {"harmful_set": inputs.harmful_set, "safe_set": inputs.safe_set}
            places = {name: inputs.rendered(name) for name in given}
            for name, found in places.items():
                found.check_usable(name)
            sides = [prompts_of(rows, places[name].id_order)[0] for name, rows in given.items()]
        else:
            anchors = shipped_anchors() if self.anchors is None else load_anchors(self.anchors)
            sides = [prompts_of(rows, range(len(rows)))[0]
                     for rows in (anchors.refused, anchors.answered)]  # fmt: skip
        return {
            name: self._counting(self._rendered(inputs, side), f"the known {name} prompts")
            for name, side in zip(("unsafe", "safe"), sides, strict=True)
        }

    def _counting(self, rows: RenderedRows, name: str) -> RenderedRows:
        """Return the known prompts of one side that count."""
        rows.check_usable(name)
        chosen = rows.id_order[: self.prompts_per_side].tolist()
        return RenderedRows.from_rows(
            ((rows[index], rows.source_ids[index], False) for index in chosen), rows.facts
        )

    def _rendered(self, inputs: RankingInputs, prompts: Examples) -> RenderedRows:
        """Render prompts with "Sure"; prompts of usable rows fit, known ones are cut to fit."""
        assert inputs.model is not None, "checked before"
        room = max(TARGET_TOKENS, inputs.render.max_response_tokens)
        changes = {"train_on": "last", "on_too_long": "truncate", "max_response_tokens": room}
        return inputs.model.renderings.render(prompts, inputs.render.model_copy(update=changes))

    def _refuse_none(self, slices: FoundSlices) -> None:
        """Refuse where there is nothing to compare."""
        if len(slices):
            return
        if np.isnan(slices.largest_gap):
            raise ConfigError(
                "the gradients of the known prompts are not numbers. Load the model in float32 "
                "(--dtype float32)."
            )
        raise ConfigError(
            f"none of the {slices.n_slices} rows and columns of the weights has a gap of cosines "
            f"above threshold={self.threshold:g} between unsafe and safe prompts: the largest is "
            f"{slices.largest_gap:.2f}. Set threshold below that, a smaller prompts_per_side, or "
            "give other prompts."
        )
