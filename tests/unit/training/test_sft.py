"""Fine-tuning: the trainer sees the rendered rows, resumes exactly and leaves no trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch

from tamis.data.batch import pad_batch
from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError, NoTrainedTokensError
from tamis.models.config import LoraSettings
from tamis.models.load import LanguageModel, weights_fingerprint
from tamis.models.lora import attach_adapters, detach_adapters
from tamis.models.loss import row_losses
from tamis.training.config import FinetuneConfig
from tamis.training.sft import TrainingResult, finetune
from tamis.training.trl_trainer import make_trainer, trainer_arguments, training_dataset

# PEFT 0.21 asks transformers 5 a question by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")

MakeLm = Callable[..., LanguageModel]
RENDER = RenderConfig(max_prompt_tokens=128, max_response_tokens=64)
RECIPE = FinetuneConfig(
    epochs=2, batch_size=4, learning_rate=1e-2, save_every_steps=2, lora=LoraSettings(rank=4)
)


class Killed(Exception):
    """Stands for a process that ends in the middle of training."""


def rows(n: int = 10) -> list[dict[str, str]]:
    """Make questions with answers of different lengths."""
    return [{"prompt": f"What is {i}?", "completion": f"It is {'very ' * i}{i}."} for i in range(n)]


def run(
    lm: LanguageModel, folder: Path, *, examples: Examples | None = None,
    config: FinetuneConfig = RECIPE, progress: Any = None, seed: int = 0,
) -> TrainingResult:  # fmt: skip
    """Fine-tune on ten rows, into a folder."""
    return finetune(
        lm,
        examples if examples is not None else load_examples(rows()),
        config,
        RENDER,
        out=folder / "adapter",
        work=folder / "work",
        seed=seed,
        progress=progress,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of an adapter."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_at(step: int) -> Callable[..., None]:
    """Return a progress callback that ends the run at a step."""

    def stop(done: int, *_: Any) -> None:
        if done == step:
            raise Killed

    return stop


@pytest.fixture(scope="module")
def undisturbed(
    make_lm: MakeLm, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingResult, dict[str, bytes]]:
    """One run from start to end, and its adapter."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = run(make_lm(), folder)
    return result, contents(folder / "adapter")


def test_batches_are_the_rendered_rows(make_lm: MakeLm, tmp_path: Path) -> None:
    """What the trainer feeds the model is, row by row, what rendering produced."""
    lm = make_lm()
    rendered = render(load_examples(rows()), lm.tokenizer, RENDER)
    expected = {tuple(row.input_ids): row.labels for row in rendered}
    peft_model = attach_adapters(lm.model, ["default"], RECIPE.lora, seed=0)
    arguments = trainer_arguments(RECIPE, lm, 3, tmp_path, 0)
    trainer = make_trainer(lm, peft_model, training_dataset(rendered), arguments)
    seen = {}
    for batch in trainer.get_train_dataloader():
        lengths = batch["attention_mask"].sum(dim=1)
        for ids, labels, length in zip(batch["input_ids"], batch["labels"], lengths, strict=True):
            seen[tuple(ids[:length].tolist())] = labels[:length].tolist()
            assert (labels[length:] == -100).all()
    detach_adapters(peft_model)
    assert seen == expected


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bfloat16_takes_the_attention_with_the_faster_backward_pass(
    checkpointing: bool, make_lm: MakeLm, tmp_path: Path
) -> None:
    """Unless layers run twice; see tests/unit/models/test_attention.py."""
    lm, seen = make_lm(dtype="bfloat16"), []
    config = RECIPE.model_copy(update={"gradient_checkpointing": checkpointing})
    hook = lm.model.register_forward_pre_hook(
        lambda *_: seen.append(torch.backends.cuda.flash_sdp_enabled())
    )
    run(lm, tmp_path, config=config)
    hook.remove()
    in_training = seen[1:]  # the first asks whether the output projection is a plain one
    assert in_training
    assert set(in_training) == {checkpointing}


