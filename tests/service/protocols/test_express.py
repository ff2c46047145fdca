"""The short way answers what the long way answers, and leaves to it what it must.

Which way a request goes is up to how it is sent: with the length of its body, or in chunks that come later.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.app import create_app
from service.errors import Overloaded
from service.protocols.express import Express
from service.protocols.requests import TENSORS
from service.security.keys import digest_of
from service.server import DrainingServer
from service.settings import Settings
from tests.bundles import HEIGHT, WIDTH, golden_inputs, identity_graph, make_bare, make_bundle, slow_graph
from tests.conftest import loaded
from tests.service.pictures import drawn, encoded
from tests.service.requests import parsed, tensor

INFER, PREDICT = "/v2/models/tiny/infer", "/predict/tiny"
PICTURE = encoded(drawn(WIDTH, HEIGHT))
ROWS = golden_inputs(2)
JSON = json.dumps({"id": 'a "quoted" one', "inputs": [tensor(ROWS, name="image")]}).encode()
_TIMES = re.compile(rb'"(queue_us|compute_us)":\d+')
_COUNT = re.compile(r"_(total|count)\b")
_VARIES = ("x-queue-ms", "x-compute-ms", "x-request-id", "content-length", "inference-header-content-length")


def binary(rows: Any = ROWS, **changes: Any) -> tuple[dict[str, str], bytes]:
    """Headers and body of an inference with binary tensors."""
    described = {
        "inputs": [
            {
                "name": "image",
                "shape": list(rows.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": rows.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
        **changes,
    }
    head = json.dumps(described).encode()
    return {"inference-header-content-length": str(len(head))}, head + rows.tobytes()


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> tuple[int, dict[str, str], bytes]:
        """All of it that is the same each time."""
        headers = {name: value for name, value in self.headers.items() if name not in _VARIES}
        body = gzip.decompress(self.body) if "content-encoding" in headers else self.body
        return self.status, headers, _TIMES.sub(b"", body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def send(self, path: str, headers: Mapping[str, str], body: bytes, *, version: str = "1.1") -> None:
        """Send a request in one piece."""
        self.writer.write(self.head(path, headers, len(body), version) + body)

    async def ask(self, path: str, headers: Mapping[str, str], body: bytes, *, short: bool = True) -> Answered:
        if short:
            self.send(path, headers, body)
        else:
            self.writer.write(self.head(path, headers, None))
            await asyncio.sleep(0.02)
            self.writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        return await self.answer()

    async def ask_slowly(self, path: str, headers: Mapping[str, str], body: bytes, *lengths: int) -> Answered:
        """Ask in pieces: the head, so many bytes of the body each, and the rest."""
        self.writer.write(self.head(path, headers, len(body)))
        for length in lengths:
            await asyncio.sleep(0.01)
            self.writer.write(body[:length])
            body = body[length:]
        await asyncio.sleep(0.01)
        self.writer.write(body)
        return await self.answer()

    @staticmethod
    def head(path: str, headers: Mapping[str, str], length: int | None, version: str = "1.1") -> bytes:
        sized = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        lines = [f"POST {path} HTTP/{version}", "host: here", sized]
        return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "\r\n"]).encode()

    async def answer(self) -> Answered:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        return Answered(
            int(head[0].split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))
        )

    async def is_closed(self) -> bool:
        return await self._reader.read() == b""


class Served:
    """A server in this event loop.

    Attributes:
        taken: of each request that the short way was asked about, whether it took it.
    """

    def __init__(self, server: DrainingServer, app: Any) -> None:
        self.app = app
        self.connections = server.server_state.connections
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.taken: list[bool] = []
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        self._clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self._clients[-1]

    async def ask(self, path: str, headers: Mapping[str, str], body: bytes, *, short: bool = True) -> Answered:
        """Ask on a connection of its own."""
        return await (await self.connect()).ask(path, headers, body, short=short)

    def metrics(self) -> dict[str, float]:
        return parsed(self.app.state.metrics.render().decode())

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110 - what is waited for sets no event
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        for client in self._clients:
            client.writer.close()
            with suppress(OSError):
                await client.writer.wait_closed()


@asynccontextmanager
async def serving(models: Path, **changes: Any) -> AsyncIterator[Served]:
    settings = Settings(**{"models": models, "threads": 1, "grpc_port": None, "port": 0, **changes})
    app = create_app(settings)
    server = DrainingServer(app, settings)
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    await loaded(app)
    served = Served(server, app)
    quick: Express | None = app.state.quick
    if quick:
        begin = quick.begin

        def noted(*given: Any) -> bool:
            served.taken.append(begin(*given))
            return served.taken[-1]

        quick.begin = noted  # type: ignore[method-assign]
    try:
        yield served
    finally:
        await served.close()
        for one in server.servers:
            one.close()
        await server.lifespan.shutdown()


@pytest.fixture
def tiny(models: Path) -> Path:
    make_bundle(models)
    return models


_RIGHT, _BODY = binary()
ASKED: dict[str, tuple[str, dict[str, str], bytes, int]] = {
    "binary": (INFER, _RIGHT, _BODY, 200),
    "binary, of a version": ("/v2/models/tiny/versions/1/infer", _RIGHT, _BODY, 200),
    "binary, with an id": (INFER, *binary(id="ü\n"), 200),
    "binary, answered in JSON": (INFER, *binary(parameters={}), 200),
    "one raw tensor": (INFER, {"inference-header-content-length": "0"}, ROWS[:1].tobytes(), 200),
    "the best classes": (INFER, *binary(outputs=[{"name": "logits", "parameters": {"classification": 2}}]), 200),
    "JSON": (INFER, {"content-type": "application/json"}, JSON, 200),
    "an answer that is compressed": (
        "/v2/models/bare/infer",
        {"accept-encoding": "gzip"},
        json.dumps({"inputs": [tensor(np.zeros((20, 100), np.float32), name="x", shape=[20, 100])]}).encode(),
        200,
    ),
    "a picture": (PREDICT, {"content-type": "image/png"}, PICTURE, 200),
    "a picture, with a query": (f"{PREDICT}?top_k=2&invert=true", {"content-type": "image/png"}, PICTURE, 200),
    "a deadline": (INFER, {**_RIGHT, "x-request-timeout-ms": "10000"}, _BODY, 200),
    "a connection that ends": (INFER, {**_RIGHT, "connection": "close"}, _BODY, 200),
    "a deadline that is none": (INFER, {**_RIGHT, "x-request-timeout-ms": "soon"}, _BODY, 400),
    "a length that is none": (INFER, {"inference-header-content-length": "long"}, _BODY, 400),
    "no JSON": (INFER, {}, b"{", 400),
    "another shape": (INFER, *binary(ROWS[:, :, 1:]), 400),
    "too few bytes": (INFER, _RIGHT, _BODY[:-1], 400),
    "too many rows": (INFER, *binary(np.zeros((65, *ROWS.shape[1:]), np.float32)), 413),
    "no picture": (PREDICT, {"content-type": "image/png"}, b"what", 415),
    "a parameter that there is not": (f"{PREDICT}?top_q=2", {"content-type": "image/png"}, PICTURE, 400),
    "a media type that there is not": (PREDICT, {"content-type": "audio/mpeg"}, PICTURE, 415),
    "a stream": (PREDICT, {"content-type": "application/json"}, b'{"inputs": "", "stream": true}', 400),
}


@pytest.mark.parametrize("name", ASKED)
def test_both_ways_answer_alike_and_count_alike(tiny: Path, name: str) -> None:
    path, headers, body, status = ASKED[name]
    make_bare(tiny, graph=identity_graph(shape=("batch", 100)))

    async def main() -> None:
        async with serving(tiny) as served:
            answers, counted = [], []
            for short in (True, False):
                before = served.metrics()
                client = await served.connect()
                answers.append(await client.ask(path, headers, body, short=short))
                assert served.taken == [True]
                assert len(answers[-1].headers["x-request-id"]) == 16
                if "connection" in headers:
                    assert await client.is_closed()
                after = served.metrics()
                counted.append(
                    {key: after[key] - before.get(key, 0) for key in after if key.endswith(("_total", "_count"))}
                )
            assert answers[0].told == answers[1].told
            assert answers[0].status == status
            assert counted[0] == counted[1]
            assert served.app.state.bodies.held == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "headers", "version"),
    [
        (INFER, {"origin": "https://example.org"}, "1.1"),
        (INFER, {"content-encoding": "identity"}, "1.1"),
        (INFER, {"inference-header-content-length": "1", "Inference-Header-Content-Length": "2"}, "1.1"),
        (INFER, {"expect": "100-continue"}, "1.1"),
        ("/v2/models/nobody/infer", {}, "1.1"),
        ("/v2/models/tiny/versions/7/infer", {}, "1.1"),
        ("/v2/models/tin%79/infer", {}, "1.1"),
        ("/v2/models//infer", {}, "1.1"),
        (PREDICT, {"content-type": "multipart/form-data; boundary=x"}, "1.1"),
        ("/v2/repository/index", {}, "1.1"),
    ],
)
def test_what_it_does_not_take_goes_to_the_application_as_if_never_seen(
    tiny: Path, path: str, headers: dict[str, str], version: str
) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            client = await served.connect()
            client.send(path, headers, b"{}", version=version)
            first = await client.answer() if "expect" not in headers else None
            assert not any(served.taken)
            long = await served.ask(path, headers, b"{}", short=False) if first else None
            assert (first and first.told) == (long and long.told)
            assert served.app.state.bodies.held == 0

    asyncio.run(main())


def test_an_old_client_is_answered_and_left(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            client = await served.connect()
            client.send(INFER, _RIGHT, _BODY, version="1.0")
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await client.is_closed()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["binary", "one raw tensor", "JSON", "a picture", "another shape", "too few bytes"])
def test_a_body_that_comes_in_pieces_is_waited_for(tiny: Path, name: str) -> None:
    path, headers, body, status = ASKED[name]

    async def main() -> None:
        async with serving(tiny) as served:
            at_once = await served.ask(path, headers, body)
            slowly = await (await served.connect()).ask_slowly(path, headers, body, 10, 100)
            assert served.taken == [True, True]
            assert slowly.told == at_once.told
            assert at_once.status == status
            assert served.app.state.bodies.held == 0

    asyncio.run(main())


def test_a_deadline_counts_from_the_head_on_both_ways(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            for milliseconds, status in (("1", 504), ("10000", 200)):
                headers = {**_RIGHT, "x-request-timeout-ms": milliseconds}
                slowly = await (await served.connect()).ask_slowly(INFER, headers, _BODY, 100)
                long = await served.ask(INFER, headers, _BODY, short=False)
                assert slowly.told == long.told
                assert slowly.status == status
            assert served.taken == [True, True]

    asyncio.run(main())


def test_binary_tensors_may_be_much_larger_than_what_is_parsed(models: Path) -> None:
    make_bare(models, graph=identity_graph(shape=("batch", 5000)))
    path = "/v2/models/bare/infer"

    def asked(rows: int) -> Iterator[tuple[dict[str, str], bytes, np.ndarray]]:
        content = np.random.default_rng(rows).random((rows, 5000), np.float32)
        described = {"name": "x", "datatype": "FP32", "shape": [rows, 5000]}
        given = {**described, "parameters": {"binary_data_size": content.nbytes}}
        for spaces in range(16):  # wherever the numbers lie
            head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}) + " " * spaces
            yield {"inference-header-content-length": str(len(head))}, head.encode() + content.tobytes(), content

    async def main() -> None:
        async with serving(models) as served:
            client = await served.connect()
            for headers, body, content in asked(40):
                answer = await client.ask_slowly(path, headers, body, 70_000, 400_001)
                assert answer.status == 200
                assert answer.body.endswith(content.tobytes())
            assert served.taken == [True] * 16
            headers, body, content = next(iter(asked(60)))
            assert (await client.ask_slowly(path, headers, body, 70_000)).body.endswith(content.tobytes())
            assert len(served.taken) == 16  # more than a mebibyte is not waited for
            as_json = json.dumps({"inputs": [tensor(np.ones((4, 5000), np.float32), name="x", shape=[4, 5000])]})
            assert len(as_json) > 70_000
            assert (await client.ask_slowly(path, {}, as_json.encode())).status == 200
            assert len(served.taken) == 16
            assert served.app.state.bodies.held == 0

    asyncio.run(main())


@pytest.mark.parametrize("name", ["nobody", "a stranger", "a key", "a drain"])
def test_who_may_not_ask_is_told_before_his_body_has_come(tiny: Path, tmp_path: Path, name: str) -> None:
    keys = tmp_path / "keys"
    secret = "s" * 32
    known = {"name": "one", "sha256": digest_of(secret.encode()).hex(), "scopes": ["predict"]}
    keys.write_text(json.dumps(known))
    given = {"nobody": {}, "a stranger": {"x-api-key": "wrong"}}.get(name, {"x-api-key": secret})

    async def main() -> None:
        async with serving(tiny, api_keys_file=keys) as served:
            client = await served.connect()
            client.writer.write(client.head(INFER, {**_RIGHT, **given}, len(_BODY)) + _BODY[:100])
            if name == "a key":
                await served.until(lambda: served.app.state.bodies.held == 100)
                client.writer.write(_BODY[100:])
            elif name == "a drain":
                await served.until(lambda: served.app.state.bodies.held == 100)
                for connection in tuple(served.connections):
                    connection.shutdown()
                client.writer.write(_BODY[100:])
            answer = await client.answer()
            assert answer.status == (200 if secret in given.values() else 401)
            assert served.taken == ([True] if name == "a key" else [])
            assert answer.headers.get("connection") == ("close" if name == "a drain" else None)
            assert served.app.state.bodies.held == 0

    asyncio.run(main())


def test_half_a_body_is_counted_until_its_client_goes(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny, body_timeout_s=0.5) as served:
            leaves, rests = await served.connect(), await served.connect()
            for client in (leaves, rests):
                client.writer.write(client.head(INFER, _RIGHT, len(_BODY)) + _BODY[:100])
            await served.until(lambda: served.app.state.bodies.held == 200)
            leaves.writer.transport.abort()
            await served.until(lambda: served.app.state.bodies.held == 100)
            answer = await rests.answer()
            assert (answer.status, "INFERD_BODY_TIMEOUT_S" in json.loads(answer.body)["error"]) == (408, True)
            assert served.taken == []
            assert served.app.state.bodies.held == 0

    asyncio.run(main())


def test_what_is_too_much_or_in_too_many_pieces_goes_the_long_way(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            client, bodies = await served.connect(), served.app.state.bodies
            client.writer.write(client.head(INFER, _RIGHT, len(_BODY)))
            for place in range(300):
                client.writer.write(_BODY[place : place + 1])
                await asyncio.sleep(0)
                await served.until(lambda place=place: bodies.held == place + 1)  # type: ignore[misc]
            client.writer.write(_BODY[300:])
            assert (await client.answer()).status == 200
            assert served.taken == []
            bodies._limit = 200
            answer = await (await served.connect()).ask_slowly(INFER, _RIGHT, _BODY, 100)
            assert (answer.status, "INFERD_MAX_INFLIGHT_BYTES" in json.loads(answer.body)["error"]) == (429, True)
            assert not any(served.taken)
            assert bodies.held == 0

    asyncio.run(main())


def test_requests_that_come_at_once_are_answered_in_their_order(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            client = await served.connect()
            asked = [binary(id=str(number)) for number in range(6)]
            client.writer.write(b"".join(Client.head(INFER, one, len(body)) + body for one, body in asked))
            for number in range(6):
                answer = await client.answer()
                assert (answer.status, json.loads(answer.body[: answer.body.index(b"}]}") + 3])["id"]) == (
                    200,
                    str(number),
                )
            assert served.taken == [True]  # the others were waiting behind it
            assert (await client.ask(INFER, _RIGHT, _BODY)).status == 200
            assert served.taken == [True, True]

    asyncio.run(main())


def test_an_id_of_the_clients_comes_back(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            answer = await served.ask(INFER, {**_RIGHT, "x-request-id": "mine"}, _BODY)
            assert answer.headers["x-request-id"] == "mine"
            refused = await served.ask(INFER, {**_RIGHT, "x-request-id": "not\tmine"}, _BODY)
            assert len(refused.headers["x-request-id"]) == 16
            assert served.taken == [True, True]

    asyncio.run(main())


def test_who_has_no_key_does_not_come_in_this_way_either(tiny: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    secret = "s" * 32
    known = {"name": "one", "sha256": digest_of(secret.encode()).hex(), "scopes": ["predict"], "concurrency": 1}
    keys.write_text(json.dumps(known))

    async def main() -> None:
        async with serving(tiny, api_keys_file=keys) as served:
            for headers in ({}, {"x-api-key": "wrong"}):
                answers = [
                    await served.ask(INFER, {**_RIGHT, **headers}, _BODY, short=short) for short in (True, False)
                ]
                assert answers[0].status == 401
                assert answers[0].told == answers[1].told
            for headers in ({"x-api-key": secret}, {"authorization": f"Bearer {secret}"}):
                for _ in range(3):  # each gives back what it has
                    assert (await served.ask(INFER, {**_RIGHT, **headers}, _BODY)).status == 200
            assert served.taken == [True] * 8
            # One that is handed over is let in once.
            form = {"content-type": "multipart/form-data; boundary=x", "x-api-key": secret}
            assert (await served.ask(PREDICT, form, b"--x--")).status == 400
            assert served.taken[-1] is False
            assert served.metrics()['inferd_key_requests_total{key="one",outcome="admitted"}'] == 7
            assert (await served.ask(INFER, {**_RIGHT, "x-api-key": secret}, _BODY)).status == 200

    asyncio.run(main())


def test_whoever_goes_away_is_not_waited_for(models: Path) -> None:
    make_bare(models, "slow", graph=slow_graph(4000))
    failures = 'inferd_request_failures_total{model="slow",reason="cancelled",version="1"}'
    body = json.dumps({"inputs": [tensor(ROWS[:1], name="image")]}).encode()

    async def main() -> None:
        async with serving(models) as served:
            model = served.app.state.repository.find("slow")
            stays, goes = await served.connect(), await served.connect()
            stays.send("/v2/models/slow/infer", {}, body)
            await served.until(lambda: len(served.taken) == 1)
            await asyncio.sleep(0)
            goes.send("/v2/models/slow/infer", {}, body)
            await served.until(lambda: model.queued_rows() == 1)
            assert served.app.state.bodies.held == 2 * len(body)
            assert [one.cycle.pieces for one in served.connections] == [(), ()]  # nor is it held twice
            goes.writer.transport.abort()
            await served.until(lambda: model.queued_rows() == 0)
            assert served.metrics()[failures] == 1
            assert (await stays.answer()).status == 200
            assert served.metrics()[failures] == 1
            assert served.metrics()['inferd_inflight{model="slow",version="1"}'] == 0
            assert served.app.state.bodies.held == 0

    asyncio.run(main())


def test_a_model_that_fails_is_answered_and_logged_under_the_requests_id(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            model = served.app.state.repository.find("tiny")

            def fail(_: object) -> None:
                raise LookupError("a secret")

            model._batcher._runner._run = fail
            answer = await served.ask(INFER, {**_RIGHT, "x-request-id": "mine"}, _BODY)
            long = await served.ask(INFER, _RIGHT, _BODY, short=False)
            assert answer.status == 500
            assert answer.told == long.told
            model.observe = fail  # a defect of ours
            model._batcher._runner._run = model.bundle.session.run
            unexpected = await served.ask(INFER, _RIGHT, _BODY)
            assert (unexpected.status, b"secret" in unexpected.body) == (500, False)
            assert served.metrics()['inferd_requests_total{code="500",protocol="open_inference"}'] == 3

    asyncio.run(main())
    logged = [record for record in caplog.records if record.name == "inferd.access"]
    assert [record.getMessage() for record in logged] == [f"POST {INFER} 500"] * 3


def test_who_was_refused_and_asks_again_at_once_waits_for_the_next_refusal(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            model = served.app.state.repository.find("tiny")

            def refuse(*_: object) -> None:
                raise Overloaded("so full", retry_after_s=0.1)

            enqueue, model._batcher.enqueue = model._batcher.enqueue, refuse
            impatient, other, leaves = [await served.connect() for _ in range(3)]
            loop = asyncio.get_running_loop()
            for client in (impatient, leaves):
                assert (await client.ask(INFER, _RIGHT, _BODY)).status == 429
            sent = loop.time()
            for client in (impatient, leaves, other):
                client.send(INFER, _RIGHT, _BODY)
            answer = await other.answer()
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert loop.time() - sent < 0.2
            assert served.app.state.bodies.held == 0  # nothing of those who wait is kept
            leaves.writer.transport.abort()
            assert (await impatient.answer()).told == answer.told
            assert loop.time() - sent > 0.19
            model._batcher.enqueue = enqueue
            assert (await impatient.ask(INFER, _RIGHT, _BODY)).status == 200
            assert served.metrics()['inferd_inflight{model="tiny",version="1"}'] == 0

    asyncio.run(main())


def test_json_of_too_many_arrays_is_refused_before_all_of_it_has_come(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            client = await served.connect()
            client.writer.write(Client.head(INFER, {}, 10**7) + b'{"inputs":[' + b"[]," * 300_000)
            answer = await client.answer()
            assert (answer.status, json.loads(answer.body)["error"]) == (
                413,
                f"the body may have {TENSORS.containers} arrays and objects, and has more",
            )

    asyncio.run(main())


def test_where_every_access_is_logged_all_goes_the_long_way(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny, access_log=True) as served:
            assert served.app.state.quick is None
            assert (await served.ask(INFER, _RIGHT, _BODY)).status == 200

    asyncio.run(main())


def test_a_server_that_drains_says_goodbye(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            client = await served.connect()
            assert "connection" not in (await client.ask(INFER, _RIGHT, _BODY)).headers
            served.app.state.repository.begin_drain()
            assert (await client.ask(INFER, _RIGHT, _BODY)).headers["connection"] == "close"
            assert await client.is_closed()

    asyncio.run(main())


def test_targets_that_nobody_can_remember_are_looked_up_each_time(tiny: Path) -> None:
    async def main() -> None:
        async with serving(tiny) as served:
            quick: Express = served.app.state.quick
            for number in range(3000):
                assert quick.find(f"/predict/tiny?{number}".encode())
            assert quick.find(b"/predict/tiny?" + b"x" * 5000)
            assert len(quick._targets) <= 1024

    asyncio.run(main())
