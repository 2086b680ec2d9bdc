"""SEAL's formulas one by one, its settings, and what theory says the two algorithms rank by."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import toy
from tamis.errors import ConfigError
from tamis.methods import build_method
from tamis.methods.seal import (
    SEAL,
    Activation,
    excess_loss,
    known_faults,
    lower_level_loss,
    mirror_step,
    penalized_objective,
    penalty_at,
    running_mean,
    selector_gradient,
    selector_weights,
)
from tamis.models.adapter_trainer import ADAM_BETAS
from tamis.models.config import LoraSettings
from tamis.models.trunk import resolve_cut
from tamis.rng import torch_generator

both_selectors = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
LOGITS = torch.tensor([0.0, math.log(2), math.log(5)], dtype=torch.float64)  # p = 1/8, 2/8, 5/8


def random_case(n: int = 11, size: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of n rows, a batch in no order, and its costs of both signs."""
    generator = torch_generator(0, "selector case")
    logits = torch.randn(n, dtype=torch.float64, generator=generator)
    rows = torch.randperm(n, generator=generator)[:size]
    return logits, rows, torch.linspace(-1.0, 2.0, size, dtype=torch.float64)


# Weights and objectives


def test_softmax_weights_are_n_times_the_shares() -> None:
    """Logits 0, ln 2, ln 5 have shares 1/8, 2/8, 5/8; three rows make weights of them."""
    expected = torch.tensor([3 / 8, 6 / 8, 15 / 8], dtype=torch.float64)
    torch.testing.assert_close(selector_weights(LOGITS, "softmax"), expected)


def test_sigmoid_weights_are_twice_the_sigmoid() -> None:
    """Logits 0, ln 3, -ln 3 give 2 * (1/2, 3/4, 1/4)."""
    logits = torch.tensor([0.0, math.log(3), -math.log(3)], dtype=torch.float64)
    expected = torch.tensor([1.0, 1.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(selector_weights(logits, "sigmoid"), expected)


def test_softmax_weights_have_mean_one() -> None:
    """Whatever the logits, so that g keeps its meaning while the selector learns."""
    logits = torch.linspace(-30, 30, 101, dtype=torch.float64)
    assert selector_weights(logits, "softmax").mean().item() == pytest.approx(1.0)


@both_selectors
def test_equal_logits_of_zero_weigh_every_row_one(activation: Activation) -> None:
    """Training starts as plain fine-tuning under both selectors."""
    weights = selector_weights(torch.zeros(7, dtype=torch.float64), activation)
    torch.testing.assert_close(weights, torch.ones(7, dtype=torch.float64))


def test_lower_level_loss_is_the_weighted_mean() -> None:
    """(1*2 + 3*4) / 2 = 7: weights are not normalised again within the batch."""
    assert lower_level_loss(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])).item() == 7.0


@pytest.mark.parametrize(("g", "expected"), [(0.0, 2.0), (0.25, 4.0), (0.5, 6.0)])
def test_penalized_objective_mixes_both_losses(g: float, expected: float) -> None:
    """(1-g) * 2 + g * 10."""
    assert penalized_objective(torch.tensor(2.0), torch.tensor(10.0), g).item() == expected


def test_excess_loss_is_positive_where_the_safe_aware_model_is_worse() -> None:
    """l(theta) - l(theta-hat): 3 - 1 and 1 - 3."""
    risk = excess_loss(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 3.0]))
    assert risk.tolist() == [2.0, -2.0]


# T1: the selector's gradient


@both_selectors
@pytest.mark.parametrize("size", [1, 4, 11])
def test_selector_gradient_is_that_of_autograd(activation: Activation, size: int) -> None:
    """T1: of mean_j sigma_j(w) c_j over a batch, indexed after the softmax over all rows."""
    logits, rows, costs = random_case(size=size)
    leaf = logits.clone().requires_grad_(True)
    (selector_weights(leaf, activation)[rows] * costs).mean().backward()
    found = selector_gradient(logits, rows, costs, activation)
    torch.testing.assert_close(found, leaf.grad, rtol=0, atol=1e-14)


