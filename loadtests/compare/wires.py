"""How servers are asked for a picture's logits: each takes what is cheapest of what it can take."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.bench.address import Address
from service.bench.messages import Request, post

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Wire:
    """How a server is asked.

    Attributes:
        about: that, in words.
        path: of the call.
        kind: the media type of a body.
        body: what is sent of a picture, (channels, rows, columns).
        logits: what is read of an answer's body.
        headers: beside those that every request has.
    """

    about: str
    path: str
    kind: str
    body: Callable[[Floats], bytes]
    logits: Callable[[bytes], Floats]
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self, address: Address, picture: Floats) -> Request:
        """A request that is ready to be sent."""
        return post(address, self.path, self.body(picture), self.kind, headers=self.headers)

    def at(self, path: str) -> Wire:
        """The same by another path."""
        return Wire(self.about, path, self.kind, self.body, self.logits, self.headers)


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _base64(picture: Floats) -> str:
    return base64.b64encode(picture.tobytes()).decode()


def _floats(content: Any) -> Floats:
    return np.asarray(content, np.float32).ravel()


def _end_of_json(body: bytes) -> int:
    """Where the JSON ends that a body begins with; what is behind it may have braces of its own."""
    return json.JSONDecoder().raw_decode(body.decode("latin-1"))[1]


RAW: Final = Wire(
    "raw float32 in both directions",
    "/",
    "application/octet-stream",
    lambda picture: picture.tobytes(),
    lambda body: np.frombuffer(body, np.float32),
)

V2_RAW: Final = Wire(
    "Open Inference Protocol, binary: the request is the raw tensor, the answer JSON and the raw tensor after it",
    "/v2/models/resnet-20/infer",
    "application/octet-stream",
    lambda picture: picture.tobytes(),
    lambda body: np.frombuffer(body[_end_of_json(body) :], np.float32),
    {"inference-header-content-length": "0"},
)

V2_BASE64: Final = Wire(
    "Open Inference Protocol, JSON: a tensor of bytes in base64, as raw tensors are not taken; the answer is numbers",
    "/v2/models/resnet-20/infer",
    "application/json",
    lambda picture: _json(
        {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": [_base64(picture)]}]}
    ),
    lambda body: _floats(json.loads(body)["outputs"][0]["data"]),
)

NUMBERS: Final = Wire(
    "JSON: numbers, nested as the picture is",
    "/json",
    "application/json",
    lambda picture: _json({"inputs": picture.tolist()}),
    lambda body: _floats(json.loads(body)),
)

PICTURE_BASE64: Final = Wire(
    "JSON: the picture as a text in base64, as raw bodies are not taken; the answer is numbers",
    "/predict",
    "application/json",
    lambda picture: _json({"picture": _base64(picture)}),
    lambda body: _floats(json.loads(body)),
)

PICTURES_BASE64: Final = Wire(
    "JSON: a list of one picture, in base64, as raw bodies are not taken; the answer is numbers",
    "/predict",
    "application/json",
    lambda picture: _json({"pictures": [_base64(picture)]}),
    lambda body: _floats(json.loads(body)),
)
