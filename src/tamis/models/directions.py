"""Directions of activation space: what is taken out before, and which side is the harmful one.

No labels are used. Rows projected on a direction (p, one value per row) are oriented by one of:

    skewness   the long tail is the minority, and the minority harmful. Two normal groups of shares
               lam and 1 - lam, D within-group standard deviations apart, give
               E p^3 = lam (1-lam) (1-2 lam) D^3
    safe_set   trusted rows lie on the safe side of the mean of all rows

Each has a margin in standard errors. What is below the margin asked for has no sign: chance, or
groups of equal size, would decide.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tamis.errors import ConfigError

Rule = Literal["auto", "skewness", "safe_set"]
LEAST_ROWS = 4  # what the error of a skewness needs
LEAST_SHARE = 1e-10  # of the largest eigenvalue: below, float32 states hold rounding only
LEAST_SCALE = 0.01  # what is constant in a few safe rows need not be so elsewhere


def centre(activations: Tensor) -> Tensor:
    """Z = E - mean(E) (n x D)."""
    return activations - activations.mean(0)


def nuisance_fit(activations: Tensor, nuisances: Tensor) -> Tensor:
    """Least squares of activations (n x D) on [1, nuisances] (n x Q): B (1+Q x D)."""
    design = torch.nn.functional.pad(nuisances, (1, 0), value=1.0)
    fitted: Tensor = torch.linalg.lstsq(design, activations, driver="gelsd").solution
    return fitted  # gelsd copes with columns that depend on each other


def residualise(activations: Tensor, nuisances: Tensor, fitted: Tensor) -> Tensor:
    """R = E - [1, nuisances] B (n x D); on the rows of the fit, orthogonal to 1 and to each."""
    return activations - torch.nn.functional.pad(nuisances, (1, 0), value=1.0) @ fitted


def without_nuisances(sets: Sequence[tuple[Tensor, Tensor]], fitted_on: int = 0) -> list[Tensor]:
    """Take what nuisances explain out of several sets of rows, and the first set's mean.

    Args:
        sets: Activations (n x D) and nuisances (n x Q) of each.
        fitted_on: The set that tells what nuisances do. Where rows differ in harm that goes with a
            nuisance, a fit on them would take that out too: fit on rows without harm.
    """
    fitted = nuisance_fit(*sets[fitted_on])
    left = [residualise(activations, nuisances, fitted) for activations, nuisances in sets]
    return [one - left[0].mean(0) for one in left]


def whitening(reference: Tensor, rows: Tensor) -> Tensor:
    """W such that reference @ W (m x D) has about the identity as covariance (D x D).

    W = S^-1 C^(-1/2): S the dimensions' standard deviations, C the correlations, shrunk towards the
    identity. Correlations, for shrinkage presumes a common scale, and a few dimensions of a model's
    states are a thousand times as wide as the others.

    Args:
        reference: Rows whose spread is of no interest (m x D).
        rows: The rows to be whitened (n x D); no dimension counts as narrower than LEAST_SCALE of
            its standard deviation here.

    Raises:
        ConfigError: The reference rows are all alike.

    Source: shrinkage of Ledoit and Wolf 2004, as in scikit-learn; regular also when m < D.
    """
    from sklearn.covariance import LedoitWolf

    if reference.std(0).max() <= LEAST_SHARE**0.5 * rows.std(0).max():
        raise ConfigError(
            f"the {len(reference)} safe rows all have the same state: no spread to whiten "
            "by. Set whiten=false, or take another reading."
        )
    scale = torch.maximum(reference.std(0), LEAST_SCALE * rows.std(0))
    scale = scale.clamp(min=LEAST_SHARE**0.5 * scale.max())
    covariance = torch.from_numpy(LedoitWolf().fit((reference / scale).numpy()).covariance_)
    values, vectors = torch.linalg.eigh(covariance)
    roots = values.clamp(min=LEAST_SHARE * values.max()).sqrt()
    whitener: Tensor = (vectors / roots) @ vectors.T / scale[:, None]
    return whitener


def right_singular_vectors(centred: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return v_1..v_k (D x k) and all variances s_j^2 / n, falling, of Z (n x D)."""
    n, width = centred.shape
    if n < width:
        _, singular, transposed = torch.linalg.svd(centred, full_matrices=False)
        return transposed[:k].T, singular**2 / n
    values, vectors = torch.linalg.eigh(centred.T @ centred / n)
    return vectors.flip(1)[:, :k], values.flip(0).clamp(min=0)  # rounding can make 0 negative


