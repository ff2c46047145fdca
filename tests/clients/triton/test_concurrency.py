from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.clients.serving import alone
from tests.clients.tensors import Array
from tests.clients.triton.callers import Caller, array_of

BURST = 32
THREADS = 8
LONG = 1000
"""Steps of the slow model: some tenths of a second."""
ARRIVAL_S = 0.03
"""Time for the server to have a request before the next one is sent."""

asyncio_clients = pytest.mark.parametrize("caller", ["http.aio", "grpc.aio"], indirect=True)


def test_answers_of_many_requests_at_once_are_not_mixed_up(caller: Caller) -> None:
    requests = [[caller.input("x", array_of(number))] for number in range(BURST)]
    results = caller.ask_all("swap", requests)
    assert [result.as_numpy("y").tolist() for result in results] == [[[number + 10]] for number in range(BURST)]


def test_a_bad_request_fails_alone(caller: Caller) -> None:
    requests = [[caller.input("x", array_of(*[number] * (1 + number % 2)))] for number in range(BURST)]
    for number, result in enumerate(caller.ask_all("swap", requests)):
        if number % 2:
            assert isinstance(result, InferenceServerException)
            assert "'x'" in result.message()
        else:
            assert result.as_numpy("y").tolist() == [[number + 10]]


@pytest.mark.parametrize("caller", ["http", "grpc"], indirect=True)  # those of asyncio share one event loop anyway
def test_clients_in_many_threads_call_at_once(caller: Caller) -> None:
    failures: list[BaseException] = []

    def ask(first: int) -> None:
        try:
            own = caller.again()  # the clients are of one thread each
            for number in range(first, first + 20):
                assert own.ask("swap", {"x": array_of(number)}).as_numpy("y").tolist() == [[number + 10]]
            own.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(100 * index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def work(steps: int = LONG) -> dict[str, Array]:
    return {"x": np.array([steps])}


def test_a_timeout_that_cannot_be_kept_is_refused_before_the_model_runs(caller: Caller) -> None:
    caller.refused(lambda: caller.ask("slow", work(), timeout=1), 504, "did not run")
    assert caller.ask("slow", work(1), timeout=60_000_000).as_numpy("y") == 1


@alone
@asyncio_clients
def test_a_request_waits_no_longer_than_its_timeout(caller: Caller) -> None:
    async def ask() -> float:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(caller.client.infer("slow", [caller.input("x", np.array([LONG]))]))
            await asyncio.sleep(ARRIVAL_S)
            started = time.monotonic()
            with pytest.raises(InferenceServerException, match="did not run"):
                await caller.client.infer("slow", [caller.input("x", np.array([1]))], timeout=50_000)  # microseconds
            assert not first.done(), "the model was idle: there was nothing to wait for"
            return time.monotonic() - started

    assert caller.loop.run(ask()) >= 0.04  # it gives up when there is no more time to run in


@pytest.mark.parametrize("caller", ["grpc", "grpc.aio"], indirect=True)
def test_a_call_can_have_a_timeout(caller: Caller) -> None:
    caller.refused(lambda: caller.ask("slow", work(), client_timeout=0.02), 504)
    assert caller.ask("slow", work(1), client_timeout=60).as_numpy("y") == 1


@pytest.mark.parametrize("priority", [0, 1, 3, 2**31])
def test_a_request_can_have_a_priority(caller: Caller, priority: int) -> None:
    assert caller.ask("swap", {"x": array_of(1)}, priority=priority).as_numpy("y").tolist() == [[11]]


@alone
@asyncio_clients
def test_a_higher_priority_is_served_first(caller: Caller) -> None:
    finished: list[str] = []

    async def ask(name: str, steps: int, priority: int) -> None:
        await caller.client.infer("slow", [caller.input("x", np.array([steps]))], priority=priority)
        finished.append(name)

    async def ask_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            for name, steps, priority in (("first", LONG, 3), ("low", 50, 3), ("default", 50, 0), ("high", 50, 1)):
                tasks.create_task(ask(name, steps, priority))
                await asyncio.sleep(ARRIVAL_S)

    caller.loop.run(ask_all())
    assert finished == ["first", "high", "default", "low"]