def test_the_first_loss_is_the_base_models_loss_per_trained_token(make_lm: MakeLm) -> None:
    """B starts at zero, so step 1 on all rows has the base model's mean token loss."""
    lm = make_lm()
    rendered = render(load_examples(rows(4)), lm.tokenizer, RENDER)
    batch = {name: torch.from_numpy(v) for name, v in pad_batch(list(rendered)).items()}
    with torch.no_grad():
        sums, counts = row_losses(lm.model, batch)
    expected = float(sums.sum() / counts.sum())
    assert first_loss(lm, rows(4), batch_size=4) == pytest.approx(expected, rel=1e-5)


def first_loss(lm: LanguageModel, records: list[dict[str, str]], **settings: Any) -> float:
    """Return the loss of the first step."""
    import tempfile

    config = FinetuneConfig(max_steps=1, **settings)
    with tempfile.TemporaryDirectory() as folder:
        return run(lm, Path(folder), examples=load_examples(records), config=config).losses[0]


def test_splitting_a_batch_changes_no_loss(make_lm: MakeLm, tmp_path: Path) -> None:
    """Micro-batches of 1 give the losses of the whole batch: tokens are counted over the step."""
    lm = make_lm()
    whole = run(lm, tmp_path / "whole").losses
    split = run(
        lm, tmp_path / "split", config=RECIPE.model_copy(update={"micro_batch_size": 1})
    ).losses
    assert split == pytest.approx(whole, rel=1e-4)  # float32, other order of sums, five steps


def test_training_lowers_the_loss(undisturbed: tuple[TrainingResult, dict[str, bytes]]) -> None:
    """Six steps on ten easy rows: the last loss is below the first."""
    losses = undisturbed[0].losses
    assert losses[-1] < losses[0]


def test_result_counts_steps_rows_and_tokens(
    make_lm: MakeLm, undisturbed: tuple[TrainingResult, dict[str, bytes]]
) -> None:
    """Ten rows in batches of 4 are 3 steps an epoch; every token is seen once an epoch."""
    result, _ = undisturbed
    rendered = render(load_examples(rows()), make_lm().tokenizer, RENDER)
    assert (result.steps, result.epochs, len(result.losses)) == (6, 2.0, 6)
    assert (result.n_rows, result.rows_by_outcome) == (10, {"ok": 10})
    assert result.n_tokens == 2 * rendered.lengths.sum()


def test_result_is_plain_json(undisturbed: tuple[TrainingResult, dict[str, bytes]]) -> None:
    """A manifest can hold it."""
    assert json.loads(json.dumps(undisturbed[0].to_json()))["adapter"] == "adapter"


def test_max_steps_overrides_epochs(make_lm: MakeLm, tmp_path: Path) -> None:
    """Arms of any size stop at the same optimiser step, in the middle of an epoch too."""
    config = RECIPE.model_copy(update={"max_steps": 4})
    assert run(make_lm(), tmp_path, config=config).steps == 4


def test_same_seed_same_bytes(
    make_lm: MakeLm, tmp_path: Path, undisturbed: tuple[TrainingResult, dict[str, bytes]]
) -> None:
    """A second run writes the same files, byte by byte."""
    run(make_lm(), tmp_path)
    assert contents(tmp_path / "adapter") == undisturbed[1]


def test_row_order_does_not_matter(
    make_lm: MakeLm, tmp_path: Path, undisturbed: tuple[TrainingResult, dict[str, bytes]]
) -> None:
    """The same rows in another order give the same adapter."""
    run(make_lm(), tmp_path, examples=load_examples(rows()[::-1]))
    assert contents(tmp_path / "adapter") == undisturbed[1]


def test_another_seed_gives_another_adapter(
    make_lm: MakeLm, tmp_path: Path, undisturbed: tuple[TrainingResult, dict[str, bytes]]
) -> None:
    """The seed reaches the adapter's start and the order of the rows."""
    run(make_lm(), tmp_path, seed=1)
    assert contents(tmp_path / "adapter") != undisturbed[1]


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_killed_run_continues_to_the_same_bytes(
    make_lm: MakeLm, tmp_path: Path, step: int,
    undisturbed: tuple[TrainingResult, dict[str, bytes]],
) -> None:  # fmt: skip
    """Killed before, between and after checkpoints (every 2 steps), it ends as if it had not."""
    with pytest.raises(Killed):
        run(make_lm(), tmp_path, progress=stop_at(step))
    result = run(make_lm(), tmp_path)
    assert result.resumed_at == {1: None, 3: 2, 5: 4}[step]
    assert result.losses == undisturbed[0].losses
    assert result.n_tokens == undisturbed[0].n_tokens
    assert contents(tmp_path / "adapter") == undisturbed[1]


