"""The endpoint's client against a server on this machine that answers as it is told."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import ConfigError, JudgeError, MissingDependencyError
from tamis.models import endpoint as endpoint_module
from tamis.models.answer_cache import AnswerCache
from tamis.models.endpoint import Endpoint, Reply
from tamis.models.endpoint_settings import EndpointSettings
from toy_endpoint import KEY, Server, fails, says


def question(text: str) -> list[dict[str, str]]:
    """Make a conversation of one turn."""
    return [{"role": "user", "content": text}]


def client(server: Server, cache: Path | None = None, *, pauses: list[float] | None = None,
           **settings: Any) -> Endpoint:  # fmt: skip
    """Make a client that notes its pauses instead of making them."""
    noted = [] if pauses is None else pauses
    return Endpoint(
        "toy", EndpointSettings(base_url=server.url, **settings), cache, pause=noted.append
    )


def test_each_question_gets_its_answer_in_order(serve: Any) -> None:
    """Whatever the order they are answered in."""

    def script(body: dict[str, Any], _: int) -> Any:
        content = body["messages"][0]["content"]
        time.sleep(0.05 if content == "q0" else 0)
        return says(f"to {content}")

    found = client(serve(script)).ask([question(f"q{i}") for i in range(6)])
    assert found == [Reply(f"to q{i}") for i in range(6)]


def test_the_request_is_what_the_settings_say(serve: Any) -> None:
    """Model, messages and the further fields; nothing else."""
    server = serve(lambda *_: says("No"))
    client(server, request={"max_completion_tokens": 3, "top_k": 1}).ask([question("q")])
    assert server.requests == [
        {"model": "toy", "messages": question("q"), "max_completion_tokens": 3, "top_k": 1}
    ]


def test_by_default_answers_are_short_and_greedy(serve: Any) -> None:
    """16 tokens at temperature 0."""
    server = serve(lambda *_: says("No"))
    client(server).ask([question("q")])
    assert (server.requests[0]["max_tokens"], server.requests[0]["temperature"]) == (16, 0)


def test_equal_questions_are_asked_once(serve: Any) -> None:
    """And both get the answer."""
    server = serve(lambda *_: says("No"))
    assert client(server).ask([question("q"), question("q")]) == [Reply("No")] * 2
    assert len(server.requests) == 1


def test_an_answer_without_text_is_an_empty_one(serve: Any) -> None:
    """It was answered; that nothing can be read in it is for the reader to say."""
    assert client(serve(lambda *_: says(None))).ask([question("q")]) == [Reply("")]


# Failures in passing


def test_failures_in_passing_are_asked_again_after_doubling_pauses(serve: Any) -> None:
    """500, 503, 429, then an answer: pauses of 1, 2 and 4 seconds."""
    statuses = [500, 503, 429]
    server = serve(lambda _, n: fails(statuses[n]) if n < 3 else says("No"))
    pauses: list[float] = []
    asked = client(server, pauses=pauses)
    assert asked.ask([question("q")]) == [Reply("No")]
    assert pauses == [1.0, 2.0, 4.0]
    assert (asked.n_calls, dict(asked.failures)) == (
        4, {"status 500": 1, "status 503": 1, "status 429": 1},
    )  # fmt: skip


@pytest.mark.parametrize(("named", "pause"), [("7", 7.0), ("3600", 60.0), ("soon", 1.0)])
def test_a_rate_limit_may_name_its_pause(serve: Any, named: str, pause: float) -> None:
    """Taken up to a minute; what is no number of seconds is passed over."""
    server = serve(lambda _, n: fails(429, **{"Retry-After": named}) if n < 1 else says("No"))
    pauses: list[float] = []
    client(server, pauses=pauses).ask([question("q")])
    assert pauses == [pause]


def test_what_never_succeeds_has_no_answer(serve: Any) -> None:
    """After the last retry; the others are not touched by it."""
    server = serve(lambda body, _: fails(500) if body["messages"] == question("a") else says("No"))
    asked = client(server, max_retries=2)
    assert asked.ask([question("a"), question("b")]) == [
        Reply(None, "endpoint_error"), Reply("No"),
    ]  # fmt: skip
    assert asked.failures == {"status 500": 3}


def test_a_slow_answer_is_a_failure(serve: Any) -> None:
    """Longer than the timeout."""

    def script(_body: dict[str, Any], n: int) -> Any:
        time.sleep(0.5 if n == 0 else 0)
        return says("No")

    asked = client(serve(script), timeout_seconds=0.2)
    assert asked.ask([question("q")]) == [Reply("No")]
    assert asked.failures == {"timeout": 1}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("text/html", b"<html>a gateway's page</html>"),
        ("application/json", b"{not json"),
        ("application/json", b"[]"),
        ("application/json", b'{"choices": []}'),
        ("application/json", b'{"error": "busy"}'),
        ("application/octet-stream", b"\x00\xff"),
    ],
)
def test_garbage_is_no_answer(serve: Any, kind: str, content: bytes) -> None:
    """A page, broken JSON or JSON of another kind is a failure, not a text."""
    asked = client(serve(lambda *_: (200, {"Content-Type": kind}, content)), max_retries=1)
    assert asked.ask([question("q")]) == [Reply(None, "endpoint_error")]
    assert asked.failures == {"no chat completion": 2}


def test_no_server_stops_the_run(serve: Any) -> None:
    """Connection refused, asked again as often as set: no row is to blame."""
    server = serve(lambda *_: says("No"))
    asked = Endpoint(
        "toy", EndpointSettings(base_url="http://127.0.0.1:1/v1", max_retries=1),
        pause=lambda _: None,
    )  # fmt: skip
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1:1/v1 is down: no connection for any of 2"):
        asked.ask([question("q"), question("p")])
    assert asked.failures == {"no connection": 4}
    assert server.requests == []


def test_a_bad_request_is_not_repeated(serve: Any) -> None:
    """The same row would be refused again."""
    server = serve(lambda *_: fails(400))
    assert client(server).ask([question("q")]) == [Reply(None, "endpoint_error")]
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_all_requests_stops_the_run(serve: Any, status: int) -> None:
    """A wrong key, address or model is told at once."""
    server = serve(lambda *_: fails(status))
    with pytest.raises(ConfigError, match=rf"refuses requests \(status {status}\).*'toy'"):
        client(server, parallel_calls=1).ask([question(f"q{i}") for i in range(50)])
    assert len(server.requests) < 50


@pytest.mark.parametrize("status", [500, 429, 402])
def test_an_endpoint_that_is_down_stops_the_run(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """After many failures in a row; what was answered before is kept."""
    monkeypatch.setattr(endpoint_module, "FAILURES_IN_A_ROW", 3)
    server = serve(
        lambda body, _: says("No") if body["messages"] == question("q0") else fails(status)
    )
    asked = client(server, tmp_path / "a.jsonl", max_retries=0, parallel_calls=1)
    with pytest.raises(JudgeError, match=rf"failed 3 times in a row.*status {status}"):
        asked.ask([question(f"q{i}") for i in range(50)])
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


# Rows that are refused


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_rows_stop_neither_the_run_nor_its_repeat(
    serve: Any, tmp_path: Path, status: int
) -> None:
    """Twenty-five of them stand first: the endpoint is up, and answers the one after them."""

    def script(body: dict[str, Any], _: int) -> Any:
        return fails(status) if "long" in body["messages"][0]["content"] else says("No")

    server = serve(script)
    questions = [question(f"long {i}") for i in range(25)] + [question("short")]
    expected = [Reply(None, "endpoint_error")] * 25 + [Reply("No")]
    asked = client(server, tmp_path / "a.jsonl", parallel_calls=1)
    assert asked.ask(questions) == expected
    assert server.requests[20]["messages"] == question("Hello.")  # would it answer anything?
    again = client(server, tmp_path / "a.jsonl", parallel_calls=1)
    assert again.ask(questions) == expected
    assert again.n_calls == 25  # it has answered before, so nothing but the rows is asked


def test_a_refused_row_ends_a_row_of_failures(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that refuses a row is not down: two failures, a refusal and two failures."""
    monkeypatch.setattr(endpoint_module, "FAILURES_IN_A_ROW", 3)
    statuses = iter([500, 500, 400, 500, 500])
    server = serve(lambda *_: fails(next(statuses)))
    asked = client(server, max_retries=0, parallel_calls=1)
    found = asked.ask([question(f"q{i}") for i in range(5)])
    assert found == [Reply(None, "endpoint_error")] * 5
    assert asked.failures == {"status 500": 4, "status 400": 1}


