"""How a model is asked by a protocol: from inputs to requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.bench.address import Address, path_of_model
from service.bench.description import BINARY, PREDICT, STREAM
from service.bench.inputs import nested
from service.bench.messages import Request, post

_HEADER_LENGTH = "inference-header-content-length"

Named: TypeAlias = Mapping[str, tuple[str, NDArray[Any]]]
"""Arrays by the name of their input, with their datatype."""


class Asking:
    """Requests to one model by one protocol.

    Args:
        address: of the server.
        model: its name.
        version: None = the highest.
        protocol: by which it is asked.
    """

    def __init__(self, address: Address, model: str, version: int | None, protocol: str) -> None:
        self.protocol = protocol
        self._address = address
        if protocol == PREDICT:
            self._path = path_of_model(model, version, "/predict")
        else:
            call = "generate_stream" if protocol == STREAM else "infer"
            self._path = f"{path_of_model(model, version, '/v2/models')}/{call}"

    def raw(self, content: bytes, kind: str, units: float = 1) -> Request:
        """A request whose body is `content`, of the media type `kind`."""
        return post(self._address, self._path, content, kind, units)

    def json(self, body: object, units: float = 1) -> Request:
        """A request whose body is JSON."""
        return self.raw(_encoded(body), "application/json", units)

    def text(self, text: str, parameters: Mapping[str, Any], units: float = 1) -> Request:
        """A request for what a model makes of a text."""
        if self.protocol in (PREDICT, STREAM):
            name = "inputs" if self.protocol == PREDICT else "text_input"
            return self.json({name: text, **_said(parameters)}, units)
        return self.tensors({"text_input": ("BYTES", np.array([text], object))}, parameters, units)

    def tensors(self, arrays: Named, parameters: Mapping[str, Any], units: float = 1) -> Request:
        """A request for what a graph makes of arrays: in JSON or, if the protocol is binary, as raw bytes after it."""
        if self.protocol == PREDICT:
            content = {name: nested(array) for name, (_, array) in arrays.items()}
            return self.json({"inputs": content, **_said(parameters)}, units)
        raw: list[bytes] = []
        inputs = []
        for name, (datatype, array) in arrays.items():
            one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
            if self.protocol == BINARY:
                raw.append(_bytes_of(array))
                one["parameters"] = {"binary_data_size": len(raw[-1])}
            else:
                one["data"] = nested(array.ravel())
            inputs.append(one)
        if self.protocol != BINARY:
            return self.json({"inputs": inputs, **_said(parameters)}, units)
        header = _encoded({"inputs": inputs, **_said({"binary_data_output": True, **parameters})})
        headers = {_HEADER_LENGTH: str(len(header))}
        body = b"".join((header, *raw))
        return post(self._address, self._path, body, "application/octet-stream", units, headers)


def _encoded(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def _said(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"parameters": parameters} if parameters else {}


def _bytes_of(array: NDArray[Any]) -> bytes:
    """Elements as raw bytes, each text with its length before it."""
    if array.dtype != object:
        return np.ascontiguousarray(array).tobytes()
    texts = [str(one).encode() for one in array.ravel()]
    return b"".join(len(one).to_bytes(4, "little") + one for one in texts)
