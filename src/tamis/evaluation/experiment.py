"""What an experiment shows: every arm's figures, and differences between arms prompt by prompt.

The unit is the prompt: all arms and seeds answer the same prompts, so differences are paired by it
and seeds are nested in it. A difference is never given without its interval, nor without the
smallest one that the experiment could have found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tamis.evaluation.paired import Difference, paired_difference, prompt_differences
from tamis.evaluation.power import too_few_prompts
from tamis.evaluation.score_intervals import Resampled, rate_interval
from tamis.evaluation.significance import holm, sign_flip_p
from tamis.rng import numpy_generator

Better = Literal["higher", "lower"] | None
Values = Mapping[str, Mapping[str, float | None]]
"""One evaluation: measure, prompt id, value; None where a prompt is unscored."""

# Which way is better. In the order of tables.
MEASURES: Mapping[str, Better] = {
    "preference_margin": "higher",
    "preference_rate": "higher",
    "first_token_refusal": "higher",
    "attack_success_rate": "lower",
    "harmfulness_score": "lower",
    "over_refusal_rate": "lower",
    "partial_refusal_rate": "lower",
    "helpful_loss": "lower",
    "rouge_l": "higher",
    "task_accuracy": "higher",
    "incoherence_rate": "lower",
    "response_tokens": None,
}
# Shares of prompts with some verdict, 1/2 where a comparison is even.
VERDICTS = frozenset({"preference_rate", "attack_success_rate", "over_refusal_rate",
                      "partial_refusal_rate", "task_accuracy", "incoherence_rate"})  # fmt: skip

# Where others can lie: with few seeds an interval reaches farther than anything that was seen. The
# scale of a judge's grades is the judge's own, and has no ends here.
RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("first_token_refusal", "rouge_l"), (0, 1)),
    **dict.fromkeys(("helpful_loss", "response_tokens"), (0, math.inf)),
}


def read_values(folder: Path, checkable: Collection[str]) -> dict[str, dict[str, float | None]]:
    """Read what an evaluation found of every prompt.

    Figures of a judge other than the primary one stand under `measure/judge`.

    Args:
        folder: Of the finished evaluation.
        checkable: Ids of the helpful prompts that have an answer to check; the others are no task.
    """
    found: dict[str, dict[str, float | None]] = {}

    def add(measure: str, prompt: str, value: float | bool | None) -> None:
        found.setdefault(measure, {})[prompt] = None if value is None else float(value)

    for line in _lines(folder / "generations.jsonl"):
        name, kind = str(line["id"]), line["set"]
        verdicts = {"": line["verdict"], **line.get("other_verdicts", {})}
        for judge, verdict in verdicts.items():
            tail = f"/{judge}" if judge else ""
            if kind == "harmful":
                add(f"attack_success_rate{tail}", name, verdict["harmful"])
                add(f"harmfulness_score{tail}", name, verdict["score"])
            if kind == "over_refusal":
                add(f"over_refusal_rate{tail}", name, verdict["refused"])
                extent = verdict.get("details", {}).get("refusal")  # few judges tell
                add(f"partial_refusal_rate{tail}", name,
                    None if extent is None else extent == "partial")  # fmt: skip
        answered = line["response"] is not None
        add("incoherence_rate", f"{kind}/{name}",
            line.get("incoherent") is not None if answered else None)  # fmt: skip
        add("response_tokens", f"{kind}/{name}", line["n_tokens"] if answered else None)
        if kind == "helpful":
            add("rouge_l", name, line.get("rouge_l"))
            if name in checkable:
                add("task_accuracy", name, line.get("right"))
    for line in _lines(folder / "likelihoods.jsonl"):
        add(line["measure"], str(line["id"]), line["value"])
        if line["measure"] == "preference_margin":
            margin = line["value"]
            add("preference_rate", str(line["id"]),
                None if margin is None else 0.5 if margin == 0 else margin > 0)  # fmt: skip
    # A measure that no prompt has was not asked for.
    return {m: v for m, v in found.items() if any(value is not None for value in v.values())}


def summarise(
    arms: Mapping[str, Sequence[Values]], references: Sequence[str], seed: int
) -> dict[str, Any]:
    """Put arms side by side, measure by measure.

    Args:
        arms: Evaluations of every arm, one per seed; an arm without fine-tuning has one.
        references: Arms that the others are compared with.
        seed: Of the bootstrap.

    Returns:
        By measure: `better` ("higher", "lower" or None); `arms`: mean over seeds and prompts with
        its interval (seeds nested in prompts), n prompts, seeds, and the standard deviation between
        seeds; `differences`: arm minus reference with interval, `p_prompts` of a sign-flip test
        over prompts, `p` that or, with several seeds, Student's over prompts and seeds where it is
        larger (adjusted by Holm over the arms of one reference: `p_holm`), and the smallest
        difference that would have been found (80% power at .05 / `n_compared` arms, see `power.py`;
        None with `too_few_prompts` to find any, or where nothing varied in a measure that is no
        verdict).
    """
    names = [name for one in arms.values() for values in one for name in values]
    found: dict[str, Any] = {}
    for measure in sorted(dict.fromkeys(names), key=_place):
        every = [values for evaluations in arms.values() for values in evaluations]
        prompts = sorted({prompt for values in every for prompt in values.get(measure, {})})
        arrays = {arm: table(evaluations, measure, prompts) for arm, evaluations in arms.items()}
        scored = {arm: values for arm, values in arrays.items() if not np.isnan(values).all()}
        found[measure] = {
            "better": MEASURES.get(measure.partition("/")[0]),
            "arms": {
                arm: arm_mean(
                    values, _draw(seed, measure, arm), of_verdicts(measure), range_of(measure)
                )
                for arm, values in scored.items()
            },
            "differences": [
                difference
                for reference in references if reference in scored
                for difference in _differences(scored, reference, measure, seed)
            ],
        }  # fmt: skip
    return found


def of_verdicts(measure: str) -> bool:
    """Whether a measure, of whichever judge, is a share of prompts with some verdict."""
    return measure.partition("/")[0] in VERDICTS


def range_of(measure: str) -> tuple[float, float]:
    """Return the least and the largest outcome that a measure, of whichever judge, can have."""
    name = measure.partition("/")[0]
    return (0, 1) if name in VERDICTS else RANGES.get(name, (-math.inf, math.inf))


def arm_mean(
    values: np.ndarray, generator: np.random.Generator, verdicts: bool = False,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> dict[str, Any]:  # fmt: skip
    """Return an arm's mean over prompts and seeds with its interval, seeds nested in prompts.

    Args:
        values: [seeds, prompts], NaN where unscored.
        generator: Of the bootstrap.
        verdicts: Whether values are 0 to 1, of verdicts: the interval is Wilson's, with what seeds
            vary added; see `rate_interval`. Else it is the bootstrap's.
        limits: Where outcomes can lie, and so the ends of the interval.

    Returns:
        `value`, `low`, `high` (None without a score), `n` prompts, `n_unscored` prompts that no
        seed has a score for, `n_missing` scores among the others, `n_seeds`, `seed_sd`.
    """
    found = paired_difference(values, np.zeros((1, values.shape[1])), generator)
    low, high = found.low, found.high
    if verdicts and found.value is not None:
        resampled: Resampled | None = None
        if low is not None and high is not None and found.n_seeds_a > 1:
            resampled = low, high, found.reach * (found.standard_error or 0.0)
        low, high = rate_interval(found.value, found.n, resampled)
    if low is not None and high is not None:
        low, high = max(low, limits[0]), min(high, limits[1])
    return {"value": found.value, "low": low, "high": high, "n": found.n,
            "n_unscored": found.n_unpaired, "n_missing": found.n_unscored,
            "n_seeds": found.n_seeds_a, "seed_sd": found.seed_sd_a}  # fmt: skip


def table(evaluations: Sequence[Values], measure: str, prompts: Sequence[str]) -> np.ndarray:
    """Return a measure's values [seeds, prompts], NaN where unscored or not asked."""
    rows = [[values.get(measure, {}).get(prompt) for prompt in prompts] for values in evaluations]
    return np.array(rows, dtype=np.float64).reshape(len(evaluations), len(prompts))


