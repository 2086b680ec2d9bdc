"""Choose the layer whose weights decide most about refusing: scale them and look at the answers.

`by_first_token`, with forward passes alone, over prompts x and f in FACTORS:

    change_l = mean |P_{f W_l}(refusal | x) - P_W(refusal | x)|

P(refusal | x) is the probability that the answer's first token begins one of the known refusals and
no known compliance. `by_answers`, as released for LARF, over over-refusal prompts, with N_l(f) the
number of them whose greedy answer of 32 tokens refuses when the weights of layer l are scaled by f:

    rise_l = mean over d in {.1, .2, .3} of N_l(1 + d) - N_l(1 - d)

Both take the largest, of equal ones the lowest layer. What was measured depends on the model and
the prompts alone and is kept with the features, so rankings that share a cache share it.

Source of `by_answers`: LARF, arXiv:2507.18631, LLLeoLi/LARF@596693d analysis.ipynb.
Differs: the release lists the layers by each of the three differences and leaves the choice to its
reader; here their mean decides. Its 110 prompts are not shipped.

Shapes: L layers, F factors, n prompts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tamis.data.rendered import RenderedRows
from tamis.errors import ConfigError
from tamis.models.features import FeatureCache, Progress
from tamis.models.layer_scaling import (
    answers_when_scaled,
    mass_when_scaled,
    next_token_mass,
    split_rows,
)

FACTORS = (0.8, 1.2)  # of `by_first_token`
LAYER_PROMPTS = 20  # unsafe, and as many borderline requests, that it takes
ANSWER_FACTORS = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)  # of `by_answers`, in pairs from the outside in
ANSWER_TOKENS = 32
REFUSALS = ("can not", "cannot", "can't", "sorry")  # in lower case, anywhere, as released


def by_first_token(
    features: FeatureCache, refused: RenderedRows, borderline: RenderedRows, complied: RenderedRows,
    progress: Progress | None = None,
) -> tuple[int, dict[str, Any]]:  # fmt: skip
    """Choose by the probability that an answer begins like a refusal.

    Args:
        features: Of the model, which is left as it was.
        refused: Unsafe requests with refusals.
        borderline: Requests that merely sound unsafe, complied with.
        complied: Unsafe requests complied with.
        progress: Called after each layer and factor.

    Returns:
        The layer, counted from 1, and what the manifest should say of the choice.

    Raises:
        ConfigError: No refusal begins with a token of its own, or the weights are packed.
    """
    refusing, touchy, complying = (split_rows(rows) for rows in (refused, borderline, complied))
    tokens = sorted({a for _, a in refusing} - {a for _, a in [*complying, *touchy]})
    prompts = [p for rows in (refusing, touchy) for p, _ in spread(rows, LAYER_PROMPTS)]
    if not tokens:
        raise ConfigError(
            "with this tokenizer no refusal among the anchors begins with a token of its own, so "
            "layer=auto cannot tell refusing from complying. Set layer to a number."
        )
    lm = features.lm

    def masses() -> dict[str, Tensor]:
        base = next_token_mass(lm, prompts, tokens)
        return {"base": base, "scaled": mass_when_scaled(lm, prompts, tokens, FACTORS, progress)}

    recipe = {"prompts": _digest(prompts), "tokens": tokens, "factors": FACTORS}
    found = features.kept.tensors("refusal-mass", recipe, masses)
    table = refusal_changes(found["base"], found["scaled"]).tolist()
    return 1 + int(np.argmax(table)), {
        "layer_chosen_by": f"largest change of the refusal probability over {len(prompts)} prompts "
        f"when one of layers 1 to {len(table)} is scaled",
        "layer_table": table,
        "refusal_probability": float(found["base"].mean()),
    }


def by_answers(
    features: FeatureCache, borderline: RenderedRows, progress: Progress | None = None
) -> tuple[int, dict[str, Any]]:
    """Choose by the number of refusals among generated answers, as LARF does.

    Args:
        features: Of the model, which is left as it was.
        borderline: Requests that merely sound unsafe; their answers are not read.
        progress: Called after each layer and factor.

    Returns:
        The layer, counted from 1, and what the manifest should say of the choice.

    Raises:
        ConfigError: Scaling up no layer brings more refusals, or the weights are packed.
    """
    prompts = [prompt for prompt, _ in split_rows(borderline)]

    def refusals() -> dict[str, Tensor]:
        return {"counts": answers_when_scaled(
            features.lm, prompts, refuses, ANSWER_FACTORS, max_new_tokens=ANSWER_TOKENS,
            progress=progress,
        )}  # fmt: skip

    recipe = {"prompts": _digest(prompts), "rendering": borderline.fingerprint,
              "factors": ANSWER_FACTORS, "tokens": ANSWER_TOKENS, "refusals": REFUSALS}  # fmt: skip
    counts = features.kept.tensors("refusal-counts", recipe, refusals)["counts"]
    return most_rising(counts, len(prompts))


def refusal_changes(base: Tensor, scaled: Tensor) -> Tensor:
    """change_l: mean absolute change of the refusal probability over factors and prompts (L).

    Args:
        base: P(refusal | x) of the model as it is (n).
        scaled: The same with each layer's weights scaled by each factor (L x F x n).
    """
    return (scaled - base).abs().mean(dim=(1, 2))


def refusal_rises(counts: Tensor) -> Tensor:
    """rise_l: mean over pairs of factors of refusals scaled up less refusals scaled down (L).

    Args:
        counts: Refusals by layer and factor; the first and the last factor are a pair, the second
            and the last but one, and so on (L x F, F even).
    """
    half = counts.shape[1] // 2
    return (counts[:, half:].flip(1) - counts[:, :half]).double().mean(dim=1)


def most_rising(counts: Tensor, n_answers: int) -> tuple[int, dict[str, Any]]:
    """Choose the layer with the largest `refusal_rises`; see `by_answers`.

    Args:
        counts: Refusals by layer and factor of ANSWER_FACTORS (L x F).
        n_answers: Answers under each layer and factor.

    Raises:
        ConfigError: No layer has a rise above 0.
    """
    table = refusal_rises(counts).tolist()
    if not max(table) > 0:
        raise ConfigError(
            f"of {n_answers} answers no more refuse when any layer is scaled up than when it is "
            f"scaled down (at most {int(counts.max())} refuse at all), so layer=generated has "
            "nothing to choose by. Set layer to a number, or to auto."
        )
    return 1 + int(np.argmax(table)), {
        "layer_chosen_by": f"largest rise of refusals among {n_answers} greedy answers of "
        f"{ANSWER_TOKENS} tokens when one of layers 1 to {len(table)} is scaled up instead of down",
        "layer_table": table,
        "layer_factors": list(ANSWER_FACTORS),
        "layer_refusals": counts.tolist(),
    }


def refuses(answer: str) -> bool:
    """Whether an answer holds one of the released refusal strings, whatever the case."""
    return any(text in answer.lower() for text in REFUSALS)


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """Take up to n items at even distances: a file is often sorted by kind."""
    return [items[place * len(items) // n] for place in range(n)] if len(items) > n else list(items)


def _digest(prompts: Sequence[Sequence[int]]) -> str:
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
