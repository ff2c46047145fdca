"""Keys and TLS on gRPC: every method of every service that is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.protocols.open_inference.grpc.service import SCOPES, SERVICE
from service.security.tls import Tls
from service.settings import Settings
from tests.bundles import make_bundle
from tests.service.protocols.open_inference.grpc.serving import Client, Serving, pictures, serving
from tests.service.requests import parsed
from tests.service.security.certificates import NEEDS_OPENSSL, make_pair
from tests.service.security.keys import line, write

KEYS = {"predict": "p-key", "metrics": "m-key", "admin": "a-key"}
HELD = {"predict": {"predict", "admin"}, "admin": {"admin"}}
OPEN_SERVICES = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
LET_IN = {StatusCode.OK, StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT}

Metadata = tuple[tuple[str, str], ...]


def own(secret: str) -> Metadata:
    return (("x-api-key", secret),)


def bearer(secret: str) -> Metadata:
    return (("authorization", f"Bearer {secret}"),)


def keys(folder: Path, *lines: str) -> Path:
    return write(folder / "keys", *(lines or [line(secret, name, name) for name, secret in KEYS.items()]))


async def reflected(channel: grpc.aio.Channel, **asked: str) -> Any:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def requests() -> Any:
        yield reflection_pb2.ServerReflectionRequest(**asked)

    (answer,) = [one async for one in stub.ServerReflectionInfo(requests())]
    return answer


async def methods_of(channel: grpc.aio.Channel) -> set[tuple[str, str]]:
    """Every service with every method, as the server itself tells them; that they can be told means they are open."""
    found = set()
    listed = await reflected(channel, list_services="")
    for service in listed.list_services_response.service:
        answer = await reflected(channel, file_containing_symbol=service.name)
        for content in answer.file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(content)
            for one in file.service:
                if f"{file.package}.{one.name}" == service.name:
                    found |= {(service.name, method.name) for method in one.method}
    return found


async def status(client: Client, method: str, metadata: Metadata = ()) -> StatusCode:
    """What a call ends with; a stream brings no request."""
    described = SERVICE.methods_by_name[method]
    if described.client_streaming:
        stream = client.stream(metadata=metadata)
        await stream.done_writing()
        return await stream.code()
    return await client.call(method, metadata=metadata).code()


def test_every_method_that_is_there_has_a_scope_or_is_open(models: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(models, api_keys_file=keys(tmp_path)) as running:
            found = await methods_of(running.client.channel)
            assert {service for service, _ in found} == {SERVICE.full_name} | OPEN_SERVICES
            assert {method for service, method in found if service == SERVICE.full_name} == set(SCOPES)

    asyncio.run(main())


@pytest.mark.parametrize("metadata", [(), bearer("wrong"), own("wrong")], ids=["none", "bearer", "own"])
def test_without_a_right_key_only_what_is_open_answers(models: Path, tmp_path: Path, metadata: Metadata) -> None:
    make_bundle(models)

    async def main() -> None:
        async with serving(models, api_keys_file=keys(tmp_path)) as running:
            for method, scope in SCOPES.items():
                expected = StatusCode.OK if scope is None else StatusCode.UNAUTHENTICATED
                assert await status(running.client, method, metadata) is expected, method
            health = health_pb2_grpc.HealthStub(running.client.channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(), metadata=metadata)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(main())


@pytest.mark.parametrize("brings", [own, bearer])
def test_every_method_needs_its_scope(models: Path, tmp_path: Path, brings: Any) -> None:
    make_bundle(models)

    async def main() -> None:
        async with serving(models, api_keys_file=keys(tmp_path)) as running:
            for method, scope in SCOPES.items():
                for name, secret in KEYS.items():
                    found = await status(running.client, method, brings(secret))
                    if scope is None or name in HELD[scope]:
                        assert found in LET_IN, (method, name, found)
                    else:
                        assert found is StatusCode.PERMISSION_DENIED, (method, name)

    asyncio.run(main())


def test_without_keys_whatever_clients_bring_is_ignored(models: Path) -> None:
    make_bundle(models)

    async def main() -> None:
        async with serving(models) as running:
            for metadata in ((), bearer("anything"), own("anything")):
                await running.client.ask("ModelInfer", pictures(), metadata=metadata)

    asyncio.run(main())


def test_a_limit_has_a_status_and_says_when_to_come_again(models: Path, tmp_path: Path) -> None:
    make_bundle(models)
    file = keys(tmp_path, line("s", "shop", rate=0.01, burst=2))

    async def main() -> None:
        async with serving(models, api_keys_file=file) as running:
            for _ in range(2):
                await running.client.ask("ModelInfer", pictures(), metadata=own("s"))
            error = await running.client.refused("ModelInfer", pictures(), metadata=own("s"))
            assert error.code() is StatusCode.RESOURCE_EXHAUSTED
            assert error.details() == "the key 'shop' may make 0.01 requests a second, 2 at once"
            assert 95 <= int(dict(error.trailing_metadata())["retry-after"]) <= 100
            counted = parsed(running.metrics.render().decode())
            assert counted['inferd_key_requests_total{key="shop",outcome="limited"}'] == 1

    asyncio.run(main())


def test_each_request_of_a_stream_counts_and_needs_a_key_that_is_still_there(models: Path, tmp_path: Path) -> None:
    make_bundle(models)
    file = keys(tmp_path, line("s", "shop", rate=0.01, burst=2), line("t", "other"))

    async def messages(running: Serving, metadata: Metadata, requests: Iterable[str]) -> list[str]:
        stream = running.client.stream(metadata=metadata)
        found = []
        for identity in requests:
            await stream.write(pictures(id=identity))
            answer = await stream.read()
            assert answer.infer_response.id == (identity if not answer.error_message else answer.infer_response.id)
            found.append(answer.error_message)
        await stream.done_writing()
        return found

    async def main() -> None:
        async with serving(models, api_keys_file=file) as running:
            limited = "the key 'shop' may make 0.01 requests a second, 2 at once"
            assert await messages(running, own("s"), "abcd") == ["", "", limited, limited]
            assert await messages(running, own("t"), "abcd") == [""] * 4

            def until_it_goes() -> Iterable[str]:
                yield "a"
                write(file, line("s", "shop"))
                watched = running.access.watched
                assert watched
                watched.look()
                watched.look()
                yield "b"

            assert await messages(running, own("t"), until_it_goes()) == ["", "this key is not known here"]

    asyncio.run(main())


# TLS


@NEEDS_OPENSSL
def test_connections_are_encrypted_with_the_certificate_that_is_there_when_they_begin(
    models: Path, tmp_path: Path
) -> None:
    make_bundle(models)
    pair = make_pair(tmp_path)
    tls = Tls(pair.certificate, pair.key)

    async def live(port: int, certificate: bytes) -> bool:
        trusted = grpc.ssl_channel_credentials(certificate)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options=APART) as channel:
            code = await Client(channel).call("ServerLive", timeout=20).code()
            assert code in (StatusCode.OK, StatusCode.UNAVAILABLE)
            return code is StatusCode.OK

    async def main() -> None:
        async with serving(models, tls=tls) as running:
            first = pair.certificate.read_bytes()
            assert await live(running.port, first)
            async with grpc.aio.secure_channel(f"127.0.0.1:{running.port}", grpc.ssl_channel_credentials(first)) as old:
                assert (await Client(old).ask("ServerLive")).live
                make_pair(tmp_path)
                tls.watched.look()
                tls.watched.look()
                second = pair.certificate.read_bytes()
                assert await live(running.port, second)
                assert not await live(running.port, first)
                assert (await Client(old).ask("ServerLive")).live  # what was connected before goes on

    asyncio.run(main())


@NEEDS_OPENSSL
def test_clients_may_need_a_certificate(models: Path, tmp_path: Path) -> None:
    server, client, stranger = (make_pair(tmp_path, name) for name in ("server", "client", "stranger"))
    settings = Settings(
        tls_cert_file=server.certificate, tls_key_file=server.key, tls_client_ca_file=client.certificate
    )

    async def status_of(port: int, *own: bytes) -> StatusCode:
        trusted = grpc.ssl_channel_credentials(server.certificate.read_bytes(), *own)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options=APART) as channel:
            return await Client(channel).call("ServerLive", timeout=20).code()

    async def main() -> None:
        async with serving(models, tls=Tls.of(settings)) as running:
            known, unknown = ((one.key.read_bytes(), one.certificate.read_bytes()) for one in (client, stranger))
            assert await status_of(running.port, *known) is StatusCode.OK
            assert await status_of(running.port, *unknown) is StatusCode.UNAVAILABLE
            assert await status_of(running.port) is StatusCode.UNAVAILABLE

    asyncio.run(main())


APART = (("grpc.use_local_subchannel_pool", 1),)
"""So that a channel connects anew, and is not given the connection of another."""
