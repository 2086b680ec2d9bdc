"""Keep the best-scored rows by ratio, count or threshold, with a reason for every dropped one.

The threshold may be found by a rule of `calibrate.py` or `calibrate_labelled.py`.

Equal scores are ordered by id, so that a rerun, or the same rows in another order, selects the
same rows. Rows without a score are never ranked among the others: they are dropped, kept or
refused as a whole, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tamis.data.row_lists import HasIds, name_some
from tamis.errors import ConfigError, DataError, MismatchError
from tamis.methods import settings_error
from tamis.methods.scores import Scores
from tamis.rng import numpy_generator
from tamis.selection.calibrate import FoundThreshold, Rule, find_threshold
from tamis.selection.calibrate_labelled import LabelRule, find_labelled_threshold

_FOR_RULE = {"mad_c": "mad", "beta": "f_beta", "rate": "false_positive_rate",
             "confidence": "false_positive_rate"}  # fmt: skip
Unscored = Literal["drop", "keep", "fail"]


class SelectConfig(BaseModel):
    """Which rows to keep: exactly one of ratio, count, threshold and rule."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ratio: float | None = Field(None, gt=0, le=1)
    """Share of all rows to keep, unscored ones counted in the total."""
    count: int | None = Field(None, ge=1)
    """Number of rows to keep."""
    threshold: float | None = Field(None, allow_inf_nan=False)
    """Keep rows with this score or a higher one."""
    rule: Rule | LabelRule | None = None
    """Find the threshold in the scores: `mixture`, `otsu` or `mad`; each refuses where it sees no
    two groups. With labels: `f_beta` or `false_positive_rate`."""
    mad_c: float = Field(3.0, gt=0, allow_inf_nan=False)
    """How far below the median `mad` cuts, in robust standard deviations."""
    beta: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Weight of recall against precision for `f_beta`; 2 counts a missed harmful row more."""
    rate: float = Field(0.05, gt=0, lt=1)
    """Largest share of harmless rows that `false_positive_rate` may cut off."""
    confidence: float | None = Field(None, gt=0, lt=1)
    """Probability that the rate holds for further harmless rows; None: for the given ones alone."""
    unscored: Unscored = "drop"
    """What happens to rows without a score."""
    readout: str | None = None
    """Which score of the run decides; None is the run's own. See its `score_...` columns."""

    @model_validator(mode="after")
    def _one_rule(self) -> SelectConfig:
        rules = ("ratio", "count", "threshold", "rule")
        given = [name for name in rules if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of ratio, count, threshold and rule, not "
                f"{', '.join(given) or 'none'}"
            )
        for name, rule in _FOR_RULE.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.rule != rule:
                raise ValueError(
                    f"{name} is for rule={rule} and would change nothing with {given[0]}="
                    f"{getattr(self, given[0])}: leave it out"
                )
        return self


@dataclass(frozen=True)
class Selection:
    """What was kept; the only thing fine-tuning sees of a ranking.

    Attributes:
        ids: All row ids, in the scores' order.
        kept: bool [n].
        reasons: Why a row was dropped, "" for kept ones.
        cut: Lowest kept score; None when no scored row was kept.
        found: The threshold that a rule found, and what it rests on; None where it was given.
        notes: What to know of the selection, in sentences.
    """

    ids: Sequence[str]
    kept: np.ndarray
    reasons: Sequence[str]
    cut: float | None
    found: FoundThreshold | None = None
    notes: tuple[str, ...] = ()

    @property
    def kept_ids(self) -> list[str]:
        """Ids of the kept rows, in order."""
        return [i for i, keep in zip(self.ids, self.kept, strict=True) if keep]

    @property
    def dropped(self) -> dict[str, str]:
        """Reason by id of the dropped rows, in order."""
        rows = zip(self.ids, self.kept, self.reasons, strict=True)
        return {i: reason for i, keep, reason in rows if not keep}