def test_softmax_gradient_by_hand() -> None:
    """T1 on p = (1/8, 2/8, 5/8) with batch {1, 2}, costs 4 and 8.

    (N/B) p_m [c_m - sum_j p_j c_j] with N/B = 3/2 and sum = 2/8*4 + 5/8*8 = 6:
    row 0 (outside): 3/2 * 1/8 * (0 - 6) = -9/8
    row 1:           3/2 * 2/8 * (4 - 6) = -3/4
    row 2:           3/2 * 5/8 * (8 - 6) = 15/8
    """
    found = selector_gradient(
        LOGITS, torch.tensor([1, 2]), torch.tensor([4.0, 8.0], dtype=torch.float64), "softmax"
    )
    expected = torch.tensor([-9 / 8, -3 / 4, 15 / 8], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_sigmoid_gradient_by_hand() -> None:
    """T1 at w = 0, ln 3: s(1-s) is 1/4 and 3/16, so (2/B) s(1-s) c is c/4 and 3c/16 for B = 2."""
    logits = torch.tensor([0.0, math.log(3), 9.0], dtype=torch.float64)
    found = selector_gradient(
        logits, torch.tensor([0, 1]), torch.tensor([8.0, 16.0], dtype=torch.float64), "sigmoid"
    )
    torch.testing.assert_close(found, torch.tensor([2.0, 3.0, 0.0], dtype=torch.float64))


@both_selectors
def test_selector_gradient_agrees_with_central_differences(activation: Activation) -> None:
    """T1 without autograd: the slope of the weighted mean in each logit."""
    logits, rows, costs = random_case()
    step = 1e-5
    slopes = []
    for m in range(len(logits)):
        nudge = torch.zeros_like(logits)
        nudge[m] = step
        above, below = (
            (selector_weights(logits + sign * nudge, activation)[rows] * costs).mean().item()
            for sign in (1, -1)
        )
        slopes.append((above - below) / (2 * step))
    found = selector_gradient(logits, rows, costs, activation)
    # Error of central differences: step^2 from curvature, 1e-16 / step from rounding.
    torch.testing.assert_close(found, torch.tensor(slopes, dtype=torch.float64), rtol=0, atol=1e-9)


def test_softmax_gradient_sums_to_zero_over_a_full_batch() -> None:
    """Moving all logits alike changes no share."""
    logits, rows, costs = random_case(size=11)
    assert selector_gradient(logits, rows, costs, "softmax").sum().item() == pytest.approx(0.0)


def test_softmax_gradient_pushes_down_the_costly_row() -> None:
    """A descent step lowers the logit of the row with the larger cost, and raises the other."""
    gradient = selector_gradient(
        torch.zeros(2), torch.tensor([0, 1]), torch.tensor([5.0, 1.0]), "softmax"
    )
    assert gradient[0] > 0 > gradient[1]


# T2: why preset `paper` is noisy


@pytest.fixture(scope="module")
def adam_replay() -> tuple[Tensor, Tensor, Tensor]:
    """Replay one epoch of the published selector on constant losses.

    The published run has N = 112,000 rows in batches of 64: 1,750 steps, every row visited once. A
    visit's weight in Adam depends on N / B, so 14,000 rows in batches of 8 walk the same path, with
    the same learning rate 4e-3 and betas 0.9 and 0.95. Losses spread by a factor of 1.8.

    Returns:
        Final logits, the losses, and the step at which each row was visited.
    """
    n, size = 14_000, 8
    generator = torch_generator(0, "adam replay")
    losses = torch.exp(0.6 * torch.randn(n, dtype=torch.float64, generator=generator))
    order = torch.randperm(n, generator=generator)
    logits = torch.full((n,), 0.1, dtype=torch.float64)
    adam = torch.optim.Adam([logits], lr=4e-3, betas=ADAM_BETAS)
    for rows in order.split(size):
        logits.grad = selector_gradient(logits, rows, losses[rows], "softmax")
        adam.step()
    visited = torch.empty(n, dtype=torch.int64)
    visited[order] = torch.arange(n) // size
    return logits, losses, visited


def test_under_adam_unvisited_logits_drift_by_a_full_step_each_step(
    adam_replay: tuple[Tensor, Tensor, Tensor],
) -> None:
    """T2: no row is ever pulled up, yet logits end near 0.1 + lr * T = 7.1.

    A row outside the batch has a tiny gradient of constant sign, which Adam divides by its own
    size: a full learning rate per step. This is fault F3, kept under preset `paper`.
    """
    logits, _, _ = adam_replay
    assert 6.8 < logits.max().item() < 7.11
    assert 6.0 < logits.mean().item() < 6.5
    assert 5.6 < logits.min().item() < 6.0


def test_under_adam_a_recent_visit_hides_the_loss(
    adam_replay: tuple[Tensor, Tensor, Tensor],
) -> None:
    """T2: rows visited in the last 250 steps blur the ranking by loss, from rho 0.9 to about 0.7.

    A visit stops a row's drift for about 230 steps, longer for a larger loss. Rows visited within
    that time have not paid for their loss yet.
    """
    logits, losses, visited = adam_replay
    settled = visited < 1750 - 250
    over_all = toy.rank_correlation(-logits, losses)
    over_settled = toy.rank_correlation(-logits[settled], losses[settled])
    assert 0.6 < over_all < 0.8
    assert over_settled > 0.88
    assert over_settled - over_all > 0.1


# The mirror step


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_mirror_steps_end_at_the_gibbs_weights(temperature: float) -> None:
    """With constant costs the weights become proportional to exp(-c / temperature).

    Each step halves the distance at rate 0.5; after 60 steps 2^-60 of it is left.
    """
    _, _, costs = random_case(size=11)
    logits, everything = torch.zeros(11, dtype=torch.float64), torch.arange(11)
    for _ in range(60):
        logits = mirror_step(logits, everything, costs, costs.mean().item(), 0.5, temperature)
    gibbs = torch.softmax(-costs / temperature, dim=0)
    torch.testing.assert_close(selector_weights(logits, "softmax") / 11, gibbs)


def test_the_gibbs_weights_minimise_cost_minus_entropy() -> None:
    """At that point all derivatives of mean sigma c + temperature * sigma log sigma are equal."""
    _, _, costs = random_case(size=11)
    temperature = 0.7
    logits = mirror_step(torch.zeros(11).double(), torch.arange(11), costs, 0.0, 1.0, temperature)
    sigma = selector_weights(logits, "softmax").requires_grad_(True)
    (sigma * costs + temperature * sigma * sigma.log()).mean().backward()
    assert sigma.grad.std().item() < 1e-12


def test_rate_one_reaches_the_fixed_point_at_once() -> None:
    """w_j = -(c_j - centre) / temperature: costs 1 and 3 around 2, at 0.5, give 2 and -2."""
    moved = mirror_step(
        torch.tensor([9.0, -9.0]), torch.tensor([0, 1]), torch.tensor([1.0, 3.0]), 2.0, 1.0, 0.5
    )
    assert moved.tolist() == [2.0, -2.0]


def test_mirror_step_leaves_other_rows_bit_equal() -> None:
    """A row outside the batch keeps its logit: no drift, no recency."""
    logits, rows, costs = random_case()
    moved = mirror_step(logits, rows, costs, 0.2, 0.3, 1.0)
    outside = torch.ones(len(logits), dtype=torch.bool)
    outside[rows] = False
    assert torch.equal(moved[outside], logits[outside])


def test_mirror_step_ignores_what_all_rows_have_in_common() -> None:
    """Adding the same amount to all costs and to their centre changes nothing."""
    logits, rows, costs = random_case()
    moved = mirror_step(logits, rows, costs, 0.5, 0.3, 1.0)
    shifted = mirror_step(logits, rows, costs + 4.0, 4.5, 0.3, 1.0)
    torch.testing.assert_close(shifted, moved, rtol=0, atol=1e-14)


def test_the_running_mean_starts_as_the_mean_of_all() -> None:
    """Batches 1, 3 and 8 in one: (1 + 3 + 8) / 3 = 4."""
    mean, n = running_mean(0.0, 0, torch.tensor([1.0, 3.0]))
    assert (mean, n) == (2.0, 2)
    assert running_mean(mean, n, torch.tensor([8.0])) == (4.0, 3)


def test_the_running_mean_forgets() -> None:
    """After 256 rows a row's share is 1/256: costs that drift leave it behind by 256 rows at most.

    From 0, each of 2,560 rows of cost 1 leaves the share 255/256 of the distance: exp(-10) of it.
    """
    mean, n = running_mean(0.0, 0, torch.zeros(256))
    for _ in range(2560):
        mean, n = running_mean(mean, n, torch.ones(1))
    assert n == 256
    assert 1 - mean == pytest.approx((255 / 256) ** 2560)


def test_a_batch_larger_than_the_memory_is_its_own_centre() -> None:
    """Whatever came before, 300 rows outweigh a memory of 256."""
    assert running_mean(7.0, 256, torch.full((300,), 2.0)) == (2.0, 300)


def test_rows_of_a_batch_of_one_are_told_apart() -> None:
    """Around a running centre a lone costly row loses weight; around its own mean it would not."""
    centre, _ = running_mean(1.0, 255, torch.tensor([3.0]))
    moved = mirror_step(torch.zeros(2), torch.tensor([1]), torch.tensor([3.0]), centre, 0.5, 1.0)
    assert moved[0] == 0
    assert moved[1].item() == pytest.approx(-0.5 * (3 - (1 + 2 / 256)))


def test_mirror_step_does_not_change_its_input() -> None:
    """The old logits are still there."""
    logits, rows, costs = random_case()
    before = logits.clone()
    mirror_step(logits, rows, costs, 0.0, 0.3, 1.0)
    assert torch.equal(logits, before)


def test_a_smaller_temperature_makes_steeper_weights() -> None:
    """Half the temperature, twice the distance between logits."""
    rows, costs = torch.tensor([0, 1]), torch.tensor([0.0, 1.0])
    warm = mirror_step(torch.zeros(2), rows, costs, 0.5, 1.0, 1.0)
    cold = mirror_step(torch.zeros(2), rows, costs, 0.5, 1.0, 0.5)
    assert (cold[0] - cold[1]).item() == 2 * (warm[0] - warm[1]).item()


# Penalty and presets


@pytest.mark.parametrize(("epoch", "g"), [(0, 0.0), (1, 0.03), (2, 0.06), (3, 0.06), (1000, 0.06)])
def test_the_penalty_rises_each_epoch_up_to_its_maximum(epoch: int, g: float) -> None:
    """min(0 + epoch * 0.03, 0.06): never negative weight on the safe loss, however many epochs."""
    assert penalty_at(epoch, 0.0, 0.03, 0.06) == pytest.approx(g)


def test_penalty_strength_holds_in_every_epoch() -> None:
    """One number instead of a schedule."""
    method = SEAL(penalty_strength=0.4)
    assert [method.penalty(epoch) for epoch in (0, 5)] == [0.4, 0.4]


def test_preset_paper_is_the_published_recipe() -> None:
    """Table 1.6 of the notes on the paper: Llama-3-8B, selector stage."""
    paper = build_method("seal", {"preset": "paper"})
    assert paper.selector_optimizer == "adam"
    assert (paper.learning_rate, paper.selector_learning_rate) == (1e-5, 5e-3)
    assert (paper.batch_size, paper.epochs) == (64, 3)
    assert [paper.penalty(epoch) for epoch in range(3)] == pytest.approx([0.0, 0.03, 0.06])
    assert (paper.lora.rank, paper.lora.alpha, paper.lora.targets) == (16, 16.0, None)
    assert (paper.trunk_cut, paper.max_gradient_norm) == (0, 1.0)
    assert (paper.activation, paper.main_readout) == ("softmax", "selector")


def test_preset_small_is_the_default() -> None:
    """The name only records the choice."""
    small = build_method("seal", {"preset": "small"})
    assert small.model_copy(update={"preset": None}) == SEAL()


@pytest.mark.parametrize(("preset", "first"), [("small", 24), ("fast", 27), ("exact", 0)])
def test_presets_differ_from_small_by_their_cut(preset: str, first: int) -> None:
    """Of 30 layers; `fast` adapts all linear modules of its few layers, nothing else changes."""
    method = build_method("seal", {"preset": preset})
    assert resolve_cut(method.trunk_cut, 30) == first
    assert method.lora.targets == ("all" if preset == "fast" else None)
    same = {"preset": None, "trunk_cut": 0.8, "lora": LoraSettings()}
    assert method.model_copy(update=same) == SEAL()


@pytest.mark.parametrize("given", [{"rank": 4}, LoraSettings(rank=4)])
def test_one_setting_of_a_group_leaves_the_presets_others(given: Any) -> None:
    """`fast` with another rank still adapts every linear module."""
    for method in (build_method("seal", {"preset": "fast", "lora": given}),
                   SEAL(preset="fast", lora=given)):  # fmt: skip
        assert (method.lora.rank, method.lora.targets) == (4, "all")


def test_an_option_overrides_its_preset() -> None:
    """The rest of the preset stays."""
    method = build_method("seal", {"preset": "paper", "epochs": 2})
    assert (method.preset, method.epochs, method.batch_size) == ("paper", 2, 64)


def test_preset_paper_says_which_faults_it_keeps() -> None:
    """F3 and F7 to F10 follow from the published settings; a manifest shall say so."""
    notes = known_faults(build_method("seal", {"preset": "paper"}))
    assert [note.partition(":")[0] for note in notes] == ["F3", "F7", "F8", "F9", "F10"]


def test_preset_small_keeps_none_of_them() -> None:
    """Nothing to say."""
    assert known_faults(build_method("seal", {"preset": "small"})) == []


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"penalty_start": 0.1, "penalty_max": 0.3}, {"F9", "F10"}),
        ({"selector_optimizer": "mirror"}, {"F3", "F7", "F8", "F9"}),
    ],
)
def test_a_repaired_setting_takes_its_notes_away(changes: dict[str, Any], gone: set[str]) -> None:
    """Notes follow the settings, not the preset's name."""
    notes = known_faults(build_method("seal", {"preset": "paper", **changes}))
    left = {"F3", "F7", "F8", "F9", "F10"} - gone
    assert {name for note in notes if (name := note.partition(":")[0]) != "mirror"} == left