def _differences(
    arrays: Mapping[str, np.ndarray], reference: str, measure: str, seed: int
) -> Iterator[dict[str, Any]]:
    others = [arm for arm in arrays if arm != reference]
    of_models = []  # p over prompts
    for arm in others:
        per_prompt = prompt_differences(arrays[arm], arrays[reference])
        draw = _draw(seed, measure, arm, reference, "flip")
        of_models.append(sign_flip_p(per_prompt[~np.isnan(per_prompt)], draw))
    # As many as Holm counts: an arm without a prompt in common is not compared.
    n_compared = max(1, sum(p is not None for p in of_models))
    found = [
        paired_difference(
            arrays[arm], arrays[reference], _draw(seed, measure, arm, reference),
            verdicts=of_verdicts(measure), n_compared=n_compared,
            largest=float(np.ptp(range_of(measure))),
        )
        for arm in others
    ]  # fmt: skip
    p_values = [_p(*both) for both in zip(of_models, found, strict=True)]
    for arm, one, p_prompts, p, adjusted in zip(
        others, found, of_models, p_values, holm(p_values), strict=True
    ):
        yield {
            "arm": arm, "reference": reference, **one.to_json(),
            "too_few_prompts": too_few_prompts(one.n, n_compared),
            "p_prompts": p_prompts, "p": p, "p_holm": adjusted,
        }  # fmt: skip


def _p(of_models: float | None, found: Difference) -> float | None:
    """Return the larger p: of these very models, or with several seeds of the arms."""
    if of_models is None or found.p_seeds is None:
        return of_models
    return max(of_models, found.p_seeds)


def _place(measure: str) -> tuple[int, str]:
    order = list(MEASURES)
    name = measure.partition("/")[0]
    return (order.index(name) if name in order else len(order), measure)


def _draw(seed: int, *names: str) -> np.random.Generator:
    return numpy_generator(seed, "experiment", *names)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
