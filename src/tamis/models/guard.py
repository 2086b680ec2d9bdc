"""Guard models on this machine: from conversations to how safe they are.

    classifier   log sum_{safe labels} e^z - log sum_{unsafe labels} e^z, z the labels' logits
                 several labels at once (sigmoids): -max_{unsafe labels} z
    generative   log sum_{safe words} e^z - log sum_{unsafe words} e^z, z the logits of the words'
                 first tokens after the conversation, the generation prompt and a prefix

All are log-odds in nats, higher = safer; 0 is the guard's own verdict.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tamis.data.chat_format import TemplateRefusedError
from tamis.data.example import Message
from tamis.errors import ConfigError, unknown_name
from tamis.models.config import ModelConfig
from tamis.models.gguf import quiet_transformers
from tamis.models.guard_input import NO_LIMIT, PROBE, GuardInput
from tamis.models.guard_logits import (
    Progress,
    Run,
    label_logits,
    log_odds,
    logits_of_rows,
    make_head_precise,
    word_logits,
    word_probability,
    worst_label,
)
from tamis.models.load import (
    LanguageModel,
    choose_device,
    choose_dtype,
    load_model,
    load_tokenizer,
    weights_fingerprint,
)

UNPARSABLE = "unparsable"


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a guard makes of some conversations.

    Attributes:
        scores: Log-odds of safe in nats (float64, n); NaN where there is no verdict.
        outcomes: "ok" or "truncated", else why there is no verdict.
        word_probability: That the next token is one of the words (float64, n); None without words.
    """

    scores: np.ndarray[Any, np.dtype[np.float64]]
    outcomes: list[str]
    word_probability: np.ndarray[Any, np.dtype[np.float64]] | None


@dataclasses.dataclass(frozen=True)
class GuardModel:
    """A guard ready to judge; made by `classifier` or `generative`.

    Attributes:
        lm: The model.
        reader: Makes its input.
        safe: Columns of the logits that mean safe.
        unsafe: Columns that mean unsafe.
        reads: What its logits are of.
        run: From rows to logits.
        key: Names the logits on disk.
    """

    lm: LanguageModel
    reader: GuardInput
    safe: Sequence[int]
    unsafe: Sequence[int]
    reads: Literal["labels", "sigmoids", "words"]
    run: Run
    key: str

    @classmethod
    def classifier(
        cls, lm: LanguageModel, reader: GuardInput, safe: Sequence[str], unsafe: Sequence[str],
        *, multi_label: bool | None = None,
    ) -> GuardModel:  # fmt: skip
        """Judge by labels.

        Args:
            lm: From `load_classifier`.
            reader: Makes its input.
            safe: Labels that mean safe; not used where each label has its own sigmoid.
            unsafe: Labels that mean unsafe.
            multi_label: Whether each has; None is what the model's config says.

        Raises:
            ConfigError: The model has no such label.
        """
        if multi_label is None:
            kind = getattr(lm.model.config, "problem_type", None)
            multi_label = kind == "multi_label_classification"
        bad = label_places(lm.model, unsafe)
        good = [] if multi_label else label_places(lm.model, safe)
        reads: Literal["sigmoids", "labels"] = "sigmoids" if multi_label else "labels"
        return cls(lm, reader, good, bad, reads, label_logits, "labels")

    @classmethod
    def generative(
        cls, lm: LanguageModel, reader: GuardInput, safe: Sequence[str], unsafe: Sequence[str]
    ) -> GuardModel:
        """Judge by words.

        Args:
            lm: From `load_generative`.
            reader: Makes its input.
            safe: Words that mean safe.
            unsafe: Words that mean unsafe.

        Raises:
            ConfigError: The next token does not tell the words apart.
        """
        try:
            text = reader.text(PROBE)
        except TemplateRefusedError as error:
            raise ConfigError(f"the guard cannot be asked about a plain row: {error}.") from error
        good, bad = (list(dict.fromkeys(word_tokens(reader.encode, text, words)))
                     for words in (safe, unsafe))  # fmt: skip
        if set(good) & set(bad):
            raise ConfigError(
                f"words of both meanings in safe={list(safe)} and unsafe={list(unsafe)} begin with "
                "the same token, so the guard's next token tells nothing. Put what they share into "
                "answer_prefix, or set other words."
            )
        tokens = [*good, *bad]
        key = f"words-{hashlib.sha256(str(tokens).encode()).hexdigest()[:16]}"
        places = range(len(tokens))
        return cls(lm, reader, places[: len(good)], places[len(good) :], "words",
                   word_logits(tokens), key)  # fmt: skip

    def judge(
        self, conversations: Sequence[Sequence[Message]], *, min_word_probability: float = 0.0,
        folder: Path | None = None, max_batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> Judged:  # fmt: skip
        """Judge conversations that end with an answer.

        Args:
            conversations: From `judged_turns`; their order decides the batches.
            min_word_probability: Where the words have less, there is no verdict.
            folder: Where logits are kept; a killed pass goes on there.
            max_batch_tokens: Tokens run at once; None is chosen by the device.
            progress: Called with rows done.
        """
        readings = self.reader.read(conversations)
        outcomes = [reading.outcome for reading in readings]
        readable = [i for i, reading in enumerate(readings) if reading.ids is not None]
        scores = np.full(len(readings), np.nan)
        p = np.full(len(readings), np.nan) if self.reads == "words" else None
        if readable:
            logits = logits_of_rows(
                self.lm, [ids for reading in readings if (ids := reading.ids) is not None],
                self.run, folder=None if folder is None else folder / self.key,
                max_batch_tokens=max_batch_tokens, progress=progress,
            )  # fmt: skip
            found = (worst_label(logits, self.unsafe) if self.reads == "sigmoids"
                     else log_odds(logits, self.safe, self.unsafe))  # fmt: skip
            scores[readable] = found.numpy()
            if p is not None:
                p[readable] = word_probability(logits).numpy()
                for i in np.flatnonzero(p < min_word_probability):
                    scores[i], outcomes[i] = np.nan, UNPARSABLE
        return Judged(scores, outcomes, p)


def load_classifier(
    config: ModelConfig, *, device: str | None = None, dtype: str | None = None
) -> LanguageModel:
    """Load a sequence classifier and its tokenizer.

    Raises:
        ConfigError: It cannot be read, or has no trained classification head.
    """
    from transformers import AutoModelForSequenceClassification

    target = choose_device(device)
    kind = choose_dtype(dtype, target)
    tokenizer = load_tokenizer(config)
    try:
        with quiet_transformers():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                config.name, revision=config.revision, dtype=kind, output_loading_info=True,
                trust_remote_code=config.trust_remote_code,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"guard {config.name!r} cannot be loaded as a classifier: {str(error).splitlines()[0]} "
            "Set backend to generative for a guard that writes its verdict."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"guard {config.name!r} lacks {', '.join(missing[:3])}: its verdicts would be random. "
            "Give a trained classifier, or set backend to generative."
        )
    fingerprint = weights_fingerprint(model)
    model.to(target).eval().requires_grad_(False)
    make_head_precise(model)
    revision = getattr(model.config, "_commit_hash", None)
    return LanguageModel(model, tokenizer, str(config.name), revision, fingerprint, target, kind)