def test_the_mirror_step_says_what_its_selector_misses() -> None:
    """Read by its selector, the mirror step has a weakness of its own; by its excess, none."""
    options = {"selector_optimizer": "mirror", "selector_learning_rate": 0.5}
    for changes, n in (
        ({"readout": "selector"}, 1),
        ({"readout": "excess"}, 0),
        ({"algorithm": "memory_efficient"}, 0),  # its costs are losses, large from the start
    ):
        notes = known_faults(SEAL.model_validate({**options, **changes}))
        assert sum(note.startswith("mirror:") for note in notes) == n


@pytest.mark.parametrize(
    ("algorithm", "readout", "main"),
    [
        ("full", None, "excess"),
        ("memory_efficient", None, "selector"),
        ("full", "selector", "selector"),
        ("memory_efficient", "safe_gain", "safe_gain"),
    ],
)
def test_the_main_readout_follows_the_algorithm(
    algorithm: str, readout: str | None, main: str
) -> None:
    """Algorithm 1 ranks by its excess loss, Algorithm 2 by its selector, unless told."""
    method = SEAL.model_validate({"algorithm": algorithm, "readout": readout})
    assert method.main_readout == main


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"algorithm": "memory_efficient", "readout": "excess"},
         r"readout=excess needs .* algorithm=full"),
        ({"penalty_strength": 0.3, "penalty_start": 0.2}, r"penalty_strength or penalty_start"),
        ({"penalty_strength": 0.3, "penalty_step": 0.1}, r"penalty_strength or penalty_step"),
        ({"penalty_strength": 1.0}, r"seal\.penalty_strength: .*less than 1"),
        ({"penalty_strength": -0.1}, r"seal\.penalty_strength: .*greater than or equal to 0"),
        ({"penalty_max": 1.0}, r"seal\.penalty_max: .*less than 1"),
        ({"selector_learning_rate": 1.5}, r"selector_learning_rate is a share in \(0, 1\]"),
        ({"lora": {"layers": [0]}}, r"lora\.layers follows from trunk_cut"),
        ({"lora": {"rnk": 4}}, r"seal\.lora\.rnk: unknown option"),
        ({"epochs": 0}, r"seal\.epochs: .*greater than or equal to 1.*given: 0"),
        ({"algorithm": "fast"}, r"seal\.algorithm: .*'full' or 'memory_efficient'"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_by_name(options: dict[str, Any], match: str) -> None:
    """Before any work, with the option and what would do."""
    with pytest.raises(ConfigError, match=match):
        build_method("seal", options)


def test_all_faults_are_told_at_once() -> None:
    """Two wrong options, one message."""
    with pytest.raises(ConfigError, match=r"seal\.epochs: .*seal\.batch_size: "):
        build_method("seal", {"epochs": 0, "batch_size": 0})


def test_adam_may_have_any_learning_rate() -> None:
    """The bound of 1 is the mirror step's: there the rate is a share of the way."""
    assert SEAL(selector_optimizer="adam", selector_learning_rate=1.5).selector_learning_rate == 1.5


@pytest.mark.parametrize("options", [{}, {"preset": "small"}])
def test_penalty_strength_survives_its_own_record(options: dict[str, Any]) -> None:
    """Resolved settings name every option, the schedule's too, and can be read back."""
    method = build_method("seal", {**options, "penalty_strength": 0.4})
    assert build_method("seal", method.model_dump(mode="json")) == method


# T6: what the two algorithms rank by, on a problem with a closed form


def minimise(objective: Any, start: Tensor) -> Tensor:
    """Minimise a quadratic of theta: one Newton step from anywhere is exact."""
    theta = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective(theta), theta)
    hessian = torch.autograd.functional.hessian(objective, start)
    return start - torch.linalg.solve(hessian, gradient)


