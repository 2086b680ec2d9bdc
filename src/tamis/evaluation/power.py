"""The smallest true difference between two arms that their comparison would mostly have found.

Found means p <= .05 / m by the test that is used, with one seed the sign-flip test, with m arms
compared with the same one: Holm asks that of its smallest p, and of the others no more, so an arm
is found at least that often. Mostly is 80% of such comparisons. What lies below may be there and
not be seen.

Measures on a scale. By the t distribution with n - 1 degrees of freedom,

    (t_{1 - a/2} + t_{.8}) SE

where a is the largest p <= .05 / m that n prompts can give: p is a multiple of 2^(1 - n).

Verdicts. Only prompts on which the arms differ tell. Let psi be their share and d the difference,
psi >= |d|. Of the N ~ Binomial(n, psi) of them Binomial(N, (1 + d / psi) / 2) fall to the larger
side, and the test, here an exact sign test, asks for at least k(N) of N: 6 of 6, 8 of 9 at .05, and
9 of 9 at .05 / 7. Therefore no d is found with fewer than 6 prompts on one side, though a standard
error from one such prompt may be as small as you like. The share is

    psi(d) = the larger of what was seen, (n_up + n_down) / n,
             and what d adds to one side, 2 (min(n_up, n_down) + 1/2) / n + d

and half a prompt stands there because a side that was not seen may exist. What is returned is the
smallest d found with 80%. It grows with what both sides have, and rests on counts that are
themselves uncertain.

Power at the returned difference, averaged over what arms that differ by chance return (50 to 300
prompts, m of 1 and 7, 0.5 to 30% of the prompts differing): 74 to 86% where d adds to one side, 88%
and more where it takes from the other as well. With three seeds (simulated) 78% and more. For
normal values and one arm 75 to 82% from 9 prompts on; about 70% with fewer, or with seven arms and
10 to 12 prompts; more for skewed ones.

With several seeds p is Student's over prompts and seeds where that is larger, and the sum is of its
half widths at a / 2 and .2 (`few_seeds.py`). Of verdicts the larger of both is returned.
It rests on the spread of few seeds, which is as often too small as too large: simulated on normal
values, the power at it is 79 to 67% with three seeds an arm, the lower the more of the spread is
theirs, 75 to 59% at .05 / 7; of three against one model 78 to 61%, 67 to 54%; with two seeds down
to 51%. Take it for a least number.

Sources: Miettinen 1968, "The matched pairs design in the case of all-or-none responses", and Connor
1987, "Sample size for testing differences in proportions for the paired-sample design", for
verdicts; Bloom 1995, "Minimum detectable effects", for the sum of two t. Differs: the exact test
instead of its normal approximation, and psi as above instead of a guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tamis.evaluation.few_seeds import Part, half_width
from tamis.evaluation.significance import smallest_sign_flip_p
from tamis.evaluation.statistics import CONFIDENCE

POWER = 0.8  # of a detectable difference, everywhere


def strictest_level(n_compared: int = 1) -> float:
    """Return the p at which an arm is found whatever the others are: .05 / n_compared.

    Args:
        n_compared: Arms compared with the same one on the same measure (m), at least 1.

    Raises:
        ValueError: Fewer than one.
    """
    if n_compared < 1:
        raise ValueError(f"n_compared={n_compared}: an arm that is compared is one itself")
    return (1 - CONFIDENCE) / n_compared


def too_few_prompts(n: int, n_compared: int = 1) -> bool:
    """Whether no difference between arms can be found on n prompts, however large it is.

    Five prompts or fewer with one arm compared, eight or fewer with seven.
    """
    return n > 0 and smallest_sign_flip_p(n) > strictest_level(n_compared)


def detectable_shift(
    standard_error: float | None, n: int, n_compared: int = 1, parts: Sequence[Part] = ()
) -> float | None:
    """Return the detectable difference of a measure on a scale; see the top of this file.

    Args:
        standard_error: Of the difference, in its unit; None where there is none.
        n: Prompts in both arms.
        n_compared: Arms compared with the same one (m).
        parts: Of the variance, over prompts and seeds (`few_seeds.py`); empty for prompts alone.

    Returns:
        A difference > 0 in the same unit. None where n is too small to find any, without a standard
        error, and for 0: data that do not vary do not say how much they would.

    Raises:
        ValueError: A negative or infinite standard error.
    """
    from scipy.special import stdtrit

    if standard_error is not None and not 0 <= standard_error < math.inf:
        raise ValueError(f"standard_error={standard_error} is not a finite number from 0 up")
    if not standard_error or n < 1 or too_few_prompts(n, n_compared):
        return None
    level = strictest_level(n_compared)
    step = smallest_sign_flip_p(n)
    attained = max(1, math.floor(level / step)) * step if n < 50 else level
    if any(variance for variance, _ in parts):
        return half_width(parts, attained / 2) + half_width(parts, 1 - POWER)
    return float(stdtrit(n - 1, 1 - attained / 2) + stdtrit(n - 1, POWER)) * standard_error


def detectable_verdicts(
    n_up: float, n_down: float, n: int, n_compared: int = 1
) -> float | None:  # fmt: skip
    """Return the detectable difference of two verdicts' rates; see the top of this file.

    Args:
        n_up: Prompts positive in arm A alone; a fraction counts a prompt in part.
        n_down: Prompts positive in arm B alone.
        n: Prompts in both arms.
        n_compared: Arms compared with the same one (m).

    Returns:
        A difference of rates in (0, 1]: .087 for 1 and 0 of 100. None where n is too small.

    Raises:
        ValueError: Counts that no experiment can give.
    """
    from scipy.optimize import brentq

    if min(n_up, n_down, n) < 0 or n_up + n_down > n * (1 + 1e-12):
        raise ValueError(f"{n_up} and {n_down} of {n} prompts that differ is impossible")
    if n < 1 or too_few_prompts(n, n_compared):
        return None
    needed = _needed(n, strictest_level(n_compared))
    seen, both = (n_up + n_down) / n, (2 * min(n_up, n_down) + 1) / n

    def lacking(d: float) -> float:
        return sign_test_power(d, max(seen, both + d), needed) - POWER

    return float(brentq(lacking, 0.0, 1.0, xtol=1e-9))


def sign_test_power(
    difference: float, differing: float, needed: NDArray[np.float64]
) -> float:  # fmt: skip
    """Return how often an exact sign test finds a difference of rates, on its own side.

    Args:
        difference: d, true difference of the rates, 0 to 1.
        differing: psi, share of prompts on which the arms differ; taken as at least d and at most
            1.
        needed: [n + 1], by number of prompts that differ the least on one side that is found.
    """
    from scipy.stats import binom

    share = min(1.0, max(difference, differing))
    n_differing = np.arange(len(needed))
    to_larger = (1 + difference / share) / 2 if share else 0.5
    chances = binom.pmf(n_differing, len(needed) - 1, share)
    return float(chances @ binom.sf(needed - 1, n_differing, min(1.0, to_larger)))


def _needed(n: int, level: float) -> NDArray[np.float64]:
    """Return [n + 1]: the least of 0..n prompts on one side with p <= level, above them if none."""
    from scipy.stats import binom

    n_differing = np.arange(n + 1)
    least = binom.isf(level / 2, n_differing, 0.5) + 1
    # isf is the least k with P(X > k) <= level / 2; one more is the least with P(X >= k).
    return np.where(2 * binom.sf(least - 1, n_differing, 0.5) <= level, least, n_differing + 1)
