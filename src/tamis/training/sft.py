"""Fine-tuning with LoRA on a selection, by TRL's SFTTrainer.

The rows arrive rendered: the trainer sees the token ids and labels that ranking and inspection
saw, and renders, cuts, packs and masks nothing itself. The loss is the mean over the trained
tokens of an optimiser step, in nats; it is computed on trained positions only, as everywhere in
this package. Rows are put in the order of their ids first, so the same set in another order gives
the same adapter.

A killed run continues from its newest whole checkpoint and ends with the same adapter.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.data.example import Examples
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError
from tamis.files import atomic_path, write_json
from tamis.training.checkpoint import (
    checkpoint_path,
    checkpoint_step,
    newest_checkpoint,
    read_state,
)
from tamis.training.config import FinetuneConfig

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel

_ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainingResult:
    """What a fine-tuning did.

    Attributes:
        adapter: Folder that plain PEFT loads.
        steps: Optimiser steps.
        epochs: Passes over the rows.
        losses: Mean loss of each step, nats per trained token; of all steps, also those before a
            resume.
        n_rows: Rows trained on.
        n_tokens: Tokens that went through the model, padding left out, repetitions counted.
        seconds: Training time of this process; after a resume only since then.
        resumed_at: Step of the checkpoint it continued from; None from the start.
        rows_by_outcome: Rows of the set by rendering outcome; only "ok" and "truncated" are
            trained on.
        note: What the user should know about the adapter's place; "" for the default.
    """

    adapter: Path
    steps: int
    epochs: float
    losses: list[float]
    n_rows: int
    n_tokens: int
    seconds: float
    resumed_at: int | None
    rows_by_outcome: dict[str, int]
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest says of the training."""
        values = {key: value for key, value in vars(self).items() if key != "adapter"}
        return {**values, "adapter": self.adapter.name}


def finetune(
    lm: LanguageModel,
    examples: Examples,
    config: FinetuneConfig,
    render_config: RenderConfig,
    *,
    out: Path,
    work: Path,
    seed: int,
    progress: Progress | None = None,
) -> TrainingResult:
    """Fine-tune a LoRA adapter and save it.

    Args:
        lm: The base model; it is left as it was.
        examples: The rows to train on, in any order.
        config: Recipe.
        render_config: Template and limits; the same as in ranking.
        out: Folder for the adapter (adapter_config.json and adapter_model.safetensors).
        work: Folder for checkpoints. When it holds some of the same request, training continues
            from the newest whole one; the caller sees to it that the request is the same.
        seed: Of the adapter's start, the order of the rows and dropout.
        progress: Called after each step with (step, steps, {"loss", "learning_rate",
            "n_tokens"}).

    Returns:
        What was done.

    Raises:
        NoTrainedTokensError: No row has trained tokens.
        ConfigError: The loss is not a number, or the device is not the first visible GPU.
        TruncatedResponseError: See `tamis.data.template.render`.
    """
    if lm.device.type == "cuda" and (lm.device.index or 0) != 0:
        raise ConfigError(
            f"fine-tuning runs on the first visible GPU, not on {lm.device}. Set "
            f"CUDA_VISIBLE_DEVICES={lm.device.index} and --device cuda."
        )
    from tamis.models.lora import choose_targets
    from tamis.training import trl_trainer  # imports torch and TRL, which takes seconds

    rendered = render(examples, lm.tokenizer, render_config)
    dataset = trl_trainer.training_dataset(rendered)
    n_steps = config.steps(len(dataset))
    checkpoints = work / "checkpoints"
    start = newest_checkpoint(checkpoints)
    resumed_at = None if start is None else checkpoint_step(start)
    started = time.monotonic()
    if resumed_at is None or resumed_at < n_steps:
        trl_trainer.train(
            lm, dataset, config, folder=checkpoints, start=start, n_steps=n_steps, seed=seed,
            progress=progress,
        )  # fmt: skip
    seconds = time.monotonic() - started
    # The trainer's last act is a checkpoint, so the adapter is taken from there in every case,
    # also when the process was killed between that checkpoint and the copy.
    last = checkpoint_path(checkpoints, n_steps)
    _copy_adapter(last, out)
    state = read_state(last)
    return TrainingResult(
        adapter=out,
        steps=state["global_step"],
        epochs=float(state["epoch"]),
        losses=[float(entry["loss"]) for entry in state["log_history"] if "loss" in entry],
        n_rows=len(dataset),
        n_tokens=int(state["num_input_tokens_seen"]),
        seconds=seconds,
        resumed_at=resumed_at,
        rows_by_outcome=rendered.counts(),
        note=choose_targets(lm.model, config.lora)[1],
    )


def _copy_adapter(checkpoint: Path, out: Path) -> None:
    """Copy what plain PEFT needs, and nothing of the optimiser."""
    settings = json.loads((checkpoint / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
    # PEFT writes a set, in another order each time; a repeated run must give the same bytes.
    settings["target_modules"] = sorted(settings["target_modules"])
    with atomic_path(out / _ADAPTER_WEIGHTS) as temporary:
        shutil.copyfile(checkpoint / _ADAPTER_WEIGHTS, temporary)
    write_json(out / _ADAPTER_CONFIG, settings)