def test_an_endpoint_that_refuses_whatever_is_asked_stops_the_run(serve: Any) -> None:
    """A greeting too: a field of the request is wrong then, and no row."""
    server = serve(lambda *_: fails(400))
    asked = client(server, parallel_calls=1, request={"max_tokns": 16})
    with pytest.raises(ConfigError, match=r"answered no question, refused 20 .*\(max_tokns\)"):
        asked.ask([question(f"q{i}") for i in range(500)])
    assert len(server.requests) < 100


def test_a_greeting_is_not_paid_for_beyond_the_budget(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the questions take all calls, nothing else is asked."""
    monkeypatch.setattr(endpoint_module, "FAILURES_IN_A_ROW", 3)
    server = serve(lambda *_: fails(400))
    found = client(server, max_calls=5).ask([question(f"q{i}") for i in range(5)])
    assert found == [Reply(None, "endpoint_error")] * 5
    assert len(server.requests) == 5


# Budget and rate


def test_the_budget_goes_to_the_first_questions(serve: Any) -> None:
    """Two calls for five questions: the other three are not asked."""
    server = serve(lambda *_: says("No"))
    found = client(server, max_calls=2).ask([question(f"q{i}") for i in range(5)])
    assert found == [Reply("No")] * 2 + [Reply(None, "budget")] * 3
    assert len(server.requests) == 2


def test_retries_cost_calls(serve: Any) -> None:
    """Three calls for one question that fails on and on."""
    server = serve(lambda *_: fails(500))
    assert client(server, max_calls=3, max_retries=9).ask([question("q")]) == [
        Reply(None, "budget")
    ]
    assert len(server.requests) == 3


def test_kept_answers_cost_no_calls(serve: Any, tmp_path: Path) -> None:
    """Runs of two calls each get through four questions in two runs."""
    server = serve(lambda *_: says("No"))
    questions = [question(f"q{i}") for i in range(4)]
    first = client(server, tmp_path / "a.jsonl", max_calls=2).ask(questions)
    assert [reply.failure for reply in first] == [None, None, "budget", "budget"]
    second = client(server, tmp_path / "a.jsonl", max_calls=2)
    assert second.ask(questions) == [Reply("No")] * 4
    assert (second.n_calls, second.n_cached) == (2, 2)


def test_the_rate_is_kept(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 30 a minute the second request waits 2 seconds and the third 4, on a clock that stands."""
    monkeypatch.setattr(endpoint_module.time, "monotonic", lambda: 100.0)
    server = serve(lambda *_: says("No"))
    pauses: list[float] = []
    asked = client(server, pauses=pauses, requests_per_minute=30, parallel_calls=1)
    asked.ask([question(f"q{i}") for i in range(3)])
    assert pauses == [2.0, 4.0]


def test_requests_run_side_by_side_up_to_the_limit(serve: Any) -> None:
    """Three at once and never four."""

    def script(*_: Any) -> Any:
        time.sleep(0.05)
        return says("No")

    server = serve(script)
    client(server, parallel_calls=3).ask([question(f"q{i}") for i in range(9)])
    assert server.most_at_once == 3


# What is kept


def test_a_stopped_run_goes_on_where_it_was(serve: Any, tmp_path: Path) -> None:
    """Stopped at the third answer: that and what came with it is not asked again."""
    server = serve(lambda *_: says("No"))
    questions = [question(f"q{i}") for i in range(8)]

    def stop(done: int, *_: Any) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client(server, tmp_path / "a.jsonl", parallel_calls=1).ask(questions, stop)
    again = client(server, tmp_path / "a.jsonl")
    assert again.ask(questions) == [Reply("No")] * 8
    assert again.n_cached >= 3
    assert again.n_calls == 8 - again.n_cached


@pytest.mark.parametrize(
    "changes", [{"model": "other"}, {"request": {"max_tokens": 5}}, {"messages": question("p")}]
)
def test_another_question_model_or_setting_is_asked_anew(
    serve: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Everything that decides an answer is in its key."""
    server = serve(lambda *_: says("No"))
    client(server, tmp_path / "a.jsonl").ask([question("q")])
    calls = []
    for given in ({}, changes):
        usual = EndpointSettings().request
        settings = EndpointSettings(base_url=server.url, request=given.get("request", usual))
        asked = Endpoint(given.get("model", "toy"), settings, tmp_path / "a.jsonl")
        asked.ask([given.get("messages", question("q"))])
        calls.append(asked.n_calls)
    assert calls == [0, 1]


def test_failures_are_not_kept(serve: Any, tmp_path: Path) -> None:
    """Another run may have more luck."""
    server = serve(lambda _, n: fails(400) if n < 1 else says("No"))
    for expected in (Reply(None, "endpoint_error"), Reply("No")):
        assert client(server, tmp_path / "a.jsonl").ask([question("q")]) == [expected]


def test_a_line_cut_short_is_asked_again_and_harms_no_other(tmp_path: Path) -> None:
    """A kill in the middle of a write costs one answer."""
    path = tmp_path / "a.jsonl"
    cache = AnswerCache(path)
    cache.add("a", "first\u2028 with a line end of its own")
    cache.add("b", "second")
    path.write_bytes(path.read_bytes()[:-9])
    cut = AnswerCache(path)
    assert (cut.get("a"), cut.get("b")) == ("first\u2028 with a line end of its own", None)
    cut.add("c", "third")
    read = AnswerCache(path)
    assert [read.get(key) for key in "abc"] == [cut.get("a"), None, "third"]


# Keys and settings


def test_the_key_comes_from_the_environment_and_goes_to_the_endpoint_alone(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not into logs, errors, settings or the file of answers, even if the endpoint repeats it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TOY_KEY", KEY)
    server = serve(lambda body, _: fails(401) if body["messages"] == question("b") else says("No"))
    asked = client(server, tmp_path / "a.jsonl", api_key_variable="TOY_KEY", parallel_calls=1)
    with pytest.raises(ConfigError) as error:
        asked.ask([question("a"), question("b")])
    assert server.keys == {f"Bearer {KEY}"}
    written = [caplog.text, str(error.value), asked.settings.model_dump_json(),
               (tmp_path / "a.jsonl").read_text(), repr(vars(asked))]  # fmt: skip
    assert not any(KEY in text for text in written)


def test_a_key_of_the_environment_that_was_not_named_stays_there(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENAI_API_KEY is not for every endpoint."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(lambda *_: says("No"))
    client(server).ask([question("q")])
    assert server.keys == {"Bearer none"}


def test_a_variable_without_a_key_is_refused(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names it."""
    monkeypatch.delenv("TOY_KEY", raising=False)
    server = serve(lambda *_: says("No"))
    with pytest.raises(ConfigError, match="variable TOY_KEY holds no API key"):
        client(server, api_key_variable="TOY_KEY").ask([question("q")])


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked."""
    monkeypatch.setitem(sys.modules, "openai", None)
    asked = Endpoint("toy", EndpointSettings(base_url="http://127.0.0.1:1/v1"))
    with pytest.raises(MissingDependencyError, match=r"pip install -e '\.\[endpoint\]'"):
        asked.ask([question("q")])


def test_nothing_to_ask_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does what was answered before."""
    monkeypatch.setitem(sys.modules, "openai", None)
    assert Endpoint("toy", EndpointSettings(base_url="http://127.0.0.1:1/v1")).ask([]) == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"base_url": "localhost:8000/v1"}, "starts with http"),
        ({"base_url": "file:///etc/passwd"}, "starts with http"),
        ({"base_url": "https://me:secret@host/v1"}, "leave user and password out"),
        ({"request": {"model": "x", "stream": True}}, "model, stream cannot be set here"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], match: str) -> None:
    """Before a run."""
    with pytest.raises(ValueError, match=match):
        EndpointSettings(**settings)


def test_an_endpoint_without_an_address_is_refused() -> None:
    """There is no default: rows are sent nowhere that was not named."""
    with pytest.raises(ConfigError, match=r"set endpoint\.base_url"):
        Endpoint("toy", EndpointSettings())
