"""Many requests at once, clients that go away, models that fail."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import onnx
import pytest
from fastapi import FastAPI
from onnx import helper
from starlette.requests import Request
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import BadInput, Cancelled, TooLarge
from service.protocols.requests import TENSORS, TEXTS, deadline_of, parse_json, read_json, while_connected
from service.settings import Settings
from tests import virtual_clock
from tests.bundles import golden_inputs, logits_of, make_bundle, model_of, slow_graph, weights
from tests.conftest import Serve, running
from tests.service.requests import BRIGHT, DARK, gained, metrics, parsed, tensor

URL = "/predict/slow"


@pytest.fixture
def slow(models: Path) -> Callable[..., None]:
    """Give a function that runs a test against a model whose runs take long, of one row each."""
    make_bundle(models, "slow", graph=slow_graph())

    def start(test: Callable[[FastAPI, httpx.AsyncClient], Coroutine[Any, Any, None]], **changes: Any) -> None:
        async def main() -> None:
            app = create_app(
                Settings(**{"models": models, "threads": 1, "max_batch_rows": 1, "grpc_port": None, **changes})
            )
            async with running(app) as client:
                await test(app, client)

        asyncio.run(main())

    return start


async def until_waiting(app: FastAPI, rows: int) -> None:
    """Let the loop go on until the model runs one request and has so many more in its queue."""
    model = app.state.repository.get("slow")
    for _ in range(1000):
        if not model.is_idle and model.queued_rows() == rows:
            return
        await asyncio.sleep(0)
    raise AssertionError("the requests did not come, or did not wait")


async def scraped(client: httpx.AsyncClient) -> dict[str, float]:
    return parsed((await client.get("/metrics")).text)


async def sent(app: FastAPI, messages: list[dict[str, Any]], path: str = URL) -> int:
    """Be a client in ASGI's own words, who says `messages` and no more; return the status of what came back."""
    statuses = []
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"image/png")],
        "server": ("test", 80),
        "client": ("test", 1),
    }
    await app(scope, receive, send)
    (status,) = statuses
    return int(status)


# Too much at once


def test_what_does_not_fit_the_queue_is_refused_and_told_when_to_come_again(slow: Callable[..., None]) -> None:
    async def test(_: FastAPI, client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(client.post(URL, content=BRIGHT) for _ in range(8)))
        refused = [answer for answer in answers if answer.status_code == 429]
        answered = [answer for answer in answers if answer.status_code == 200]
        assert refused
        assert answered
        assert len(refused) + len(answered) == 8
        assert all(answer.json()[0]["label"] == "bright" for answer in answered)
        for answer in refused:
            assert answer.json()["error"] == "the queue is full: 1 rows wait, and 1 may"
            assert int(answer.headers["retry-after"]) >= 1
        series = await scraped(client)
        assert series['inferd_request_failures_total{model="slow",reason="overloaded",version="1"}'] == len(refused)
        assert series['inferd_requests_total{code="429",protocol="predict"}'] == len(refused)
        assert series['inferd_batch_size_sum{model="slow",version="1"}'] == len(answered)

    slow(test, max_queue_rows=1)


