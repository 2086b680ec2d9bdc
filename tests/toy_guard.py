"""Tiny guards with the toy tokenizer, random but for what a test sets, saved where asked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForSequenceClassification

import toy
from tamis.rng import scoped_torch_seed

LABELS = ("safe", "unsafe", "unclear")


def classifier(
    labels: Sequence[str] = LABELS,
    *,
    seed: int = 0,
    problem_type: str | None = None,
    **changes: Any,
) -> Any:
    """Make a Llama with a classification head; changes go to its config."""
    settings = toy.llama().config.to_dict() | {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": problem_type,
        **changes,
    }
    settings.pop("architectures", None)
    return toy.random_model(LlamaForSequenceClassification, LlamaConfig(**settings), seed=seed)


def qwen3guard(folder: Path) -> str:
    """Save a tiny guard that writes one of Qwen3Guard's words, whatever it is shown."""
    model, tokenizer = toy.llama(), copy.deepcopy(toy.tokenizer())
    tokenizer.add_tokens([" Safe", " Unsafe", " Controversial"])
    with scoped_torch_seed(0, "toy guard"):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    toy.fill_weights(model, 0)
    safe, unsafe = tokenizer(" Safe Unsafe")["input_ids"]
    head = model.lm_head.weight.data
    direction = 200 * head[safe]
    head.zero_()
    head[safe], head[unsafe] = direction, -direction
    name = saved(model, folder)
    tokenizer.save_pretrained(folder)
    return name


def encoder_tokenizer() -> Any:
    """Return the toy tokenizer as a BERT has it: [CLS] before a text, [SEP] behind, no template."""
    tokenizer = copy.deepcopy(toy.tokenizer())
    tokenizer.chat_template = tokenizer.eos_token = None
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    added = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=added
    )
    return tokenizer


def saved(model: Any, folder: Path, *, chat_template: str | None = toy.CHATML) -> str:
    """Save a model with the toy tokenizer and return the folder's name."""
    model.save_pretrained(folder)
    toy.tokenizer().save_pretrained(folder)
    template = folder / "chat_template.jinja"
    template.unlink(missing_ok=True)
    if chat_template is not None:
        template.write_text(chat_template, encoding="utf-8")
    return str(folder)