def gap_notes(variances: Tensor, n: int, about: int | None = None) -> list[str]:
    """Name directions whose variance is within two standard errors of the next one's.

    The error of a variance of n normal values is its sqrt(2 / n). With `about`, only the pairs
    that this direction (from 1) belongs to.
    """
    return [
        f"Directions {j + 1} and {j + 2} have nearly the same variance: other rows would mix them."
        for j, (one, following) in enumerate(itertools.pairwise(variances.tolist()))
        if one - following < 2 * one * math.sqrt(2 / n) and about in (None, j + 1, j + 2)
    ]


def skewness(values: Tensor) -> float:
    """Third central moment over sd^3 (n); positive: the long tail, the minority, is above."""
    z = (values - values.mean()) / values.std(correction=0)
    return float((z**3).mean())


def skewness_error(values: Tensor) -> float:
    """Standard error of the skewness (n > 3): the larger of two.

    For normal values it is sqrt(6 n (n-1) / ((n-2) (n+1) (n+3))); for any, sd(IF) / sqrt(n) with
    the influence IF = z^3 - 3 z - g (1.5 (z^2 - 1) + 1), g the skewness. The second keeps a few
    outliers, which activations have, from passing for a minority.
    """
    n = len(values)
    z = (values - values.mean()) / values.std(correction=0)
    influence = z**3 - 3 * z - (z**3).mean() * (1.5 * (z**2 - 1) + 1)
    normal = math.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))
    return max(normal, float(influence.std(correction=0)) / math.sqrt(n))


def safe_margin(projection: Tensor, safe: Tensor) -> float:
    """(mean of the rows - mean of the safe rows) / its standard error; positive: harmful above."""
    error = projection.var() / len(projection) + safe.var() / len(safe)
    return float((projection.mean() - safe.mean()) / error.sqrt())


@dataclasses.dataclass(frozen=True)
class Orientation:
    """What is known of a direction's sides.

    Attributes:
        sign: Side of the harmful rows, 1 or -1; 0 where it is not known.
        rule: What `margin` is of, "safe_set" or "skewness".
        margin: Standard errors between the two sides, >= 0.
        skewness: Of the projection.
        skewness_error: Its standard error.
        safe_margin: Signed; None without safe rows.
    """

    sign: int
    rule: str
    margin: float
    skewness: float
    skewness_error: float
    safe_margin: float | None

    def __str__(self) -> str:
        parts = [f"skewness {self.skewness:.2f} +- {self.skewness_error:.2f}"]
        if self.safe_margin is not None:
            parts.append(f"safe set {abs(self.safe_margin):.1f} standard errors off")
        return ", ".join(parts)

    @property
    def sureness(self) -> tuple[bool, bool, float]:
        """What directions are compared by: a sign at all, the safe set's word, the margin."""
        return self.sign != 0, self.rule == "safe_set", self.margin

    @property
    def disputed(self) -> bool:
        """Whether the safe set decided against a skewness of three standard errors."""
        return self.rule == "safe_set" and self.skewness * self.sign < -3 * self.skewness_error


def orient(
    projection: Tensor, safe: Tensor | None = None, *, rule: Rule = "auto", min_margin: float = 3.0
) -> Orientation:
    """Find the harmful side of a direction.

    Args:
        projection: Of the rows (n).
        safe: Of the safe rows (m, at least 2); None without.
        rule: Which rule; auto takes the safe set where its margin is enough, else skewness.
        min_margin: Least margin of a sign, in standard errors.
    """
    skew, error = skewness(projection), skewness_error(projection)
    anchor = None if safe is None else safe_margin(projection, safe)
    enough = anchor is not None and abs(anchor) >= min_margin
    use_safe_set = anchor is not None and (rule == "safe_set" or (rule == "auto" and enough))
    found = anchor if use_safe_set and anchor is not None else skew / error
    sign = (found > 0) - (found < 0) if abs(found) >= min_margin else 0
    used = "safe_set" if use_safe_set else "skewness"
    return Orientation(sign, used, abs(found), skew, error, anchor)


def surest(found: Sequence[Orientation]) -> Orientation:
    """Choose the direction whose side is known best, from v_1 on.

    Where the safe set tells of none it is v_1: among many directions, the long tail of one or the
    other is some harmless topic.
    """
    told = [one for one in found if one.rule == "safe_set"]
    return max(told or found[:1], key=lambda one: one.sureness)


def orientation_notes(found: Orientation, number: int) -> list[str]:
    """Say what is doubtful about the side of direction `number` (from 1)."""
    if found.rule == "skewness":
        return [
            f"Direction {number}: the side is that of the long tail ({found}), which no safe set "
            "has confirmed. Any rare kind of row has a tail: check some rows, or give a safe set."
        ]
    if not found.disputed:
        return []
    return [
        f"Direction {number}: the safe set names another side than the skewness ({found}); the "
        "safe set decided. Either harmful rows are the majority along it, or the safe set differs "
        "from the harmless rows in more than safety."
    ]