def test_what_would_wait_too_long_is_refused_whatever_the_count(slow: Callable[..., None]) -> None:
    async def test(_: FastAPI, client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(client.post(URL, content=BRIGHT) for _ in range(8)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in refused:
            assert "the predicted wait is" in answer.json()["error"]
            assert "may be 1e-06 s" in answer.json()["error"]

    slow(test, max_queue_s=1e-6)


def test_what_fits_the_queue_is_answered_in_the_end(slow: Callable[..., None]) -> None:
    async def test(_: FastAPI, client: httpx.AsyncClient) -> None:
        bodies = [BRIGHT, DARK] * 3
        answers = await asyncio.gather(*(client.post(URL, content=body) for body in bodies))
        assert [answer.json()[0]["label"] for answer in answers] == ["bright", "dark"] * 3
        assert any(float(answer.headers["x-queue-ms"]) > 1 for answer in answers)

    slow(test, max_queue_s=60)


def test_a_request_whose_deadline_passes_in_the_queue_is_answered_504_and_not_run(slow: Callable[..., None]) -> None:
    async def test(app: FastAPI, client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(client.post(URL, content=BRIGHT))
        await until_waiting(app, 0)
        late = await client.post(URL, content=BRIGHT, headers={"x-request-timeout-ms": "2"})
        assert late.status_code == 504
        assert (await first).status_code == 200
        series = await scraped(client)
        assert series['inferd_batch_size_sum{model="slow",version="1"}'] == 1
        assert series['inferd_request_failures_total{model="slow",reason="deadline",version="1"}'] == 1

    slow(test)


# Clients that go away


def test_a_client_that_goes_away_while_it_waits_is_not_run_and_harms_nobody(slow: Callable[..., None]) -> None:
    async def test(app: FastAPI, client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(client.post(URL, content=BRIGHT))
        await until_waiting(app, 0)
        last = asyncio.create_task(client.post(URL, content=DARK))
        body = {"type": "http.request", "body": BRIGHT, "more_body": False}
        assert await sent(app, [body, {"type": "http.disconnect"}]) == 499
        assert (await first).json()[0]["label"] == "bright"
        assert (await last).json()[0]["label"] == "dark"
        series = await scraped(client)
        assert series['inferd_batch_size_sum{model="slow",version="1"}'] == 2
        assert series['inferd_request_failures_total{model="slow",reason="cancelled",version="1"}'] == 1
        assert series['inferd_requests_total{code="499",protocol="predict"}'] == 1
        assert series['inferd_inflight{model="slow",version="1"}'] == 0
        assert series['inferd_queue_depth{model="slow",version="1"}'] == 0

    slow(test, max_queue_s=60)


@pytest.mark.parametrize("path", [URL, "/v2/models/slow/infer"])
def test_a_client_that_goes_away_amid_its_body_is_counted_as_gone(slow: Callable[..., None], path: str) -> None:
    async def test(app: FastAPI, client: httpx.AsyncClient) -> None:
        half = {"type": "http.request", "body": BRIGHT[:20], "more_body": True}
        assert await sent(app, [half, {"type": "http.disconnect"}], path) == 499
        series = await scraped(client)
        assert series['inferd_request_failures_total{model="slow",reason="cancelled",version="1"}'] == 1

    slow(test)


def test_a_request_that_is_cancelled_while_it_waits_is_not_run_and_harms_nobody(slow: Callable[..., None]) -> None:
    async def test(app: FastAPI, client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(client.post(URL, content=BRIGHT))
        await until_waiting(app, 0)
        cancelled = asyncio.create_task(client.post(URL, content=BRIGHT))
        last = asyncio.create_task(client.post(URL, content=DARK))
        await until_waiting(app, 2)
        cancelled.cancel()
        assert (await first).json()[0]["label"] == "bright"
        assert (await last).json()[0]["label"] == "dark"
        assert cancelled.cancelled()
        series = await scraped(client)
        assert series['inferd_batch_size_sum{model="slow",version="1"}'] == 2
        assert series['inferd_request_failures_total{model="slow",reason="cancelled",version="1"}'] == 1
        assert series['inferd_inflight{model="slow",version="1"}'] == 0

    slow(test, max_queue_s=60)


def request_of(*messages: dict[str, Any]) -> Request:
    """Make a request whose client says `messages` and then nothing more, but stays."""
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        for message in waiting:
            return message
        return await asyncio.get_running_loop().create_future()

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


def test_work_is_given_up_when_its_client_goes_away() -> None:
    async def main() -> None:
        request = request_of({"type": "http.request"}, {"type": "http.disconnect"})
        work = asyncio.get_running_loop().create_future()
        with pytest.raises(Cancelled, match="went away"):
            await while_connected(request, work)
        assert work.cancelled()

    virtual_clock.run(main())


def test_work_is_waited_for_as_long_as_its_client_stays() -> None:
    async def main() -> None:
        async def work() -> str:
            await asyncio.sleep(1000)
            return "done"

        assert await while_connected(request_of(), work()) == "done"
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1  # nobody watches the client any more

    virtual_clock.run(main())


def test_work_that_fails_fails_the_request_and_not_the_watching_of_its_client() -> None:
    async def main() -> None:
        async def work() -> None:
            raise BadInput("broken")

        with pytest.raises(BadInput, match="broken"):
            await while_connected(request_of(), work())

    virtual_clock.run(main())


# Priorities


def test_a_request_of_a_higher_priority_is_answered_before_those_that_wait(slow: Callable[..., None]) -> None:
    async def test(app: FastAPI, client: httpx.AsyncClient) -> None:
        order = []

        async def ask(priority: int) -> None:
            body = {"inputs": [tensor(golden_inputs(1))], "parameters": {"priority": priority}}
            answer = await client.post("/v2/models/slow/infer", json=body)
            assert answer.status_code == 200
            order.append(priority)

        running_now = asyncio.create_task(ask(0))
        await until_waiting(app, 0)
        others = []
        for waiting, priority in enumerate((3, 0, 1), 1):
            others.append(asyncio.create_task(ask(priority)))
            await until_waiting(app, waiting)
        await asyncio.gather(running_now, *others)
        assert order == [0, 1, 0, 3]

    slow(test, max_queue_s=60)


# Deadlines


def asking(timeout: str) -> Request:
    """Make a request that has so many milliseconds."""
    headers = [(b"x-request-timeout-ms", timeout.encode("latin-1"))]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers})


@pytest.mark.parametrize("text", ["1500", "1500.0", "1500.", "1.5e3", "1.5E+3", "15000e-1"])
def test_a_deadline_is_a_number_of_milliseconds_from_now(text: str) -> None:
    before = time.monotonic()
    deadline = deadline_of(asking(text))
    assert deadline is not None
    assert before + 1.5 <= deadline <= time.monotonic() + 1.5


def test_without_the_header_there_is_no_deadline() -> None:
    assert deadline_of(request_of()) is None


@pytest.mark.parametrize(
    "text",
    ["", "soon", "0", "-1", "+1", "1_0", "inf", "nan", "1e9", "1e999", "0x10", "1 0", ".", "1e", "\u00b2", "1" * 100],
)
def test_what_is_no_number_of_milliseconds_is_refused(text: str) -> None:
    with pytest.raises(
        BadInput, match="x-request-timeout-ms must be a positive number of milliseconds, not "
    ) as refused:
        deadline_of(asking(text))
    assert len(str(refused.value)) < 150


# The end


def test_what_was_accepted_is_answered_before_the_end(slow: Callable[..., None]) -> None:
    async def test(app: FastAPI, client: httpx.AsyncClient) -> None:
        accepted = [asyncio.create_task(client.post(URL, content=BRIGHT)) for _ in range(4)]
        await until_waiting(app, 3)
        await app.state.repository.close()
        assert [answer.status_code for answer in await asyncio.gather(*accepted)] == [200] * 4
        late = await client.post(URL, content=BRIGHT)
        assert late.status_code == 503

    slow(test, max_queue_s=60)


def test_the_app_may_end_while_its_models_are_being_loaded(models: Path) -> None:
    for name in ("one", "two", "three"):
        make_bundle(models, name, graph=slow_graph())

    async def main() -> None:
        app = create_app(Settings(models=models, threads=1, grpc_port=None))
        async with running(app, wait=False):
            pass
        assert [entry.state for entry in app.state.repository.entries()] == ["LOADING"] * 3

    asyncio.run(main())


# Models that fail


def failing_graph() -> onnx.ModelProto:
    """Make the tiny model, but that it fails where a pixel is brighter than white: it looks up what is not there."""
    factors, offsets = weights()
    return model_of(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "factors", "offsets"], ["answers"]),
            helper.make_node("ReduceMax", ["image"], ["brightest"], keepdims=0),
            helper.make_node("Floor", ["brightest"], ["rounded"]),
            helper.make_node("Cast", ["rounded"], ["index"], to=onnx.TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["nothing"]),
            helper.make_node("Add", ["answers", "nothing"], ["logits"]),
        ],
        {"factors": factors, "offsets": offsets, "table": np.zeros(2, np.float32)},
    )


