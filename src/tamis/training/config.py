"""Settings of fine-tuning and pruning; apart from the code that uses them, which imports torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tamis.models.config import LoraSettings


class FinetuneConfig(BaseModel):
    """How a model is fine-tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: float = Field(1.0, gt=0)
    """Passes over the rows; the last may be partial."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps in all, whatever the number of rows; None follows `epochs`. Arms with
    different numbers of rows are compared fairly only at equal steps."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate of AdamW."""
    scheduler: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up; linear and cosine end at zero."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from zero."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay on the adapter."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    batch_size: int = Field(8, ge=1)
    """Rows per optimiser step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Rows at once in memory; divides `batch_size`. None takes the whole batch at once."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    save_every_steps: int = Field(50, ge=1)
    """Optimiser steps between checkpoints; a killed run loses at most these."""
    lora: LoraSettings = LoraSettings()
    """Shape and place of the adapter."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> FinetuneConfig:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size={self.micro_batch_size} does not divide "
                f"batch_size={self.batch_size}; set a divisor"
            )
        return self

    def steps(self, n_rows: int) -> int:
        """Return the optimiser steps for a number of usable rows; a last partial batch counts."""
        if self.max_steps is not None:
            return self.max_steps
        return math.ceil(self.epochs * math.ceil(n_rows / self.batch_size))


class PruneConfig(BaseModel):
    """What is taken out of an adapter after fine-tuning."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    share: float = Field(0.1, gt=0, lt=1)
    """Share of each output row's weights that is taken out, to the nearest whole number of weights
    (of 16, a share of 0.1 is 2 and one of 0.03 is none); less where fewer matter more to harmful
    rows than to safe ones. Antidote: 0.05 to 0.1, at rank 256."""
    benign_weight: float = Field(1.0, ge=0)
    """How much importance on the safe set counts against importance on harmful rows, both with
    mean 1 over a tensor's weights. 0 is Antidote as published and needs no safe set."""
    max_batch_tokens: int | None = Field(None, ge=1)
    """Tokens run at once, padding included; None is chosen by the device."""
