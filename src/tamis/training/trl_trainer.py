"""TRL's SFTTrainer, told to do only what is asked: no rendering, no cutting, no reporting.

Everything that a version of TRL or transformers could change under our feet is here: the
arguments, the loss, and what a trainer leaves behind on a model.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer

from tamis.data.batch import pad_batch
from tamis.data.rendered import OK, RenderedRow, RenderedRows
from tamis.errors import ConfigError
from tamis.models.attention import attention_with_gradients
from tamis.models.load import LanguageModel
from tamis.models.lora import attach_adapters, detach_adapters
from tamis.models.loss import has_plain_head, token_losses
from tamis.rng import derived_seed, scoped_torch_seed

if TYPE_CHECKING:
    from tamis.training.config import FinetuneConfig
    from tamis.training.sft import Progress

# Settings of the model that the trainer aligns with the tokenizer's.
_ALIGNED_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")
# transformers 5.2x renamed gradient checkpointing; the old name warns and leaves in 6.
_RECOMPUTE = "activation" if hasattr(SFTConfig, "activation_checkpointing") else "gradient"
_ADAPTER = "default"  # the name under which plain PEFT looks for an adapter
_KEPT_CHECKPOINTS = 2  # the newest may be torn when the process is killed while writing it
_ROWS_AT_A_TIME = 1_000  # held as Python objects while the data set is written
_SCHEMA = pa.schema(
    {"id": pa.string(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())}
)


def training_dataset(rendered: RenderedRows) -> datasets.Dataset:
    """Return the usable rows, ordered by id, with the columns id, input_ids and labels.

    Raises:
        NoTrainedTokensError: There are none.
    """
    rendered.check_usable("training data")
    order = rendered.id_order.tolist()
    batches = [
        pa.RecordBatch.from_pylist(
            [_columns(rendered[row]) for row in order[start : start + _ROWS_AT_A_TIME]],
            schema=_SCHEMA,
        )
        for start in range(0, len(order), _ROWS_AT_A_TIME)
    ]
    # A fingerprint is given because the library would otherwise hash all tokens to make one.
    return datasets.Dataset(
        pa.Table.from_batches(batches, schema=_SCHEMA), fingerprint=rendered.fingerprint[:16]
    )


def collate(rows: Sequence[dict[str, Any]], *, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad rows of `training_dataset` to a batch, exactly as ranking does.

    Args:
        rows: At least one row.
        pad_token_id: Written into the padding, where it is masked.

    Returns:
        `input_ids`, `attention_mask`, `labels` (int64, B x T).
    """
    rendered = [
        RenderedRow(row["id"], row["input_ids"], row["labels"], OK, 0, 0, 0, 0, 0, "")
        for row in rows
    ]
    padded = pad_batch(rendered, pad_token_id=pad_token_id)
    return {name: torch.from_numpy(values) for name, values in padded.items()}


def train(
    lm: LanguageModel, dataset: datasets.Dataset, config: FinetuneConfig, *, folder: Path,
    start: Path | None, n_steps: int, seed: int, progress: Progress | None,
) -> None:  # fmt: skip
    """Train an adapter; afterwards `folder` holds its checkpoint of the last step.

    Args:
        lm: The base model; left as it was.
        dataset: From `training_dataset`.
        config: Recipe.
        folder: For checkpoints.
        start: Checkpoint to continue from, None for the start.
        n_steps: Optimiser steps in all.
        seed: The user's seed.
        progress: See `tamis.training.sft.finetune`.
    """
    trainer_seed = derived_seed(seed, "finetune") % 2**32  # numpy takes no larger one
    # Asked first of a model, this runs it; in training, where dropout draws random numbers, that
    # would make a resumed run differ from an undisturbed one.
    has_plain_head(lm.model)
    with (
        _left_as_it_was(lm.model, checkpointed=config.gradient_checkpointing),
        _randomness_kept(trainer_seed),
        _quiet_libraries(),
    ):
        peft_model = attach_adapters(lm.model, [_ADAPTER], config.lora, seed=trainer_seed)
        try:
            arguments = trainer_arguments(config, lm, n_steps, folder, trainer_seed)
            trainer = make_trainer(lm, peft_model, dataset, arguments)
            trainer.add_callback(_Reporter(n_steps, progress))
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
        finally:
            detach_adapters(peft_model)


