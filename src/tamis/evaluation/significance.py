"""P-values of paired comparisons, and their correction for several arms.

- `mcnemar`: verdicts (harmful or not) of two models on the same prompts, exact;
- `sign_flip_p`: the mean of paired differences of any measure, a permutation test;
- `wilcoxon_p`: paired differences of a judge's grades, whose steps need not be equally large;
- `holm`: the correction when several arms are compared with one.

All of them ask about these very models: the prompts are what varies. With several seeds, take each
prompt's mean over seeds (`paired.prompt_differences`); whether other seeds would turn out otherwise
is asked by `few_seeds.student_p`. No p-value is read off a bootstrap: its resamples are centred on
what was found, not on "no difference".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_PERMUTATIONS = 10_000  # a p-value near .05 is then good to .002; exact up to 13 differences


@dataclass(frozen=True, slots=True)
class McNemar:
    """An exact McNemar test.

    Attributes:
        p: Two-sided; None without pairs, 1 where no pair differs.
        n: Prompts with a verdict in both arms.
        n_only_a: Of these, positive in arm A alone.
        n_only_b: Positive in arm B alone.
        n_unpaired: Prompts left out for lack of a verdict in an arm.
    """

    p: float | None
    n: int
    n_only_a: int
    n_only_b: int
    n_unpaired: int

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields under their own names, None where there is no data."""
        return asdict(self)


def mcnemar(a: Sequence[float | None], b: Sequence[float | None]) -> McNemar:
    """Test whether two models differ in a verdict on the same prompts.

    Where the models agree a prompt says nothing. Of the others, were there no difference, each
    would fall to either side like a fair coin: a two-sided binomial test at 1/2.

    Args:
        a: Verdicts under arm A, one model: 1 or True, 0 or False; None or NaN where unscored.
        b: The same prompts in the same order under arm B.

    Raises:
        ValueError: The arms differ in length, or a verdict is something else (a mean over seeds).

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages"; exact instead of its chi-squared approximation.
    """
    from scipy.stats import binomtest

    first, second, n_unpaired = paired_verdicts(a, b)
    n_only_a = int((first & ~second).sum())
    n_only_b = int((second & ~first).sum())
    p: float | None = None
    if len(first):
        n_differing = n_only_a + n_only_b
        p = float(binomtest(n_only_a, n_differing).pvalue) if n_differing else 1.0
    return McNemar(p, len(first), n_only_a, n_only_b, n_unpaired)


def sign_flip_p(
    differences: ArrayLike, generator: np.random.Generator, n_permutations: int = N_PERMUTATIONS
) -> float | None:
    """Test whether paired differences have mean 0, two-sided, by flipping their signs.

    Were the arms the same, each difference could as well have the other sign. The p-value is the
    share of sign patterns whose mean is at least as far from 0 as the one found: of all 2^n where
    these are at most `n_permutations`, else of as many drawn, the one found counted among them.

    Args:
        differences: Finite, one per prompt; leave unscored prompts out first. Order is ignored.
        generator: Source of the draws.
        n_permutations: Largest number of sign patterns.

    Returns:
        In (0, 1]; None without differences. 1 for differences that are all 0.

    Raises:
        ValueError: A difference is not finite.

    Source: Fisher 1935, "The design of experiments", section 21; the count of the one found,
    Phipson and Smyth 2010, "Permutation p-values should never be zero".
    """
    from scipy.stats import permutation_test

    sample = _finite(differences)
    if len(sample) < 2:
        return None if not len(sample) else 1.0  # of one value, both signs are as far from 0
    found = permutation_test(
        (sample,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_permutations,
        batch=max(1, 2_000_000 // len(sample)),
        rng=generator,
    )
    return float(found.pvalue)


def smallest_sign_flip_p(n: int) -> float:
    """Return the smallest p-value that `sign_flip_p` can give for n differences.

    Of 2^n sign patterns, only the one found and its mirror image lie as far from 0. With up to five
    differences that is above .05, and nothing can be found, however large it is.

    Args:
        n: Differences, at least 1.
    """
    return float(2.0 ** (1 - n))


def wilcoxon_p(differences: ArrayLike) -> float | None:
    """Test whether paired differences lie around 0, two-sided, by their signed ranks.

    Args:
        differences: Finite, one per prompt. Zeros take part in the ranking and then leave (Pratt),
            so that many ties do not make few differences look decisive.

    Returns:
        In (0, 1]; None without differences, 1 where all are 0. Exact for few differences, else the
        normal approximation.

    Raises:
        ValueError: A difference is not finite.

    Source: SciPy's `wilcoxon`; Pratt 1959, "Remarks on zeros and ties in the Wilcoxon signed rank
    procedures".
    """
    from scipy.stats import wilcoxon

    sample = _finite(differences)
    if not len(sample):
        return None
    return float(wilcoxon(sample, zero_method="pratt").pvalue) if sample.any() else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for how many there are, step by step (Holm).

    The k-th smallest of m becomes p (m - k + 1), at least as large as the ones before, at most 1.
    Calling those at or below .05 findings, one false finding or more occurs in at most 5% of such
    families, whatever the tests have to do with each other.

    Args:
        p_values: Of one family, such as all arms against one; None where there was no test, which
            stays None and does not count.

    Raises:
        ValueError: A p-value is outside [0, 1].

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    known = [(p, place) for place, p in enumerate(p_values) if p is not None]
    wrong = [p for p, _ in known if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"{wrong[0]} is no p-value: they lie between 0 and 1")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted


def paired_verdicts(
    a: Sequence[float | None], b: Sequence[float | None]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Return the verdicts that both sides have, and how many pairs lack one.

    Args:
        a: True or 1, False or 0; None or NaN where there is no verdict.
        b: The same items in the same order.

    Returns:
        Two arrays [n], and the number of pairs left out.

    Raises:
        ValueError: The sides differ in length, or a verdict is something else.
    """
    first, second = (np.array(side, dtype=np.float64) for side in (a, b))  # None becomes NaN
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"verdicts of shapes {first.shape} and {second.shape} are no pairs")
    for side in (first, second):
        other = ~np.isin(side, (0, 1)) & ~np.isnan(side)
        if other.any():
            raise ValueError(f"{side[other][0]} is no verdict: 1 or 0, None where unscored")
    both = ~np.isnan(first) & ~np.isnan(second)
    return first[both] == 1, second[both] == 1, int((~both).sum())


def _finite(differences: ArrayLike) -> NDArray[np.float64]:
    """Return the differences sorted, so that their order does not enter a draw."""
    sample = np.sort(np.asarray(differences, dtype=np.float64).ravel())
    if not all(map(math.isfinite, sample)):
        raise ValueError("a test of NaN or infinity: leave unscored prompts out first")
    return sample
