"""Requests whose answers are known, and how they are asked over bare connections: what `soak.py` has a server answer.

What an answer says of its run (times, how many shared it) or of its making (a number, a date) is left out, and a stream
is the text that its events make: what is left is the same whoever is beside it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from attacks import picture, post

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
_TOKENS = 40
_FLEETING = frozenset({"parameters", "id", "created", "model_version", "model_name", "model"})
"""What JSON answers have beside what was asked for."""


@dataclass(frozen=True)
class Known:
    """A request.

    Attributes:
        name: of its kind.
        model: that is asked.
        content: all of it, as it is sent.
        wrong: whether it is refused.
    """

    name: str
    model: str
    content: bytes
    wrong: bool = False


@dataclass(frozen=True)
class Answer:
    """What the server has answered: a status, headers in small letters, and the body as it was put together."""

    status: int
    headers: Mapping[str, str] = field(compare=False)
    body: bytes

    @property
    def meaning(self) -> tuple[int, object]:
        """What of it is the same whenever the same is asked."""
        kind = self.headers.get("content-type", "").partition(";")[0]
        if kind == "text/event-stream":
            return self.status, _text_of(self.body)
        if length := self.headers.get("inference-header-content-length"):
            return self.status, (_lasting(json.loads(self.body[: int(length)])), self.body[int(length) :])
        return self.status, _lasting(json.loads(self.body)) if kind == "application/json" else self.body


def _lasting(content: Any) -> object:
    if isinstance(content, dict):
        return {name: value for name, value in content.items() if name not in _FLEETING}
    return content


def _text_of(stream: bytes) -> str:
    """The text of a stream's events, in either dialect; an event that tells an error is part of it."""
    parts = []
    for event in stream.decode().split("\n\n"):
        if event.startswith("data: {"):
            content = json.loads(event[6:])
            choices = content.get("choices")
            parts.append(choices[0]["text"] if choices else content.get("text_output") or str(content.get("error", "")))
    return "".join(parts)


