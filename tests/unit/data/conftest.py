"""Tokenizers of the kinds that matter for masks, trained here on a few words; templates as text."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

_TEXT = [
    "hello world sure here is the answer user assistant system you are helpful " * 4,
    "Sure, here is how. Hello. Human: what is the name of it? I cannot help with that. " * 4,
    "one two three four five six seven eight nine ten " * 4,
]

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% elif message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="session")
def byte_bpe() -> Any:
    """Byte-level BPE as in GPT-2 and Llama 3: a blank merges into the word after it. ChatML."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    wrapped.chat_template = CHATML
    return wrapped


@pytest.fixture(scope="session")
def sentence_piece() -> Any:
    """Unigram with a blank put before every text, as Llama 2 and Mistral have it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    letters = sorted(set("".join(_TEXT) + "[]/INST\nSureabcdefghijklmnopqrstuvwxyz0123456789"))
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.chat_template = LLAMA2
    return wrapped


@pytest.fixture(scope="session")
def word_level() -> Any:
    """Whole words and punctuation; everything unknown is one token. ChatML."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        special_tokens=["<unk>", "<|im_start|>", "<|im_end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", unk_token="<unk>"
    )
    wrapped.chat_template = CHATML
    return wrapped


class LetterTokenizer(PreTrainedTokenizer):
    """A tokenizer in Python, without offsets: one token per letter."""

    def __init__(self, **settings: Any) -> None:
        self._letters = [chr(i) for i in range(32, 127)] + ["\n", "<end>"]
        super().__init__(eos_token="<end>", **settings)

    @property
    def vocab_size(self) -> int:
        """Number of letters."""
        return len(self._letters)

    def get_vocab(self) -> dict[str, int]:
        """Id of each letter."""
        return {letter: i for i, letter in enumerate(self._letters)}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._letters.index(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._letters[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join letters without blanks."""
        return "".join(tokens)


@pytest.fixture(scope="session")
def letters() -> Any:
    """A tokenizer that keeps no offsets."""
    return LetterTokenizer()


@pytest.fixture(params=["byte_bpe", "sentence_piece", "word_level"])
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    """Each of the tokenizers in turn."""
    return request.getfixturevalue(request.param)
