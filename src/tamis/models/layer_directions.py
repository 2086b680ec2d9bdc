"""What every layer tells of the harmful direction, and the layer to believe: no labels are used.

A layer's directions are oriented one by one (`tamis.models.directions`). Two tests say whether the
surest of them is harm at all: what harm does to the states shows in every layer, so the layers'
rankings must agree; and known anchors, unsafe requests with bare compliant openings, must lie on
the harmful side of the safe rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from tamis.errors import ConfigError
from tamis.models.directions import (
    LEAST_SHARE,
    Orientation,
    Rule,
    centre,
    orient,
    right_singular_vectors,
    surest,
    whitening,
    without_nuisances,
)


def signed_scores(projections: Tensor, signs: Tensor) -> Tensor:
    """risk_i = sum_j sgn_j p_ij / sd_j of projections (n x k); a sign of 0 leaves j out."""
    return (projections / projections.std(0, correction=0) * signs).sum(1)


@dataclasses.dataclass(frozen=True)
class LayerDirections:
    """What one layer tells.

    Attributes:
        depth: The layer.
        projections: p (n x k).
        variances: All of s_j^2 / n, falling.
        removed: Share of the states' variance that the nuisances explain.
        found: The sides of the k directions.
        safe: p of the safe rows (m x k); None without a safe set.
        anchors: p of the complied anchors (a x k); None without them.
    """

    depth: int
    projections: Tensor
    variances: Tensor
    removed: float
    found: Sequence[Orientation]
    safe: Tensor | None = None
    anchors: Tensor | None = None

    @property
    def surest(self) -> Orientation:
        """The direction whose side is known best."""
        return surest(self.found)

    @property
    def signed(self) -> Tensor:
        """The signed risk (n) along that direction; all 0 where its side is not known."""
        signs = [one.sign if one is self.surest else 0 for one in self.found]
        return signed_scores(self.projections, torch.tensor(signs))

    @property
    def anchor_auroc(self) -> float | None:
        """How often an anchor lies beyond a safe row on the harmful side, ties counted half.

        In [0, 1], 1/2 = as often as not; None without anchors, safe rows, or a side.
        """
        if self.safe is None or self.anchors is None or not self.surest.sign:
            return None
        along = self.found.index(self.surest)
        safe, anchors = (self.surest.sign * p[:, along] for p in (self.safe, self.anchors))
        beyond = (anchors[:, None] > safe).double() + (anchors[:, None] == safe).double() / 2
        return float(beyond.mean())


def layer_directions(
    depth: int, sets: Sequence[tuple[Tensor, Tensor]], *, fitted_on: int, whiten: bool,
    n_directions: int, all_of_them: bool, rule: Rule, min_margin: float,
) -> LayerDirections:  # fmt: skip
    """Decompose a layer's states and orient the directions.

    Args:
        depth: The layer.
        sets: Activations (n x D, float64) and nuisances (n x Q) of the rows, then of the safe rows
            and of the anchors where there are any.
        fitted_on: The set that tells what nuisances do, see `without_nuisances`.
        whiten: Divide by the safe set's covariance, where there is one.
        n_directions: k, the most directions.
        all_of_them: Whether fewer are an error.
        rule: What orients a direction, see `orient`.
        min_margin: Least margin of a side.

    Raises:
        ConfigError: The rows differ in too few directions.
    """
    left, *rests = without_nuisances(sets, fitted_on)
    states = sets[0][0]
    removed = 1 - float(left.square().sum() / centre(states).square().sum())
    same = left.square().sum() <= LEAST_SHARE * states.square().sum()
    if rests and whiten and not same:
        whitener = whitening(rests[0], left)
        left, *rests = (one @ whitener for one in (left, *rests))
    vectors, variances = right_singular_vectors(left, n_directions)
    kept = int((variances > LEAST_SHARE * variances[0]).sum())
    k = n_directions if all_of_them else min(kept, n_directions)
    if same:
        raise ConfigError(
            f"after layer {depth} the {len(left)} rows do not differ, or in the nuisances alone "
            "that are taken out: there is no direction. Give rows that differ, or take another "
            "reading."
        )
    if kept < max(k, 1):
        raise ConfigError(
            f"after layer {depth} the {len(left)} rows differ in {kept} directions, fewer than "
            f"n_directions={k}: lower it, give more rows, or take another reading."
        )
    along, *others = (rows @ vectors[:, :k] for rows in (left, *rests))
    pairs = zip(*(one.T for one in (along, *others[:1])), strict=True)
    found = [orient(*pair, rule=rule, min_margin=min_margin) for pair in pairs]
    return LayerDirections(depth, along, variances, removed, found, *others)


def surest_layer(
    tried: Sequence[LayerDirections], min_margin: float, min_agreement: float, min_anchors: float
) -> tuple[LayerDirections, float | None]:
    """Choose a layer without labels, or refuse.

    Args:
        tried: Layers of the same rows, at least one.
        min_margin: What the sides were found with; for the message.
        min_agreement: Least rank correlation of its risk with that of every other layer; a layer
            without a side agrees with none: 0.
        min_anchors: Least `anchor_auroc` of it, where there is one.

    Returns:
        The layer whose surest direction has the surest side, and the least of the correlations
        (Spearman's rho, [-1, 1]; None with one layer).

    Raises:
        ConfigError: No layer knows a side, the layers do not agree, or the anchors lie elsewhere.
    """
    from scipy.stats import spearmanr

    best = max(tried, key=lambda layer: layer.surest.sureness)
    found = "; ".join(f"layer {layer.depth} {layer.surest}" for layer in tried)
    if not best.surest.sign:
        raise ConfigError(
            f"saft finds no direction whose harmful side is known: {found}; min_margin is "
            f"{min_margin:g}. Give a safe set that resembles the harmless rows (--safe-set), more "
            "rows, or another reading or layers."
        )
    others = [layer.signed for layer in tried if layer is not best]
    rhos = [float(spearmanr(best.signed, one).statistic) if one.any() else 0.0 for one in others]
    if min(rhos, default=min_agreement) < min_agreement:
        raise ConfigError(
            f"saft finds no direction that its layers agree on: layer {best.depth} is the surest "
            f"of {found}; its ranking correlates {min(rhos):.2f} with another layer's, and "
            f"min_agreement is {min_agreement:g}. Harmful rows may be few, or the safe set unlike "
            "the harmless rows. Give more rows or another safe set, or take contrast or auto."
        )
    told = best.anchor_auroc
    if told is not None and told < min_anchors:
        raise ConfigError(
            f"saft finds a direction (layer {best.depth}, {best.surest}), but it is not harm: of "
            f"pairs of a complied anchor and a safe row the anchor lies on the harmful side in "
            f"{told:.2f}, and min_anchors is {min_anchors:g}. The safe set may lack a kind of row "
            "that the data have. Give another safe set, or take contrast or auto."
        )
    return best, min(rhos, default=None)