@pytest.fixture(scope="module")
def problem() -> toy.QuadraticBilevel:
    """Two hundred rows, a fifth of them harmful; difficulty is far wider than the signal."""
    return toy.quadratic_bilevel()


@pytest.mark.parametrize("g", [0.0, 0.3, 0.9])
def test_the_penalised_minimiser_is_the_closed_form(
    g: float, problem: toy.QuadraticBilevel
) -> None:
    """Descending our objective ends where the algebra of the toy says."""
    weights = torch.linspace(0.5, 1.5, len(problem.difficulty), dtype=torch.float64)

    def objective(theta: Tensor) -> Tensor:
        lower = lower_level_loss(weights, problem.row_losses(theta))
        return penalized_objective(problem.safe_loss(theta), lower, g)

    found = minimise(objective, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(found, problem.penalized_solution(weights, g))


def test_at_a_large_penalty_the_excess_loss_is_the_influence_on_the_safe_loss() -> None:
    """T6: lambda * (s_j(theta) - s_j(theta-hat)) -> -g_j^T H^-1 grad L_safe as lambda grows.

    On least squares with lambda = g / (1-g) = 1000 the remainder is of order 1/lambda: within 5%
    of the largest influence. No Hessian is used to compute the left side.
    """
    generator = torch_generator(0, "least squares")
    x, y, x_safe, y_safe = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((60, 5), (60,), (40, 5), (40,))
    )

    def rows(theta: Tensor) -> Tensor:
        return 0.5 * (x @ theta - y).square()

    def safe(theta: Tensor) -> Tensor:
        return 0.5 * (x_safe @ theta - y_safe).square().mean()

    weights, strength = torch.ones(60, dtype=torch.float64), 1000.0
    g = strength / (1 + strength)
    start = torch.zeros(5, dtype=torch.float64)
    theta = minimise(
        lambda t: penalized_objective(safe(t), lower_level_loss(weights, rows(t)), g), start
    )
    theta_hat = minimise(lambda t: lower_level_loss(weights, rows(t)), start)
    scaled = strength * excess_loss(rows(theta), rows(theta_hat))

    hessian = x.T @ x / 60
    row_gradients = (x @ theta_hat - y)[:, None] * x
    safe_gradient = x_safe.T @ (x_safe @ theta_hat - y_safe) / 40
    influence = -row_gradients @ torch.linalg.solve(hessian, safe_gradient)
    assert (scaled - influence).abs().max() <= 0.05 * influence.abs().max()


