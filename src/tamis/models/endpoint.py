"""A small client for endpoints that speak OpenAI's chat API: retries, rate, budget, cache on disk.

An answer is kept under a hash of everything that decides it (endpoint, model, messages, settings of
the request), so a killed run asks again only what it had not yet heard. A question that gets no
answer gets a reason instead; nothing is guessed. The API key is read from the environment, sent to
the endpoint and written nowhere.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.errors import ConfigError, JudgeError, MissingDependencyError
from tamis.models.answer_cache import AnswerCache
from tamis.models.endpoint_settings import EndpointSettings

ENDPOINT_ERROR, BUDGET = "endpoint_error", "budget"  # why there is no answer
NO_CONNECTION = "no connection"
FAILURES_IN_A_ROW = 20  # more, and the endpoint is taken to be down: hours of retries help nobody
LONGEST_PAUSE = 60.0  # seconds between two attempts, whatever the endpoint asks for
_HOPELESS = (401, 403, 404)  # the same for every row
_PASSING = (408, 409, 429)  # and all from 500 on: worth another attempt
_OF_ONE_ROW = {f"status {status}" for status in (400, 413, 422)}  # too long, filtered: it is up
_GREETING = ({"role": "user", "content": "Hello."},)  # what any working endpoint answers

Conversation = Sequence[Mapping[str, str]]  # {"role": ..., "content": ...} per turn
Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one question.

    Attributes:
        text: The answer; None where there is none.
        failure: Why there is none ("endpoint_error", "budget"); None where there is one.
    """

    text: str | None
    failure: str | None = None