@pytest.fixture
def fragile(models: Path, serve: Serve) -> TestClient:
    make_bundle(models, graph=failing_graph())
    return serve(models=models)


def test_a_model_that_fails_is_the_servers_fault_and_is_logged_with_its_cause(
    fragile: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics(fragile)
    answer = fragile.post("/v2/models/tiny/infer", json={"inputs": [tensor(5 + golden_inputs(1))]})
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("model.onnx: ONNX Runtime failed")
    assert gained(before, metrics(fragile), "inferd_request_failures_total", model="tiny", reason="runtime") == 1
    (record,) = (one for one in caplog.records if one.name == "service.protocols.errors")
    assert record.levelno == logging.ERROR
    assert record.exc_info


def test_a_model_that_failed_once_answers_the_next_request(fragile: TestClient) -> None:
    assert fragile.post("/v2/models/tiny/infer", json={"inputs": [tensor(5 + golden_inputs(1))]}).status_code == 500
    answer = fragile.post("/v2/models/tiny/infer", json={"inputs": [tensor(golden_inputs(1))]})
    found = json.loads(answer.content)["outputs"][0]["data"]
    np.testing.assert_allclose([found], logits_of(golden_inputs(1)), atol=1e-5)
    assert fragile.get("/health/ready").status_code == 200


def test_a_defect_amid_a_request_is_counted_as_the_runtimes_failure(fragile: TestClient) -> None:
    before = metrics(fragile)
    model = fragile.app.state.repository.get("tiny")
    with pytest.raises(LookupError), model.measured():
        raise LookupError("a defect")
    after = metrics(fragile)
    assert gained(before, after, "inferd_request_failures_total", model="tiny", reason="runtime") == 1
    assert after['inferd_inflight{model="tiny",version="1"}'] == 0


# JSON that is small and takes much


ANYTHING = msgspec.json.Decoder()


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_json_that_is_nested_too_deeply_is_refused_in_words(opened: bytes) -> None:
    with pytest.raises(BadInput, match="nested too deeply"):
        parse_json(ANYTHING, opened * 100_000, "JSON")


@pytest.mark.parametrize("unit", [b"[],", b"{},"])
def test_more_arrays_and_objects_than_may_be_are_not_even_read(unit: bytes) -> None:
    many = b"[" + unit * TENSORS.containers
    with pytest.raises(TooLarge, match=f"may have {TENSORS.containers}"):
        parse_json(ANYTHING, many, "JSON")
    assert len(parse_json(ANYTHING, b"[" + unit * 1000 + b"1]", "JSON")) == 1001


def test_more_values_than_may_be_are_not_even_read() -> None:
    with pytest.raises(TooLarge, match=f"may have {TENSORS.values} values, and has more: tensors can go as binary"):
        parse_json(ANYTHING, b"[" + b"1," * (TENSORS.values + 1), "JSON")
    assert len(parse_json(ANYTHING, b"[" + b"1," * (TENSORS.values - 1) + b"1]", "JSON")) == TENSORS.values


def read_in_pieces(body: bytes, size: int) -> tuple[object, int]:
    """Have a body of JSON read that comes in pieces; what it holds, and how many were left when it was known."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def run() -> object:
        try:
            return await read_json(Request({"type": "http", "headers": []}, receive), 10**8, ANYTHING, "JSON")
        except TooLarge as error:
            return str(error)

    return asyncio.run(run()), len(pieces)


def test_what_a_text_needs_of_json_is_read_in_whichever_pieces_it_comes() -> None:
    content = {"inputs": ["a, [b] {c}"] * 100, "parameters": {"seed": 1}}
    for size in (1, 7, 10**6):
        assert read_in_pieces(json.dumps(content).encode(), size) == (content, 0)


@pytest.mark.parametrize(
    ("unit", "problem"),
    [
        (b'"",', f"the body may have {TEXTS.values} values, and has more"),
        (b"[],", f"the body may have {TEXTS.containers} arrays and objects, and has more"),
    ],
)
def test_json_that_has_more_than_texts_need_is_refused_before_all_of_it_has_come(unit: bytes, problem: str) -> None:
    body = b"[" + unit * 10**6 + b"1]"
    told, left = read_in_pieces(body, 2**16)
    assert told == problem
    assert left > len(body) / 2**16 / 2
