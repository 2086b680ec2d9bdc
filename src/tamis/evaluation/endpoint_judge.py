"""A language model behind an OpenAI-compatible endpoint as judge: of answers, and of pairs of them.

Answers of the endpoint are kept by `tamis.models.endpoint` under a hash of what was asked, so the
same answers are judged once. No reply (`endpoint_error`), none left in the budget (`budget`) and a
reply that states no verdict or recites the question (`unparsable`) leave an answer unscored; they
never count as harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tamis.evaluation.fences import forgeries, repeats_fence
from tamis.evaluation.judges import Answer, Verdict, without_verdicts
from tamis.evaluation.pair_rubrics import Better, PairRubric
from tamis.evaluation.rubrics import Rubric, spoken
from tamis.models.endpoint import Conversation, Endpoint, Progress, Reply

UNPARSABLE = "unparsable"
REPLY_CHARACTERS = 1_000  # of a reply, kept beside the verdict


class EndpointJudge:
    """Asks one rubric about each answer.

    `details` of a verdict holds the beginning of the `reply`, and in `forged` how many places of
    the answer try to look like part of the question (`tamis.evaluation.fences`).

    Args:
        rubric: What is asked.
        endpoint: Who is asked.
        name: Under which it stands in tables; None is the rubric and the model.
        progress: Called with answers judged.
    """

    def __init__(
        self, rubric: Rubric, endpoint: Endpoint, *, name: str | None = None,
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.name = name or f"{rubric.name}:{endpoint.model}"
        self.kinds = rubric.kinds
        self.identity = endpoint_identity(endpoint.model, endpoint.settings.base_url)
        self._rubric, self._endpoint, self._progress = rubric, endpoint, progress

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Return one verdict per answer, in order.

        Raises:
            ConfigError: The endpoint refuses the key, the address, the model or any request.
            JudgeError: It failed many times in a row; what it answered is kept.
            MissingDependencyError: The package `openai` is not installed.
        """
        verdicts = without_verdicts(answers, self._rubric.name, self.kinds)
        open_ = [answer for answer, done in zip(answers, verdicts, strict=True) if done is None]
        replies = iter(_ask(self._endpoint, map(self._rubric.question, open_), self._progress))
        return [
            self._verdict(answer, next(replies)) if done is None else done
            for answer, done in zip(answers, verdicts, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Return what a manifest says of the judge, calls so far included."""
        probe = Answer("harmful", "a request", "an answer")
        return {
            "identity": self.identity, "rubric": self._rubric.name,
            "question_sha256": _sha256(self._rubric.question(probe)), **_calls(self._endpoint),
        }  # fmt: skip

    def _verdict(self, answer: Answer, reply: Reply) -> Verdict:
        details = _details(reply, forgeries(answer.response))
        text = _own_words(reply)
        read = None if text is None else self._rubric.read(text)
        if read is None:
            why = reply.failure or UNPARSABLE
            return Verdict(None, None, unscored=why, details=details)
        return replace(read, details={**read.details, **details})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one request, in the order they are shown."""

    prompt: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Preference:
    """A judge's outcome for one pair in one order.

    Attributes:
        better: Which answer; None where the judge does not say.
        unscored: Why there is no outcome; None when there is one.
        details: What else was recorded (JSON values).
    """

    better: Better | None
    unscored: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class EndpointPairJudge:
    """Asks one rubric which of two answers is better; each pair in the order given, once.

    Args:
        rubric: What is asked.
        endpoint: Who is asked.
        name: Under which it stands in tables; None is the rubric and the model.
        progress: Called with pairs judged.
    """

    def __init__(
        self, rubric: PairRubric, endpoint: Endpoint, *, name: str | None = None,
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.name = name or f"{rubric.name}:{endpoint.model}"
        self.identity = endpoint_identity(endpoint.model, endpoint.settings.base_url)
        self._rubric, self._endpoint, self._progress = rubric, endpoint, progress

    def prefer(self, pairs: Sequence[Pair]) -> list[Preference]:
        """Return one outcome per pair, in order; equal texts tie unasked.

        Raises:
            ConfigError: The endpoint refuses the key, the address, the model or any request.
            JudgeError: It failed many times in a row; what it answered is kept.
            MissingDependencyError: The package `openai` is not installed.
        """
        questions = [self._rubric.question(p.prompt, p.first, p.second)
                     for p in pairs if p.first != p.second]  # fmt: skip
        replies = iter(_ask(self._endpoint, questions, self._progress))
        return [
            Preference("tie", details={"identical": True}) if pair.first == pair.second
            else self._preference(pair, next(replies))
            for pair in pairs
        ]  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return what a manifest says of the judge, calls so far included."""
        return {
            "identity": self.identity, "rubric": self._rubric.name,
            "question_sha256": _sha256(self._rubric.question("a request", "one", "another")),
            **_calls(self._endpoint),
        }  # fmt: skip

    def _preference(self, pair: Pair, reply: Reply) -> Preference:
        details = _details(reply, forgeries(pair.first) + forgeries(pair.second))
        text = _own_words(reply)
        better = None if text is None else self._rubric.read(text)
        unscored = None if better is not None else reply.failure or UNPARSABLE
        return Preference(better, unscored, details)


def endpoint_identity(model: str, base_url: str | None) -> str:
    """Return what gives the verdicts of a model at an endpoint."""
    return f"endpoint:{model}@{base_url or ''}"


def _ask(endpoint: Endpoint, questions: Any, progress: Progress | None) -> list[Reply]:
    """Ask each question as a conversation of one turn: some models take no system turn."""
    turns: list[Conversation] = [[{"role": "user", "content": text}] for text in questions]
    return endpoint.ask(turns, progress)


def _own_words(reply: Reply) -> str | None:
    """Return a reply's text, None where there is none or it recites the question."""
    if reply.text is None or repeats_fence(spoken(reply.text)):
        return None
    return reply.text


def _details(reply: Reply, forged: int) -> dict[str, Any]:
    said = {} if reply.text is None else {"reply": reply.text[:REPLY_CHARACTERS]}
    return {"forged": forged, **said}


def _calls(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "request": dict(endpoint.settings.request), "n_calls": endpoint.n_calls,
        "n_answers_from_cache": endpoint.n_cached,
        "failed_calls": dict(sorted(endpoint.failures.items())),
    }  # fmt: skip


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
