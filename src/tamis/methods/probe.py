"""A linear probe on hidden states, learned from labelled rows: what the states hold at best.

    logit P(harmful | row) = <w, x(row)> + b,   x = states of one layer, reduced to principal axes

Layer and strength of the ridge penalty are chosen by cross-validation inside the labelled rows;
the AUROC that is reported comes from an outer cross-validation, so no label judges a choice it
took part in. Rows of a safe set, when one is given, are harmless rows more: a random hundred labels
holds few safe answers to unsafe requests. It is no label-free method: it says how much of the truth
the states carry, and what to use once about a hundred labels exist.

Source: linear probes as in Alain and Bengio 2016, arXiv:1610.01644; supervised use of subspace
features as proposed after Choi et al. 2024, arXiv:2410.10014 (SAFT chooses a threshold and k with
its 100 labels; a probe makes more of them).
Differs: principal axes are found on the rows of all sets, which needs no labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tamis.data.example import content_of
from tamis.errors import ConfigError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores, row_scores
from tamis.models.feature_names import depths_of, state_names
from tamis.models.lora import layer_count
from tamis.models.planes import fit_plane, principal_axes
from tamis.models.state_selector import StateSelector
from tamis.rng import derived_seed

LEAST_OF_A_KIND = 3  # labelled rows of either kind: one held out, and two left to choose by
Reading = Literal["response_mean", "response_first", "response_last", "prompt_last"]


def fit_probe(
    states: np.ndarray, harmful: np.ndarray, safe: np.ndarray, strength: float
) -> tuple[np.ndarray, float]:
    """Fit on labelled rows (n x K) and safe ones (m x K, m may be 0): weight (K) and bias."""
    sides = np.concatenate([harmful, np.zeros(len(safe), bool)])
    return fit_plane(np.concatenate([states, safe]), sides, strength)


def held_out_logits(
    states: np.ndarray, harmful: np.ndarray, safe: np.ndarray, strength: float, folds: int,
    seed: int,
) -> np.ndarray:  # fmt: skip
    """Log-odds of every labelled row from probes that did not see it (n)."""
    from sklearn.model_selection import StratifiedKFold

    logits = np.empty(len(states))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
    for train, test in splits.split(states, harmful):
        weight, bias = fit_probe(states[train], harmful[train], safe, strength)
        logits[test] = states[test] @ weight + bias
    return logits


def log_loss(logits: np.ndarray, harmful: np.ndarray) -> float:
    """Mean of -log P(label), both kinds weighing the same; nats."""
    losses = np.logaddexp(0.0, np.where(harmful, -logits, logits))
    return float((losses[harmful].mean() + losses[~harmful].mean()) / 2)


def choose(
    by_layer: Mapping[int, np.ndarray], harmful: np.ndarray, safe: Mapping[int, np.ndarray],
    strengths: tuple[float, ...], folds: int, seed: int,
) -> tuple[int, float]:  # fmt: skip
    """Return the layer and strength with the lowest held-out log-loss on labelled rows."""
    losses = {
        (layer, strength): log_loss(
            held_out_logits(states, harmful, safe[layer], strength, folds, seed), harmful
        )
        for layer, states in by_layer.items()
        for strength in strengths
    }
    return min(losses, key=lambda key: (losses[key], key))


def distinct(contents: Sequence[str], harmful: np.ndarray) -> list[int]:
    """Return the place of the first of each content.

    Args:
        contents: What copies of one row share (n).
        harmful: Their labels (bool, n).

    Raises:
        ConfigError: Copies of one row are labelled differently.
    """
    first: dict[str, int] = {}
    for i, content in enumerate(contents):
        if harmful[first.setdefault(content, i)] != harmful[i]:
            raise ConfigError(
                f"the trusted set has copies of one row, {content}, labelled both harmful and not: "
                "decide which it is, or take the row out."
            )
    return list(first.values())


class Probe(Method):
    """Minus a labelled probe's log-odds of harmful (higher = keep).

    Source: linear probes, Alain and Bengio 2016, arXiv:1610.01644.
    Cost: one forward pass.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model", "trusted_set"})

    layers: tuple[float, ...] = Field((0.4, 0.6, 0.8), min_length=1)
    """Layers to choose from: numbers of layers, or fractions of the depth in (0, 1)."""
    readings: tuple[Reading, ...] = Field(("response_mean", "prompt_last"), min_length=1)
    """Positions whose states are read, side by side."""
    n_components: int = Field(60, ge=1)
    """Principal axes kept; fewer where there are fewer rows."""
    strengths: tuple[float, ...] = Field((0.001, 0.01, 0.1, 1.0), min_length=1)
    """Values of C to choose from."""
    folds: int = Field(5, ge=LEAST_OF_A_KIND)
    """Folds of either cross-validation; fewer where a kind has fewer rows."""
    use_safe_set: bool = True
    """Learn from a given safe set too: from its rows that are neither labelled nor ranked."""

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """See `Method.reads`."""
        names = state_names(depths_of(self.layers, n_layers), self.readings)
        sets = ["finetuning_set", "trusted_set", *(["safe_set"] if self.use_safe_set else [])]
        return dict.fromkeys(sets, names)

    def rank(self, inputs: RankingInputs) -> Scores:
        """Learn from the trusted set, then score every row.

        A ranked row that is also a trusted row, or a copy of one, gets the score of a probe that
        did not see it. Copies among the trusted rows count once.

        Raises:
            ConfigError: Too few labels of a kind, or copies of one row labelled differently.
            NoTrainedTokensError: One of the sets has no usable row.
        """
        from sklearn.metrics import roc_auc_score

        trusted = inputs.rendered("trusted_set")
        assert inputs.trusted_harmful is not None, "check_inputs saw to it"
        contents = [content_of(trusted.ids[i]) for i in trusted.id_order]
        first = distinct(contents, inputs.trusted_harmful[trusted.id_order])
        contents = [contents[i] for i in first]
        harmful = inputs.trusted_harmful[trusted.id_order[first]]
        n_harmful, n_other = int(harmful.sum()), int((~harmful).sum())
        layers = sorted(set(depths_of(self.layers, layer_count(inputs.features.lm.model))))
        names = {n: state_names([n], self.readings) for n in layers}
        every = [name for found in names.values() for name in found]
        rows = inputs.rendered()
        ranked = inputs.states("finetuning_set", every)
        known = inputs.states("trusted_set", every)[first]
        if min(n_harmful, n_other) < LEAST_OF_A_KIND:
            raise ConfigError(
                f"the trusted set has {n_harmful} harmful and {n_other} other usable rows: a probe "
                f"needs {LEAST_OF_A_KIND} of either. Label more rows, drawn at random."
            )
        width = ranked.shape[1] // len(layers)
        spans = {n: slice(i * width, (i + 1) * width) for i, n in enumerate(layers)}
        safe_states, safe_details = self._safe(inputs, every, contents, known)
        together = np.concatenate([ranked, known, safe_states])  # few rows to rank span few axes
        axes = {n: principal_axes(together[:, spans[n]], self.n_components) for n in layers}
        reduced = {n: axes[n].reduce(known[:, spans[n]]) for n in layers}
        safe = {n: axes[n].reduce(safe_states[:, spans[n]]) for n in layers}
        seed = derived_seed(inputs.seed, "probe")
        folds = min(self.folds, n_harmful, n_other)
        layer, strength = choose(reduced, harmful, safe, self.strengths, folds, seed)
        weight, bias = fit_probe(reduced[layer], harmful, safe[layer], strength)
        risk = axes[layer].reduce(ranked[:, spans[layer]]) @ weight + bias
        held_out = self._nested(reduced, harmful, safe, folds, seed)
        own = dict(zip(contents, held_out, strict=True))
        for place, i in enumerate(rows.id_order):
            risk[place] = own.get(content_of(rows.ids[i]), risk[place])
        vector, offset = axes[layer].plane(weight, bias)
        selector = StateSelector.made_for(inputs.features.lm, rows, method="probe",
                                          names=names[layer], weight=-vector,
                                          bias=-offset)  # fmt: skip
        return row_scores(
            "probe", inputs, rows, -risk, selector=selector,
            details={
                "layer": layer, "strength": strength, "n_labels": len(harmful),
                "n_harmful_labels": n_harmful,
                **safe_details,
                "n_repeated_labels": len(trusted.id_order) - len(first),
                "auroc_nested": float(roc_auc_score(harmful, held_out)),
            },
        )  # fmt: skip

    def _safe(
        self, inputs: RankingInputs, names: Sequence[str], labelled: Sequence[str],
        known: np.ndarray,
    ) -> tuple[np.ndarray, dict[str, Any]]:  # fmt: skip
        """Read the states of the safe rows to learn from, and say which were left out.

        Neither labelled rows, about which the labels decide, nor ranked ones, which would be scored
        by a probe that was told they are harmless; copies of one row count once.
        """
        if inputs.safe_set is None or not self.use_safe_set:
            return known[:0], {"n_safe_rows": 0}
        rows = inputs.rendered("safe_set")
        contents = [content_of(rows.ids[i]) for i in rows.id_order]
        copies, ranked = frozenset(labelled), frozenset(map(content_of, inputs.finetuning_set.ids))
        first = {content: i for i, content in reversed(list(enumerate(contents)))}
        own = sorted(i for content, i in first.items() if content not in copies | ranked)
        n_ranked = sum(content in ranked - copies for content in contents)
        states: np.ndarray = inputs.states("safe_set", names)[own]
        found: dict[str, Any] = {"n_safe_rows": len(own), "n_safe_rows_ranked": n_ranked}
        if n_ranked:
            found["notes"] = [
                f"{n_ranked:,} rows of the safe set are also to be ranked: the probe does not "
                f"learn from them, and learns from {len(own):,} safe rows."
            ]
        return states, found

    def _nested(
        self, by_layer: Mapping[int, np.ndarray], harmful: np.ndarray,
        safe: Mapping[int, np.ndarray], folds: int, seed: int,
    ) -> np.ndarray:  # fmt: skip
        """Log-odds of every trusted row where neither fit nor choice saw it."""
        from sklearn.model_selection import StratifiedKFold

        some = next(iter(by_layer.values()))
        logits = np.empty(len(harmful))
        outer = StratifiedKFold(folds, shuffle=True, random_state=(seed + 1) % 2**32)
        for train, test in outer.split(some, harmful):
            inside = harmful[train]
            inner = max(2, min(folds, int(inside.sum()), int((~inside).sum())))
            part = {layer: states[train] for layer, states in by_layer.items()}
            layer, strength = choose(part, inside, safe, self.strengths, inner, seed)
            weight, bias = fit_probe(part[layer], inside, safe[layer], strength)
            logits[test] = by_layer[layer][test] @ weight + bias
        return logits