def make_trainer(
    lm: LanguageModel, peft_model: Any, dataset: datasets.Dataset, arguments: SFTConfig
) -> SFTTrainer:
    """Put the trainer together: our rows, our padding, our loss."""
    pad = lm.tokenizer.pad_token_id
    trainer = _Trainer(
        model=peft_model,
        args=arguments,
        train_dataset=dataset,
        processing_class=lm.tokenizer,
        data_collator=lambda rows: collate(rows, pad_token_id=pad),
    )
    trainer.remove_callback(PrinterCallback)
    # On a 4-bit base TRL rounds the adapter to bfloat16; here it stays float32 on every base.
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def _columns(row: RenderedRow) -> dict[str, Any]:
    return {"id": row.id, "input_ids": row.input_ids, "labels": row.labels}


class _Trainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with this package's loss: the one ranking used, on trained positions only."""

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the mean loss per trained token of the whole optimiser step, in nats."""
        width, again = inputs["input_ids"].shape[1], self.args.gradient_checkpointing
        with attention_with_gradients(model, width, recompute=again):
            losses, _ = token_losses(model, inputs)
        # Counted over all micro-batches of the step, so that splitting a batch changes nothing.
        n_tokens = len(losses) if num_items_in_batch is None else num_items_in_batch
        return losses.sum() / n_tokens


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Passes each step's numbers on and stops at the first that is none."""

    def __init__(self, n_steps: int, progress: Progress | None) -> None:
        self._n_steps = n_steps
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Check and report a step."""
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise ConfigError(
                f"the loss is {logs['loss']} at step {state.global_step}: training has diverged. "
                f"Lower learning_rate (now {args.learning_rate:g}) or set warmup_ratio."
            )
        if self._progress is not None:
            metrics = {
                "loss": float(logs["loss"]),
                "learning_rate": float(logs["learning_rate"]),
                "n_tokens": float(state.num_input_tokens_seen),
            }
            self._progress(state.global_step, self._n_steps, metrics)


def trainer_arguments(
    config: FinetuneConfig, lm: LanguageModel, n_steps: int, folder: Path, seed: int
) -> SFTConfig:
    """Translate the recipe; everything that prepares data is off."""
    micro_batch_size = config.micro_batch_size or config.batch_size
    on_cpu = lm.device.type == "cpu"
    schedulers = {"constant": "constant_with_warmup"} if config.warmup_ratio else {}
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=n_steps,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=config.batch_size // micro_batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedulers.get(config.scheduler, config.scheduler),
        warmup_steps=math.ceil(config.warmup_ratio * n_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_gradient_norm,
        **{f"{_RECOMPUTE}_checkpointing": config.gradient_checkpointing},
        optim="adamw_torch",
        seed=seed,
        data_seed=seed,
        # The base keeps its own type and the adapter is float32: nothing is cast on the way.
        bf16=False,
        fp16=False,
        # Rows are rendered and cut already.
        max_length=None,
        packing=False,
        completion_only_loss=False,
        assistant_only_loss=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=config.save_every_steps,
        save_total_limit=_KEPT_CHECKPOINTS,
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        report_to="none",
        disable_tqdm=True,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
    )
    if not on_cpu:
        # One process and one model: with more GPUs in sight the trainer would want to split it.
        _ = arguments.device
        arguments._n_gpu = 1
    return arguments


@contextlib.contextmanager
def _left_as_it_was(model: Any, *, checkpointed: bool) -> Iterator[None]:
    """Undo what TRL, the trainer and gradient checkpointing leave on a model."""
    forward = vars(model).get("forward")
    generation_config = copy.deepcopy(model.generation_config)
    settings = {name: getattr(model.config, name, None) for name in _ALIGNED_SETTINGS}
    try:
        yield
    finally:
        vars(model).pop("forward", None)  # TRL puts its own in front of the class's
        if forward is not None:
            model.forward = forward
        if checkpointed:
            getattr(model, f"{_RECOMPUTE}_checkpointing_disable")()
            model.disable_input_require_grads()
        model.generation_config = generation_config
        for name, value in settings.items():
            setattr(model.config, name, value)
        model.eval().requires_grad_(False)


@contextlib.contextmanager
def _randomness_kept(seed: int) -> Iterator[None]:
    """Let the trainer seed all global generators, and put them back afterwards."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  the trainer seeds the legacy generator
    try:
        with scoped_torch_seed(seed, "trainer"):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Hide the libraries' advice, which speaks of settings that this package makes."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5 a question by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
