"""Small problems with known answers: a tiny chat model, a contaminated set, a quadratic bilevel.

Everything is made here from literals and named seeds; nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.models.load import LanguageModel, weights_fingerprint
from tamis.rng import numpy_generator, scoped_torch_seed, torch_generator

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOPICS = ("garden", "river", "bread", "lamp", "violin", "paper", "winter", "stone")
SAFE_WORDS = ("gently", "water", "share")
HARMFUL_WORDS = ("ember", "crack", "venom")
WEIGHT_SCALE = 0.1  # standard deviation of the matrices: five times the usual, so rows differ


@functools.cache
def tokenizer() -> Any:
    """Train a byte-level BPE on the toy words, with ChatML; any text can be encoded."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [*TOPICS, *SAFE_WORDS, *HARMFUL_WORDS, "user", "assistant", "Tell me about the"]
    backend.train_from_iterator([" ".join(words)] * 4, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    wrapped.chat_template = CHATML
    return wrapped


def fill_weights(model: PreTrainedModel, seed: int = 0) -> None:
    """Set every matrix from a named generator; vectors (norms, biases) become a gentle ramp."""
    generator = torch_generator(seed, "toy weights")
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0.0, WEIGHT_SCALE, generator=generator)
            else:  # ones and zeros would hide a forgotten norm or bias
                parameter.add_(torch.linspace(-0.1, 0.1, parameter.numel()))


def llama(n_layers: int = 2, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Make a Llama of width 32 with 4 heads in 2 groups."""
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().pad_token_id,
    )
    return random_model(LlamaForCausalLM, config, seed=seed, dtype=dtype)


def random_model(
    architecture: Any, config: Any, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Any:
    """Make a model of any architecture with the toy's weights, in eval mode, frozen."""
    with scoped_torch_seed(seed, "toy"):  # transformers draws from the global generator
        model = architecture(config)
    fill_weights(model, seed)
    return model.to(dtype).eval().requires_grad_(False)


def language_model(model: Any) -> LanguageModel:
    """Wrap a model with the toy tokenizer."""
    return LanguageModel(
        model=model,
        tokenizer=tokenizer(),
        name="toy",
        revision=None,
        fingerprint=weights_fingerprint(model),
        device=torch.device("cpu"),
        dtype=next(model.parameters()).dtype,
    )


def tiny_lm(n_layers: int = 2, *, seed: int = 0) -> LanguageModel:
    """Make the tiny model with its tokenizer."""
    return language_model(llama(n_layers, seed=seed))


def examples(pairs: Sequence[tuple[str, str]]) -> Examples:
    """Make rows from (prompt, completion) pairs; source ids are "row-0", "row-1", ..."""
    return load_examples(
        [{"id": f"row-{i}", "prompt": p, "completion": c} for i, (p, c) in enumerate(pairs)]
    )


@dataclass(frozen=True)
class ContaminatedSet:
    """Rows with a planted signal.

    Attributes:
        finetuning_set: Rows to rank.
        safe_set: Rows of the benign kind, none of them in `finetuning_set`.
        harmful: Whether each row of `finetuning_set` is of the harmful kind (bool, n).
    """

    finetuning_set: Examples
    safe_set: Examples
    harmful: np.ndarray


def contaminated_set(
    n: int = 64, *, n_harmful: int = 20, n_safe: int = 32, seed: int = 0
) -> ContaminatedSet:
    """Make benign rows that answer in one vocabulary and harmful rows that answer in another.

    Prompts are of one kind, answers of 3 to 8 words: only the words of the answer tell the kinds
    apart.
    """
    source = numpy_generator(seed, "contaminated set")

    def row(number: int, words: tuple[str, ...]) -> tuple[str, str]:
        topic = TOPICS[int(source.integers(len(TOPICS)))]
        answer = source.choice(words, size=int(source.integers(3, 9)))
        return f"Tell me about the {topic} {number}", " ".join(map(str, answer))

    harmful = source.permutation(np.arange(n) < n_harmful)
    rows = [row(i, HARMFUL_WORDS if bad else SAFE_WORDS) for i, bad in enumerate(harmful)]
    safe = [row(n + i, SAFE_WORDS) for i in range(n_safe)]
    return ContaminatedSet(examples(rows), examples(safe), harmful)


@dataclass(frozen=True)
class QuadraticBilevel:
    """Rows with s_j(theta) = h_j + |theta - m_j|^2 / 2, a safe loss |theta - m_s|^2 / 2.

    h_j is the row's difficulty: no model lowers it. Every minimiser is a weighted mean:
    theta*(w) = sum_j w_j m_j / sum_j w_j, and with u = (1-g) + g * mean(w)

        argmin (1-g) safe + g mean_j w_j s_j  =  [(1-g) m_s + g mean_j w_j m_j] / u

    Attributes:
        difficulty: h_j in nats (N).
        centers: m_j (N x D).
        safe_center: m_s (D).
        harmful: Whether a row's centre is the harmful one (bool, N).
    """

    difficulty: Tensor
    centers: Tensor
    safe_center: Tensor
    harmful: Tensor

    def row_losses(self, theta: Tensor) -> Tensor:
        """s_j(theta) (N)."""
        return self.difficulty + 0.5 * (theta - self.centers).square().sum(dim=1)

    def safe_loss(self, theta: Tensor) -> Tensor:
        """L_safe(theta) (scalar)."""
        return 0.5 * (theta - self.safe_center).square().sum()

    def lower_solution(self, weights: Tensor) -> Tensor:
        """theta*(w) (D)."""
        return (weights[:, None] * self.centers).sum(dim=0) / weights.sum()

    def penalized_solution(self, weights: Tensor, g: float) -> Tensor:
        """The minimiser of the penalised objective (D)."""
        pulled = (weights[:, None] * self.centers).mean(dim=0)
        return ((1 - g) * self.safe_center + g * pulled) / ((1 - g) + g * weights.mean())


def quadratic_bilevel(
    n: int = 200, *, harmful_share: float = 0.2, difficulty: float = 4.0, seed: int = 0
) -> QuadraticBilevel:
    """Make a quadratic problem in 5 dimensions whose difficulties are far wider than its signal.

    Benign centres lie around the safe one, harmful ones two units away; difficulties are uniform
    in [0, difficulty] and independent of both.
    """
    generator = torch_generator(seed, "quadratic bilevel")
    harmful = torch.arange(n) < harmful_share * n
    direction = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    noise = 0.3 * torch.randn(n, 5, dtype=torch.float64, generator=generator)
    return QuadraticBilevel(
        difficulty=difficulty * torch.rand(n, dtype=torch.float64, generator=generator),
        centers=noise + harmful[:, None] * direction,
        safe_center=torch.zeros(5, dtype=torch.float64),
        harmful=harmful,
    )


def auroc(risk: Any, positive: Any) -> float:
    """Share of (positive, negative) pairs that are ordered rightly; ties count half."""
    risk, positive = np.asarray(risk), np.asarray(positive, dtype=bool)
    difference = risk[positive][:, None] - risk[~positive][None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's rho of two vectors without ties."""
    ranks = [np.argsort(np.argsort(np.asarray(x))) for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