class Endpoint:
    """Asks a model at an endpoint.

    Args:
        model: The model's name there.
        settings: Where and how.
        cache: File of answers; None keeps them for this object alone.
        pause: Called with seconds to wait; for tests.
    """

    def __init__(
        self, model: str, settings: EndpointSettings, cache: Path | None = None, *,
        pause: Callable[[float], object] | None = None,
    ) -> None:  # fmt: skip
        if settings.base_url is None:
            raise ConfigError("an endpoint needs its address: set endpoint.base_url.")
        self.model, self.settings = model, settings
        self.n_calls = self.n_cached = 0
        self.failures: collections.Counter[str] = collections.Counter()
        self._cache = AnswerCache(cache)
        self._stop = threading.Event()
        self._pause = pause or self._stop.wait  # ends early when the run is stopped
        self._lock = threading.Lock()
        self._next_turn = 0.0
        self._spare: float = 0  # calls left for retries
        self._failed_in_a_row = self._refused = 0
        self._answers = False  # whether any of the questions was ever answered

    def ask(
        self, conversations: Sequence[Conversation], progress: Progress | None = None
    ) -> list[Reply]:
        """Ask each conversation once, the first ones first where the budget is short.

        Raises:
            ConfigError: The endpoint refuses the key, the address, the model or any request.
            JudgeError: It failed many times in a row; what it answered is kept.
            MissingDependencyError: The package `openai` is not installed.
        """
        self._stop.clear()
        keys = [self._key(conversation) for conversation in conversations]
        lacking = {key: turns for key, turns in zip(keys, conversations, strict=True)
                   if self._cache.get(key) is None}  # fmt: skip
        self.n_cached += len(set(keys)) - len(lacking)
        self._answers = self._answers or self.n_cached > 0
        # The first attempts are given out here and not as threads come, so that which rows are
        # asked does not depend on their race.
        most = self.settings.max_calls
        left = len(lacking) if most is None else max(0, most - self.n_calls)
        self._spare = float("inf") if most is None else left - min(left, len(lacking))
        failed = {key: Reply(None, BUDGET) for key in list(lacking)[left:]}
        asked = list(lacking)[:left]
        if asked:
            self._ask_all({key: lacking[key] for key in asked}, failed, progress)
        answers = [(key, self._cache.get(key)) for key in keys]
        return [failed[key] if text is None else Reply(text) for key, text in answers]

    def _ask_all(
        self, lacking: Mapping[str, Conversation], failed: dict[str, Reply],
        progress: Progress | None,
    ) -> None:  # fmt: skip
        client, before = self._client(), self.failures.copy()
        with ThreadPoolExecutor(self.settings.parallel_calls) as pool:
            waiting: dict[Future[Reply], str] = {
                pool.submit(self._attempts, client, key, turns): key
                for key, turns in lacking.items()
            }
            try:
                for done, future in enumerate(as_completed(waiting), start=1):
                    key, reply = waiting[future], future.result()
                    if reply.text is None:
                        failed[key] = reply
                    if progress:
                        progress(done, len(waiting), {"calls": self.n_calls})
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                client.close()
        faults = set(self.failures - before)
        if all(key in failed for key in lacking) and faults == {NO_CONNECTION}:
            raise JudgeError(
                f"the endpoint {self.settings.base_url} is down: {NO_CONNECTION} for any of "
                f"{len(lacking):,} questions. See to it, then run the same again."
            )

    def _attempts(self, client: Any, key: str, turns: Conversation) -> Reply:
        """Ask until there is an answer, or no more attempts."""
        for attempt in range(self.settings.max_retries + 1):
            if attempt and not self._may_retry():
                return Reply(None, BUDGET)
            self._wait_for_turn()
            if self._stop.is_set():
                break
            text, fault, again, named = self._call(client, turns)
            if text is not None:
                with self._lock:
                    self._failed_in_a_row, self._answers = 0, True
                    self._cache.add(key, text)  # here, so that a stop loses nothing paid for
                return Reply(text)
            with self._lock:
                self.failures[fault] += 1
            if fault in _OF_ONE_ROW:
                self._see_whether_it_refuses_all(client)
                return Reply(None, ENDPOINT_ERROR)
            if not again:
                break
            if attempt < self.settings.max_retries:
                own = self.settings.backoff_seconds * 2**attempt
                self._pause(min(LONGEST_PAUSE, own if named is None else named))
        with self._lock:
            self._failed_in_a_row += 1
            down = self._failed_in_a_row >= FAILURES_IN_A_ROW
        if down and not self._stop.is_set():
            raise JudgeError(
                f"the endpoint {self.settings.base_url} failed {FAILURES_IN_A_ROW} times in a row "
                f"({dict(self.failures)}). What it answered before is kept: see to it, then run "
                "the same again."
            )
        return Reply(None, ENDPOINT_ERROR)

    def _see_whether_it_refuses_all(self, client: Any) -> None:
        """Count a row that was refused; after many and not one answer, ask what no row is part of.

        Such rows may stand together: those refused before are all that is asked on a resume.
        """
        with self._lock:
            self._failed_in_a_row = 0  # it does answer
            self._refused += 1
            doubtful = self._refused == FAILURES_IN_A_ROW and not self._answers
        if not doubtful or not self._may_retry():
            return
        self._wait_for_turn()
        if self._stop.is_set():
            return
        _, fault, _, _ = self._call(client, _GREETING)
        if fault in _OF_ONE_ROW:
            raise ConfigError(
                f"the endpoint {self.settings.base_url} answered no question, refused "
                f"{FAILURES_IN_A_ROW} ({dict(self.failures)}) and refuses a plain greeting too "
                f"({fault}): no row is to blame. Check the model's name {self.model!r} and the "
                f"fields in endpoint.request ({', '.join(self.settings.request) or 'none'})."
            )

    def _call(self, client: Any, turns: Conversation) -> tuple[str | None, str, bool, float | None]:
        """Send one request: the answer, else the fault, whether to try again, and after how long.

        Faults name a status or a kind and quote nothing: bodies may repeat the key or the row.
        """
        import openai

        with self._lock:
            self.n_calls += 1
        try:
            found = client.chat.completions.create(
                model=self.model, messages=list(turns), extra_body=dict(self.settings.request)
            )
            return found.choices[0].message.content or "", "", False, None
        except openai.APIStatusError as error:
            status = error.status_code
            if status in _HOPELESS:
                raise ConfigError(
                    f"the endpoint {self.settings.base_url} refuses requests (status {status}). "
                    f"Check endpoint.base_url, the model's name {self.model!r} and the key in "
                    "endpoint.api_key_variable."
                ) from None
            again = status in _PASSING or status >= 500
            return None, f"status {status}", again, _named_pause(error.response.headers)
        except openai.APITimeoutError:
            return None, "timeout", True, None
        except openai.APIConnectionError:
            return None, NO_CONNECTION, True, None
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, LookupError):
            return None, "no chat completion", True, None  # such as a proxy's page

    def _client(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise MissingDependencyError(
                "asking an endpoint needs the package openai, which is not installed. Run `pip "
                "install openai`, or `pip install -e '.[endpoint]'` where tamis was checked out."
            ) from error
        name = self.settings.api_key_variable
        key = "none" if name is None else os.environ.get(name, "").strip()
        if not key:
            raise ConfigError(
                f"the environment variable {name} holds no API key: set it, or leave "
                "endpoint.api_key_variable out."
            )
        return openai.OpenAI(
            api_key=key, base_url=self.settings.base_url, timeout=self.settings.timeout_seconds,
            max_retries=0,  # retries are counted here
        )  # fmt: skip

    def _key(self, turns: Conversation) -> str:
        """Hash what decides an answer."""
        request = {
            "base_url": self.settings.base_url, "model": self.model,
            "messages": [dict(turn) for turn in turns], "request": dict(self.settings.request),
        }  # fmt: skip
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def _may_retry(self) -> bool:
        with self._lock:
            self._spare -= 1
            return self._spare >= 0

    def _wait_for_turn(self) -> None:
        if self.settings.requests_per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + 60 / self.settings.requests_per_minute
        if turn > now:
            self._pause(turn - now)


def _named_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait; None where it names none."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
