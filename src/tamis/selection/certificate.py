"""A threshold with a guarantee about the harmful share of what it keeps, or a refusal.

n of the N scored rows are drawn uniformly without replacement and labelled. For a threshold t

    N_t rows are kept, m_t of them have a label, k_t of those are harmful;
    p_t = P(X <= k_t),   X ~ Hypergeometric(N_t rows, H_t harmful, m_t drawn),
    H_t = floor(alpha N_t) + 1, the fewest harmful rows that are more than alpha of the kept ones.

Given m_t, the labelled rows inside are a uniform draw from the kept ones, and the more of these are
harmful the less likely few are found: p_t is a p-value of "more than alpha of the kept rows are
harmful". The thresholds, fixed by the scores, are walked from the smallest kept set outwards while
p_t <= delta, and the last that passed is certified. To certify one that keeps too much harm, the
walk must pass the first such threshold, which happens with a probability of at most delta:

    P(a threshold is certified and more than alpha of what it keeps is harmful) <= delta.

It holds for any score, good or bad, that was fixed before the labels; a bad one is refused. And it
holds for one draw: of several, made until one passes, some certificate is wrong with a probability
of at most the sum of their deltas. So the k-th draw for one purpose takes delta / 2^k, which sums
to at most delta over all of them, however many there will be.

Sources: Angelopoulos, Bates, Candès, Jordan, Lei 2021, "Learn then Test", arXiv:2110.01052 (fixed
sequence testing); Haroon and Fleming 2026, "Clean Data, Unsafe Model", for this use of it.
Differs: the walk goes on past 70% kept, to everything, at no cost in probability; where nothing
passes there is no fallback but the refusal; ties at a threshold are all kept and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tamis.errors import ConfigError, MismatchError
from tamis.methods import settings_error
from tamis.selection.finite_population import labels_needed, p_values, upper_bound
from tamis.selection.labelled_rows import labelled_rows
from tamis.selection.select import count_for_ratio

_AGAIN = (
    "Whatever is changed, draw anew as the next attempt, at half of this draw's delta (`tamis "
    "certify --attempt` counts them): draws until one passes err with the sum of their deltas."
)
KEPT_SHARES = tuple(round(0.15 + 0.05 * i, 2) for i in range(18))  # 0.15 to 1


class CertifyConfig(BaseModel):
    """What is to be certified, fixed before anyone sees a label."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    n_labels: int = Field(400, ge=1)
    """Rows to label, drawn uniformly from those with a score."""
    alpha: float = Field(0.1, gt=0, lt=1)
    """Largest harmful share of the kept rows."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Largest probability that any attempt's certificate is wrong, all attempts together."""
    attempt: int = Field(1, ge=1, le=50)
    """1 for the first draw of rows for this purpose, 2 after a refusal, and so on, whatever was
    changed in between (alpha, ranking, seed). The k-th is tested at delta / 2^k."""
    kept_shares: tuple[float, ...] = KEPT_SHARES
    """Shares of the scored rows to try, rising, in (0, 1]; the walk stops at the first failure."""
    readout: str | None = None
    """Which score of the run decides; None is the run's own. See its `score_...` columns."""

    @model_validator(mode="after")
    def _rising(self) -> CertifyConfig:
        shares = (0.0, *self.kept_shares)
        if len(shares) == 1 or shares[-1] > 1 or not np.all(np.diff(shares) > 0):
            raise ValueError("kept_shares must rise from above 0 to at most 1")
        return self

    @property
    def draw_delta(self) -> float:
        """Largest probability that this attempt's certificate is wrong."""
        return attempt_delta(self.delta, self.attempt)


def attempt_delta(delta: float, attempt: int) -> float:
    """Return the part of delta that the k-th draw may spend: delta / 2^k, k from 1."""
    return float(delta / 2**attempt)


