r"""Ask a guard: a moderation model, or a model at an endpoint, says how safe each row is.

    classifier   score_i = log-odds of its safe against its unsafe labels; with several labels at
                 once, minus the log-odds of the likeliest unsafe one
    generative   score_i = log sum_{safe words} e^z - log sum_{unsafe words} e^z, z the logits of
                 their first tokens where its verdict stands
    endpoint     score_i = 1 if its answer to a yes/no question says safe, -1 if unsafe

In nats but for the endpoint; 0 is the guard's own verdict. No answer is no verdict: a row whose
answer cannot be read (`unparsable`: words that do not clearly say either, or a next token that is
none of the words with more than even chance) has no score.

Source: Llama Guard, Inan et al. 2023, arXiv:2312.06674, with the score logit(safe) - logit(unsafe)
that Haroon & Fleming 2026 give it (oadamharoon/certified-safety-curation-llm@683093b,
scripts/common.py `llama_guard_scores`: its chat template, then "\n\n"); beaver-dam of Ji et al.
2023, arXiv:2307.04657; the question of `tamis.models.guard_text` is the "Prompting" baseline of
Choi et al. 2024 (SAFT), arXiv:2410.10014.
Differs: rows too long for the guard are left out or lose the end of the answer, never the place of
the verdict; a prompt is cut at no number of characters; system turns are read as part of the first
user turn; verdicts that no word stands for are set apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tamis.data.example import Message
from tamis.errors import ConfigError, JudgeError
from tamis.methods.base import Method, RankingInputs
from tamis.methods.scores import Scores
from tamis.models.config import ModelConfig
from tamis.models.endpoint import Endpoint
from tamis.models.endpoint_settings import EndpointSettings
from tamis.models.guard_text import (
    QWEN3GUARD,
    SAFT_QUESTION,
    check_places,
    check_words,
    filled,
    judged_turns,
    read_answer,
    read_policy,
)

if TYPE_CHECKING:
    from tamis.models.guard import GuardModel

NO_ANSWER, UNPARSABLE = "no_answer", "unparsable"
SAFE, UNSAFE = 1.0, -1.0  # what an endpoint's verdicts count
# Settings that some backends have no use for.
_ONLY: Mapping[str, tuple[str, ...]] = {
    "multi_label": ("classifier",), "question": ("generative", "endpoint"),
    "answer_prefix": ("generative",), "min_word_probability": ("generative",),
    **dict.fromkeys(
        ("text_format", "chat_template", "policy_variable", "max_tokens", "on_too_long",
         "max_batch_tokens", "revision", "trust_remote_code", "device", "dtype"),
        ("classifier", "generative"),
    ),
    "endpoint": ("endpoint",),
}  # fmt: skip
Turns = Sequence[Message]
_Verdicts = tuple[np.ndarray, list[str], dict[str, np.ndarray], dict[str, Any]]


class Guard(Method):
    """Score rows by a guard's verdict (higher = keep), in nats where it has logits.

    Source: generative, Inan et al. 2023, arXiv:2312.06674; classifier, Ji et al. 2023,
    arXiv:2307.04657; question, Choi et al. 2024, arXiv:2410.10014. Needs: a guard, in `guard`.
    Cost: one forward pass of the guard, or one request.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prompting": {"backend": "generative", "question": SAFT_QUESTION},
        "qwen3guard": QWEN3GUARD,
    }

    preset: Literal["prompting", "qwen3guard"] | None = None
    """Recorded name of the preset the values came from."""
    backend: Literal["classifier", "generative", "endpoint"] = "generative"
    """Labels of a classifier, words of a model on this machine, or answers of an endpoint."""
    guard: str | None = None
    """Hub id or folder of the guard; at an endpoint, the model's name there. Must be given."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    trust_remote_code: bool = False
    """Run Python code that the guard's repository ships. Off unless you turn it on."""
    device: str | None = None
    """cpu, cuda or cuda:N; None is a GPU where there is one."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """None is bfloat16 where the hardware is fast at it, else float32."""
    safe: tuple[str, ...] | None = None
    """Labels or words that mean safe; None is safe, or No where a question is asked."""
    unsafe: tuple[str, ...] | None = None
    """Labels or words that mean unsafe; None is unsafe, or Yes where a question is asked."""
    multi_label: bool | None = None
    """Whether each label has its own sigmoid; None is what the classifier's config says."""
    question: str | None = None
    """What to ask about {prompt} and {response}; None shows a generative guard the conversation,
    and asks an endpoint SAFT's question."""
    text_format: str | None = None
    """The whole text a guard reads, with {prompt} and {response}, instead of a chat template."""
    chat_template: str | None = None
    """None is the guard's own; "plain" or a file with a Jinja template otherwise."""
    answer_prefix: str | None = None
    """Text between the generation prompt and the verdict; None is two line ends where a
    conversation is shown (Llama Guard), nothing where a question or a text_format is given."""
    policy: str | None = None
    """File that says what is unsafe: text, or a value in .json. For a template's variable, or for
    {policy} in question or text_format."""
    policy_variable: str = "policy"
    """The chat template's name for it: guideline in ShieldGemma, categories in Llama Guard 3."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest row in the guard's tokens, template included; None is what the guard can read."""
    on_too_long: Literal["drop", "truncate"] = "drop"
    """Leave longer rows unscored, or cut the end of their answers."""
    min_word_probability: float = Field(0.5, ge=0, lt=1)
    """A next token that is one of the words with less probability than this is no verdict."""
    max_batch_tokens: int | None = Field(None, ge=1)
    """Tokens run at once, padding included; None is 1,024 on a CPU and 16,384 on a GPU."""
    endpoint: EndpointSettings = EndpointSettings()
    """Where the guard is asked, how often and how patiently."""

    @model_validator(mode="after")
    def _consistent(self) -> Guard:
        for name, backends in _ONLY.items():
            default = type(self).model_fields[name].default
            if self.backend not in backends and getattr(self, name) != default:
                raise ValueError(f"{name} means nothing to backend={self.backend}: leave it out")
        if self.text_format and (self.question or self.chat_template):
            raise ValueError("text_format stands instead of question and chat_template: give one")
        if self.backend == "endpoint" and self.endpoint.base_url is None:
            raise ValueError("backend=endpoint needs endpoint.base_url")
        texts = {"text_format": self.text_format, "question": self.asks}
        for name, text in texts.items():
            if text is not None:
                check_places(name, text, self.policy)
        safe, unsafe = self.words
        if not self.multi_label:
            check_words(safe, unsafe)
        elif not unsafe:
            raise ValueError("unsafe names no label, so nothing would be unsafe")
        return self

    @property
    def asks(self) -> str | None:
        """The question, if one is asked."""
        return SAFT_QUESTION if self.backend == "endpoint" and not self.question else self.question

    @property
    def words(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Words or labels that mean safe, and that mean unsafe."""
        safe, unsafe = (("No",), ("Yes",)) if self.asks else (("safe",), ("unsafe",))
        return (safe if self.safe is None else self.safe,
                unsafe if self.unsafe is None else self.unsafe)  # fmt: skip

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row that the guard can read and answers to.

        Raises:
            ConfigError: No guard is given, it cannot be loaded, or the settings do not fit it.
            JudgeError: The guard scored no row at all, or its endpoint is down.
            MissingDependencyError: An endpoint is asked and `openai` is not installed.
        """
        if self.guard is None:
            raise ConfigError("method 'guard' needs a guard: set guard to a hub id or a folder.")
        rows = inputs.finetuning_set
        order = sorted(range(len(rows)), key=rows.ids.__getitem__)
        turns = {place: judged_turns(rows[place].messages) for place in order}
        judged = [place for place in order if turns[place]]
        conversations = [turns[place] for place in judged]
        judge = self._by_endpoint if self.backend == "endpoint" else self._by_model
        found, why, readings, details = judge(conversations, inputs)
        values, outcome = np.full(len(rows), np.nan), [NO_ANSWER] * len(rows)
        values[judged] = found
        columns = {name: np.full(len(rows), np.nan) for name in readings}
        for name, column in columns.items():
            column[judged] = readings[name]
        for place, reason in zip(judged, why, strict=True):
            outcome[place] = reason
        scores = Scores("guard", rows.ids, rows.source_ids, values, outcome, None, columns, details)
        if np.isnan(values).all():
            raise JudgeError(
                f"the guard {self.guard} gave none of {len(rows):,} rows a verdict "
                f"({scores.rows_by_outcome()}). Unparsable rows call for other words or another "
                "answer_prefix, refused ones for another chat_template, long ones for "
                "on_too_long=truncate."
            )
        safe, unsafe = self.words
        details |= {
            "backend": self.backend, "unsafe": list(unsafe),
            "safe": [] if details.get("reads") == "sigmoids" else list(safe),
            "notes": [*details["notes"], *self._notes(scores)],
        }  # fmt: skip
        return dataclasses.replace(scores, details=details)

    def load(self) -> GuardModel:
        """Load the guard as these settings have it, for models on this machine.

        Raises:
            ConfigError: No guard is given, it or its policy cannot be read, or the settings do not
                fit it.
        """
        from tamis.models.guard import (
            GuardModel,
            load_classifier,
            load_generative,
            longest_input,
        )
        from tamis.models.guard_input import GuardInput

        if self.guard is None:
            raise ConfigError("a guard needs a model: set guard to a hub id or a folder.")
        shown = self.question is None and self.text_format is None
        policy = None if self.policy is None else read_policy(self.policy, as_text=not shown)
        generative = self.backend == "generative"
        config = ModelConfig(name=self.guard, revision=self.revision,
                             trust_remote_code=self.trust_remote_code)  # fmt: skip
        load = load_generative if generative else load_classifier
        lm = load(config, device=self.device, dtype=self.dtype)
        prefix = ("\n\n" if shown else "") if self.answer_prefix is None else self.answer_prefix
        reader = GuardInput(
            lm.tokenizer, chat_template=self.chat_template, text_format=self.text_format,
            question=self.question, prefix=prefix if generative else None, policy=policy,
            policy_variable=self.policy_variable, max_tokens=self.max_tokens or longest_input(lm),
            on_too_long=self.on_too_long,
        )  # fmt: skip
        safe, unsafe = self.words
        if generative:
            return GuardModel.generative(lm, reader, safe, unsafe)
        return GuardModel.classifier(lm, reader, safe, unsafe, multi_label=self.multi_label)

    def _by_model(self, conversations: Sequence[Turns], inputs: RankingInputs) -> _Verdicts:
        """Scores, outcomes, columns and details from a model on this machine."""
        model = self.load()
        root = inputs.cache or inputs.work
        judged = model.judge(
            conversations, min_word_probability=self.min_word_probability,
            folder=None if root is None else root / "guard",
            max_batch_tokens=self.max_batch_tokens, progress=inputs.progress("guard"),
        )  # fmt: skip
        n_forged = sum(map(model.reader.forged, conversations))
        note = (
            f"{n_forged:,} rows spell a special token of the guard, which reads it as its own: "
            "look at them, such a row can dictate its verdict."
        )
        details: dict[str, Any] = {
            "guard": model.lm.describe(), "reads": model.reads,
            "n_rows_with_special_tokens": n_forged,
            "notes": [note] if n_forged else [],
        }  # fmt: skip
        p = judged.word_probability
        return judged.scores, judged.outcomes, {} if p is None else {"word_probability": p}, details

    def _by_endpoint(self, conversations: Sequence[Turns], inputs: RankingInputs) -> _Verdicts:
        """Scores, outcomes, columns and details from answers in words."""
        policy = None if self.policy is None else read_policy(self.policy, as_text=True)
        question = str(self.asks)
        root = inputs.cache or inputs.work
        kept = None if root is None else root / "guard-endpoint" / "answers.jsonl"
        client = Endpoint(str(self.guard), self.endpoint, kept)
        asked = [[{"role": "user", "content": filled(question, turns, policy)}]
                 for turns in conversations]  # fmt: skip
        replies = client.ask(asked, inputs.progress("guard"))
        safe, unsafe = self.words
        values, why = np.full(len(replies), np.nan), []
        for i, reply in enumerate(replies):
            verdict = None if reply.text is None else read_answer(reply.text, safe, unsafe)
            if verdict is None:
                why.append(reply.failure or UNPARSABLE)
                continue
            values[i] = SAFE if verdict else UNSAFE
            why.append("ok")
        details = {
            "guard": {"name": self.guard, "endpoint": self.endpoint.base_url},
            "n_calls": client.n_calls, "n_answers_from_cache": client.n_cached,
            "failed_calls": dict(sorted(client.failures.items())),
            "n_unanswered": sum(reply.text is None for reply in replies),
            "notes": [
                "verdicts are yes or no, so all rows of one verdict tie: cut by threshold 0, or "
                "ids decide between them."
            ],
        }  # fmt: skip
        return values, why, {}, details

    def _notes(self, scores: Scores) -> list[str]:
        """Say what a reader of the ranking should know."""
        notes = [f"{self.guard} judged these rows: do not evaluate models trained on them with it."]
        unscored = {name: n for name, n in scores.rows_by_outcome().items()
                    if name not in ("ok", "truncated")}  # fmt: skip
        if unscored:
            counts = ", ".join(f"{name} {n:,}" for name, n in unscored.items())
            notes.append(f"rows without a verdict: {counts}.")
        return notes
