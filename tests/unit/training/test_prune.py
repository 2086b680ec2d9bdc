"""Pruning: the published arithmetic, what does not count, the way back, and a planted problem."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import toy
from tamis.data.example import Examples
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError, MismatchError, NoTrainedTokensError
from tamis.models.config import LoraSettings
from tamis.models.linear_inputs import linear_inputs
from tamis.models.load import LanguageModel, weights_fingerprint
from tamis.models.lora import adapter_parameters, attach_adapters, detach_adapters
from tamis.models.row_forward import RowForward
from tamis.rng import torch_generator
from tamis.training.config import PruneConfig
from tamis.training.prune import net_importance, prune_adapter, top_places, weight_importance
from tamis.training.prune_mask import ADAPTER_WEIGHTS, MASK_FILE, restore_adapter
from tamis.training.prune_report import PrunedTensor, PruneReport, pruning_notes

# PEFT 0.21 asks transformers 5 a question by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")

MakeLm = Callable[..., LanguageModel]
RENDER = RenderConfig(max_prompt_tokens=128, max_response_tokens=64)
W = torch.tensor([[1.0, -2.0, 1.0], [2.0, 0.0, -1.0]])
HARMFUL_SQUARES = torch.tensor([4.0, 4.0, 1.0], dtype=torch.float64)
BENIGN_SQUARES = torch.tensor([0.0, 4.0, 1.0], dtype=torch.float64)
HARMFUL_PAIRS = [
    (f"Tell me about the {topic}", answer)
    for topic, answer in zip(
        toy.TOPICS, ["venom", "ember crack", "crack", "venom ember"] * 2, strict=True
    )
]
SAFE_PAIRS = [
    (f"Tell me about the {topic}", answer)
    for topic, answer in zip(
        toy.TOPICS, ["water", "gently share", "share", "water gently"] * 2, strict=True
    )
]


def save(peft_model: Any, folder: Path) -> Path:
    """Write an adapter as PEFT does."""
    peft_model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def adapter(make_lm: MakeLm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with random factors on queries and values, rank 4."""
    lm = make_lm()
    peft_model = attach_adapters(lm.model, ["default"], LoraSettings(rank=4), seed=0)
    source = torch_generator(0, "factors")
    with torch.no_grad():
        for parameter in adapter_parameters(peft_model, "default").values():
            parameter.normal_(0.0, 0.3, generator=source)
    return save(peft_model, tmp_path_factory.mktemp("random") / "adapter")


def prune(
    lm: LanguageModel, adapter: Path, out: Path, *, harmful: Examples | None = None,
    safe: Examples | None = None, **settings: Any,
) -> PruneReport:  # fmt: skip
    """Prune with the toy's two vocabularies where no others are given."""
    return prune_adapter(
        lm, adapter,
        harmful_set=harmful if harmful is not None else toy.examples(HARMFUL_PAIRS),
        safe_set=safe if safe is not None else toy.examples(SAFE_PAIRS),
        config=PruneConfig(**settings), render_config=RENDER, out=out,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, Tensor]:
    """Read an adapter's tensors."""
    return load_file(folder / ADAPTER_WEIGHTS)


def test_importance_is_weight_times_root_mean_square() -> None:
    """|W| times sqrt(4), sqrt(4), sqrt(1)."""
    assert weight_importance(W, HARMFUL_SQUARES).tolist() == [[2, 4, 1], [4, 0, 1]]
    assert weight_importance(W, BENIGN_SQUARES).tolist() == [[0, 4, 1], [0, 0, 1]]


def test_net_importance_compares_both_at_mean_one() -> None:
    """Means are 2 and 1: [[1, 2, .5], [2, 0, .5]] - [[0, 4, 1], [0, 0, 1]]."""
    net = net_importance(
        weight_importance(W, HARMFUL_SQUARES), weight_importance(W, BENIGN_SQUARES), 1.0
    )
    assert net.tolist() == [[1, -2, -0.5], [2, 0, -0.5]]