def count_for_ratio(ratio: float, n: int) -> int:
    """Rows kept for a ratio of n rows: floor(ratio * n + 0.5), at least 1."""
    # 0.35 * 10 is 3.4999... in floating point; the tiny term restores the half the user wrote.
    return max(1, math.floor(ratio * n + 0.5 + 1e-9))


def select(
    scores: Scores, *, ratio: float | None = None, count: int | None = None,
    threshold: float | None = None, rule: Rule | LabelRule | None = None,
    unscored: Unscored = "drop", mad_c: float = 3.0, beta: float = 1.0, rate: float = 0.05,
    confidence: float | None = None, labels: Mapping[str, bool] | None = None,
    harmless: NDArray[np.float64] | None = None, seed: int = 0,
) -> Selection:  # fmt: skip
    """Select rows by one rule.

    Args:
        scores: One score per row, higher = keep.
        ratio: Share of all rows to keep, in (0, 1].
        count: Number of rows to keep.
        threshold: Lowest score to keep.
        rule: "mixture", "otsu" or "mad": find the threshold in the scores (calibrate.py); "f_beta"
            or "false_positive_rate": by what is known of some rows (calibrate_labelled.py).
        unscored: Rows without a score: "drop" (default), "keep" (in addition to those selected by
            threshold, and first among those counted by ratio or count) or "fail".
        mad_c: How far below the median the rule `mad` cuts, in robust standard deviations.
        beta: Weight of recall for the rule `f_beta`.
        rate: Largest share of harmless rows cut off by the rule `false_positive_rate`.
        confidence: Probability that it holds for further harmless rows; None: for these alone.
        labels: Whether rows are harmful, by id, for some of them; for the last two rules.
        harmless: Scores by the same ranking of rows known to be harmless, [m], for
            `false_positive_rate`; None takes those of `labels`.
        seed: Decides what the rules `mixture` and `f_beta` draw.

    Returns:
        Kept rows and the reason for each dropped one.

    Raises:
        ConfigError: Not exactly one rule, more rows are asked for than have a score, or `rule`
            finds no threshold.
        DataError: `unscored="fail"` and there are such rows.
    """
    try:
        SelectConfig(ratio=ratio, count=count, threshold=threshold, rule=rule, unscored=unscored,
                     mad_c=mad_c, beta=beta, rate=rate, confidence=confidence)  # fmt: skip
    except ValidationError as error:
        raise settings_error("select", error) from error
    values = np.asarray(scores.values, dtype=np.float64)
    n, missing = len(values), np.isnan(values)
    if unscored == "fail" and missing.any():
        named = [f"{scores.ids[i]} ({scores.outcome[i]})" for i in np.flatnonzero(missing).tolist()]
        raise DataError(
            f"{missing.sum():,} of {n:,} rows have no score: {name_some(named)}. Set unscored to "
            "drop or keep, or mend the rows."
        )
    kept = missing.copy() if unscored == "keep" else np.zeros(n, dtype=bool)
    found = None
    notes: tuple[str, ...] = ()
    draws = numpy_generator(seed, "threshold")
    if rule == "f_beta" or rule == "false_positive_rate":
        found = find_labelled_threshold(
            rule, values, scores.ids, draws, labels=labels, harmless=harmless, beta=beta, rate=rate,
            confidence=confidence,
        )  # fmt: skip
    elif rule is not None:
        found = find_threshold(rule, values, draws, mad_c=mad_c)
    if found is not None:
        threshold = found.threshold
    if threshold is not None:
        kept |= values >= threshold
        reason = f"score below {threshold:g}"
    else:
        wanted = count if count is not None else count_for_ratio(float(ratio or 0), n)
        available = n if unscored == "keep" else int(n - missing.sum())
        if count is not None and count > n:
            raise ConfigError(f"count={count:,} rows are to be kept of {n:,}. Lower count.")
        if count is not None and count > available:
            raise ConfigError(
                f"count={count:,} rows are to be kept but only {available:,} of {n:,} can be "
                "(rows without a score are dropped). Lower count, or set unscored=keep."
            )
        if kept.sum() > wanted:
            raise ConfigError(
                f"unscored=keep keeps {int(kept.sum()):,} rows without a score, more than the "
                f"{wanted:,} wanted. Raise the count or ratio, or set unscored=drop."
            )
        if wanted >= available < n:
            notes = (
                f"{wanted:,} rows were asked for and {available:,} of {n:,} have a score: all of "
                "these are kept, and no row was dropped for its score.",
            )
        best = best_first(scores)
        kept[best[: max(0, min(wanted, available) - int(kept.sum()))]] = True
        reason = f"not among the best {wanted:,}"
    if not kept.any():
        raise ConfigError(
            f"no row would be kept: {int(missing.sum()):,} of {n:,} have no score and the others "
            f"are out ({reason}). Lower the threshold, or look at the outcomes."
        )
    reasons = [
        "" if keep else f"unscored: {why}" if absent else reason
        for keep, absent, why in zip(kept, missing, scores.outcome, strict=True)
    ]
    scored_and_kept = values[kept & ~missing]
    cut = float(scored_and_kept.min()) if len(scored_and_kept) else None
    return Selection(list(scores.ids), kept, reasons, cut, found, notes)


