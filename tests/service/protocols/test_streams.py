"""Texts on their way, in every dialect that streams: deadlines, full queues, failures, and clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.batching.slots import Slots
from tests.service.protocols.texts import LONG, Slowly, events_in, likeliest, slowly, visiting


@dataclass(frozen=True)
class Dialect:
    """One way to ask for a text.

    Attributes:
        path: of the call, where it answers as a whole.
        stream_path: where it streams.
        length: what it calls the most tokens.
        body: of a request with these parameters, which streams or doesn't.
        text: that an event tells.
        message: of an error.
        others: what a stream tells of an error besides.
    """

    path: str
    stream_path: str
    length: str
    body: Callable[[dict[str, Any], bool], dict[str, Any]]
    text: Callable[[dict[str, Any]], str]
    message: Callable[[dict[str, Any]], str]
    others: Callable[[str], dict[str, Any]]

    def call(self, stream: bool, length: int = LONG, **parameters: Any) -> tuple[str, dict[str, Any]]:
        """Path and body of a request."""
        body = self.body({self.length: length, "seed": 1, **parameters}, stream)
        return (self.stream_path if stream else self.path), body

    def failed(self, event: dict[str, Any], reason: str) -> str:
        """The message of the event that ends a stream which failed."""
        assert event == {"error": event["error"], **self.others(reason)}
        return self.message(event)


def _plain(answer: dict[str, Any]) -> str:
    assert isinstance(answer["error"], str)
    return str(answer["error"])


def _openai(answer: dict[str, Any]) -> str:
    error = answer["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("rate_limit_error" if error["code"] == "overloaded" else "server_error")
    return str(error["message"])


DIALECTS = {
    "predict": Dialect(
        "/predict/slow-text",
        "/predict/slow-text",
        "max_new_tokens",
        lambda parameters, stream: {"inputs": "a", "parameters": parameters, "stream": stream},
        lambda event: str(event["token"]["text"]),
        _plain,
        lambda reason: {"error_type": reason},
    ),
    "openai": Dialect(
        "/v1/completions",
        "/v1/completions",
        "max_tokens",
        lambda parameters, stream: {"model": "slow-text", "prompt": "a", **parameters, "stream": stream},
        lambda event: str(event["choices"][0]["text"]),
        _openai,
        lambda _: {},
    ),
    "generate": Dialect(
        "/v2/models/slow-text/generate",
        "/v2/models/slow-text/generate_stream",
        "max_tokens",
        lambda parameters, _: {"text_input": "a", "parameters": parameters},
        lambda event: str(event["text_output"]),
        _plain,
        lambda _: {},
    ),
}


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


def run(models: Path, test: Callable[[Slowly], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run `test` against the slow model; nothing may be left of its requests."""

    async def main() -> None:
        async with slowly(models, **settings) as slow:
            await test(slow)
            for gauge in ("inferd_live_slots", "inferd_queue_depth", "inferd_inflight"):
                await slow.until(gauge, 0)

    asyncio.run(main())


async def failures(slow: Slowly, reason: str) -> float:
    return await slow.metric("inferd_request_failures_total", reason=reason)


def test_events_come_while_the_text_grows(models: Path, dialect: Dialect) -> None:
    async def test(slow: Slowly) -> None:
        async with visiting(slow.app, *dialect.call(stream=True, length=30, temperature=0)) as visit:
            await visit.read(1)
            assert visit.status == 200
            assert visit.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert visit.headers["cache-control"] == "no-cache"
            assert visit.headers["x-accel-buffering"] == "no"
            assert "content-length" not in visit.headers
            assert visit.headers["x-inferd-model"] == "slow-text"
            assert visit.headers["x-request-id"]
            assert await slow.metric("inferd_live_slots") == 1
            events = await visit.read_all()
        assert [dialect.text(event) for event in events if event != "[DONE]"] == list(likeliest("a", 30))
        assert await slow.metric("inferd_time_to_first_token_seconds_count") == 1

    run(models, test)