def load_generative(
    config: ModelConfig, *, device: str | None = None, dtype: str | None = None
) -> LanguageModel:
    """Load a guard that writes its verdict.

    Raises:
        ConfigError: It cannot be read, or is a classifier.
    """
    lm = load_model(config, device=device, dtype=dtype)
    classes = getattr(lm.model.config, "architectures", None) or []
    if any("Classification" in name for name in classes):
        raise ConfigError(
            f"guard {config.name!r} is a classifier ({classes[0]}) and writes nothing: set backend "
            "to classifier."
        )
    return lm


def label_places(model: Any, labels: Sequence[str]) -> list[int]:
    """Return the outputs of the named labels.

    Raises:
        ConfigError: The model has no such label.
    """
    known = {str(name): int(place) for place, name in model.config.id2label.items()}
    for label in labels:
        if label not in known:
            raise unknown_name("label of the guard", label, known)
    return [known[label] for label in labels]


def word_tokens(encode: Callable[[str], list[int]], text: str, words: Sequence[str]) -> list[int]:
    """Return the token that each word begins with, right after a text.

    Args:
        encode: From text to token ids, as the guard's input is made.
        text: What stands before the verdict, or its end.
        words: The words.

    Raises:
        ConfigError: A word melts into the text before it.
    """
    before = encode(text)
    tokens = []
    for word in words:
        ids = encode(text + word)
        if ids[: len(before)] != before or len(ids) == len(before):
            raise ConfigError(
                f"the word {word!r} has no token of its own after {text[-12:]!r}: the guard's "
                "tokenizer joins the two. Change answer_prefix, or give the word with its blank."
            )
        tokens.append(ids[len(before)])
    return tokens


def longest_input(lm: LanguageModel) -> int | None:
    """Most tokens that a model and its tokenizer say they take; None where neither says."""
    config = lm.model.config.get_text_config()
    said = [getattr(config, "max_position_embeddings", None), lm.tokenizer.model_max_length]
    return min((n for n in said if n and n < NO_LIMIT), default=None)
