"""What SEAL costs when it is written plainly, and one TRL epoch: the arms to beat.

The plain loop is what a careful reader of the paper would write first: padded batches, one full
forward and backward pass per stream and step, logits of the whole vocabulary at every position, no
frozen trunk. It computes the same algorithm; it reads no losses under the final models, which ours
does besides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.nn import functional
from trl import SFTConfig, SFTTrainer

from tamis.data.batch import pad_batch, visiting_order
from tamis.data.rendered import RenderedRows
from tamis.methods.seal import SEAL, Selector, selector_weights
from tamis.models.load import LanguageModel
from tamis.models.lora import LoraSettings, adapter_parameters, attach_adapters, detach_adapters
from tamis.training.trl_trainer import training_dataset


def plain_seal(lm: LanguageModel, rows: RenderedRows, safe: RenderedRows, method: SEAL) -> Tensor:
    """Run SEAL as it is written; returns the selector's logits (N)."""
    names = ["upper", "lower"] if method.algorithm == "full" else ["upper"]
    model = attach_adapters(lm.model, names, method.lora, seed=0)
    parameters = {name: list(adapter_parameters(model, name).values()) for name in names}
    optimizers = {
        name: torch.optim.AdamW(values, lr=method.learning_rate, weight_decay=0.0)
        for name, values in parameters.items()
    }
    selector = Selector(len(rows), method)

    def descend(name: str, objective: Tensor) -> None:
        objective.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters[name], method.max_gradient_norm)
        optimizers[name].step()
        optimizers[name].zero_grad()

    step, n_safe = 0, min(method.safe_batch_size, len(safe))
    for epoch in range(method.epochs):
        order = torch.from_numpy(visiting_order(len(rows), 0, "finetuning_set", epoch))
        for places in order.split(method.batch_size):
            weights = selector_weights(selector.logits, method.activation)[places]
            g = method.penalty(epoch)
            model.set_adapter("upper")
            chosen = [(step * n_safe + k) % len(safe) for k in range(n_safe)]
            ((1 - g) * mean_losses(lm, model, safe, chosen).mean()).backward()
            costs = mean_losses(lm, model, rows, places.tolist())
            descend("upper", g * (weights.to(costs.device) * costs).mean())
            costs = costs.detach().cpu()
            if "lower" in names:
                model.set_adapter("lower")
                lower = mean_losses(lm, model, rows, places.tolist())
                descend("lower", (weights.to(lower.device) * lower).mean())
                costs = costs - lower.detach().cpu()
            selector.step(places, costs)
            step += 1
    detach_adapters(model)
    return selector.logits


def mean_losses(
    lm: LanguageModel, model: Any, rows: RenderedRows, indices: Sequence[int]
) -> Tensor:
    """Mean loss per trained token of each row, from logits of every position (B)."""
    padded = pad_batch([rows[i] for i in indices])
    batch = {name: torch.from_numpy(values).to(lm.device) for name, values in padded.items()}
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    losses = functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none"
    )
    return losses.sum(1) / (labels != -100).sum(1)


def trl_epoch(
    lm: LanguageModel, rows: RenderedRows, lora: LoraSettings, *, batch_size: int,
    learning_rate: float,
) -> None:  # fmt: skip
    """Fine-tune for one epoch with TRL's own loss and length grouping, on the same tokens."""
    model = attach_adapters(lm.model, ["default"], lora, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=batch_size,
            learning_rate=learning_rate, max_length=None, packing=False,
            dataset_kwargs={"skip_prepare_dataset": True}, completion_only_loss=False,
            # Recomputing activations would make TRL slower: it is off in every arm.
            **{recomputing(): False},
            bf16=False, save_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=lm.device.type == "cpu", dataloader_pin_memory=lm.device.type != "cpu",
            remove_unused_columns=False, seed=0, **length_grouping(),
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=lengths_added(training_dataset(rows)),
            processing_class=lm.tokenizer, data_collator=collate,
        )  # fmt: skip
        trainer.train()
    detach_adapters(model)


def recomputing() -> str:
    """Name of TRL's setting for gradient checkpointing, which changed."""
    old = not hasattr(SFTConfig, "activation_checkpointing")
    return "gradient_checkpointing" if old else "activation_checkpointing"


def length_grouping() -> dict[str, Any]:
    """The setting that groups rows by length, whose name changed."""
    if "group_by_length" in SFTConfig.__dataclass_fields__:
        return {"group_by_length": True}
    return {"train_sampling_strategy": "group_by_length"}


def lengths_added(dataset: datasets.Dataset) -> datasets.Dataset:
    """Add the column that length grouping reads."""
    return dataset.add_column("length", [len(ids) for ids in dataset["input_ids"]])


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Pad on the right."""
    size = max(len(row["input_ids"]) for row in rows)
    padded = {
        "input_ids": [row["input_ids"] + [0] * (size - len(row["input_ids"])) for row in rows],
        "labels": [row["labels"] + [-100] * (size - len(row["labels"])) for row in rows],
        "attention_mask": [
            [1] * len(row["input_ids"]) + [0] * (size - len(row["input_ids"])) for row in rows
        ],
    }
    return {name: torch.tensor(values) for name, values in padded.items()}