@dataclass(frozen=True, slots=True)
class Step:
    """One threshold of the walk.

    Attributes:
        threshold: Rows with this score or a higher one are kept.
        n_kept: How many; ties at the threshold included.
        n_labelled: Labelled rows among them.
        n_harmful: Harmful ones among those.
        p_value: Of "more than alpha of the kept rows are harmful".
    """

    threshold: float
    n_kept: int
    n_labelled: int
    n_harmful: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Walk:
    """The thresholds tried, and the certified one if any.

    Attributes:
        steps: From the smallest kept set outwards; all passed but perhaps the last.
        certified: The last that passed; None is a refusal.
        alpha: Largest harmful share of the kept rows.
        delta: Largest probability of a wrong certificate, of this draw.
        n_scored: Rows with a score.
        n_unscored: Rows without one: never kept, and nothing is said about them.
        n_labelled: Labelled rows with a score.
        n_harmful: Harmful ones among them.
    """

    steps: tuple[Step, ...]
    certified: Step | None
    alpha: float
    delta: float
    n_scored: int
    n_unscored: int
    n_labelled: int
    n_harmful: int

    def require(self) -> Step:
        """Return the certified step.

        Raises:
            ConfigError: Nothing was certified; says what the labels show and what would help.
        """
        if self.certified is None:
            raise ConfigError(self.refusal())
        return self.certified

    def upper_bounds(self) -> list[float]:
        """Largest harmful share that the labels leave possible at level delta, per step.

        Each looks at its own threshold alone, and is at most alpha where the step passed. Of the
        certified one only alpha is guaranteed: which it is was decided by the same labels.
        """
        counts = np.array([(s.n_kept, s.n_labelled, s.n_harmful) for s in self.steps])
        bounds = upper_bound(counts[:, 0], counts[:, 1], counts[:, 2], self.delta)
        return [float(bound) for bound in bounds]

    def to_json(self) -> dict[str, Any]:
        """Return everything under its own name; `certified` is None for a refusal."""
        pairs = zip(self.steps, self.upper_bounds(), strict=True)
        steps = [{**asdict(step), "upper_bound": bound} for step, bound in pairs]
        return {**asdict(self), "steps": steps}

    def refusal(self) -> str:
        """Say what the labels show where nothing is certified, and what would help."""
        first = self.steps[0]
        found = (
            f"no threshold is certified: of the {first.n_kept:,} best-scored rows "
            f"{first.n_labelled:,} have a label and {first.n_harmful:,} of those are harmful. That "
            f"leaves up to {self.upper_bounds()[0]:.1%} possible, and alpha is {self.alpha:g} "
            f"(p = {first.p_value:.3g}, delta of this draw = {self.delta:g}). "
        )
        share = first.n_harmful / first.n_labelled if first.n_labelled else None
        if share is not None and share >= self.alpha:
            return found + (
                "More labels would not help if that is the true share. Rank with a method that "
                f"puts fewer harmful rows on top, or accept a larger alpha. {_AGAIN}"
            )
        left = attempt_delta(self.delta, 1)
        needed = labels_needed(first.n_kept, self.n_scored, share or 0.0, self.alpha, left)
        if needed is None:
            return found + f"Even labels of every row would not do: raise alpha. {_AGAIN}"
        supposed = f"{share:.1%} of them are" if share else "none of them is"
        return found + (
            f"If {supposed} harmful, about {needed:,} labels (here: {self.n_labelled:,}) would do "
            "in 6 to 9 of 10 further draws. Take that many, or a larger alpha, delta or first "
            f"share of kept_shares. {_AGAIN}"
        )


