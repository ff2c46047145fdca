from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.clients.serving import Served
from tests.clients.triton.callers import Caller, Loop, array_of

MANY = 200
LONG = 1000
"""Steps of the slow model: some tenths of a second."""

asyncio_client = pytest.mark.parametrize("caller", ["grpc.aio"], indirect=True)


class Stream:
    """A stream of a client, and what it was called back with."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.answers: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()

    def start(self, **kwargs: Any) -> None:
        self.caller.start_stream(lambda result, error: self.answers.put((result, error)), **kwargs)

    def ask(self, number: float, **kwargs: Any) -> None:
        inputs = [self.caller.input("x", array_of(number))]
        self.caller.async_stream_infer("swap", inputs, request_id=str(number), **kwargs)

    def take(self) -> tuple[Any, InferenceServerException | None]:
        return self.answers.get(timeout=60)

    def result(self) -> Any:
        result, error = self.take()
        assert error is None
        return result

    def error(self) -> InferenceServerException:
        result, error = self.take()
        assert result is None
        assert error
        return error


@pytest.fixture
def stream(served: Served, loop: Loop) -> Iterator[Stream]:
    caller = Caller("grpc", served, loop)
    stream = Stream(caller)
    yield stream
    caller.close()
    assert stream.answers.empty()


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_every_request_of_a_stream_is_answered_once(stream: Stream, algorithm: str | None) -> None:
    stream.start(compression_algorithm=algorithm)
    for number in range(MANY):
        stream.ask(number)
    answers = {}
    for _ in range(MANY):
        result = stream.result()
        answers[int(result.get_response().id)] = result.as_numpy("y").tolist()
    assert answers == {number: [[number + 10]] for number in range(MANY)}
    stream.caller.stop_stream()


def test_an_answer_says_that_it_is_the_last_of_its_request(stream: Stream) -> None:
    stream.start()
    for empty_final in (False, True):
        stream.ask(1, enable_empty_final_response=empty_final)
        assert stream.result().get_response().parameters["triton_final_response"].bool_param is True


def test_a_stream_goes_on_after_a_request_that_failed(stream: Stream) -> None:
    stream.start()
    stream.ask(1)
    assert stream.result().as_numpy("y").tolist() == [[11]]
    wrong = [stream.caller.input("x", np.zeros((1, 2), np.float32))]
    stream.caller.async_stream_infer("swap", wrong, request_id="wrong")
    with pytest.raises(InferenceServerException) as alone:
        stream.caller.infer("swap", wrong)
    assert stream.error().message() == alone.value.message()
    stream.caller.async_stream_infer("nobody", wrong)
    assert "'nobody'" in stream.error().message()
    stream.ask(2, model_version="3")
    assert "'3'" in stream.error().message()
    stream.ask(3, model_version="2")
    assert stream.result().as_numpy("y").tolist() == [[5]]


def test_quick_requests_need_not_wait_for_slow_ones(stream: Stream) -> None:
    stream.start()
    slow = [stream.caller.input("x", np.array([LONG]))]
    stream.caller.async_stream_infer("slow", slow, request_id="slow")
    stream.ask(1)
    assert [stream.result().get_response().id for _ in range(2)] == ["1", "slow"]


def test_stopping_a_stream_waits_for_its_answers(stream: Stream) -> None:
    stream.start()
    stream.caller.async_stream_infer("slow", [stream.caller.input("x", np.array([LONG]))])
    stream.caller.stop_stream()
    assert stream.answers.qsize() == 1
    assert stream.result().as_numpy("y") == LONG


def test_a_stream_can_be_cancelled_with_what_it_has_in_work(stream: Stream) -> None:
    stream.start()
    stream.caller.async_stream_infer("slow", [stream.caller.input("x", np.array([LONG]))])
    stream.caller.stop_stream(cancel_requests=True)
    assert stream.error().status() == "StatusCode.CANCELLED"
    stream.start()
    stream.ask(1)
    assert stream.result().as_numpy("y").tolist() == [[11]]


def test_a_stream_can_have_a_timeout(stream: Stream) -> None:
    stream.start(stream_timeout=0.1)
    stream.caller.async_stream_infer("slow", [stream.caller.input("x", np.array([LONG]))])
    error = stream.error()
    if error.status() is None:  # the server was first: its deadline is the client's
        error = stream.error()
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED"


@asyncio_client
def test_asyncio_streams_too(caller: Caller) -> None:
    numbers = range(MANY)

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in numbers:
            yield {"model_name": "swap", "inputs": [caller.input("x", array_of(number))], "request_id": str(number)}
        yield {"model_name": "nobody", "inputs": [caller.input("x", array_of(0))], "request_id": "wrong"}

    async def ask() -> tuple[dict[int, Any], list[Any]]:
        answers, errors = {}, []
        async for result, error in caller.client.stream_infer(requests()):
            if error:
                errors.append(error)
            else:
                answers[int(result.get_response().id)] = result.as_numpy("y").tolist()
        return answers, errors

    answers, errors = caller.loop.run(ask())
    assert answers == {number: [[number + 10]] for number in numbers}
    assert ["'nobody'" in error.message() for error in errors] == [True]


@asyncio_client
def test_asyncio_can_cancel_a_stream(caller: Caller) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "swap", "inputs": [caller.input("x", array_of(1))]}
        await asyncio.sleep(60)

    async def ask() -> None:
        stream = caller.client.stream_infer(requests())
        result, error = await anext(stream)
        assert error is None
        assert result.as_numpy("y").tolist() == [[11]]
        assert stream.cancel() is True
        with pytest.raises(asyncio.CancelledError):
            await anext(stream)

    caller.loop.run(ask())
    assert caller.is_server_ready() is True