def best_first(scores: Scores) -> np.ndarray:
    """Positions of scored rows, highest score first, equal scores by id."""
    values = np.asarray(scores.values, dtype=np.float64)
    scored = np.flatnonzero(~np.isnan(values))
    order: np.ndarray = scored[np.argsort(-values[scored], kind="stable")]
    # Ids are compared only where scores are equal: few rows, and millions of texts are slow.
    falls = np.diff(values[order]) < 0
    starts = np.concatenate([[True], falls]) if len(order) else np.zeros(0, dtype=bool)
    tied = ~starts | ~np.concatenate([starts[1:], [True]]) if len(order) else starts
    rows = order[tied]
    ids = np.asarray([scores.ids[i] for i in rows], dtype=str)
    order[tied] = rows[np.lexsort((ids, np.cumsum(starts)[tied]))]  # by its last key first
    return order


def match_to_data(scores: Scores, data: HasIds, *, subset: bool = False) -> Scores:
    """Put scores in the data's order, joined by id.

    Args:
        scores: Made for these rows, in any order.
        data: The rows.
        subset: Allow scored rows that the data does not have.

    Returns:
        One score per row of the data.

    Raises:
        MismatchError: A row has no score, or (without `subset`) a scored row is not in the data.
    """
    place = {row_id: i for i, row_id in enumerate(scores.ids)}
    missing = [row_id for row_id in data.ids if row_id not in place]
    if missing:
        raise MismatchError(
            f"{len(missing):,} of {len(data.ids):,} rows of the data are not in the scores: "
            f"{name_some(missing)}. Rank this data, or give the data that was ranked."
        )
    extra = len(place) - len(data.ids)
    if extra and not subset:
        present = set(data.ids)
        absent = [row_id for row_id in scores.ids if row_id not in present]
        raise MismatchError(
            f"{extra:,} scored rows are not in the data: {name_some(absent)}. Give the data that "
            "was ranked, or --subset to select among fewer rows."
        )
    order = np.asarray([place[row_id] for row_id in data.ids], dtype=np.int64)
    columns: Mapping[str, np.ndarray] = {k: v[order] for k, v in scores.columns.items()}
    tokens = scores.n_trained_tokens
    return Scores(
        method=scores.method,
        ids=list(data.ids),
        source_ids=list(data.source_ids),
        values=scores.values[order],
        outcome=[scores.outcome[i] for i in order],
        n_trained_tokens=None if tokens is None else tokens[order],
        columns=columns,
        details=scores.details,
    )
