"""Settings of models and adapters; no torch here, so that reading a config file needs none."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelConfig(BaseModel):
    """Which model to load."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str | None = None
    """Hub id, local folder or .gguf file; None is the embedded default."""
    revision: str | None = None
    """Commit, tag or branch on the hub; None is the default branch."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository ships. Off unless you turn it on."""
    load_in_4bit: bool = False
    """Hold the base model's linear layers in 4 bits (NF4 with double quantisation): a quarter of
    the memory of bfloat16, slower, and another model. Needs bitsandbytes, the extra
    `quant`."""


class LoraSettings(BaseModel):
    """Shape and place of the adapters."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rank: int = Field(16, ge=1)
    """Rank r of the two factors."""
    alpha: float = Field(16.0, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs dropped while training."""
    targets: tuple[str, ...] | Literal["all"] | None = None
    """Module names to adapt; None is q_proj and v_proj, else the fused attention projection; `all`
    is every linear module of the decoder layers."""
    layers: tuple[int, ...] | None = None
    """Decoder layers to adapt, counted from 0; None is all."""