class Line:
    """A connection on which one request is asked after the other.

    Args:
        port: of the server, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, content: bytes) -> Answer:
        """Ask, and wait for all of the answer.

        Raises:
            OSError: the connection ends before that.
            ValueError: what comes is no answer.
        """
        reader, writer = await self._open()
        writer.write(content)
        await writer.drain()
        try:
            status, headers = await _head(reader)
            body = await _body(reader, headers)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError(f"it ended after {len(error.partial)} bytes of an answer's part") from error
        if headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, body)

    async def leave(self, content: bytes, chance: random.Random) -> None:
        """Ask, and go away: after a part of the request, or of the answer, or before there is one."""
        reader, writer = await self._open()
        way = chance.choice(("half", "at once", "later", "reading"))
        writer.write(content[: chance.randrange(1, len(content))] if way == "half" else content)
        if way == "reading":
            await asyncio.wait_for(reader.read(chance.randrange(1, 2000)), 30)
        elif way != "at once":
            await asyncio.sleep(chance.random() * 0.05)
        if chance.random() < 0.5:
            writer.transport.abort()
        self.close()

    def close(self) -> None:
        """Hang up, if there is a connection."""
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip().lower()
    return int(first.split()[1]), headers


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers["content-length"]))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


def classifications(model: str) -> list[Known]:
    """Of a model that classifies pictures of 28 x 28: as a file, and as tensors in each form."""
    image = (EXAMPLES / "shoe.png").read_bytes()
    numbers = np.random.default_rng(3).normal(size=(2, 1, 28, 28)).astype(np.float32)
    tensor: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": list(numbers.shape)}
    as_json = json.dumps({"inputs": [{**tensor, "data": [round(float(one), 4) for one in numbers.ravel()]}]}).encode()
    described = {**tensor, "parameters": {"binary_data_size": numbers.nbytes}}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    binary = head + numbers.tobytes()
    infer = f"/v2/models/{model}/infer"
    octets = "application/octet-stream"
    return [
        Known("a picture", model, post(f"/predict/{model}", image, "image/png")),
        Known("tensors in JSON", model, post(infer, as_json)),
        Known("tensors in JSON, gzip", model, post(infer, gzip.compress(as_json), content_encoding="gzip")),
        Known("binary tensors", model, post(infer, binary, octets, inference_header_content_length=len(head))),
    ]


def texts(model: str) -> list[Known]:
    """Of a model that writes: as a whole and as it comes, in each dialect."""
    parameters = {"max_tokens": _TOKENS, "temperature": 0.8, "seed": 7}
    asked = json.dumps({"text_input": "The king", "parameters": parameters}).encode()
    inputs = {"inputs": "ROMEO:", "parameters": {"max_new_tokens": _TOKENS, "seed": 8}}
    completion = {"model": model, "prompt": "What is", "n": 2, **parameters}
    streamed = {"model": model, "prompt": "My lord, ", "stream": True, **parameters}
    return [
        Known("a text, whole", model, post(f"/predict/{model}", json.dumps(inputs).encode())),
        Known("a text as it comes", model, post(f"/v2/models/{model}/generate_stream", asked)),
        Known("completions", model, post("/v1/completions", json.dumps(completion).encode())),
        Known("a completion as it comes", model, post("/v1/completions", json.dumps(streamed).encode())),
    ]


def translations(model: str) -> list[Known]:
    """Of a model that translates from English: a sentence, and a text of several."""
    several = "I can't find my keys. Could you please close the window? The train leaves at seven."
    return [
        Known("a sentence", model, post(f"/predict/{model}", json.dumps({"inputs": "A dog runs."}).encode())),
        Known("sentences", model, post(f"/predict/{model}", json.dumps({"inputs": several}).encode())),
    ]


def drawings(model: str) -> list[Known]:
    """Of a model that draws clothes: one as a file, and a few in JSON."""
    one = {"inputs": "boots", "parameters": {"seed": 5}}
    few = {"inputs": "a bag", "parameters": {"seed": 6, "num_images": 4}}
    path = f"/predict/{model}"
    return [
        Known("a drawing", model, post(path, json.dumps(one).encode())),
        Known("four drawings", model, post(path, json.dumps(few).encode(), accept="application/json")),
    ]


def wrong() -> list[Known]:
    """What each of the shipped models refuses, or nobody has."""
    classify, infer = "/predict/fashion-classifier", "/v2/models/fashion-classifier/infer"
    image = (EXAMPLES / "shoe.png").read_bytes()
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [0.5] * 3}
    long = {"text_input": "a", "parameters": {"max_tokens": 10**6}}
    many = {"inputs": "boots", "parameters": {"num_images": 10**6}}
    asked: dict[str, tuple[str, bytes]] = {
        "half a picture": ("fashion-classifier", post(classify, image[: len(image) // 2], "image/png")),
        "900 megapixels": ("fashion-classifier", post(classify, picture(30_000, 30_000), "image/png")),
        "no picture": ("fashion-classifier", post(classify, b"x" * 2**20, "image/png")),
        "too few numbers": ("fashion-classifier", post(infer, json.dumps({"inputs": [tensor]}).encode())),
        "JSON without an end": ("fashion-classifier", post(infer, b"[" * 2**16)),
        "200,000 numbers nobody wants": ("fashion-classifier", post(infer, b'{"a": [' + b"1," * 200_000 + b"1]}")),
        "broken gzip": ("fashion-classifier", post(infer, gzip.compress(b"{}")[:-4], content_encoding="gzip")),
        "a text without an end": ("shakespeare", post("/v2/models/shakespeare/generate", json.dumps(long).encode())),
        "characters it doesn't know": ("shakespeare", post("/predict/shakespeare", b'{"inputs": "\xe2\x82\xac"}')),
        "a number to translate": ("en-de", post("/predict/en-de", b'{"inputs": 5}')),
        "a million drawings": ("fashion-gan", post("/predict/fashion-gan", json.dumps(many).encode())),
        "nobody's model": ("nobody", post("/predict/nobody", b'{"inputs": "a"}')),
    }
    return [Known(name, model, content, wrong=True) for name, (model, content) in asked.items()]
