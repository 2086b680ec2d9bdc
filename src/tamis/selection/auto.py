"""The default ranking: signals that err in different places, fused by their ranks.

    share_s(i) = midrank of row i under signal s / n,    score_i = sum_s w_s share_s(i) / sum_s w_s

- `contrast` reads off hidden states whether the request is unsafe and the answer complies;
- `excess` asks whether training on safe rows made the row harder to predict.

Neither sees the other's mistakes: excess losses suffer from domains the safe set lacks, contrast
from topics that sound like the anchors'. The weights were fixed on measurements made before this
file (docs/methods.md); with a labelled trusted set they are learned from it instead. What each
signal thinks of a row is kept beside its score.

Source: ours; rank aggregation is textbook (Borda counts).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tamis.methods import build_method
from tamis.methods.base import Method, RankingInputs, check_inputs
from tamis.methods.scores import Scores
from tamis.selection.fuse import learned_weights, rank_mean, shares


class Signal(Method):
    """One method that takes part."""

    method: str
    """Its key."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its settings."""
    weight: float = Field(1.0, gt=0)
    """Of its rank shares, where weights are not learned."""


class Auto(Method):
    """Weighted mean of several signals' rank shares (higher = keep).

    Source: ours; see the module's docstring.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model", "safe_set"})

    signals: dict[str, Signal] = Field(
        default_factory=lambda: {
            "contrast": Signal(method="contrast"),
            "excess": Signal(method="excess", weight=0.25),
        },
        min_length=1,
    )
    """What is fused, by a label of your choice."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Run every signal, then fuse.

        Raises:
            ConfigError: A signal lacks an input or cannot tell the sides apart.
        """
        shared = inputs.cache or (None if inputs.work is None else inputs.work / "features")
        built = {name: build_method(s.method, s.options) for name, s in self.signals.items()}
        found: dict[str, Scores] = {}
        for name, method in built.items():
            work = None if inputs.work is None else inputs.work / name
            mine = dataclasses.replace(inputs, work=work, cache=shared)
            check_inputs(method, mine, name)
            found[name] = method.rank(mine)
        ranks = {name: shares(scores.values) for name, scores in found.items()}
        weights = {name: signal.weight for name, signal in self.signals.items()}
        labelled = self._labelled(inputs, ranks)
        if labelled is not None:
            weights = labelled
        used = [name for name in found if weights[name] > 0]
        values = rank_mean([found[name].values for name in used], [weights[name] for name in used])
        rows = inputs.rendered()
        # A signal that reads texts has a score even for a row that no model can be trained on.
        values = np.where(rows.usable, values, np.nan)
        flags = [s.columns["flagged"] for s in found.values() if "flagged" in s.columns]
        return Scores(
            method="auto", ids=rows.ids, source_ids=inputs.finetuning_set.source_ids,
            values=values, outcome=[str(outcome) for outcome in rows.column("outcome")],
            n_trained_tokens=rows.column("n_trained_tokens"),
            columns={
                **{f"score_{name}": scores.values for name, scores in found.items()},
                **{f"share_{name}": values for name, values in ranks.items()},
                **({"flagged": flags[0]} if flags else {}),
            },
            details={
                "weights": weights, "weights_learned": labelled is not None,
                "signals": {name: {key: value for key, value in scores.details.items()
                                   if key != "notes"} for name, scores in found.items()},
                "notes": [f"{name}: {note}" for name, scores in found.items()
                          for note in scores.details.get("notes", ())],
            },
        )  # fmt: skip

    @staticmethod
    def _labelled(inputs: RankingInputs, ranks: dict[str, np.ndarray]) -> dict[str, float] | None:
        """Weights from labelled rows that were ranked and have all signals; None without any.

        Labels of other rows are for signals that learn from them: their ranks are not known.
        """
        if inputs.trusted_set is None or inputs.trusted_harmful is None:
            return None
        place = {row: i for i, row in enumerate(inputs.finetuning_set.ids)}
        pairs = sorted(
            (row, bool(bad))
            for row, bad in zip(inputs.trusted_set.ids, inputs.trusted_harmful, strict=True)
            if row in place and not any(np.isnan(values[place[row]]) for values in ranks.values())
        )
        if not pairs:
            return None
        rows = [place[row] for row, _ in pairs]
        weights = learned_weights(
            [values[rows] for values in ranks.values()], np.array([bad for _, bad in pairs], bool)
        )
        return dict(zip(ranks, weights.tolist(), strict=True))
