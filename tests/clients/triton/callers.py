"""Triton's four clients, called in one way whichever it is."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, TypeVar

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.clients.serving import Served
from tests.clients.tensors import Array

KINDS: Final[Mapping[str, ModuleType]] = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}

TIMEOUT_S: Final = 120
"""Longest wait for anything."""

_LARGEST_MESSAGE: Final = 2**31 - 1

T = TypeVar("T")

STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""What gRPC calls the statuses of HTTP. A message that is too large as a whole is RESOURCE_EXHAUSTED, of gRPC's own."""


class Loop:
    """The event loop of all clients of asyncio, in a thread of its own: it sees what happens between calls too."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Caller:
    """A client with a connection of its own.

    Args:
        kind: one of `KINDS`.
        served: what it calls.
        loop: where the clients of asyncio run.
    """

    def __init__(self, kind: str, served: Served, loop: Loop) -> None:
        self.kind = kind
        self.is_grpc = kind.startswith("grpc")
        self.is_async = kind.endswith("aio")
        self.module = KINDS[kind]
        self.served = served
        self.loop = loop
        self.client = self._connect()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A method of the client; one of asyncio's is run to its end."""

        def call(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self.client, name)(*args, **kwargs)
            return self.loop.run(_awaited(result)) if inspect.isawaitable(result) else result

        return call

    def told(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What a method tells, as from JSON: gRPC's JSON has texts for large numbers, and nothing for what is 0."""
        if self.is_grpc:
            kwargs["as_json"] = True
        return plain(getattr(self, method)(*args, **kwargs))

    def input(self, name: str, array: Array, *, binary: bool = True, datatype: str | None = None) -> Any:
        """Make an input; gRPC's is always binary."""
        one = self.module.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
        return self.fill(one, array, binary=binary)

    def fill(self, one: Any, array: Array, *, binary: bool = True) -> Any:
        """Set an input's data."""
        return one.set_data_from_numpy(array, **({} if self.is_grpc else {"binary_data": binary}))

    def output(self, name: str, *, binary: bool = True, class_count: int = 0) -> Any:
        """Ask for an output; gRPC's is always binary."""
        more = {} if self.is_grpc else {"binary_data": binary}
        return self.module.InferRequestedOutput(name, class_count=class_count, **more)

    def ask(self, model: str, inputs: Mapping[str, Array], *, binary: bool = True, **kwargs: Any) -> Any:
        """Infer."""
        return self.infer(model, [self.input(name, one, binary=binary) for name, one in inputs.items()], **kwargs)

    def echo(self, array: Array, *, model: str | None = None, binary: bool = True, answer: bool = True) -> Array:
        """Send `array` through an identity, there and back as binary data or as JSON."""
        datatype = np_to_triton_dtype(array.dtype)
        outputs = [self.output("y", binary=answer)]
        result = self.ask(model or f"identity-{datatype.lower()}", {"x": array}, binary=binary, outputs=outputs)
        back: Array = result.as_numpy("y")
        return back

    def ask_all(self, model: str, requests: Sequence[Sequence[Any]], **kwargs: Any) -> list[Any]:
        """Infer for every list of inputs, all at once; what fails gives its error."""
        if self.kind == "http":
            begun = [self.client.async_infer(model, inputs, **kwargs) for inputs in requests]
            return [_result_of(one) for one in begun]
        if self.kind == "grpc":
            return _called_back(
                [
                    lambda callback, inputs=inputs: self.client.async_infer(model, inputs, callback, **kwargs)
                    for inputs in requests
                ]
            )
        calls = [self.client.infer(model, inputs, **kwargs) for inputs in requests]
        return self.loop.run(_gathered(calls))

    def refused(self, call: Callable[[], object], status: int, *words: str, grpc: str | None = None) -> None:
        """Do `call`, which has to fail with a status and a message with these words.

        Args:
            call: what to do.
            status: as HTTP numbers it.
            words: that the message has.
            grpc: what gRPC calls the status, if that is not what it calls it in `STATUSES`.
        """
        with pytest.raises(InferenceServerException) as caught:
            call()
        expected = f"StatusCode.{grpc or STATUSES[status]}" if self.is_grpc else str(status)
        assert caught.value.status() == expected, caught.value
        for word in words:
            assert word in caught.value.message(), caught.value

    def again(self) -> Caller:
        """Another client of the same kind, with a connection of its own, to whichever worker takes it."""
        return Caller(self.kind, self.served, self.loop)

    def close(self) -> None:
        """End the connection."""
        result = self.client.close()
        if inspect.isawaitable(result):
            self.loop.run(_awaited(result))

    def _connect(self) -> Any:
        async def connect() -> Any:
            return self.module.InferenceServerClient(address, **options)

        address = self.served.grpc if self.is_grpc else self.served.http
        options: dict[str, Any] = {}
        if self.is_grpc:
            # As the client has them, but connections are not shared with others of this process.
            options["channel_args"] = [
                ("grpc.max_send_message_length", _LARGEST_MESSAGE),
                ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
                ("grpc.use_local_subchannel_pool", 1),
            ]
        elif not self.is_async:
            options["concurrency"] = 4
        return self.loop.run(connect()) if self.is_async else self.module.InferenceServerClient(address, **options)


def plain(value: Any) -> Any:
    """JSON with numbers where it has texts of digits."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return int(value) if isinstance(value, str) and value.removeprefix("-").isdigit() else value


def array_of(*values: float) -> Array:
    """A row of FP32."""
    return np.array([values], np.float32)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _gathered(calls: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def _result_of(request: Any) -> Any:
    try:
        return request.get_result()
    except InferenceServerException as error:
        return error


def _called_back(begin: Sequence[Callable[[Callable[..., None]], Any]]) -> list[Any]:
    """Begin calls, each with a callback, and wait for what comes back."""
    results: list[Any] = [None] * len(begin)
    missing = threading.Semaphore(0)

    def called(index: int, result: Any, error: Any) -> None:
        results[index] = error or result
        missing.release()

    for index, one in enumerate(begin):
        one(lambda result, error, index=index: called(index, result, error))
    for _ in begin:
        assert missing.acquire(timeout=TIMEOUT_S), "a call was never answered"
    return results
