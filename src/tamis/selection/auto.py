"""The default ranking: signals that err in different places, fused.

    z_s(i)  = (score_s(i) - median_s) / (1.4826 MAD_s)           how far row i is from most rows
    score_i = sum_s w_s z_s(i) / sum_s w_s  over judges  +  sum_c w_c max(0, z_c(i))  over the rest

Harm is three things at once: the request is unsafe, the answer complies, and learning it works
against safe answers. So a second signal may clear a row that the first one accuses, and needs not
accuse by itself:

- `contrast` judges: it reads off hidden states whether the request is unsafe and the answer
  complies;
- `excess`, its noise averaged out (`amortized`), only clears: a row that training on safe answers
  makes easier to predict than most rows does not work against them. The other way round it says
  little, since rows of a kind that the safe set lacks become harder too.

With a labelled trusted set, weights of the signals' rank shares are learned from it instead. What
each signal says of a row is kept beside its score.

Source: ours; docs/LOG.md has what the settings were chosen on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tamis.data.rendered import USABLE_OUTCOMES
from tamis.data.strata import centred
from tamis.methods import build_method, merged_reads, reads_of
from tamis.methods.base import Method, RankingInputs, check_inputs
from tamis.methods.scores import Scores
from tamis.selection.fuse import LEAST_OF_A_KIND, evidence, learned_weights, rank_mean, shares


class Signal(Method):
    """One method that takes part."""

    method: str
    """Its key."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its settings."""
    weight: float = Field(1.0, gt=0)
    """Where weights are not learned."""
    only_clears: bool = False
    """Count it only where it speaks for a row (fusion by evidence)."""


