"""A thousand clients come, read and go as they like: nothing is left of them, and who stays gets its whole text."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, running_server
from tests.e2e.swapping import wait_until
from tests.text_bundles import make_text_bundle

CLIENTS = 1000
WARMED_UP = 400
AT_ONCE = 120
"""More than there are slots and than may wait, for the server to refuse some."""
LONGEST = 4000
"""Of a text that nobody reads to its end; if it were made in spite of that, it would be seen to live."""
GROWTH_MB = 6


@dataclass(frozen=True)
class Asked:
    """A request, and how its text is read."""

    body: dict[str, Any]

    def wire(self) -> bytes:
        content = json.dumps(self.body).encode()
        head = (
            "POST /predict/tiny-text HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"connection: close\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


def asked(number: int) -> Asked:
    """One of the requests whose texts are read to their end."""
    draw = random.Random(number)  # noqa: S311 - no secret
    parameters: dict[str, Any] = {"seed": number, "max_new_tokens": draw.randint(1, 60)}
    if draw.random() < 0.5:
        parameters |= {"temperature": 0.7, "top_p": 0.9}
    if draw.random() < 0.3:
        parameters["stop"] = draw.choice(["a", "zz", ["st", "e"]])
    stream = draw.random() < 0.7
    if not stream:
        parameters["best_of"] = draw.randint(1, 4)
    prompt = "".join(draw.choices("abc xyz.", k=draw.randint(0, 12)))
    return Asked({"inputs": prompt, "parameters": parameters, "stream": stream})


@pytest.fixture(params=[1, 2], ids=["alone", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    make_text_bundle(tmp_path)
    # In all as much room with two workers as with one: that clients are shared evenly must not leave it unfilled.
    limits = {"max_batch_rows": 32 // request.param, "max_queue_rows": 32, "max_queue_s": 1000}
    with running_server(models=tmp_path, workers=request.param, **limits) as server:
        yield server


async def request(server: Server, wanted: Asked) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(wanted.wire())
    head = await reader.readuntil(b"\r\n\r\n")
    return reader, writer, int(head.split()[1])


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):  # the server may have been quicker
        await writer.wait_closed()


async def read(server: Server, wanted: Asked, refusals: list[int]) -> str:
    """The whole text, however often the server is too busy before."""
    while True:
        reader, writer, status = await request(server, wanted)
        try:
            content = await reader.read()
        finally:
            await close(writer)
        if status == 429:
            refusals.append(status)
            await asyncio.sleep(0.02)  # a client's patience, on a clock that is the server's too
            continue
        assert status == 200, content
        return text_in(wanted, content)


def text_in(wanted: Asked, content: bytes) -> str:
    if not wanted.body["stream"]:
        (answer,) = json.loads(content[content.index(b"[") :])
        return str(answer["generated_text"])
    events = [json.loads(line) for line in re.findall(rb"^data: (.*)$", content, re.MULTILINE)]
    told = "".join(event["token"]["text"] for event in events)
    assert events[-1]["generated_text"] == told
    assert [event["index"] for event in events] == list(range(len(events)))
    return told


async def leave(server: Server, draw: random.Random) -> None:
    """Ask for a text too long to wait for, and go away at some point."""
    parameters = {"max_new_tokens": LONGEST, "seed": 1}
    stream = draw.random() < 0.6
    if not stream:
        parameters["best_of"] = draw.randint(1, 5)
    wanted = Asked({"inputs": "a" * draw.randint(0, 300), "parameters": parameters, "stream": stream})
    point = draw.choice(["connected", "head", "asked", "answered", "read", "reset"])
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        if point == "connected":
            return
        wire = wanted.wire()
        writer.write(wire[: draw.randint(1, len(wire) - 1)] if point == "head" else wire)
        await writer.drain()
        if point in ("answered", "read", "reset") and stream:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.split()[1] == b"200" and point == "read":
                for _ in range(draw.randint(1, 30)):
                    await reader.readline()
        if point == "reset":
            writer.transport.abort()
    finally:
        await close(writer)


def memory_mb(server: Server) -> float:
    """What the processes of the server hold in memory."""
    processes = {server.process.pid}
    processes |= {
        int(one) for line in server.log for one in re.findall(r"process (\d+)\) serves", str(line["message"]))
    }
    pages = (Path(f"/proc/{process}/status").read_text(encoding="ascii") for process in processes)
    return sum(int(re.findall(r"VmRSS:\s+(\d+)", one)[0]) for one in pages) / 1024


@pytest.mark.slow
def test_a_thousand_clients_come_and_go_and_nothing_is_left_of_them(server: Server) -> None:
    draw = random.Random(3)  # noqa: S311 - no secret
    refusals: list[int] = []
    expected: dict[int, str] = {}

    async def client(number: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            if draw.random() < 0.5:
                await leave(server, draw)
            else:
                kind = draw.randrange(40)
                assert await read(server, asked(kind), refusals) == expected[kind]

    async def clients(count: int) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(client(number, gate))

    async def alone() -> None:
        for kind in range(40):
            expected[kind] = await read(server, asked(kind), refusals)

    def is_idle() -> bool:
        names = ("inferd_live_slots", "inferd_queue_depth", "inferd_inflight")
        return not any(server.metric(name) for name in names)

    asyncio.run(alone())
    assert not refusals
    assert len(set(expected.values())) > 30
    asyncio.run(clients(WARMED_UP))
    wait_until(is_idle)
    before = memory_mb(server)
    asyncio.run(clients(CLIENTS - WARMED_UP))
    wait_until(is_idle)
    assert memory_mb(server) - before < GROWTH_MB
    assert refusals, "the server was never full"
    assert server.metric("inferd_request_failures_total", 'reason="cancelled"') > 100
    assert server.metric("inferd_request_failures_total", 'reason="runtime"') == 0
    assert not [line for line in server.log if line.get("level") == "error" or "Traceback" in str(line)]
    if server.metric("inferd_workers") == 2:
        for worker in (0, 1):
            assert server.metric("inferd_worker_requests_total", f'worker="{worker}"') > 100
    server.terminate()
    assert server.wait() == 0