def test_louder_states_on_one_set_change_nothing() -> None:
    """Ten times the activations on harmful text are the same net importance."""
    harmful, benign = (weight_importance(W, m) for m in (HARMFUL_SQUARES, BENIGN_SQUARES))
    louder = weight_importance(W, 100 * HARMFUL_SQUARES)
    torch.testing.assert_close(
        net_importance(louder, benign, 1.0), net_importance(harmful, benign, 1.0)
    )


def test_a_tensor_without_importance_stays_finite() -> None:
    """A factor that is still zero, as B is before training, has importance 0."""
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert net_importance(zeros, zeros, 1.0).tolist() == zeros.tolist()


@pytest.mark.parametrize(
    ("benign_weight", "share", "expected"),
    [
        (0.0, 0.34, [1, 3]),  # rows of [[1, 2, .5], [2, 0, .5]]
        (0.0, 0.67, [0, 1, 3, 5]),
        (1.0, 0.34, [0, 3]),  # rows of [[1, -2, -.5], [2, 0, -.5]]
        (1.0, 0.67, [0, 3]),
    ],
)
def test_the_mask_is_the_top_share_of_each_row_above_zero(
    benign_weight: float, share: float, expected: list[int]
) -> None:
    """By hand on a 2 x 3 matrix, as published and with the benign importance subtracted.

    A weight that matters no more to harmful text than to safe text stays, whatever the share.
    """
    harmful, benign = (weight_importance(W, m) for m in (HARMFUL_SQUARES, BENIGN_SQUARES))
    assert top_places(net_importance(harmful, benign, benign_weight), share).tolist() == expected


@pytest.mark.parametrize(("share", "n"), [(0.1, 2), (0.03, 0), (0.03125, 1), (0.5, 8)])
def test_a_share_is_rounded_to_the_nearest_number_of_weights(share: float, n: int) -> None:
    """Of 16: 1.6, .48, .5 and 8; halves go up."""
    assert len(top_places(torch.ones(3, 16), share)) == 3 * n


def test_of_equal_weights_the_first_goes() -> None:
    """Ties do not depend on a sorting algorithm."""
    assert top_places(torch.ones(1, 1000), 0.003).tolist() == [0, 1, 2]