class Auto(Method):
    """Several signals in one score (higher = keep).

    Source: ours.
    Cost: that of its signals; of `contrast` and amortised `excess` by default.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model", "safe_set"})

    signals: dict[str, Signal] = Field(
        default_factory=lambda: {
            "contrast": Signal(method="contrast"),
            "excess": Signal(
                method="amortized", options={"teacher": "excess"}, weight=0.5, only_clears=True
            ),
        },
        min_length=1,
    )
    """What is fused, by a label of your choice."""
    fusion: Literal["evidence", "ranks"] = "evidence"
    """By robust z-scores, or the weighted mean of rank shares (where `only_clears` has no say)."""

    @model_validator(mode="after")
    def _someone_judges(self) -> Auto:
        if all(signal.only_clears for signal in self.signals.values()):
            raise ValueError("every signal has only_clears=true: one at least must judge")
        return self

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`."""
        built = [build_method(one.method, one.options) for one in self.signals.values()]
        return merged_reads([reads_of(method, n_layers) for method in built])

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
        labelled, said = self._labelled(inputs, ranks)
        rows = inputs.rendered()
        notes = [f"{name}: {note}" for name, scores in found.items()
                 for note in scores.details.get("notes", ())] + said  # fmt: skip
        flagged = None
        if labelled is not None or self.fusion == "ranks":
            weights = labelled or weights
            used = [name for name in found if weights[name] > 0]
            values = rank_mean([found[n].values for n in used], [weights[n] for n in used])
            notes += self._holes({name: found[name] for name in used}, rows.usable)
            columns = {f"share_{name}": share for name, share in ranks.items()}
        else:
            values, columns = self._evidence(found)
            notes += self._never_cleared(found, rows.usable)
            threshold = self._threshold(found)
            if threshold is not None:
                flagged = np.where(np.isnan(values), np.nan, values < threshold)
                notes.append(self._flags(found, flagged))
        # A signal that reads texts has a score even for a row that no model can be trained on.
        values = np.where(rows.usable, values, np.nan)
        outcome = self._outcomes(found, values, [str(each) for each in rows.column("outcome")])
        return Scores(
            method="auto", ids=rows.ids, source_ids=inputs.finetuning_set.source_ids,
            values=values, outcome=outcome,
            n_trained_tokens=rows.column("n_trained_tokens"),
            columns={
                **{f"score_{name}": scores.values for name, scores in found.items()},
                **columns,
                **({} if flagged is None else {"flagged": flagged}),
            },
            details={
                "fusion": "learned" if labelled is not None else self.fusion,
                "weights": weights, "weights_learned": labelled is not None,
                **({} if flagged is None else {"flagged": int(np.nansum(flagged))}),
                "signals": {name: {key: value for key, value in scores.details.items()
                                   if key != "notes"} for name, scores in found.items()},
                "notes": notes,
            },
        )  # fmt: skip

    def _evidence(self, found: Mapping[str, Scores]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Fuse z-scores; returns the score and what every signal adds to it."""
        total = sum(signal.weight for signal in self.signals.values() if not signal.only_clears)
        parts = {
            f"evidence_{name}": evidence(found[name].values, only_clears=signal.only_clears)
            * (signal.weight if signal.only_clears else signal.weight / total)
            for name, signal in self.signals.items()
        }  # fmt: skip
        return np.sum(list(parts.values()), axis=0), parts

    def _outcomes(
        self, found: Mapping[str, Scores], values: np.ndarray, outcome: list[str]
    ) -> list[str]:
        """Say why a row has no score: what its rendering says, or a signal, judges first."""
        judges_first = sorted(self.signals, key=lambda name: self.signals[name].only_clears)
        for i in np.flatnonzero(np.isnan(values)).tolist():
            why = [found[n].outcome[i] for n in judges_first if np.isnan(found[n].values[i])]
            said = (each for each in (outcome[i], *why) if each not in USABLE_OUTCOMES)
            outcome[i] = next(said, "unscored")
        return outcome

    @staticmethod
    def _holes(found: Mapping[str, Scores], usable: np.ndarray) -> list[str]:
        """Count the rows that a signal of a mean of ranks has no score for."""
        silent = {name: int((np.isnan(scores.values) & usable).sum())
                  for name, scores in found.items()}  # fmt: skip
        return [f"{name} has no score for {n:,} rows: theirs is that of the other signals alone."
                for name, n in silent.items() if n]  # fmt: skip

    def _never_cleared(self, found: Mapping[str, Scores], usable: np.ndarray) -> list[str]:
        """Count the rows for which a clearing signal has no score, and so no say."""
        silent = {name: int((np.isnan(found[name].values) & usable).sum())
                  for name, signal in self.signals.items() if signal.only_clears}  # fmt: skip
        return [f"{name} has no score for {n} rows and clears none of them."
                for name, n in silent.items() if n]  # fmt: skip

    def _threshold(self, found: Mapping[str, Scores]) -> float | None:
        """Put the only judge's threshold on the scale of the fused score; None without one.

        What it flags and nothing clears is flagged: no more rows than it flags alone.
        """
        judges = [name for name, signal in self.signals.items() if not signal.only_clears]
        threshold = found[judges[0]].details.get("threshold")
        if len(judges) > 1 or threshold is None:
            return None
        middle, spread = centred(found[judges[0]].values)
        return float((threshold - middle) / spread)

    def _flags(self, found: Mapping[str, Scores], flagged: np.ndarray) -> str:
        """Say how many rows are flagged, and how many harmless ones that aims at."""
        judge = next(name for name, signal in self.signals.items() if not signal.only_clears)
        rate = found[judge].details.get("false_positive_rate")
        n, aim = int(np.nansum(flagged)), "" if rate is None else (
            f": {judge} aims at {rate:.1%} of rows like the safe set's"
        )  # fmt: skip
        scored = int((~np.isnan(flagged)).sum())
        share = f"{n / scored:.1%} of the {scored:,} scored" if scored else "none is scored"
        return f"{n:,} rows ({share}) are flagged{aim}."

    @staticmethod
    def _labelled(
        inputs: RankingInputs, ranks: dict[str, np.ndarray]
    ) -> tuple[dict[str, float] | None, list[str]]:
        """Weights from labelled rows that were ranked and have all signals; None with too few.

        Labels of other rows are for signals that learn from them: their ranks are not known. A
        note says why labels that were given weigh nothing: all signals have run by now.
        """
        if inputs.trusted_set is None or inputs.trusted_harmful is None:
            return None, []
        place = {row: i for i, row in enumerate(inputs.finetuning_set.ids)}
        pairs = sorted(
            (row, bool(bad))
            for row, bad in zip(inputs.trusted_set.ids, inputs.trusted_harmful, strict=True)
            if row in place and not any(np.isnan(values[place[row]]) for values in ranks.values())
        )
        harmful = np.array([bad for _, bad in pairs], bool)
        if min(harmful.sum(), (~harmful).sum()) < LEAST_OF_A_KIND:
            return None, [
                f"of the {len(inputs.trusted_set):,} labels {int(harmful.sum()):,} are of harmful "
                f"and {int((~harmful).sum()):,} of other ranked rows with all signals; to learn "
                f"weights {LEAST_OF_A_KIND} of either are needed: the weights are the given ones."
            ]
        rows = [place[row] for row, _ in pairs]
        learned = learned_weights([values[rows] for values in ranks.values()], harmful)
        weights = dict(zip(ranks, learned.tolist(), strict=True))
        said = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
        return weights, [
            f"weights of rank shares were learned from {int(harmful.sum()):,} harmful and "
            f"{int((~harmful).sum()):,} other labelled rows: {said}. The given weights, fusion and "
            "only_clears have no say, and no row is flagged."
        ]
