"""Pictures for many clients over real sockets: each gets the bytes that it gets alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.server import Server, running_server
from tests.e2e.swapping import wait_until
from tests.image_bundles import make_image_bundle
from tests.service.painting import painted, pixels_of

CLIENTS = 64
PREDICT = "/predict/tiny-painter"
OPENAI = "/v1/images/generations"
LABELS = ("dark", "bright", "left")


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    make_image_bundle(models, idle_steps=200)  # about 8 ms a run: long enough for others to come meanwhile
    with running_server(models=models, workers=request.param) as server:
        yield server


def requests() -> list[tuple[str, dict[str, Any]]]:
    """One for each client: of one picture and of several, in both dialects, with a text, a label or a way."""
    asked: list[tuple[str, dict[str, Any]]] = []
    for seed in range(CLIENTS):
        label = LABELS[seed % 3]
        match seed % 6:
            case 0:
                body = {"inputs": f"what is {label}", "parameters": {"seed": seed}}
            case 1:
                body = {"parameters": {"label": label, "seed": seed, "num_images": 5}}
            case 2:
                body = {"inputs": label, "parameters": {"seed": seed, "num_images": 9, "grid": True, "format": "webp"}}
            case 3:
                way = {"to": {"label": "bright", "seed": seed + 1}, "steps": 4}
                body = {"inputs": label, "parameters": {"seed": seed, "interpolate": way}}
            case 4:
                terms = [{"seed": seed}, {"label": "dark", "seed": 1, "weight": -0.5}]
                body = {"inputs": label, "parameters": {"arithmetic": terms, "num_images": 2, "width": 48}}
            case _:
                asked.append((OPENAI, {"model": "tiny-painter", "prompt": label, "seed": seed, "n": 3}))
                continue
        asked.append((PREDICT, body))
    return asked


async def ask(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> bytes:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    if path == OPENAI:
        return json.dumps(response.json()["data"]).encode()  # without when it was drawn
    return response.content


async def ask_all(client: httpx.AsyncClient) -> Sequence[bytes]:
    return await asyncio.gather(*(ask(client, *one) for one in requests()))


def test_64_clients_at_once_share_batches_and_each_gets_the_bytes_it_gets_alone(server: Server) -> None:
    async def run() -> tuple[list[bytes], list[Sequence[bytes]]]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            alone = [await ask(client, *one) for one in requests()]
            before = server.metric("inferd_batch_size_count"), server.metric("inferd_batch_size_sum")
            together = [await ask_all(client) for _ in range(5)]
        after = server.metric("inferd_batch_size_count"), server.metric("inferd_batch_size_sum")
        runs, rows = (now - then for now, then in zip(after, before, strict=True))
        pictures = sum(map(count_of, (body for _, body in requests())))
        assert rows == 5 * pictures
        assert runs < 5 * CLIENTS, "no two requests shared a run"
        return alone, together

    alone, together = asyncio.run(run())
    for answers in together:
        assert answers == alone
    for seed in range(0, CLIENTS, 6):
        assert (pixels_of(alone[seed]) == painted(LABELS[seed % 3], seed)[0]).all()
    for seed in range(2, CLIENTS, 6):
        sheet = pixels_of(alone[seed], "image/webp")
        cells = sheet.reshape(-1, 4, sheet.shape[1] // 6, 6, 1).swapaxes(1, 2).reshape(-1, 4, 6, 1)
        assert (cells[:9] == painted(LABELS[seed % 3], seed, 9)).all()


def count_of(body: dict[str, Any]) -> int:
    """How many pictures a request asks for."""
    if "n" in body:
        return int(body["n"])
    parameters = body["parameters"]
    return int(parameters["interpolate"]["steps"] if "interpolate" in parameters else parameters.get("num_images", 1))


def test_one_bad_request_fails_nobody_else(server: Server) -> None:
    bad = [
        {"inputs": "soup"},
        {"inputs": "dark", "parameters": {"num_images": 10**6}},
        {"inputs": "dark", "parameters": {"latent": [1e9] * 8}},
        {"inputs": "dark", "parameters": {"width": 7}},
    ]

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            good = [{"inputs": "dark", "parameters": {"seed": seed}} for seed in range(16)]
            return await asyncio.gather(*(client.post(PREDICT, json=body) for body in [*bad * 4, *good]))

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [400] * 16 + [200] * 16
    expected = [painted("dark", seed)[0] for seed in range(16)]
    assert (np.stack([pixels_of(answer.content) for answer in answers[16:]]) == np.stack(expected)).all()


def test_clients_that_go_away_harm_nobody(server: Server) -> None:
    body = json.dumps({"inputs": "left", "parameters": {"num_images": 8, "width": 96}}).encode()
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )

    async def leave() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert reader.at_eof() or not await reader.read()

    async def run() -> Sequence[bytes]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            alone = [await ask(client, *one) for one in requests()[:12]]
            *together, _ = await asyncio.gather(
                *(ask(client, *one) for one in requests()[:12]), asyncio.gather(*(leave() for _ in range(24)))
            )
        assert together == alone
        return together

    assert all(asyncio.run(run()))
    wait_until(lambda: server.metric("inferd_inflight") == server.metric("inferd_queue_depth") == 0)


def test_latents_that_one_worker_told_draw_the_same_in_another(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        told = client.post(PREDICT, json={"inputs": "dark", "parameters": {"seed": 5, "num_images": 8}}).json()
    latents = [one["latent"] for one in told]
    for _ in range(10):
        before = server.answered()
        for _ in range(16):
            with httpx.Client(base_url=server.url, timeout=60) as client:
                again = client.post(PREDICT, json={"inputs": "dark", "parameters": {"latent": latents}}).json()
            assert [one["image"] for one in again] == [one["image"] for one in told]
        # Reading the counts is a request too, one for each worker, before and after.
        if all(now - then > 2 * len(before) for now, then in zip(server.answered(), before, strict=True)):
            return
    raise AssertionError("not every worker was reached")