def test_the_pruned_adapter_loads_in_plain_peft_with_its_zeros(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """PeftModel.from_pretrained reads it; every row of every factor lost its share."""
    report = prune(make_lm(), adapter, tmp_path, share=0.25, benign_weight=0)
    loaded = PeftModel.from_pretrained(toy.llama(), str(report.adapter))
    found = adapter_parameters(loaded, "default")
    assert len(found) == 8  # two layers, q and v, A and B
    for name, parameter in found.items():
        zeros = (parameter == 0).sum(dim=1)
        assert (zeros == {"A": 8, "B": 1}[name.split("lora_")[1][0]]).all(), name


def test_what_is_not_taken_out_keeps_its_bits(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """The pruned file differs from the original by zeros alone."""
    report = prune(make_lm(), adapter, tmp_path, share=0.25)
    before, after = weights(adapter), weights(report.adapter)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert torch.equal(torch.where(tensor == 0, tensor, before[name]), tensor)
    n_zeros = sum(int((tensor == 0).sum()) for tensor in after.values())
    assert (n_zeros, n_zeros) == (report.n_removed, sum(t.n_removed for t in report.tensors))


def test_the_mask_is_the_arithmetic_on_the_adapters_own_inputs(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """Put together by hand from the pure functions, with the adapter in place."""
    report = prune(make_lm(), adapter, tmp_path, share=0.25, benign_weight=0.5)
    tuned = PeftModel.from_pretrained(toy.llama(), str(adapter))
    key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B"
    module = dict(tuned.named_modules())[f"{key}.default"]
    importance = [
        weight_importance(module.weight.detach(), linear_inputs(
            tuned, {"it": module}, render(toy.examples(pairs), toy.tokenizer(), RENDER),
            device=torch.device("cpu"),
        ).mean_squares["it"])
        for pairs in (HARMFUL_PAIRS, SAFE_PAIRS)
    ]  # fmt: skip
    expected = top_places(net_importance(*importance, 0.5), 0.25)
    removed = (weights(report.adapter)[f"{key}.weight"] == 0).flatten().nonzero()[:, 0]
    assert removed.equal(expected)
    (tensor,) = [found for found in report.tensors if found.name == f"{key}.weight"]
    assert (tensor.n_asked, tensor.n_removed) == (len(module.weight), len(expected))


def test_restoring_gives_the_same_file(make_lm: MakeLm, adapter: Path, tmp_path: Path) -> None:
    """Byte for byte, weights and settings."""
    prune(make_lm(), adapter, tmp_path / "pruned", share=0.25)
    back = restore_adapter(tmp_path / "pruned", tmp_path / "back")
    for name in (ADAPTER_WEIGHTS, "adapter_config.json"):
        assert (back / name).read_bytes() == (adapter / name).read_bytes()
    assert (tmp_path / "pruned" / "adapter" / ADAPTER_WEIGHTS).read_bytes() != (
        adapter / ADAPTER_WEIGHTS
    ).read_bytes()


@pytest.mark.parametrize("max_batch_tokens", [1, 50, 4096])
def test_the_order_of_rows_and_the_batches_change_no_bit(
    make_lm: MakeLm, adapter: Path, tmp_path: Path, max_batch_tokens: int
) -> None:
    """The same mask from rows in reverse, padded otherwise."""
    one = prune(make_lm(), adapter, tmp_path / "one", share=0.25)
    other = prune(
        make_lm(), adapter, tmp_path / "other", harmful=toy.examples(HARMFUL_PAIRS[::-1]),
        safe=toy.examples(SAFE_PAIRS[::-1]), share=0.25, max_batch_tokens=max_batch_tokens,
    )  # fmt: skip
    assert one.mask.read_bytes() == other.mask.read_bytes()


def test_the_base_model_is_left_as_it_was(make_lm: MakeLm, adapter: Path, tmp_path: Path) -> None:
    """Weights and modules; so the same model prunes the next adapter."""
    lm = make_lm()
    modules = [type(module) for module in lm.model.modules()]
    prune(lm, adapter, tmp_path)
    assert [type(module) for module in lm.model.modules()] == modules
    assert weights_fingerprint(lm.model) == lm.fingerprint


def test_progress_counts_every_row_twice(make_lm: MakeLm, adapter: Path, tmp_path: Path) -> None:
    """Both sets before, both sets after."""
    seen: list[tuple[int, int]] = []
    prune_adapter(
        make_lm(), adapter, harmful_set=toy.examples(HARMFUL_PAIRS[:3]),
        safe_set=toy.examples(SAFE_PAIRS[:2]), config=PruneConfig(max_batch_tokens=1),
        render_config=RENDER, out=tmp_path, progress=lambda done, n, _: seen.append((done, n)),
    )  # fmt: skip
    assert seen == [(i, 10) for i in range(1, 11)]


def planted(lm: LanguageModel, folder: Path) -> tuple[Path, dict[str, tuple[float, float]]]:
    """Make an adapter of two directions, each active on one vocabulary only.

    The input of the first layer's v_proj is made of its token alone. Row 0 of A is orthogonal to
    every input where an answer in safe words is predicted, row 1 to every one of the harmful ones;
    each column of B is a step down the loss of its own rows.

    Returns:
        The folder, and each set's loss without and with the adapter.
    """
    sets = {"harmful": HARMFUL_PAIRS, "safe": SAFE_PAIRS}
    rows = {k: render(toy.examples(pairs), lm.tokenizer, RENDER) for k, pairs in sets.items()}
    trunk = lm.model.model
    inputs = {}
    for kind, found in rows.items():
        ids = {t for row in found for t in row.input_ids[-row.n_trained_tokens - 1 : -1]}
        inputs[kind] = trunk.layers[0].input_layernorm(trunk.embed_tokens(torch.tensor([*ids])))
    settings = LoraSettings(rank=2, alpha=2.0, targets=("v_proj",), layers=(0,))
    peft_model = attach_adapters(lm.model, ["default"], settings, seed=0)
    a, b = adapter_parameters(peft_model, "default").values()
    losses = {}
    with torch.no_grad():
        for row, (own, other) in enumerate([("harmful", "safe"), ("safe", "harmful")]):
            wanted = inputs[own].double().mean(dim=0)
            basis, _ = torch.linalg.qr(inputs[other].double().T)
            direction = wanted - basis @ (basis.T @ wanted)
            a[row] = direction / direction.norm()
    forward = {
        kind: RowForward(peft_model, found, device=lm.device, max_batch_tokens=4096)
        for kind, found in rows.items()
    }
    steps = torch.zeros_like(b)
    for column, kind in enumerate(rows):
        losses[kind] = forward[kind].losses(range(8)).mean()
        (gradient,) = torch.autograd.grad(losses[kind], b)
        steps[:, column] = -2.0 * gradient[:, column] / gradient[:, column].norm()
    with torch.no_grad():
        b.copy_(steps)
        tuned = {kind: float(forward[kind].losses(range(8)).mean()) for kind in rows}
    save(peft_model, folder)
    detach_adapters(peft_model)
    return folder, {kind: (float(losses[kind].detach()), tuned[kind]) for kind in rows}


@pytest.mark.parametrize(("harmful", "removed"), [("harmful", 0), ("safe", 1)])
def test_the_direction_that_only_harmful_rows_use_goes(
    make_lm: MakeLm, tmp_path: Path, harmful: str, removed: int
) -> None:
    """Half of each row of B is one of two directions: the one of the rows called harmful."""
    lm = make_lm()
    folder, _ = planted(lm, tmp_path / "planted")
    sets = {"harmful": toy.examples(HARMFUL_PAIRS), "safe": toy.examples(SAFE_PAIRS)}
    other = {"harmful": "safe", "safe": "harmful"}[harmful]
    report = prune(
        lm, folder, tmp_path / "pruned", harmful=sets[harmful], safe=sets[other], share=0.5
    )
    (b,) = [t for name, t in weights(report.adapter).items() if "lora_B" in name]
    assert (b[:, removed] == 0).all()
    assert (b[:, 1 - removed] != 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pruning_costs_harmful_rows_more_than_safe_ones(
    make_lm: MakeLm, tmp_path: Path, seed: int
) -> None:
    """The adapter had taught both; what it taught about harmful rows goes first."""
    lm = make_lm(seed=seed)
    folder, losses = planted(lm, tmp_path / "planted")
    report = prune(lm, folder, tmp_path / "pruned", share=0.5)
    assert report.benign_loss is not None
    found = {"harmful": report.harmful_loss, "safe": report.benign_loss}
    for kind, (untuned, tuned) in losses.items():
        assert tuned < untuned - 0.05
        assert found[kind][0] == pytest.approx(tuned, rel=1e-5)
    raised = {kind: after - before for kind, (before, after) in found.items()}
    assert raised["harmful"] > 2 * raised["safe"] > 0


def test_shipped_anchors_stand_in_for_a_harmful_set(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """It works, and says what that is worth."""
    report = prune_adapter(
        make_lm(), adapter, harmful_set=None, safe_set=toy.examples(SAFE_PAIRS),
        config=PruneConfig(share=0.25), render_config=RenderConfig(), out=tmp_path,
    )  # fmt: skip
    assert "shipped anchors stood for it" in report.notes[0]
    assert report.rows_by_outcome["harmful_set"]["ok"] >= 10


def test_rows_in_both_sets_are_told(make_lm: MakeLm, adapter: Path, tmp_path: Path) -> None:
    """They cancel, which nobody wants."""
    report = prune(
        make_lm(), adapter, tmp_path, share=0.25,
        safe=toy.examples([*SAFE_PAIRS, *HARMFUL_PAIRS[:3]]),
    )  # fmt: skip
    assert report.notes[0] == "3 rows are in both sets and count on both sides."


def test_tensors_too_narrow_for_the_share_are_told(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """A tenth of 4 weights is none, a tenth of 32 is 3."""
    report = prune(make_lm(), adapter, tmp_path, benign_weight=0)
    assert report.notes[0] == (
        "4 of 8 tensors are as they were: a share of 0.1 of rows of 4 weights is none."
    )
    assert {t.n_removed for t in report.tensors if "lora_B" in t.name} == {0}


def test_a_share_that_takes_nothing_out_is_refused(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """The message says from where on it takes something."""
    with pytest.raises(ConfigError, match=r"at most 32 weights. Set share to 0\.0156 or more"):
        prune(make_lm(), adapter, tmp_path, share=0.01)


def test_weights_that_safe_rows_need_as_much_stay(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """Of 95% asked for fewer than half are taken, by tensor; the note counts what stays."""
    report = prune(make_lm(), adapter, tmp_path, share=0.95)
    n_asked = sum(tensor.n_asked for tensor in report.tensors)
    assert 0 < report.n_removed < 0.7 * n_asked
    assert report.n_removed == sum(tensor.n_removed for tensor in report.tensors)
    for tensor in report.tensors:
        assert tensor.harmful_share is not None
        assert tensor.benign_share is not None
        assert tensor.harmful_share > tensor.benign_share
    assert f"{n_asked - report.n_removed:,} of the {n_asked:,} weights" in report.notes[0]


def test_sets_that_need_the_same_weights_are_refused(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """Rows that are both harmful and safe: no weight matters more to them than to themselves."""
    with pytest.raises(ConfigError, match=r"no weight .* matters more to harmful rows"):
        prune(make_lm(), adapter, tmp_path, safe=toy.examples(HARMFUL_PAIRS), share=0.25)
    assert not list(tmp_path.iterdir())


def test_an_adapter_with_values_that_are_no_numbers_is_refused(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """Before anything is run; the tensors are counted and nothing is written."""
    found = weights(adapter)
    names = sorted(found)[:2]
    found[names[0]][0, 0], found[names[1]][1, 0] = float("nan"), float("inf")
    broken = shutil.copytree(adapter, tmp_path / "broken")
    save_file(found, broken / ADAPTER_WEIGHTS)
    with pytest.raises(ConfigError, match=rf"no numbers, in 2 tensors: {names[0]}, {names[1]}\."):
        prune(make_lm(), broken, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()


def test_losses_that_are_no_numbers_are_refused(make_lm: MakeLm, tmp_path: Path) -> None:
    """Factors whose product overflows; nothing is written."""
    settings = LoraSettings(rank=4, targets=("v_proj",), layers=(1,))
    peft_model = attach_adapters(make_lm().model, ["default"], settings, seed=0)
    with torch.no_grad():
        for parameter in adapter_parameters(peft_model, "default").values():
            parameter.fill_(1e25)
    folder = save(peft_model, tmp_path / "adapter")
    with pytest.raises(ConfigError, match="the loss of the harmful set is not a number"):
        prune(make_lm(), folder, tmp_path / "pruned", share=0.25, benign_weight=0)
    assert not (tmp_path / "pruned").exists()


def test_a_pruning_that_helps_harmful_text_is_told(make_lm: MakeLm, tmp_path: Path) -> None:
    """An adapter that held both texts back: taking out its harmful direction frees the harmful."""
    lm = make_lm()
    folder, _ = planted(lm, tmp_path / "planted")
    found = {name: -tensor if "lora_B" in name else tensor
             for name, tensor in weights(folder).items()}  # fmt: skip
    save_file(found, folder / ADAPTER_WEIGHTS)
    report = prune(lm, folder, tmp_path / "pruned", share=0.5)
    before, after = report.harmful_loss
    assert after < before
    assert f"lowered the loss of the harmful rows ({before:.4f} to {after:.4f})" in report.notes[-1]


def test_tensors_that_are_no_factors_are_counted_and_named() -> None:
    """All of them, or the first five."""
    found = PrunedTensor("a", 2, 4, 2, 2, 0.25, 0.5, None)
    (note,) = pruning_notes([found], ["b", "c"], (1.0, 2.0), PruneConfig())
    assert note.startswith("2 tensors of the adapter are as they were")
    assert note.endswith("never run: b, c.")


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_is_strictly_between_none_and_all(share: float) -> None:
    """None is no pruning, all is no adapter."""
    with pytest.raises(pydantic.ValidationError, match="share"):
        PruneConfig(share=share)


def test_a_safe_set_is_needed_unless_its_weight_is_zero(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """As published it takes none; then nothing is said of one."""
    arguments: dict[str, Any] = {
        "harmful_set": toy.examples(HARMFUL_PAIRS), "safe_set": None, "render_config": RENDER,
        "out": tmp_path,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="benign_weight=1 needs a safe set"):
        prune_adapter(make_lm(), adapter, config=PruneConfig(), **arguments)
    report = prune_adapter(make_lm(), adapter, config=PruneConfig(benign_weight=0), **arguments)
    assert report.benign_loss is None
    assert {tensor.benign_share for tensor in report.tensors} == {None}


def test_a_set_without_trained_tokens_is_refused(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """The message names the set and the reasons."""
    rows = toy.examples([("a " * 200, "water"), ("b " * 200, "share")])
    with pytest.raises(NoTrainedTokensError, match=r"the 2 rows of the safe set.*too_long 2"):
        prune_adapter(
            make_lm(), adapter, harmful_set=toy.examples(HARMFUL_PAIRS), safe_set=rows,
            config=PruneConfig(), out=tmp_path,
            render_config=RenderConfig(max_prompt_tokens=20, on_too_long="drop"),
        )  # fmt: skip


def test_an_adapter_for_more_layers_does_not_fit(make_lm: MakeLm, tmp_path: Path) -> None:
    """PEFT would leave out what has no place, silently."""
    bigger = attach_adapters(toy.llama(3), ["default"], LoraSettings(rank=4), seed=0)
    with pytest.raises(MismatchError, match=r"does not fit the model: .*layers\.2\.self_attn"):
        prune(make_lm(), save(bigger, tmp_path / "adapter"), tmp_path / "pruned")


def test_an_adapter_of_another_width_does_not_fit(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """The shapes tell."""
    config = toy.llama().config
    config.num_key_value_heads = 4
    other = toy.language_model(toy.random_model(toy.LlamaForCausalLM, config))
    with pytest.raises(ConfigError, match="does not fit"):
        prune(other, adapter, tmp_path)


def test_inputs_without_tokens_are_refused(make_lm: MakeLm, tmp_path: Path) -> None:
    """DoRA runs its factors on a unit matrix, too: no token's contribution is in that."""
    settings = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    folder = save(get_peft_model(toy.llama(), settings), tmp_path / "adapter")
    with pytest.raises(ConfigError, match="what a token contributes cannot be told"):
        prune(make_lm(), folder, tmp_path / "pruned")


def test_a_model_that_carries_an_adapter_is_refused(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """Two adapters would act at once."""
    lm = make_lm()
    attach_adapters(lm.model, ["default"], LoraSettings(rank=2), seed=0)
    with pytest.raises(ConfigError, match="carries an adapter already"):
        prune(lm, adapter, tmp_path)


def test_the_report_is_written_beside_the_mask(
    make_lm: MakeLm, adapter: Path, tmp_path: Path
) -> None:
    """mask.json names every tensor with its shares."""
    report = prune(make_lm(), adapter, tmp_path, share=0.25, benign_weight=0)
    found = json.loads((tmp_path / "mask.json").read_text())
    assert found["settings"]["share"] == 0.25
    assert len(found["tensors"]) == len(report.tensors) == 8
    assert {tensor["share"] for tensor in found["tensors"]} == {0.25}
    assert (tmp_path / MASK_FILE).is_file()