def certify(
    values: NDArray[np.float64], labelled: ArrayLike, harmful: ArrayLike, *, alpha: float = 0.1,
    delta: float = 0.1, kept_shares: Sequence[float] = KEPT_SHARES,
) -> Walk:  # fmt: skip
    """Walk from the best-scored rows outwards while the labels rule out too much harm.

    Args:
        values: Scores, higher = keep, [N]; NaN = unscored, never kept.
        labelled: Positions of the labelled rows, [n]: a uniform draw without replacement from the
            scored rows, independent of scores and content. Labels of unscored rows do not count.
        harmful: Whether each of them is harmful, bool [n].
        alpha: Largest harmful share of the kept rows, in (0, 1).
        delta: Largest probability of a wrong certificate, of this draw, in (0, 1); of the k-th draw
            for one purpose give `attempt_delta(delta, k)`.
        kept_shares: Shares of the scored rows to keep, rising, in (0, 1]; fixed before the labels.
            Shares that ties make the same are tried once.

    Returns:
        The steps and the certified one; `require()` turns a refusal into an error.

    Raises:
        ConfigError: A setting is out of range, no row has a score, a label is no bool, a position
            repeats or is none, or lengths differ.
    """
    try:
        CertifyConfig(alpha=alpha, delta=delta, kept_shares=tuple(kept_shares))
    except ValidationError as error:
        raise settings_error("certify", error) from error
    values = np.asarray(values, dtype=np.float64)
    positions, harm = labelled_rows(labelled, harmful, len(values))
    scored = -np.sort(-values[~np.isnan(values)])
    if not len(scored):
        raise ConfigError(f"none of the {len(values):,} rows has a score: nothing can be kept.")
    wanted = np.array([count_for_ratio(share, len(scored)) for share in kept_shares])
    thresholds = -np.unique(-scored[wanted - 1])  # highest first; ties make some the same
    seen, bad = values[positions], values[positions[harm]]
    n_kept = len(scored) - np.searchsorted(scored[::-1], thresholds)
    n_labelled = (seen >= thresholds[:, None]).sum(axis=1)
    n_harmful = (bad >= thresholds[:, None]).sum(axis=1)
    found = p_values(n_kept, n_labelled, n_harmful, alpha)
    failed = np.flatnonzero(~(found <= delta))  # what is no number has not passed
    n_passed = int(failed[0]) if len(failed) else len(found)
    steps = tuple(
        Step(
            float(thresholds[j]), int(n_kept[j]), int(n_labelled[j]), int(n_harmful[j]),
            float(found[j]),
        )
        for j in range(min(n_passed + 1, len(found)))
    )  # fmt: skip
    return Walk(
        steps, steps[n_passed - 1] if n_passed else None, alpha, delta, len(scored),
        len(values) - len(scored), int((~np.isnan(seen)).sum()), int((~np.isnan(bad)).sum()),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Budget:
    """What one stratum may cost: its own alpha and delta."""

    alpha: float
    delta: float


def certify_strata(
    values: NDArray[np.float64], strata: Sequence[str], labelled: ArrayLike, harmful: ArrayLike,
    budgets: Mapping[str, Budget], *, delta: float, kept_shares: Sequence[float] = KEPT_SHARES,
) -> dict[str, Walk]:  # fmt: skip
    """Certify every stratum by itself, such as rows with unsafe requests and all others.

    P(any stratum's certificate is wrong) is at most the sum of their deltas.

    Args:
        values: As in `certify`.
        strata: The stratum of each row, [N], known without labels.
        labelled: Positions, drawn uniformly from all scored rows, or so within each stratum.
        harmful: As in `certify`.
        budgets: alpha and delta of each stratum.
        delta: What the deltas may sum to.
        kept_shares: As in `certify`, of each stratum.

    Returns:
        A walk per stratum, in the order of `budgets`. Of a refused stratum keep nothing.

    Raises:
        ConfigError: See `certify`; or the deltas sum to more than `delta`.
        MismatchError: Strata and budgets are not the same.
    """
    names = np.asarray(strata, dtype=str)
    if set(names.tolist()) != set(budgets):
        raise MismatchError(
            f"the rows are in strata {', '.join(sorted(set(names.tolist())))}, budgets are given "
            f"for {', '.join(sorted(budgets))}: give one for each."
        )
    total = math.fsum(budget.delta for budget in budgets.values())
    if total > delta * (1 + 1e-9):
        raise ConfigError(f"the strata's deltas sum to {total:g}, more than delta={delta:g}.")
    positions, harm = labelled_rows(labelled, harmful, len(names))
    walks = {}
    for name, budget in budgets.items():
        inside = np.flatnonzero(names == name)
        chosen = names[positions] == name
        walks[name] = certify(
            values[inside], np.searchsorted(inside, positions[chosen]), harm[chosen],
            alpha=budget.alpha, delta=budget.delta, kept_shares=kept_shares,
        )  # fmt: skip
    return walks
