"""How often a judge prefers a model's answers to those of a named reference, in both orders.

Judges favour a place, often the first. Every prompt is therefore judged twice, with the model's
answer first and with the reference's, and its outcome is

    1    the model is preferred in both orders
    0    the reference is preferred in both orders
    1/2  a tie in both, or the orders differ: inconsistent, a tie, and counted

    win rate = mean outcome = (wins + ties / 2) / n = (1 + d) / 2,    d = (wins - losses) / n

A prompt that is unscored in one order is unscored: the other alone would carry the judge's favour
for a place. Exchanging the two models turns w into 1 - w exactly.

The interval is that of d, Tango's (`score_intervals.py`): without ties it is Wilson's, ties make it
as narrow as they are sure, and it keeps its coverage where wins or losses are rare.

Verdicts are data here: who the judge is, and by which rubric it judged (safety and helpfulness are
two win rates, never one), is the caller's to name. `length_control.py` takes out answer length.

Source: Zheng et al. 2023, arXiv:2306.05685, section 3.4, for both orders and for ties.
Differs: none known. A preference in one order and a tie in the other differ, so they are a tie too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from tamis.evaluation.power import detectable_verdicts
from tamis.evaluation.score_intervals import tango_interval

Place = Literal["first", "second", "tie"]


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """What a judge said about the two answers to one prompt.

    Attributes:
        id: The prompt's id.
        model_first: The preferred place when the model's answer stood first; None if unscored.
        reference_first: The preferred place when the reference's answer stood first.
    """

    id: str
    model_first: Place | None
    reference_first: Place | None

    @property
    def outcome(self) -> float | None:
        """1, 1/2 or 0 as at the top of this file; None if an order is unscored."""
        if self.model_first is None or self.reference_first is None:
            return None
        if (self.model_first, self.reference_first) == ("first", "second"):
            return 1.0
        if (self.model_first, self.reference_first) == ("second", "first"):
            return 0.0
        return 0.5

    @property
    def inconsistent(self) -> bool:
        """Whether both orders are scored and their verdicts differ."""
        agreeing = {("first", "second"), ("second", "first"), ("tie", "tie")}
        return self.outcome is not None and (
            (self.model_first, self.reference_first) not in agreeing
        )


@dataclass(frozen=True, slots=True)
class WinRate:
    """A win rate against a reference, with its interval and what it rests on.

    Attributes:
        value: In [0, 1], 1/2 = as good as the reference; None without scored prompts.
        low: Lower end of the interval over prompts.
        high: Upper end.
        n: Prompts scored in both orders; wins, ties and losses add up to it.
        n_wins: Prompts on which the model is preferred in both orders.
        n_ties: Ties, `n_inconsistent` included.
        n_losses: Prompts on which the reference is preferred in both orders.
        n_inconsistent: Prompts whose orders gave different verdicts.
        n_unscored: Prompts left out because an order has no verdict.
        standard_error: SD of the outcomes / sqrt(n); None below 2 prompts.
        detectable: Smallest true distance from 1/2 that a sign test of wins against losses would
            find in 80% of such comparisons (`power.py`); None below 6 prompts, too few for any.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_wins: int
    n_ties: int
    n_losses: int
    n_inconsistent: int
    n_unscored: int
    standard_error: float | None = None
    detectable: float | None = None

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields under their own names, None where there is no data."""
        return asdict(self)


def win_rate(verdicts: Sequence[PairVerdict]) -> WinRate:
    """Return the win rate with its interval over prompts.

    Args:
        verdicts: One per prompt, in any order.
    """
    outcomes = np.array([v.outcome for v in verdicts if v.outcome is not None], dtype=np.float64)
    n = len(outcomes)
    n_wins, n_losses = int((outcomes == 1).sum()), int((outcomes == 0).sum())
    n_inconsistent = sum(v.inconsistent for v in verdicts)
    counts = (n, n_wins, n - n_wins - n_losses, n_losses, n_inconsistent, len(verdicts) - n)
    # Always computed for the side that wins more often and mirrored for the other, so that
    # exchanging the models gives 1 - w to the last bit, and the mirrored interval.
    more, fewer = max(n_wins, n_losses), min(n_wins, n_losses)
    interval = tango_interval(more, fewer, n)
    if interval is None:
        return WinRate(None, None, None, *counts)
    value, low, high = ((1 + d) / 2 for d in ((more - fewer) / n, *interval))
    if n_losses == n_wins:
        low = 1 - high
    elif n_losses > n_wins:
        value, low, high = 1 - value, 1 - high, 1 - low
    standard_error = float(outcomes.std(ddof=1)) / n**0.5 if n > 1 else None
    distance = detectable_verdicts(more, fewer, n)
    detectable = None if distance is None else distance / 2
    return WinRate(value, low, high, *counts, standard_error, detectable)
