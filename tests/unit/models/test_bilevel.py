"""Visiting orders, trained adapters and the state of a run."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig, RenderedRows, render
from tamis.errors import ConfigError, MismatchError, NoTrainedTokensError
from tamis.models.adapter_trainer import AdapterTrainer, Part
from tamis.models.bilevel import BilevelRun, RowSet, TwoStreams
from tamis.models.features import FeatureCache
from tamis.models.load import LanguageModel, weights_fingerprint
from tamis.models.lora import LoraSettings
from tamis.models.row_forward import RowForward
from tamis.rng import scoped_torch_seed

CPU = torch.device("cpu")
LORA = LoraSettings(rank=2)
RENDER = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")


@functools.cache
def rows(n: int) -> RenderedRows:
    """Return n rendered rows."""
    found = toy.contaminated_set(n, n_harmful=n // 3, n_safe=1).finetuning_set
    return render(found, toy.tokenizer(), RENDER)


@functools.cache
def row_set(n: int) -> RowSet:
    """Return n rows as a stream's set."""
    return RowSet(rows(n), np.arange(n))


def streams(n: int = 10, n_safe: int = 6, *, seed: int = 0, **sizes: int) -> TwoStreams:
    """Return streams in batches of 4 rows and 3 safe rows."""
    sizes = {"batch_size": 4, "safe_batch_size": 3, **sizes}
    return TwoStreams(row_set(n), row_set(n_safe), seed=seed, **sizes)


def visited(found: TwoStreams, epoch: int) -> list[int]:
    """Return an epoch's places in order."""
    first = epoch * found.steps_per_epoch
    steps = [found.places(first + step) for step in range(found.steps_per_epoch)]
    assert {e for e, _ in steps} == {epoch}
    return [place for _, places in steps for place in places.tolist()]