def test_dropout_continues_where_it_was(make_lm: MakeLm, tmp_path: Path) -> None:
    """The random state of dropout is part of a checkpoint."""
    config = RECIPE.model_copy(update={"lora": LoraSettings(rank=4, dropout=0.3)})
    run(make_lm(), tmp_path / "whole", config=config)
    with pytest.raises(Killed):
        run(make_lm(), tmp_path / "killed", config=config, progress=stop_at(3))
    run(make_lm(), tmp_path / "killed", config=config)
    assert contents(tmp_path / "killed" / "adapter") == contents(tmp_path / "whole" / "adapter")


def test_a_torn_checkpoint_is_passed_over(
    make_lm: MakeLm, tmp_path: Path, undisturbed: tuple[TrainingResult, dict[str, bytes]]
) -> None:
    """A kill while checkpoint 4 is written leaves no state in it: training goes on from 2."""
    with pytest.raises(Killed):
        run(make_lm(), tmp_path, progress=stop_at(5))
    (tmp_path / "work" / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text('{"ep')
    result = run(make_lm(), tmp_path)
    assert result.resumed_at == 2
    assert contents(tmp_path / "adapter") == undisturbed[1]


def test_a_run_killed_after_its_last_step_only_copies(
    make_lm: MakeLm, tmp_path: Path, undisturbed: tuple[TrainingResult, dict[str, bytes]]
) -> None:
    """The adapter of the last checkpoint is taken over without another step."""
    run(make_lm(), tmp_path)
    shutil.rmtree(tmp_path / "adapter")
    steps: list[int] = []
    result = run(make_lm(), tmp_path, progress=lambda step, *_: steps.append(step))
    assert steps == []
    assert result.losses == undisturbed[0].losses
    assert contents(tmp_path / "adapter") == undisturbed[1]


def test_plain_peft_loads_the_adapter(make_lm: MakeLm, tmp_path: Path) -> None:
    """On a fresh base, PEFT alone gives a model with a lower loss on the rows."""
    from peft import PeftModel

    run(make_lm(), tmp_path)
    lm = make_lm()
    rendered = render(load_examples(rows()), lm.tokenizer, RENDER)
    batch = {name: torch.from_numpy(v) for name, v in pad_batch(list(rendered)).items()}
    with torch.no_grad():
        before = row_losses(lm.model, batch)[0].sum()
        adapted = PeftModel.from_pretrained(lm.model, str(tmp_path / "adapter"))
        after = row_losses(adapted, batch)[0].sum()
    assert after < before


def test_only_the_adapter_is_saved(undisturbed: tuple[TrainingResult, dict[str, bytes]]) -> None:
    """No optimiser, no pickled arguments, no tokenizer."""
    assert set(undisturbed[1]) == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_base_model_is_left_as_it_was(
    make_lm: MakeLm, tmp_path: Path, gradient_checkpointing: bool
) -> None:
    """Weights, modules, forward, token settings, mode and gradients are those from before."""
    lm = make_lm()
    lm.model.config.pad_token_id = None  # the trainer would set the tokenizer's

    def state() -> tuple[Any, ...]:
        return (
            weights_fingerprint(lm.model),
            [(name, type(module)) for name, module in lm.model.named_modules()],
            "forward" in vars(lm.model),
            lm.model.config.to_dict(),
            lm.model.generation_config.to_dict(),
            lm.model.training,
            any(p.requires_grad for p in lm.model.parameters()),
            lm.model.is_activation_checkpointing,
        )

    before = state()
    config = RECIPE.model_copy(
        update={"max_steps": 1, "gradient_checkpointing": gradient_checkpointing}
    )
    run(lm, tmp_path, config=config)
    assert state() == before


def test_global_random_state_is_left_as_it_was(make_lm: MakeLm, tmp_path: Path) -> None:
    """The trainer seeds torch and numpy globally; the caller's draws do not notice."""
    before = torch.random.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    run(make_lm(), tmp_path, config=RECIPE.model_copy(update={"max_steps": 1}))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_a_bfloat16_base_gets_a_float32_adapter(make_lm: MakeLm, tmp_path: Path) -> None:
    """Small updates would be lost in bfloat16."""
    from safetensors.torch import load_file

    result = run(make_lm(dtype="bfloat16"), tmp_path)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert result.losses[-1] < result.losses[0]


def test_rows_without_trained_tokens_are_left_out_and_counted(
    make_lm: MakeLm, tmp_path: Path
) -> None:
    """A row beyond the limits is dropped by policy; the others train as without it."""
    long = {"prompt": "Say a lot.", "completion": "word " * 100}
    result = finetune(
        make_lm(),
        load_examples([*rows(), long]),
        RECIPE,
        RENDER.model_copy(update={"on_too_long": "drop"}),
        out=tmp_path / "adapter",
        work=tmp_path / "work",
        seed=0,
    )
    assert (result.n_rows, result.rows_by_outcome) == (10, {"ok": 10, "too_long": 1})


def test_nothing_to_train_on_is_refused(make_lm: MakeLm, tmp_path: Path) -> None:
    """The message counts the outcomes and says what to raise."""
    with pytest.raises(NoTrainedTokensError, match=r"none of the 10 rows .*too_long 10"):
        finetune(
            make_lm(),
            load_examples(rows()),
            RECIPE,
            RenderConfig(max_prompt_tokens=2, on_too_long="drop"),
            out=tmp_path / "adapter",
            work=tmp_path / "work",
            seed=0,
        )


def test_a_diverged_run_is_stopped(make_lm: MakeLm, tmp_path: Path) -> None:
    """A loss that is no number ends training with advice instead of a broken adapter."""
    lm = make_lm()
    with torch.no_grad():
        lm.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"the loss is nan at step 1.*Lower learning_rate"):
        run(lm, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_progress_reports_every_step(make_lm: MakeLm, tmp_path: Path) -> None:
    """Step, steps in all, and numbers with their names."""
    seen: list[tuple[int, int, list[str]]] = []
    run(make_lm(), tmp_path, progress=lambda i, n, m: seen.append((i, n, sorted(m))))
    assert seen == [(i, 6, ["learning_rate", "loss", "n_tokens"]) for i in range(1, 7)]


@pytest.mark.parametrize(
    ("scheduler", "warmup_ratio", "rates"),
    [
        ("constant", 0.0, [1.0, 1.0, 1.0, 1.0]),
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25]),
        ("constant", 0.5, [0.0, 0.5, 1.0, 1.0]),
    ],
)
def test_learning_rate_follows_the_scheduler(
    make_lm: MakeLm, tmp_path: Path, scheduler: str, warmup_ratio: float, rates: list[float]
) -> None:
    """Rates of four steps, as shares of the peak."""
    seen: list[float] = []
    config = FinetuneConfig.model_validate(
        {"max_steps": 4, "scheduler": scheduler, "warmup_ratio": warmup_ratio, "learning_rate": 0.1}
    )
    run(
        make_lm(), tmp_path, config=config,
        progress=lambda _i, _n, metrics: seen.append(metrics["learning_rate"]),
    )  # fmt: skip
    assert seen == pytest.approx([0.1 * rate for rate in rates])


def test_a_micro_batch_must_divide_the_batch() -> None:
    """3 does not divide 8: refused before a model is loaded."""
    with pytest.raises(pydantic.ValidationError, match="micro_batch_size=3 does not divide"):
        FinetuneConfig(batch_size=8, micro_batch_size=3)


@pytest.mark.parametrize(("n_rows", "steps"), [(8, 2), (9, 3), (1, 1)])
def test_a_partial_batch_is_a_step(n_rows: int, steps: int) -> None:
    """One epoch of batches of 4 is rounded up."""
    assert FinetuneConfig(batch_size=4).steps(n_rows) == steps
