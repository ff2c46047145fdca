from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.e2e.pictures import made_up_png
from tests.e2e.server import Server

CLIENTS = 64
PREDICT = "/predict/fashion-classifier?top_k=10"
PICTURES = [made_up_png(seed) for seed in range(CLIENTS)]


async def ask(client: httpx.AsyncClient, picture: bytes) -> bytes:
    response = await client.post(PREDICT, content=picture, headers={"content-type": "image/png"})
    assert response.status_code == 200, response.text
    return response.content


def test_64_clients_at_once_share_batches_and_each_gets_the_bits_it_gets_alone(server: Server) -> None:
    async def run() -> tuple[list[bytes], list[list[bytes]]]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            alone = [await ask(client, picture) for picture in PICTURES]
            together = [await asyncio.gather(*(ask(client, picture) for picture in PICTURES)) for _ in range(5)]
        return alone, together

    batches, rows = (server.metric(f"inferd_batch_size_{kind}") for kind in ("count", "sum"))
    alone, together = asyncio.run(run())
    batches = server.metric("inferd_batch_size_count") - batches - CLIENTS  # those alone were batches of one
    rows = server.metric("inferd_batch_size_sum") - rows - CLIENTS

    assert rows == 5 * CLIENTS
    assert batches < rows, "no batch had more than one row"
    for answers in together:
        assert answers == alone


def test_clients_that_go_away_harm_nobody(server: Server) -> None:
    async def leave(picture: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = (
            f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: {len(picture)}\r\n\r\n"
        )
        writer.write(head.encode() + picture)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert reader.at_eof() or not await reader.read()

    async def run() -> tuple[list[bytes], list[bytes]]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            alone = [await ask(client, picture) for picture in PICTURES[:32]]
            leaving = [leave(picture) for picture in PICTURES]
            *together, _ = await asyncio.gather(*(ask(client, one) for one in PICTURES[:32]), asyncio.gather(*leaving))
        return alone, together

    alone, together = asyncio.run(run())
    assert together == alone
    assert server.metric("inferd_inflight") == 0
    assert server.metric("inferd_queue_depth") == 0


@pytest.mark.parametrize("bad", [b"", b"no picture", PICTURES[0][:40]], ids=["empty", "text", "truncated"])
def test_one_bad_image_fails_nobody_else(server: Server, bad: bytes) -> None:
    async def run() -> tuple[list[httpx.Response], list[bytes]]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            answers = await asyncio.gather(
                *(client.post(PREDICT, content=bad, headers={"content-type": "image/png"}) for _ in range(16)),
                *(ask(client, picture) for picture in PICTURES[:16]),
            )
        return answers[:16], answers[16:]

    refused, good = asyncio.run(run())
    assert all(response.status_code in (400, 415) and response.json()["error"] for response in refused)
    assert all(good)