# Two streams


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(10, 4, 3), (8, 4, 2), (3, 4, 1)])
def test_a_smaller_last_batch_is_a_step(n: int, batch_size: int, steps: int) -> None:
    """Rows over batch size, rounded up."""
    found = streams(n, batch_size=batch_size)
    sizes = [len(found.places(step)[1]) for step in range(steps)]
    assert found.steps_per_epoch == steps
    assert sizes == [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_visits_every_row_once(epoch: int) -> None:
    """A permutation of all places."""
    assert sorted(visited(streams(), epoch)) == list(range(10))


def test_each_epoch_has_its_own_order() -> None:
    """The same rows do not meet in every epoch."""
    assert visited(streams(), 0) != visited(streams(), 1)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_the_seed_decides_the_orders(seed: int, same: bool) -> None:
    """Both streams' order is a function of the seed and the step."""
    first, second = streams(), streams(seed=seed)
    assert (visited(first, 0) == visited(second, 0)) == same
    safe = [[s.safe_rows(step) for step in range(4)] for s in (first, second)]
    assert (safe[0] == safe[1]) == same


def test_steps_can_be_asked_in_any_order() -> None:
    """A resumed run asks for a later step first and gets the same rows."""
    forwards = [streams().safe_rows(step) for step in range(5)]
    assert [streams().safe_rows(step) for step in reversed(range(5))] == forwards[::-1]


def test_both_streams_have_unrelated_orders() -> None:
    """Row i of one set is not always paired with row i of the other (fault F6)."""
    found = streams(8, 8, batch_size=4, safe_batch_size=4)
    pairs = {
        (place, int(np.flatnonzero(found.safe.order == row)[0]))
        for step in range(40)
        for place, row in zip(found.places(step)[1].tolist(), found.safe_rows(step), strict=True)
    }
    assert len(pairs) > 40  # of 64 possible; 8 if they were always paired


@pytest.mark.parametrize("step", range(8))
def test_safe_rows_within_one_cycle_are_all_different(step: int) -> None:
    """A row comes again only in the next cycle."""
    found = streams(n_safe=6, safe_batch_size=3).safe_rows(step)
    assert len(found) == len(set(found)) == 3


def safe_uses(n_safe: int, size: int, steps: int) -> list[int]:
    """Count how often each safe row is used in some steps."""
    found = streams(n_safe=n_safe, safe_batch_size=size)
    uses = collections.Counter(row for step in range(steps) for row in found.safe_rows(step))
    return [uses[int(row)] for row in found.safe.order]


@pytest.mark.parametrize(("n_safe", "size"), [(6, 3), (6, 2), (6, 6), (5, 1)])
def test_safe_rows_are_used_evenly(n_safe: int, size: int) -> None:
    """T4: after five whole cycles, five times each."""
    assert safe_uses(n_safe, size, 5 * n_safe // size) == [5] * n_safe


def test_safe_rows_are_used_evenly_in_batches_that_do_not_divide() -> None:
    """F6: 15 safe rows in batches of 8, used 8 times each after 15 steps, give or take one."""
    uses = safe_uses(15, 8, 15)
    assert max(uses) - min(uses) <= 1


def test_a_safe_batch_is_no_larger_than_the_safe_set() -> None:
    """Two rows fill it instead of being refused."""
    found = streams(n_safe=2, safe_batch_size=5)
    assert sorted(found.safe_rows(3)) == [0, 1]


# Adapters in training


@pytest.fixture
def trainer() -> Iterator[AdapterTrainer]:
    """Two adapters on a fresh tiny model."""
    found = AdapterTrainer(
        toy.llama(), ["upper", "lower"], LORA, seed=0, learning_rate=1e-2, max_gradient_norm=1.0
    )
    yield found
    found.close()


def forward_of(trainer: AdapterTrainer) -> RowForward:
    """Return a forward over ten rows."""
    return RowForward(trainer.model, rows(10), device=CPU, max_batch_tokens=400)


def part(adapter: str = "upper", n: int = 4) -> Part:
    """Return the first rows with equal weights."""
    return Part(adapter, list(range(n)), torch.full((n,), 1 / n))


def descend(trainer: AdapterTrainer, *parts: Part) -> list[torch.Tensor]:
    """Take a step."""
    return trainer.descend(forward_of(trainer), parts)


def losses(trainer: AdapterTrainer, name: str) -> np.ndarray:
    """Losses of all rows under one adapter."""
    trainer.activate(name)
    return forward_of(trainer).losses_of(list(range(10)))


def test_adapters_start_as_the_base_model(trainer: AdapterTrainer, tiny_lm: LanguageModel) -> None:
    """The first losses are the base model's, bit for bit."""
    base = RowForward(tiny_lm.model, rows(10), device=CPU, max_batch_tokens=400)
    for name in ("upper", "lower"):
        assert losses(trainer, name).tobytes() == base.losses_of(list(range(10))).tobytes()


def test_descending_lowers_the_loss(trainer: AdapterTrainer) -> None:
    """Ten steps on four rows."""
    before = losses(trainer, "upper")[:4].mean()
    for _ in range(10):
        descend(trainer, part())
    assert losses(trainer, "upper")[:4].mean() < before - 0.05


def test_descending_returns_the_losses_before_the_step(trainer: AdapterTrainer) -> None:
    """Of each part, in its order."""
    expected = losses(trainer, "upper")
    found = descend(trainer, part(), part(n=6))
    assert [len(values) for values in found] == [4, 6]
    # float32, other padding
    np.testing.assert_allclose(found[1].numpy(), expected[:6], rtol=0, atol=5e-6)


def test_one_adapters_step_leaves_the_other_bit_equal(trainer: AdapterTrainer) -> None:
    """Theta and theta-hat share the base and nothing else."""
    before = {k: v.clone() for k, v in trainer.parameters["lower"].items()}
    descend(trainer, part())
    assert all(torch.equal(v, before[k]) for k, v in trainer.parameters["lower"].items())


def test_adapters_learn_the_same_in_one_pass_and_apart() -> None:
    """A GPU runs the rows of both together, a CPU does not: the gradients are the same."""
    tensors = []
    for mixed in (True, False):
        trainer = AdapterTrainer(
            toy.llama(), ["upper", "lower"], LORA, seed=0, learning_rate=1e-2,
            max_gradient_norm=1.0, mixed=mixed,
        )  # fmt: skip
        descend(trainer, part(), part("lower", n=6))
        tensors.append({name: {k: v.detach().clone() for k, v in parameters.items()}
                        for name, parameters in trainer.parameters.items()})  # fmt: skip
        trainer.close()
    together, apart = tensors
    for name in ("upper", "lower"):
        for key, value in apart[name].items():
            torch.testing.assert_close(together[name][key], value, rtol=0, atol=2e-5)


def test_training_leaves_the_base_model_bit_equal(tiny_lm: LanguageModel) -> None:
    """Only the adapters learn."""
    model = toy.llama()
    trainer = AdapterTrainer(
        model, ["upper"], LORA, seed=0, learning_rate=1.0, max_gradient_norm=1.0
    )
    descend(trainer, part())
    trainer.close()
    assert weights_fingerprint(model) == tiny_lm.fingerprint
    expected = tiny_lm.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())


def test_the_weight_of_a_part_scales_its_gradient(trainer: AdapterTrainer) -> None:
    """A part of weight zero changes nothing: the step is that of the other part alone."""
    descend(trainer, part(), Part("upper", [7, 8], torch.zeros(2)))
    descend(trainer, part("lower"))
    upper, lower = (trainer.parameters[name] for name in ("upper", "lower"))
    assert all(torch.equal(upper[key], lower[key]) for key in upper)


def test_a_loss_that_is_no_number_stops_before_the_step() -> None:
    """The message names rows and adapter, and the adapter is as it was."""
    model = toy.llama()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    trainer = AdapterTrainer(
        model, ["upper"], LORA, seed=0, learning_rate=1e-2, max_gradient_norm=1.0
    )
    before = {k: v.clone() for k, v in trainer.parameters["upper"].items()}
    with pytest.raises(ConfigError, match=rf"rows {rows(10).ids[0]}, .*'upper' is not finite"):
        descend(trainer, part())
    assert all(torch.equal(v, before[k]) for k, v in trainer.parameters["upper"].items())


def test_a_restored_trainer_goes_on_bit_for_bit() -> None:
    """Two steps, put back into a new trainer, and two more: as four without a stop."""

    def steps(trainer: AdapterTrainer, n: int) -> None:
        for _ in range(n):
            for name in ("upper", "lower"):
                descend(trainer, part(name))

    def fresh() -> AdapterTrainer:
        return AdapterTrainer(
            toy.llama(), ["upper", "lower"], LORA, seed=0, learning_rate=1e-2, max_gradient_norm=1.0
        )

    whole, first, second = fresh(), fresh(), fresh()
    steps(whole, 4)
    steps(first, 2)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    steps(second, 2)
    expected = whole.tensors()
    assert second.tensors().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in second.tensors().items())