def selector_after(problem: toy.QuadraticBilevel, *, full: bool, steps: int = 40) -> Tensor:
    """Run either algorithm with exact models and full batches; return w.

    g = 0.1, as in preset `small`. The selector descends its gradient, without Adam.
    """
    n = len(problem.difficulty)
    logits, everything = torch.zeros(n, dtype=torch.float64), torch.arange(n)
    for _ in range(steps):
        weights = selector_weights(logits, "softmax")
        costs = problem.row_losses(problem.penalized_solution(weights, 0.1))
        if full:
            costs = excess_loss(costs, problem.row_losses(problem.lower_solution(weights)))
        logits = logits - 0.1 * selector_gradient(logits, everything, costs, "softmax")
    return logits


def test_algorithm_2_ranks_by_difficulty(problem: toy.QuadraticBilevel) -> None:
    """T6: where difficulty varies most, the hard rows go, harmful or not."""
    risk = -selector_after(problem, full=False)
    assert toy.rank_correlation(risk, problem.difficulty) > 0.7
    assert toy.auroc(risk, problem.harmful) < 0.85


def test_algorithm_1_does_not_rank_by_difficulty(problem: toy.QuadraticBilevel) -> None:
    """T6: difficulty cancels in the excess loss, so the harmful rows go."""
    risk = -selector_after(problem, full=True)
    # Spearman's rho of 200 independent pairs is below 0.2 with probability 0.995.
    assert abs(toy.rank_correlation(risk, problem.difficulty)) < 0.2
    assert toy.auroc(risk, problem.harmful) > 0.99


def test_a_preset_holds_in_python_too() -> None:
    """SEAL(preset="paper") is what the command line builds, and values beside it win."""
    assert SEAL(preset="paper") == build_method("seal", {"preset": "paper"})
    assert SEAL(preset="paper", epochs=2).epochs == 2
