"""The method guard: which way its scores point, what has no score, what cannot work."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

import toy
import toy_guard
from tamis.data.example import Examples, Message, ParsedRow
from tamis.errors import ConfigError, JudgeError
from tamis.methods import build_method
from tamis.methods.base import RankingInputs, rank
from tamis.methods.guard import Guard
from tamis.models.endpoint_settings import EndpointSettings
from tamis.models.guard_text import SAFT_QUESTION
from toy_endpoint import Script, Server, fails, says

ROWS = toy.contaminated_set(12, n_harmful=4).finetuning_set
CPU: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
Serve = Callable[[Script], Server]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny classifier."""
    return toy_guard.saved(toy_guard.classifier(), tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model that writes; its words have little probability."""
    return toy_guard.saved(toy.llama(), tmp_path_factory.mktemp("writer"))


def logit_behind(text: str, word: str) -> float:
    """Read a word's logit off the tiny model, one row at a time."""
    tokenizer, model = toy.tokenizer(), toy.llama()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return float(model(input_ids=ids).logits[0, -1, tokenizer(word)["input_ids"][0]])


# Which way


def test_a_row_that_looks_unsafe_to_the_classifier_scores_lower(tmp_path: Path) -> None:
    """The logit of its safe label minus that of its unsafe label, each row alone."""
    model, tokenizer = toy_guard.classifier(("unsafe", "safe")), toy.tokenizer()
    folder = toy_guard.saved(model, tmp_path)
    expected = []
    for row in ROWS:
        turns = [{"role": m.role, "content": m.content} for m in row.messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        unsafe, safe = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0].tolist()
        expected.append(safe - unsafe)
    scores = rank(ROWS, Guard(backend="classifier", guard=folder, **CPU))
    np.testing.assert_allclose(scores.values, expected, rtol=0, atol=1e-5)


def test_words_of_llama_guard_follow_two_line_ends(writer: str) -> None:
    """By default: safe and unsafe, behind the conversation, the header and an empty line."""
    scores = rank(ROWS, Guard(guard=writer, min_word_probability=0, **CPU))
    first = ROWS[0].messages
    text = (f"<|im_start|>user\n{first[0].content}<|im_end|>\n<|im_start|>assistant\n"
            f"{first[1].content}<|im_end|>\n<|im_start|>assistant\n\n\n")  # fmt: skip
    expected = logit_behind(text, "safe") - logit_behind(text, "unsafe")
    assert scores.values[0] == pytest.approx(expected, abs=1e-5)


def test_the_preset_prompting_asks_safts_question(writer: str) -> None:
    """One user turn; No is safe and Yes is unsafe."""
    method = build_method("guard", {
        "preset": "prompting", "guard": writer, "min_word_probability": 0, **CPU,
    })  # fmt: skip
    assert method.question == SAFT_QUESTION
    first = ROWS[0].messages
    asked = SAFT_QUESTION.format(prompt=first[0].content, response=first[1].content)
    text = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    expected = logit_behind(text, "No") - logit_behind(text, "Yes")
    assert rank(ROWS, method).values[0] == pytest.approx(expected, abs=1e-5)


def test_the_preset_qwen3guard_reads_the_word_behind_safety(tmp_path: Path) -> None:
    """Where its first line has the verdict; a controversial row counts as unsafe."""
    folder = toy_guard.qwen3guard(tmp_path)
    method = build_method("guard", {"preset": "qwen3guard", "guard": folder, **CPU})
    tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, LlamaForCausalLM))
    first = ROWS[0].messages
    text = (f"<|im_start|>user\n{first[0].content}<|im_end|>\n<|im_start|>assistant\n"
            f"{first[1].content}<|im_end|>\n<|im_start|>assistant\nSafety:")  # fmt: skip
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1].numpy()
    safe, unsafe, controversial = logits[tokenizer(" Safe Unsafe Controversial")["input_ids"]]
    expected = safe - np.logaddexp(unsafe, controversial)
    assert rank(ROWS, method).values[0] == pytest.approx(expected, rel=1e-4)


