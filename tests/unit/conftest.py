"""A tiny random chat model, built in process: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tamis.models.load import LanguageModel

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> Any:
    """Make a tokenizer of single bytes with ChatML: any text, 259 tokens, nothing trained."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def make_lm() -> Callable[..., LanguageModel]:
    """Return a maker of tiny models: `make_lm(seed=0, dtype="float32")`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tamis.models.load import weights_fingerprint
    from tamis.rng import scoped_torch_seed

    # Matrices this small are slower on two threads, by far where cores are shared.
    torch.set_num_threads(1)

    def make(*, seed: int = 0, dtype: str = "float32") -> LanguageModel:
        tokenizer = byte_tokenizer()
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
        with scoped_torch_seed(seed, "tiny"):
            model = LlamaForCausalLM(config)
        model.to(getattr(torch, dtype)).eval().requires_grad_(False)
        return LanguageModel(
            model=model,
            tokenizer=tokenizer,
            name="tiny",
            revision=None,
            fingerprint=weights_fingerprint(model),
            device=torch.device("cpu"),
            dtype=getattr(torch, dtype),
        )

    return make
