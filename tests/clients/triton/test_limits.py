from __future__ import annotations

import numpy as np
import pytest

from tests.clients.triton.callers import Caller

LIMIT = 16 * 2**20
"""Bytes of a body, as the server is set by default."""
ENVELOPE = 64 * 1024
"""What a gRPC message may have beside its tensors."""

grpc_only = pytest.mark.parametrize("caller", ["grpc", "grpc.aio"], indirect=True)


def row_of(size: int) -> np.ndarray:
    """A row of so many bytes that don't repeat."""
    return np.random.default_rng(3).integers(0, 2**30, size // 4, np.int32).view(np.float32).reshape(1, -1)


def test_sixteen_megabytes_pass_both_ways(caller: Caller) -> None:
    array = row_of(16_000_000)
    assert caller.echo(array).tobytes() == array.tobytes()


@grpc_only
def test_tensors_as_large_as_the_limit_pass_both_ways(caller: Caller) -> None:
    array = row_of(LIMIT)
    assert caller.echo(array).tobytes() == array.tobytes()


@grpc_only
def test_a_message_over_the_limit_is_refused_by_name(caller: Caller) -> None:
    array = row_of(LIMIT + ENVELOPE)
    caller.refused(lambda: caller.ask("fixed", {"x": array}), 413, f"{LIMIT + ENVELOPE}", grpc="RESOURCE_EXHAUSTED")
    assert caller.is_server_ready() is True


@pytest.mark.parametrize("caller", ["http", "http.aio"], indirect=True)
def test_a_body_over_the_limit_is_refused_by_name(caller: Caller) -> None:
    array = row_of(LIMIT)
    caller.refused(lambda: caller.ask("fixed", {"x": array}), 413, f"{LIMIT} bytes", "INFERD_MAX_BODY_BYTES")
    assert caller.is_server_ready() is True


def test_the_limit_can_be_set(visitor: Caller) -> None:
    words = [str(2**20 + ENVELOPE)] if visitor.is_grpc else [f"{2**20} bytes", "INFERD_MAX_BODY_BYTES"]
    array = row_of(2**20 + ENVELOPE)
    visitor.refused(lambda: visitor.ask("fixed", {"x": array}), 413, *words, grpc="RESOURCE_EXHAUSTED")


def test_what_is_small_only_while_it_is_compressed_is_refused(visitor: Caller) -> None:
    array = np.zeros((1, 2**19), np.float32)
    how = "compression_algorithm" if visitor.is_grpc else "request_compression_algorithm"
    for algorithm in ("gzip", "deflate"):
        ask = lambda algorithm=algorithm: visitor.ask("fixed", {"x": array}, **{how: algorithm})  # noqa: E731 - to be refused
        visitor.refused(ask, 413, grpc="RESOURCE_EXHAUSTED")
    assert visitor.is_server_ready() is True


def test_an_answer_may_be_larger_than_a_body_but_not_than_a_message(visitor: Caller) -> None:
    array = row_of(2**16)
    if visitor.is_grpc:
        visitor.refused(
            lambda: visitor.ask("grow", {"x": array}), 413, str(2**20 + ENVELOPE), grpc="RESOURCE_EXHAUSTED"
        )
    else:
        assert visitor.ask("grow", {"x": array}).as_numpy("y").tobytes() == 32 * array.tobytes()
