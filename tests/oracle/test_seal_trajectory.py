"""SEAL against a plain loop: one row at a time, whole model, whole logits, every formula by hand.

The loop shares with the package only what is a choice and no computation: the tokens of a row, the
adapters' first weights, and the order in which rows are visited. It runs in float64.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import toy
from tamis.data.batch import visiting_order
from tamis.data.template import RenderConfig, render
from tamis.methods.base import RankingInputs
from tamis.methods.scores import Scores
from tamis.methods.seal import SEAL
from tamis.models.load import LanguageModel
from tamis.models.lora import LoraSettings, adapter_parameters, attach_adapters

SEED = 5
RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48)
LORA = LoraSettings(rank=2, alpha=6.0)
N_LAYERS = 3


@functools.cache
def lm() -> LanguageModel:
    """Return a model of three layers, so that a cut after the first leaves two."""
    return toy.tiny_lm(N_LAYERS)


@functools.cache
def rows() -> toy.ContaminatedSet:
    """Return nine rows in batches of 4, 4 and 1, and five safe rows in batches of 2."""
    return toy.contaminated_set(9, n_harmful=4, n_safe=5)


def settings(**changes: Any) -> SEAL:
    """Return two epochs with a penalty that grows, and clipping that bites."""
    values = {
        "epochs": 2, "batch_size": 4, "safe_batch_size": 2, "learning_rate": 3e-3, "lora": LORA,
        "penalty_start": 0.2, "penalty_step": 0.3, "max_gradient_norm": 0.5, **changes,
    }  # fmt: skip
    return SEAL.model_validate(values)


@dataclasses.dataclass
class PlainAdapter:
    """LoRA factors by the name of the weight they change, and AdamW's state for each."""

    factors: dict[str, tuple[Tensor, Tensor]]
    step: int = 0
    moments: dict[int, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """All factors in one list."""
        return [factor for pair in self.factors.values() for factor in pair]

    def weights(self) -> dict[str, Tensor]:
        """W + alpha / r * B A for each adapted matrix."""
        base = dict(plain_model().named_parameters())
        scale = LORA.alpha / LORA.rank
        return {name: base[name] + scale * b @ a for name, (a, b) in self.factors.items()}

    def loss(self, ids: list[int], labels: list[int]) -> Tensor:
        """Mean cross-entropy of one row's trained tokens."""
        logits = torch.func.functional_call(
            plain_model(), self.weights(), kwargs={"input_ids": torch.tensor([ids])}
        ).logits[0]
        return functional.cross_entropy(logits[:-1], torch.tensor(labels[1:]), ignore_index=-100)

    def losses(self, rows: list[Any]) -> list[float]:
        """Loss of each row as a number."""
        return [self.loss(row.input_ids, row.labels).detach().item() for row in rows]

    def descend(self, objective: Tensor, rate: float, largest_norm: float) -> None:
        """One AdamW step (betas 0.9 and 0.95, no decay) on the clipped gradient."""
        gradients = list(torch.autograd.grad(objective, self.tensors()))
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
        shrink = min(1.0, largest_norm / (norm + 1e-6))
        self.step += 1
        with torch.no_grad():
            for i, (x, raw) in enumerate(zip(self.tensors(), gradients, strict=True)):
                g = raw * shrink
                m, v = self.moments.get(i, (torch.zeros_like(g), torch.zeros_like(g)))
                m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
                self.moments[i] = m, v
                m_hat, v_hat = m / (1 - 0.9**self.step), v / (1 - 0.95**self.step)
                x -= rate * m_hat / (v_hat.sqrt() + 1e-8)


@functools.cache
def plain_model() -> Any:
    """Return the base model in float64."""
    return copy.deepcopy(lm().model).double()


def first_factors(cut: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Read the seeded first weights of the adapters: a choice of the package, not a computation."""
    layered = LORA.model_copy(update={"layers": tuple(range(cut, N_LAYERS))})
    peft_model = attach_adapters(copy.deepcopy(lm().model), ["first"], layered, seed=SEED)
    found = adapter_parameters(peft_model, "first")
    pairs = {}
    for name, a in found.items():
        if "lora_A" in name:
            weight = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            b = found[name.replace("lora_A", "lora_B")]
            pairs[weight] = tuple(x.detach().double().requires_grad_(True) for x in (a, b))
    return pairs


class PlainSelector:
    """w of one run, moved by the optimiser that is asked for."""

    def __init__(self, n: int, config: SEAL) -> None:
        self.config = config
        start = {"softmax": 0.1, "sigmoid": -1e-4}[config.activation]
        self.w = [start if config.selector_optimizer == "adam" else 0.0] * n
        self.m, self.v, self.steps = [0.0] * n, [0.0] * n, 0
        self.seen: list[float] = []

    def weight(self, j: int) -> float:
        """sigma_j(w)."""
        if self.config.activation == "sigmoid":
            return 2 / (1 + math.exp(-self.w[j]))
        return len(self.w) * math.exp(self.w[j]) / sum(math.exp(w) for w in self.w)

    def move(self, batch: list[int], costs: list[float]) -> None:
        """Step (c) of the algorithm."""
        rate = self.config.selector_learning_rate
        if self.config.selector_optimizer == "mirror":
            self.seen += costs  # fewer than the 256 that count
            mean = sum(self.seen) / len(self.seen)
            pull = rate / self.config.selector_temperature
            for j, cost in zip(batch, costs, strict=True):
                self.w[j] = (1 - rate) * self.w[j] - pull * (cost - mean)
            return
        w = torch.tensor(self.w, dtype=torch.float64, requires_grad=True)
        sigma = len(w) * w.softmax(0) if self.config.activation == "softmax" else 2 * w.sigmoid()
        weighted = sum(sigma[j] * cost for j, cost in zip(batch, costs, strict=True)) / len(batch)
        (gradient,) = torch.autograd.grad(weighted, w)
        self.steps += 1
        for i, g in enumerate(gradient.tolist()):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.95 * self.v[i] + 0.05 * g * g
            m_hat = self.m[i] / (1 - 0.9**self.steps)
            v_hat = self.v[i] / (1 - 0.95**self.steps)
            self.w[i] -= rate * m_hat / (math.sqrt(v_hat) + 1e-8)


def plain_seal(config: SEAL) -> dict[str, dict[str, float]]:
    """Run the algorithm as it is written and return every readout by row id."""
    data, safe = (
        sorted(render(found, lm().tokenizer, RENDER), key=lambda row: row.id)
        for found in (rows().finetuning_set, rows().safe_set)
    )
    upper = PlainAdapter(first_factors(int(config.trunk_cut)))
    lower = PlainAdapter(first_factors(int(config.trunk_cut)))
    base = upper.losses(data)
    selector, safe_batches = PlainSelector(len(data), config), 0
    safe_stream: list[int] = []
    for epoch in range(config.epochs):
        g = min(config.penalty_start + epoch * config.penalty_step, config.penalty_max)
        order = visiting_order(len(data), SEED, "finetuning_set", epoch).tolist()
        for start in range(0, len(data), config.batch_size):
            batch = order[start : start + config.batch_size]
            # The safe rows in one endless row of cycles, two at a time.
            while len(safe_stream) < (safe_batches + 1) * config.safe_batch_size:
                cycle = len(safe_stream) // len(safe)
                safe_stream += visiting_order(len(safe), SEED, "safe_set", cycle).tolist()
            first = safe_batches * config.safe_batch_size
            safe_batch = safe_stream[first : first + config.safe_batch_size]
            safe_batches += 1
            weights = [selector.weight(j) for j in batch]
            safe_losses = [upper.loss(safe[i].input_ids, safe[i].labels) for i in safe_batch]
            losses = [upper.loss(data[j].input_ids, data[j].labels) for j in batch]
            weighted = sum(w * s for w, s in zip(weights, losses, strict=True)) / len(batch)
            objective = (1 - g) * sum(safe_losses) / len(safe_batch) + g * weighted
            upper.descend(objective, config.learning_rate, config.max_gradient_norm)
            costs = [s.detach().item() for s in losses]
            if config.algorithm == "full":
                hats = [lower.loss(data[j].input_ids, data[j].labels) for j in batch]
                weighted = sum(w * s for w, s in zip(weights, hats, strict=True)) / len(batch)
                lower.descend(weighted, config.learning_rate, config.max_gradient_norm)
                costs = [s - hat.detach().item() for s, hat in zip(costs, hats, strict=True)]
            selector.move(batch, costs)
    readouts: dict[str, dict[str, float]] = {}
    finals = zip(upper.losses(data), lower.losses(data), strict=True)
    for j, (row, (final, hat)) in enumerate(zip(data, finals, strict=True)):
        readouts[row.id] = {"selector": selector.w[j], "safe_loss": -final,
                            "safe_gain": base[j] - final, "excess": hat - final}  # fmt: skip
    return readouts


def seal(config: SEAL, found: toy.ContaminatedSet | None = None) -> Scores:
    """Rank with the package."""
    found = found or rows()
    inputs = RankingInputs(
        found.finetuning_set, found.safe_set, model=lm(), render=RENDER, seed=SEED
    )
    return config.rank(inputs)


RUNS = {
    "full-mirror-softmax": {},
    "full-adam-softmax": {"selector_optimizer": "adam", "selector_learning_rate": 5e-3},
    "full-mirror-sigmoid": {"activation": "sigmoid", "selector_temperature": 0.3},
    "memory_efficient-adam-sigmoid": {"algorithm": "memory_efficient", "activation": "sigmoid",
                                      "selector_optimizer": "adam",
                                      "selector_learning_rate": 5e-3},
    "memory_efficient-mirror-softmax": {"algorithm": "memory_efficient"},
}  # fmt: skip


@pytest.mark.parametrize("trunk_cut", [0, 1])
@pytest.mark.parametrize("run", sorted(RUNS))
def test_seal_is_the_plain_loop(run: str, trunk_cut: int) -> None:
    """Every readout of every row equals the loop's: trunk, batches and chunks are only speed."""
    config = settings(**RUNS[run], trunk_cut=trunk_cut, max_batch_tokens=60)
    scores, expected = seal(config), plain_seal(config)
    for name, values in scores.readouts().items():
        wanted = config.main_readout if name == "score" else name
        # float32 against float64 over six steps: about 1e-6 of losses of six nats. Adam divides
        # costs by their own size, so a relative error of 1e-3 of a cost is 5e-6 of a logit.
        np.testing.assert_allclose(
            values, [expected[row][wanted] for row in scores.ids], rtol=0, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("run", ["full-mirror-softmax", "full-adam-softmax"])
def test_the_loop_moves_the_scores(run: str) -> None:
    """The comparison above is about training: readouts are far from where they start."""
    readouts = seal(settings(**RUNS[run], trunk_cut=0)).readouts()
    assert np.ptp(readouts["excess"]) > 1e-3
    assert np.ptp(readouts["selector"]) > 1e-3


@pytest.mark.parametrize(("n", "n_safe"), [(12, 4), (4, 12)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_row_is_visited_once_per_epoch(n: int, n_safe: int, epochs: int) -> None:
    """T4: also where the safe set is three times smaller or larger, and in a last batch of one."""
    found = toy.contaminated_set(n, n_harmful=1, n_safe=n_safe)
    config = settings(epochs=epochs, batch_size=3, safe_batch_size=2, trunk_cut=2)
    assert seal(config, found).columns["visits"].tolist() == [epochs] * n


def test_the_last_visit_is_in_the_last_epoch() -> None:
    """Nine rows in batches of four are three steps an epoch: last visits are in steps 3 to 5."""
    last = seal(settings(trunk_cut=2)).columns["last_visit_step"]
    assert sorted(last.tolist()) == [3.0] * 4 + [4.0] * 4 + [5.0]