def test_answers_of_an_endpoint_are_plus_or_minus_one(serve: Serve) -> None:
    """Yes, it is harmful: -1. No: 1."""

    def script(body: dict[str, Any], _: int) -> Any:
        asked = body["messages"][0]["content"]
        return says("Yes." if any(word in asked for word in toy.HARMFUL_WORDS) else "No.")

    server = serve(script)
    scores = rank(ROWS, at(server))
    harmful = toy.contaminated_set(12, n_harmful=4).harmful
    np.testing.assert_array_equal(scores.values, np.where(harmful, -1.0, 1.0))
    contents = {request["messages"][0]["content"] for request in server.requests}
    assert SAFT_QUESTION.format(
        prompt=ROWS[0].messages[0].content, response=ROWS[0].messages[1].content
    ) in contents  # fmt: skip


# No verdict


def test_a_row_without_an_answer_has_no_score_and_changes_no_other(classifier: str) -> None:
    """Outcome no_answer."""
    method = Guard(backend="classifier", guard=classifier, **CPU)
    records = [ParsedRow(row.messages) for row in ROWS]
    records.insert(3, ParsedRow((Message("user", "Hi?"),)))
    scores = rank(Examples.from_records(records), method)
    assert scores.outcome[3] == "no_answer"
    before = rank(ROWS, method).values
    np.testing.assert_array_equal(np.delete(scores.values, 3), before)
    assert "rows without a verdict: no_answer 1." in scores.details["notes"]


def test_next_tokens_that_are_none_of_the_words_are_no_verdict(writer: str) -> None:
    """Between the least and the most probability of the words, some rows are left out."""
    everything = rank(ROWS, Guard(guard=writer, min_word_probability=0, **CPU))
    p = everything.columns["word_probability"]
    half = float(np.median(p))
    scores = rank(ROWS, Guard(guard=writer, min_word_probability=half, **CPU))
    expected = np.where(p < half, np.nan, everything.values)
    np.testing.assert_array_equal(scores.values, expected)
    assert scores.outcome == ["unparsable" if bad else "ok" for bad in p < half]


def test_a_guard_that_gives_no_row_a_verdict_is_an_error(writer: str) -> None:
    """By default the words need an even chance: a random model does not say safe or unsafe."""
    with pytest.raises(JudgeError, match=r"none of 12 rows a verdict \({'unparsable': 12}\)"):
        rank(ROWS, Guard(guard=writer, **CPU))


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (says("I cannot tell."), "unparsable"),
        (says("Yes and no"), "unparsable"),
        (says(None), "unparsable"),
        (fails(400), "endpoint_error"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), "endpoint_error"),
    ],
)
def test_what_is_no_verdict_of_an_endpoint_is_never_one(
    serve: Serve, answer: Any, outcome: str
) -> None:
    """One row in the middle gets it; the others their verdict."""
    odd = ROWS[5].messages[0].content
    server = serve(
        lambda body, _: answer if f"{odd}\n" in body["messages"][0]["content"] else says("No")
    )
    scores = rank(ROWS, at(server, max_retries=0))
    assert scores.outcome == ["ok"] * 5 + [outcome] + ["ok"] * 6
    assert np.isnan(scores.values).tolist() == [False] * 5 + [True] + [False] * 6


# Endpoint runs


def at(server: Server, **settings: Any) -> Guard:
    """Ask a server."""
    settings = {"backoff_seconds": 0, **settings}
    return Guard(backend="endpoint", guard="toy",
                 endpoint=EndpointSettings(base_url=server.url, **settings))  # fmt: skip


def test_rows_beyond_the_budget_are_the_last_by_id(serve: Serve) -> None:
    """Whatever the order of the file."""
    server = serve(lambda *_: says("No"))
    scores = rank(ROWS, at(server, max_calls=4))
    asked = set(sorted(ROWS.ids)[:4])
    expected = ["ok" if row in asked else "budget" for row in ROWS.ids]
    assert list(scores.outcome) == expected


@pytest.mark.parametrize("where", ["work", "cache"])
def test_a_killed_ranking_asks_for_the_rest_only(serve: Serve, tmp_path: Path, where: str) -> None:
    """Answers are kept in the work folder, or in the cache."""
    server = serve(lambda *_: says("No"))
    count = itertools.count(1)

    def stop(*_: Any) -> None:
        if next(count) == 5:
            raise KeyboardInterrupt

    folder = {where: tmp_path}
    with pytest.raises(KeyboardInterrupt):
        rank(ROWS, at(server, parallel_calls=1), report=stop, **folder)  # type: ignore[arg-type]
    scores = rank(ROWS, at(server), **folder)  # type: ignore[arg-type]
    assert np.isfinite(scores.values).all()
    assert scores.details["n_answers_from_cache"] >= 5
    assert scores.details["n_calls"] == 12 - scores.details["n_answers_from_cache"]


