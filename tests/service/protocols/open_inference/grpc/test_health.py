from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.bundles import make_bare, make_bundle, truncate
from tests.service.protocols.open_inference.grpc.serving import Client, serving, until

SERVICE = "inference.GRPCInferenceService"
Status = health_pb2.HealthCheckResponse


async def status_of(client: Client, service: str) -> str:
    stub = health_pb2_grpc.HealthStub(client.channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    name: str = Status.ServingStatus.Name(answer.status)
    return name


def test_the_server_serves_once_every_model_does(models: Path) -> None:
    make_bundle(models)

    async def main() -> None:
        async def while_loading(client: Client) -> None:
            for service in ("", SERVICE, "tiny"):
                assert await status_of(client, service) == "NOT_SERVING"
            assert not (await client.ask("ServerReady")).ready
            assert (await client.ask("ServerLive")).live

        async with serving(models, during_load=while_loading) as running:
            for service in ("", SERVICE, "tiny"):
                assert await status_of(running.client, service) == "SERVING"
            assert (await running.client.ask("ServerReady")).ready
            assert await status_of(running.client, "nobody") == "NOT_FOUND"

    asyncio.run(main())


def test_a_refused_model_does_not_serve_and_the_others_do(models: Path) -> None:
    make_bundle(models, "one")
    truncate(make_bundle(models, "two") / "model.onnx")

    async def main() -> None:
        async with serving(models) as running:
            statuses = [await status_of(running.client, service) for service in ("", SERVICE, "one", "two")]
            assert statuses == ["NOT_SERVING", "NOT_SERVING", "SERVING", "NOT_SERVING"]
            listed = await health_pb2_grpc.HealthStub(running.client.channel).List(health_pb2.HealthListRequest())
            assert {name: Status.ServingStatus.Name(one.status) for name, one in listed.statuses.items()} == {
                "": "NOT_SERVING",
                SERVICE: "NOT_SERVING",
                "one": "SERVING",
                "two": "NOT_SERVING",
            }

    asyncio.run(main())


def test_what_drains_does_not_serve_but_answers(models: Path) -> None:
    make_bundle(models)

    async def main() -> None:
        async with serving(models) as running:
            running.repository.begin_drain()
            for service in ("", SERVICE, "tiny"):
                assert await status_of(running.client, service) == "NOT_SERVING"
            assert (await running.client.ask("ServerLive")).live

    asyncio.run(main())


def test_who_watches_is_told_of_every_change(models: Path) -> None:
    make_bundle(models)

    async def main() -> list[str]:
        told: list[str] = []
        watching: list[asyncio.Task[None]] = []

        async def watch(client: Client, service: str) -> None:
            stub = health_pb2_grpc.HealthStub(client.channel)
            async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=service)):
                told.append(f"{service} {Status.ServingStatus.Name(answer.status)}")  # noqa: PERF401 - told at once

        async def while_loading(client: Client) -> None:
            watching.extend(asyncio.create_task(watch(client, service)) for service in ("tiny", "later"))
            await until(lambda: len(told) == 2)

        async with serving(models, during_load=while_loading) as running:
            await until(lambda: "tiny SERVING" in told)
            make_bare(models, "later")
            await running.control.load("later", None)
            await until(lambda: "later SERVING" in told)
            await running.server.stop(5)
            await asyncio.gather(*watching)  # their streams have ended, well
        return told

    told = asyncio.run(main())
    assert [line for line in told if line.startswith("tiny")] == [
        "tiny NOT_SERVING",
        "tiny SERVING",
        "tiny NOT_SERVING",
    ]
    assert [line for line in told if line.startswith("later")] == [
        "later SERVICE_UNKNOWN",
        "later SERVING",
        "later NOT_SERVING",
    ]