def test_nothing_of_a_stop_string_is_told_however_slowly_it_comes(models: Path, dialect: Dialect) -> None:
    async def test(slow: Slowly) -> None:
        text = likeliest("a", 12)
        stop = text[8:11]
        assert text.index(stop) == 8
        call = dialect.call(stream=True, temperature=0, stop=[stop, text[3:5] + "~"])
        async with visiting(slow.app, *call) as visit:
            events = [event for event in await visit.read_all() if event != "[DONE]"]
        told = [dialect.text(event) for event in events]
        assert "".join(told) == text[:8]
        assert told[:8] == list(text[:8])
        assert await slow.metric("inferd_generated_tokens_total") == 11

    run(models, test)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_goes_away_leaves_its_slot(models: Path, dialect: Dialect, stream: bool) -> None:
    async def test(slow: Slowly) -> None:
        async with visiting(slow.app, *dialect.call(stream)) as visit:
            if stream:
                await visit.read(3)
            await slow.until("inferd_live_slots", 1)
            visit.leave()
            await slow.until("inferd_live_slots", 0)
        assert visit.status == (200 if stream else 499)
        assert await failures(slow, "cancelled") == 1
        assert await slow.metric("inferd_generated_tokens_total") < LONG

    run(models, test)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_goes_away_before_its_turn_is_let_go(models: Path, dialect: Dialect, stream: bool) -> None:
    async def test(slow: Slowly) -> None:
        async with visiting(slow.app, *dialect.call(stream=True)) as first:
            await first.read(1)
            async with visiting(slow.app, *dialect.call(stream)) as second:
                await slow.until("inferd_queue_depth", 1)
                second.leave()
                await slow.until("inferd_queue_depth", 0)
            assert second.status == 499
            told = len(events_in(first.content))
            await first.read(told + 3)  # nobody else noticed

    run(models, test, max_batch_rows=1, max_queue_s=1000)


def test_a_deadline_in_mid_stream_is_the_last_event(models: Path, dialect: Dialect) -> None:
    async def test(slow: Slowly) -> None:
        async with visiting(slow.app, *dialect.call(stream=True), x_request_timeout_ms="500") as visit:
            *tokens, last = await visit.read_all()
        assert visit.status == 200
        assert tokens
        assert not any("error" in token for token in tokens)
        assert "the deadline came before the model had answered" in dialect.failed(last, "deadline")
        assert await failures(slow, "deadline") == 1

    run(models, test)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_deadline_before_the_first_token_is_504(models: Path, dialect: Dialect, stream: bool) -> None:
    async def test(slow: Slowly) -> None:
        async with visiting(slow.app, *dialect.call(stream=True)) as first:
            await first.read(1)
            path, body = dialect.call(stream)
            late = await slow.client.post(path, json=body, headers={"x-request-timeout-ms": "30"})
        assert late.status_code == 504
        assert late.headers["content-type"] == "application/json"
        assert "deadline" in dialect.message(late.json())
        assert await failures(slow, "deadline") == 1

    run(models, test, max_batch_rows=1, max_queue_s=1000)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_full_queue_is_429_and_says_when_to_come_again(models: Path, dialect: Dialect, stream: bool) -> None:
    async def refused(slow: Slowly) -> httpx.Response:
        path, body = dialect.call(stream)
        return await slow.client.post(path, json=body)

    async def test(slow: Slowly) -> None:
        async with (
            visiting(slow.app, *dialect.call(stream=True)) as first,
            visiting(slow.app, *dialect.call(stream=True)),
        ):
            await first.read(1)
            await slow.until("inferd_queue_depth", 1)
            answer = await refused(slow)
        assert answer.status_code == 429
        assert "the queue is full: 1 sequences wait, and 1 may" in dialect.message(answer.json())
        assert int(answer.headers["retry-after"]) >= 1
        assert await failures(slow, "overloaded") == 1

    run(models, test, max_batch_rows=1, max_queue_rows=1, max_queue_s=1000)


def test_a_model_that_fails_in_mid_stream_says_so_in_the_last_event(
    models: Path, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(slow: Slowly) -> None:
        async with visiting(slow.app, *dialect.call(stream=True)) as visit:
            await visit.read(2)

            def broken(_: Slots) -> None:
                raise ZeroDivisionError("the step broke")

            with monkeypatch.context() as patch:
                patch.setattr(Slots, "step", broken)
                *tokens, last = await visit.read_all()
        assert len(tokens) >= 2
        assert "the model failed" in dialect.failed(last, "runtime")
        assert await failures(slow, "runtime") == 1
        path, body = dialect.call(stream=False, length=2)
        assert (await slow.client.post(path, json=body)).status_code == 200, "the next text grows as ever"

    run(models, test)


def test_a_stream_that_never_began_fails_with_its_status(
    models: Path, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(slow: Slowly) -> None:
        def broken(_: Slots) -> None:
            raise ZeroDivisionError("the step broke")

        monkeypatch.setattr(Slots, "step", broken)
        for stream in (True, False):
            path, body = dialect.call(stream)
            answer = await slow.client.post(path, json=body)
            assert answer.status_code == 500
            assert "the model failed" in dialect.message(answer.json())

    run(models, test)