def test_flaky_answers_give_the_scores_of_steady_ones(serve: Serve) -> None:
    """Every second request fails, rate limits and server errors in turn; retries mend it."""
    lock, turn = threading.Lock(), itertools.count()

    def script(*_: Any) -> Any:
        with lock:
            n = next(turn)
        return (fails(429), says("No"), fails(500), says("No"))[n % 4]

    scores = rank(ROWS, at(serve(script), max_retries=30))
    assert scores.values.tolist() == [1.0] * 12
    assert scores.details["failed_calls"].keys() == {"status 429", "status 500"}


# What is said of a run


def test_the_guard_is_named_and_warned_of(classifier: str) -> None:
    """Its weights, its labels, and that it is no judge of its own choice."""
    scores = rank(ROWS, Guard(backend="classifier", guard=classifier, **CPU))
    details = scores.details
    assert details["guard"]["name"] == classifier
    assert (details["backend"], details["reads"]) == ("classifier", "labels")
    assert (details["safe"], details["unsafe"]) == (["safe"], ["unsafe"])
    assert details["notes"] == [
        f"{classifier} judged these rows: do not evaluate models trained on them with it."
    ]


def test_rows_that_spell_special_tokens_are_told(classifier: str) -> None:
    """They may forge the guard's turn."""
    rows = toy.examples([("Tell me", "water"), ("Tell me", "water<|im_end|>")])
    scores = rank(rows, Guard(backend="classifier", guard=classifier, **CPU))
    assert scores.details["n_rows_with_special_tokens"] == 1
    assert scores.details["notes"][0].startswith("1 rows spell a special token")


def test_logits_are_kept_for_another_run(classifier: str, tmp_path: Path) -> None:
    """Under the guard's weights and labels."""
    method = Guard(backend="classifier", guard=classifier, **CPU)
    before = rank(ROWS, method, work=tmp_path)
    (part,) = (tmp_path / "guard" / "labels").rglob("part-*.safetensors")
    stamp = part.stat().st_mtime_ns
    np.testing.assert_array_equal(rank(ROWS, method, work=tmp_path).values, before.values)
    assert part.stat().st_mtime_ns == stamp


# Settings


def test_a_guard_must_be_given() -> None:
    """There is no default: which guard judged is the user's choice."""
    with pytest.raises(ConfigError, match="set guard to a hub id or a folder"):
        Guard().rank(RankingInputs(ROWS))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backend": "classifier", "question": SAFT_QUESTION}, "question means nothing to backend"),
        ({"backend": "classifier", "answer_prefix": "\n"}, "answer_prefix means nothing"),
        ({"backend": "classifier", "multi_label": True, "unsafe": []}, "unsafe names no label"),
        ({"multi_label": True}, "multi_label means nothing to backend=generative"),
        ({"endpoint": {"base_url": "http://h/v1"}}, "endpoint means nothing to backend=generative"),
        ({"backend": "endpoint"}, r"needs endpoint\.base_url"),
        ({"backend": "endpoint", "device": "cpu"}, "device means nothing to backend=endpoint"),
        ({"text_format": "{prompt}{response}", "chat_template": "plain"}, "give one"),
        ({"text_format": "{prompt}"}, r"text_format has no \{response\}"),
        ({"question": "{prompt}{response}{policy}"}, "no policy is given"),
        ({"backend": "endpoint", "endpoint": {"base_url": "http://h/v1"}, "policy": "p.txt"},
         "question has no place for it"),
        ({"safe": ["fine"], "unsafe": ["Fine"]}, "tell nothing apart"),
        ({"min_word_probability": 1.0}, "less than 1"),
        ({"endpoint": {"parallel_calls": 0}}, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], match: str) -> None:
    """Before a model is loaded or a row is sent."""
    with pytest.raises(ConfigError, match=match):
        build_method("guard", options)


def test_code_of_the_guards_repository_is_not_run() -> None:
    """Unless it is asked for."""
    assert Guard().trust_remote_code is False
