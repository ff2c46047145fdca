"""KServe's two clients, called in one way whichever it is."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import grpc
import httpx
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

from tests.clients.serving import Served
from tests.clients.tensors import DTYPES, Array

NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


class Caller(ABC):
    """A client with a connection of its own.

    Args:
        served: what it calls.
        runner: in whose event loop it runs.
    """

    def __init__(self, served: Served, runner: asyncio.Runner) -> None:
        self.served = served
        self.runner = runner
        self.client = runner.run(self._connect())

    def ask(self, model: str, inputs: Mapping[str, Array], *, binary: bool = True, **kwargs: Any) -> Any:
        """Infer."""
        return self.infer(request_of(model, inputs, binary=binary, **kwargs))

    def echo(self, array: Array, *, model: str | None = None, binary: bool = True, answer: bool = True) -> Array:
        """Send `array` through an identity, there and back as binary data or as JSON."""
        name = model or f"identity-{NAMES[array.dtype].lower()}"
        given = self.ask(name, {"x": array}, binary=binary, parameters={"binary_data_output": answer})
        (output,) = given.outputs
        assert output.name == "y"
        back: Array = output.as_numpy()
        return back

    @abstractmethod
    async def _connect(self) -> Any:
        """Make the client, in the event loop."""

    @abstractmethod
    def told(self, method: str, *args: Any) -> Any:
        """What a method says of the server or of a model."""

    @abstractmethod
    def infer(self, request: InferRequest) -> Any:
        """Send a request."""

    @abstractmethod
    def refused(self, request: InferRequest, status: int, *words: str) -> None:
        """Send a request that has to fail, with a status as HTTP numbers it and a message with these words."""

    def close(self) -> None:
        """End the connection."""
        self.runner.run(self.client.close())


class Rest(Caller):
    """REST, by httpx."""

    async def _connect(self) -> Any:
        return InferenceRESTClient(RESTConfig(protocol="v2"))

    def told(self, method: str, *args: Any) -> Any:
        """See `Caller`."""
        return self.runner.run(getattr(self.client, method)(self.served.server.url, *args))

    def infer(self, request: InferRequest) -> Any:
        """See `Caller`."""
        return self.runner.run(self.client.infer(self.served.server.url, request, model_name=request.model_name))

    def refused(self, request: InferRequest, status: int, *words: str) -> None:
        """See `Caller`."""
        with pytest.raises(httpx.HTTPStatusError) as caught:
            self.infer(request)
        assert caught.value.response.status_code == status
        for word in words:
            assert word in str(caught.value), caught.value


class Grpc(Caller):
    """gRPC of asyncio."""

    async def _connect(self) -> Any:
        return InferenceGRPCClient(self.served.grpc)

    def told(self, method: str, *args: Any) -> Any:
        """See `Caller`."""
        return self.runner.run(getattr(self.client, method)(*args))

    def infer(self, request: InferRequest) -> Any:
        """See `Caller`."""
        return self.runner.run(self.client.infer(request))

    def refused(self, request: InferRequest, status: int, *words: str) -> None:
        """See `Caller`."""
        with pytest.raises(grpc.RpcError) as caught:
            self.infer(request)
        names = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE"}
        assert caught.value.code().name == names[status]
        for word in words:
            assert word in caught.value.details(), caught.value


CALLERS: Final = (Rest, Grpc)


def request_of(model: str, inputs: Mapping[str, Array], *, binary: bool = True, **kwargs: Any) -> InferRequest:
    """Make a request; data that are not binary are JSON with REST, typed contents with gRPC."""
    given = [InferInput(name, list(array.shape), NAMES[array.dtype]) for name, array in inputs.items()]
    for one, array in zip(given, inputs.values(), strict=True):
        one.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model, given, **kwargs)
