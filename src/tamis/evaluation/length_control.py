"""The win rate at equal answer length: what a judge's taste for long answers leaves of it.

With y_j the outcome of prompt j (`win_rate.py`) and x_j = tanh(d_j / SD(d)), d_j the length of the
model's answer minus that of the reference's, a logistic regression

    P(model preferred) = 1 / (1 + exp(-(b0 + b1 x_j)))

gives 1 / (1 + exp(-b0)), the win rate predicted for answers of equal length. d_j is not centred:
x = 0 means equal length, not the usual difference. tanh keeps a few endless answers from deciding.

Source: Dubois et al. 2024, arXiv:2404.04475, the length term of its regression.
Differs: no term for how hard an instruction is, which needs verdicts on many models; no penalty, so
that where lengths decide every outcome there is a refusal instead of a number; outcomes are 0, 1/2
and 1 from both orders, not a judge's probabilities from one; an interval comes with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamis.evaluation.statistics import CONFIDENCE, normal_quantile

MIN_PROMPTS = 20  # ten for each of the two coefficients


@dataclass(frozen=True, slots=True)
class LengthControl:
    """The win rate predicted for answers of equal length.

    Attributes:
        value: In (0, 1); None where it cannot be fitted.
        low: Lower end of the interval.
        high: Upper end.
        n: Scored prompts.
        n_longer: Of these, prompts on which the model's answer is the longer one.
        n_shorter: Prompts on which it is the shorter one.
        length_effect: b1, what tanh(difference / SD) adds to the log odds; positive where the
            judge prefers the longer answer, or where longer answers are better.
        not_fitted: Why there is no value; None when there is one.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_longer: int
    n_shorter: int
    length_effect: float | None = None
    not_fitted: str | None = None

    def to_json(self) -> dict[str, float | int | str | None]:
        """Return the fields under their own names, None where there is no data."""
        return asdict(self)


def length_controlled(
    outcomes: ArrayLike, model_lengths: ArrayLike, reference_lengths: ArrayLike
) -> LengthControl:
    """Return the win rate that a logistic regression predicts for answers of equal length.

    A prompt with outcome y enters as a win with weight y and a loss with weight 1 - y. The
    interval is +- z SE around b0 with the sandwich standard error, which asks of the model only
    that its mean is right: a tie varies less than a coin flip.

    It says what the judge would prefer at equal length if length acts on the log odds as above; it
    cannot tell a judge's taste for length from longer answers that are better.

    Args:
        outcomes: 1, 1/2 or 0 per prompt, or any share in [0, 1]; NaN or None where unscored.
        model_lengths: Length of the model's answer to each prompt, >= 0, tokens or characters.
        reference_lengths: Length of the reference's answer in the same unit.

    Returns:
        The prediction, or why there is none: fewer than 20 scored prompts; the difference of
        lengths is the same on all; the model's answers are all longer (all shorter), so that equal
        length would be an extrapolation; or lengths decide all outcomes, so that no fit is finite.

    Raises:
        ValueError: The three differ in length, an outcome is outside [0, 1], or a length is missing
            or negative.

    Source: as at the top of this file; the weights and the standard error, Papke and Wooldridge
    1996, "Econometric methods for fractional response variables".
    """
    from scipy.special import expit

    y, difference = _scored(outcomes, model_lengths, reference_lengths)
    n, n_longer, n_shorter = len(y), int((difference > 0).sum()), int((difference < 0).sum())
    reason = _why_not(y, difference)
    if reason:
        return LengthControl(None, None, None, n, n_longer, n_shorter, not_fitted=reason)
    design = np.column_stack([np.ones(n), np.tanh(difference / difference.std())])
    coefficients, covariance = fit_logistic(design, y)
    half_width = normal_quantile(CONFIDENCE) * float(covariance[0, 0]) ** 0.5
    value, low, high = expit(coefficients[0] + np.array([0, -half_width, half_width]))
    return LengthControl(
        float(value), float(low), float(high), n, n_longer, n_shorter, float(coefficients[1])
    )


def _scored(
    outcomes: ArrayLike, model_lengths: ArrayLike, reference_lengths: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return outcomes and length differences of the scored prompts."""
    y, model, reference = (
        np.asarray(values, dtype=np.float64)
        for values in (outcomes, model_lengths, reference_lengths)
    )
    if y.ndim != 1 or not y.shape == model.shape == reference.shape:
        raise ValueError(
            f"outcomes {y.shape} and lengths {model.shape}, {reference.shape}: one each per prompt"
        )
    scored = ~np.isnan(y)
    y, model, reference = y[scored], model[scored], reference[scored]
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError("an outcome outside [0, 1]: 1 is a win, 0 a loss, NaN unscored")
    if not all((np.isfinite(side) & (side >= 0)).all() for side in (model, reference)):
        raise ValueError("a scored answer has no length, or a negative one")
    return y, model - reference


def _why_not(y: NDArray[np.float64], difference: NDArray[np.float64]) -> str | None:
    """Return why the regression has no finite or no meaningful solution, None if it has one."""
    if len(y) < MIN_PROMPTS:
        return f"{len(y)} scored prompts; at least {MIN_PROMPTS} are needed"
    if np.ptp(difference) == 0:
        return f"the lengths of the two answers differ by {difference[0]:g} on every prompt"
    if difference.min() > 0 or difference.max() < 0:
        side = "longer" if difference.min() > 0 else "shorter"
        return f"the model's answer is {side} on every prompt: none is near equal length"
    if np.ptp(y) == 0 and 0 < y[0] < 1:
        return "every prompt is a tie"
    # Finite if and only if wins and losses overlap in length (Albert and Anderson 1984); a tie is
    # both.
    won, lost = difference[y > 0], difference[y < 1]
    if not len(won) or not len(lost) or won.min() >= lost.max() or lost.min() >= won.max():
        return "wins and losses do not overlap in length: no finite fit exists"
    return None


def fit_logistic(
    design: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a logistic regression to shares, without penalty.

    Args:
        design: [n, k], with a column of ones if an intercept is wanted.
        y: Shares in [0, 1], [n], for which a finite fit exists.

    Returns:
        Coefficients [k] and their sandwich covariance [k, k], scaled by n / (n - k) for small n
        (HC1).
    """
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression

    n, k = design.shape
    wins = np.repeat([1, 0], n)
    weights = np.concatenate([y, 1 - y])
    model = LogisticRegression(
        C=np.inf, fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=100
    )
    used = weights > 0
    model.fit(np.vstack([design, design])[used], wins[used], sample_weight=weights[used])
    coefficients = np.asarray(model.coef_[0], dtype=np.float64)
    predicted = expit(design @ coefficients)
    bread = np.linalg.inv((design * (predicted * (1 - predicted))[:, None]).T @ design)
    scores = design * (y - predicted)[:, None]
    return coefficients, bread @ (scores.T @ scores) @ bread * (n / (n - k))