def steps_of_both(
    *, mixed: bool, budget: int, n: int = 1
) -> tuple[AdapterTrainer, list[torch.Tensor]]:
    """Step both adapters down rows of their own and rows they share."""
    trainer = AdapterTrainer(
        toy.llama(), ["upper", "lower"], LORA, seed=0, learning_rate=1e-2, max_gradient_norm=1e9,
        mixed=mixed,
    )  # fmt: skip
    forward = RowForward(trainer.model, rows(10), device=CPU, max_batch_tokens=budget)
    parts = [
        Part("upper", [8, 9], torch.tensor([0.5, 0.2])),
        Part("upper", [0, 1, 2], torch.tensor([0.1, 0.0, 0.3])),
        Part("lower", [0, 1, 2], torch.tensor([0.4, 0.9, 0.0])),
    ]
    for _ in range(n):
        losses = trainer.descend(forward, parts)
    return trainer, losses


@pytest.mark.parametrize("budget", [1, 120, 100_000])
def test_one_mixed_pass_is_two_passes(budget: int) -> None:
    """Gradients reach both adapters through one graph, each from its own rows, at any budget.

    The second step is compared: at the first, the factors B are zero and A has no gradient. Adam
    divides a gradient by its own size, so the gradients themselves are compared, after Adam's first
    step has made the same parameters up to rounding.
    """
    mixed, mixed_losses = steps_of_both(mixed=True, budget=budget, n=2)
    apart, apart_losses = steps_of_both(mixed=False, budget=budget, n=2)
    for found, expected in zip(mixed_losses, apart_losses, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    for name in ("upper", "lower"):
        for key, parameter in mixed.parameters[name].items():
            expected_gradient = apart.parameters[name][key].grad
            assert expected_gradient is not None
            assert expected_gradient.abs().max() > 1e-4
            torch.testing.assert_close(parameter.grad, expected_gradient, rtol=1e-3, atol=1e-5)


def test_with_dropout_passes_are_apart() -> None:
    """PEFT drops nothing in a mixed pass, so none is taken."""
    settings = LoraSettings(rank=2, dropout=0.3)
    trainer = AdapterTrainer(
        toy.llama(), ["upper", "lower"], settings, seed=0, learning_rate=1e-2, max_gradient_norm=1.0
    )
    assert not trainer.mixed
    assert len(descend(trainer, part(), part("lower"))) == 2


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_steps_are_the_same_steps(dropout: float) -> None:
    """Recomputed activations, dropout's draws included, give the adapters that kept ones give."""
    adapters = []
    for recompute in (False, True):
        trainer = AdapterTrainer(
            toy.llama(), ["upper", "lower"], LoraSettings(rank=2, dropout=dropout), seed=0,
            learning_rate=1e-2, max_gradient_norm=1.0, mixed=False,
        )  # fmt: skip
        forward = RowForward(
            trainer.model, rows(10), device=CPU, max_batch_tokens=120, recompute=recompute
        )
        for step in range(3):
            with scoped_torch_seed(0, "dropout", step):
                trainer.descend(forward, [part(), part("lower")])
        adapters.append(trainer.parameters)
    for name in ("upper", "lower"):
        kept, recomputed = (found[name] for found in adapters)
        assert all(torch.equal(kept[key], recomputed[key]) for key in kept)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_losses_are_read_without_dropout(dropout: float) -> None:
    """Train mode lasts for a step: before and after it the model is in eval mode."""
    trainer = AdapterTrainer(
        toy.llama(), ["upper"], LoraSettings(rank=2, dropout=dropout), seed=0, learning_rate=1e-2,
        max_gradient_norm=1.0,
    )  # fmt: skip
    assert not trainer.model.training
    descend(trainer, part())
    assert not trainer.model.training


# A whole run


def bilevel_run(
    found: RenderedRows, work: Path | None = None, *, lm: LanguageModel | None = None,
    safe: RenderedRows | None = None, seed: int = 0, **settings: Any,
) -> BilevelRun:  # fmt: skip
    """Prepare a run on a fresh tiny model."""
    return BilevelRun(
        FeatureCache(lm or toy.tiny_lm()), found, safe or rows(4), adapters=["upper", "lower"],
        lora=LORA, trunk_cut=1, learning_rate=1e-2, max_gradient_norm=1.0, max_batch_tokens=400,
        seed=seed, work=work,
        progress=lambda _: None, settings={"epochs": 2, "max_batch_tokens": 400, **settings},
    )  # fmt: skip


def with_long_row() -> RenderedRows:
    """Return three rows of which the second is too long."""
    records = [{"prompt": "Tell me about the lamp", "completion": text}
               for text in ("gently", "water " * 60, "share water")]  # fmt: skip
    return render(load_examples(records), toy.tokenizer(), RENDER)


def test_losses_of_unusable_rows_are_nan() -> None:
    """In the place they have in the data."""
    run = bilevel_run(with_long_row())
    assert np.isnan(run.base_losses()).tolist() == [False, True, False]
    found = run.losses_under("upper", "final")
    assert np.isnan(found).tolist() == [False, True, False]


def test_kept_losses_are_read_back_without_the_model(tmp_path: Path) -> None:
    """A resumed run does not repeat them, whatever the adapter is by then."""
    run = bilevel_run(with_long_row(), tmp_path)
    first = run.losses_under("upper", "first")
    run.descend(Part("upper", [0, 2], torch.ones(2)))
    assert run.losses_under("upper", "first").tobytes() == first.tobytes()
    assert run.losses_under("upper", "final").tobytes() != first.tobytes()


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither losses nor checkpoints; a run starts at step 0."""
    monkeypatch.chdir(tmp_path)
    run = bilevel_run(rows(4))
    run.losses_under("upper", "first")
    run.save(3, {})
    assert run.restore() == (0, {})
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_restored_with_the_methods_own_tensors(tmp_path: Path) -> None:
    """Steps done, adapters and whatever else was saved."""
    run = bilevel_run(rows(4), tmp_path)
    run.descend(Part("lower", [0, 1], torch.ones(2)))
    run.save(5, {"logits": torch.tensor([1.0, 2.0])})
    again = bilevel_run(rows(4), tmp_path)
    step, tensors = again.restore()
    assert (step, tensors["logits"].tolist()) == (5, [1.0, 2.0])
    expected = run.trainer.parameters["lower"]
    found = again.trainer.parameters["lower"]
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


@pytest.mark.parametrize("kept", ["training", "losses"])
@pytest.mark.parametrize(
    ("n", "n_safe", "weights", "settings", "what"),
    [
        (4, 4, 0, {"seed": 1}, "seed: 0 there, 1 now"),
        (4, 4, 0, {"epochs": 3}, r"settings\.epochs: 2 there, 3 now"),
        (4, 4, 0, {"first_tokens": 4}, r"settings\.first_tokens: None there, 4 now"),
        (4, 5, 0, {}, "safe_set: .* there"),
        (5, 4, 0, {}, "finetuning_set: .* there"),
        (4, 4, 1, {}, "model: .* there"),
    ],
)
def test_checkpoints_of_another_run_are_refused(
    n: int, n_safe: int, weights: int, settings: dict[str, Any], what: str, kept: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Of other settings, rows or weights, before the model is run or has adapters."""
    run = bilevel_run(rows(4), tmp_path)
    if kept == "training":
        run.save(3, {})
    else:
        run.losses_under("upper", "upper")
    lm = toy.tiny_lm(seed=weights)
    lm.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    with pytest.raises(MismatchError, match=what):
        bilevel_run(rows(n), tmp_path, lm=lm, safe=rows(n_safe), **settings)
    assert not hasattr(lm.model, "peft_config")


def test_a_run_goes_on_with_smaller_batches(tmp_path: Path) -> None:
    """What ended for lack of memory need not start again: batches change no result."""
    bilevel_run(rows(4), tmp_path).save(3, {})
    again = bilevel_run(rows(4), tmp_path, max_batch_tokens=100, gradient_checkpointing=True)
    assert again.restore()[0] == 3


def test_the_trained_part_is_said_in_words() -> None:
    """Rank, modules and layers, for the manifest."""
    run = bilevel_run(rows(4))
    assert run.trained == "LoRA r=2 on q_proj, v_proj of layers 1 to 1"
    assert run.notes == []


def test_a_set_without_trained_tokens_is_refused_before_the_model_is_touched() -> None:
    """The message names the set and counts the outcomes."""
    lm = toy.tiny_lm()
    hopeless = render(
        load_examples([{"prompt": "Tell", "completion": "water " * 60}]), toy.tokenizer(), RENDER
    )
    with pytest.raises(NoTrainedTokensError, match=r"none of the 1 rows of the finetuning_set"):
        bilevel_run(hopeless, lm=lm)
    assert not hasattr(lm.model, "peft_config")
