"""Inference by the Open Inference Protocol over REST: JSON, JSON and raw tensors, raw tensors, compressed or not."""

from __future__ import annotations

import gzip
import json
import zlib
from random import Random
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.edits import changed, changes, edited, edits, edits_by, odd, to_json
from tests.fuzz.playing import Finding, Target
from tests.fuzz.wire import Answer, Client, post

BARE: Final = "/v2/models/bare/infer"
LENGTH: Final = "inference-header-content-length"
ROW: Final = np.array([[1, 2, 3]], "<f4").tobytes()

_HEADERS: Final[tuple[tuple[str, str], ...]] = (
    ("x-request-timeout-ms", "0.5"), ("x-request-timeout-ms", "nan"), ("x-request-timeout-ms", "1e400"),
    ("x-request-timeout-ms", "60000"), ("accept-encoding", "gzip"), ("accept-encoding", "deflate;q=0.1, *;q=x,,"),
    ("content-encoding", "identity"), ("content-encoding", "gzip"), ("content-encoding", "deflate"),
    ("content-encoding", "br"), ("content-encoding", "gzip, gzip"), ("content-type", "application/json; charset=\xe9"),
    ("content-type", "text/html"), ("expect", "100-continue"), ("x-request-id", "\xe9\xff"), (LENGTH, "-1"),
    (LENGTH, "1e3"), (LENGTH, "9" * 18), (LENGTH, "9" * 40), (LENGTH, "\xb2"), (LENGTH, ""), ("te", "trailers"),
)  # fmt: skip
_BOMBS: Final = tuple(
    (kind, pack(b"\0" * size))
    for size in (1000, 1_048_576, 1_048_577, 30_000_000)
    for kind, pack in (("gzip", lambda data: gzip.compress(data, 9)), ("deflate", lambda data: zlib.compress(data, 9)))
)

KINDS: Final = {
    "f16": ("FP16", "<f2"), "f64": ("FP64", "<f8"), "i8": ("INT8", "i1"), "u16": ("UINT16", "<u2"),
    "i64": ("INT64", "<i8"), "flag": ("BOOL", "?"), "words": ("BYTES", ""),
}  # fmt: skip
"""The inputs of the model `kinds`: (batch, 2) each."""

_DATA: Final[dict[str, list[Any]]] = {"flag": [True, False], "words": ["a", "é"]}


def _tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _raw(kind: str) -> bytes:
    if kind == "words":
        return b"\x01\0\0\0a\x02\0\0\0\xc3\xa9"
    return np.array([0, 1], KINDS[kind][1]).tobytes()


def _binary(inputs: list[tuple[str, str, list[int], bytes]], **more: Any) -> tuple[dict[str, Any], bytes]:
    described = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, datatype, shape, raw in inputs
    ]
    return {"inputs": described, **more}, b"".join(raw for *_, raw in inputs)


_AS_JSON: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    (BARE, {"inputs": [_tensor("x", "FP32", [2, 3], [1, 2.5, -3, 4, 5, 6])], "id": "1"}),
    (BARE, {"inputs": [_tensor("x", "FP32", [1, 3], [[1, 2, 3]])], "outputs": [{"name": "y"}], "parameters": {
        "priority": 1, "timeout": 10_000_000, "sequence_id": 0}}),
    ("/v2/models/kinds/infer", {"inputs": [
        _tensor(name, datatype, [1, 2], _DATA.get(name, [0, 1])) for name, (datatype, _) in KINDS.items()
        ],
        "parameters": {"binary_data_output": True}}),
    ("/v2/models/lengths/infer", {"inputs": [_tensor("x", "FP32", [2, 4], [0.5] * 8)]}),
    ("/v2/models/fashion-classifier/versions/1/infer", {
        "inputs": [_tensor("image", "FP32", [1, 1, 28, 28], [0.5] * 784)],
        "outputs": [{"name": "logits", "parameters": {"classification": 3, "binary_data": False}}]}),
    ("/v2/models/tiny-text/infer", {
        "inputs": [_tensor("text_input", "BYTES", [1, 1], ["the end"])],
        "parameters": {"max_tokens": 4, "temperature": 0.5, "seed": 3, "top_k": 5, "stop": "a"}}),
)  # fmt: skip

_AS_BINARY: Final[tuple[tuple[str, dict[str, Any], bytes], ...]] = (
    (BARE, *_binary([("x", "FP32", [1, 3], ROW)], outputs=[{"name": "y", "parameters": {"binary_data": True}}])),
    (BARE, *_binary([("x", "FP32", [64, 3], ROW * 64)], parameters={"binary_data_output": True}, id="many")),
    ("/v2/models/kinds/infer", *_binary([(name, kind, [1, 2], _raw(name)) for name, (kind, _) in KINDS.items()],
                                        parameters={"binary_data_output": True})),
    ("/v2/models/lengths/infer", *_binary([("x", "FP32", [3, 5], ROW * 5)])),
)  # fmt: skip


Case = tuple[str, list[tuple[str, str]], bytes, bytes | None]


@st.composite
def _cases(draw: DrawFn) -> Case:
    """Path, headers, body; and the tensor that must come back, where that is known."""
    headers: list[tuple[str, str]] = []
    kind = draw(st.sampled_from(("json", "json", "binary", "edited", "edited", "alike", "packed", "any")))
    if kind == "alike":
        raw = draw(st.one_of(st.binary(min_size=12, max_size=12), st.binary(max_size=14)))
        head = to_json(_AS_BINARY[0][1])
        return BARE, [(LENGTH, str(len(head)))], head + raw, raw
    if kind == "json":
        path, document = draw(st.sampled_from(_AS_JSON))
        body = to_json(changed(document, draw(changes)))
    elif kind == "any":
        path, body = BARE, draw(st.binary(max_size=40))
        headers.append((LENGTH, draw(st.sampled_from(("0", "0", str(len(body)), "7")))))
    else:
        path, document, raw = draw(st.sampled_from(_AS_BINARY))
        head = to_json(changed(document, draw(changes)) if kind == "binary" else document)
        wrong = draw(st.sampled_from((0, 0, 0, 1, -1, 1000)))
        headers.append((LENGTH, str(max(0, len(head) + wrong))))
        body = head + (edited(raw, draw(edits)) if draw(st.booleans()) else raw)
        if kind == "edited":
            body = edited(body, draw(edits))
    if kind == "packed":
        encoding = draw(st.sampled_from(("gzip", "deflate", "bomb")))
        if encoding == "bomb":
            encoding, body = draw(st.sampled_from(_BOMBS))
        else:
            body = gzip.compress(body, 1) if encoding == "gzip" else zlib.compress(body, 1)
            body = edited(body, draw(edits)) if draw(st.booleans()) else body
        headers.append(("content-encoding", encoding))
    headers += draw(st.lists(st.sampled_from(_HEADERS), max_size=2))
    if draw(st.integers(0, 30)) == 0:
        path = path.replace(draw(st.sampled_from(("bare", "kinds", "infer", "v2", "1"))), str(draw(odd))[:50])
        path = "".join(sign if "!" <= sign <= "~" else "%ff" for sign in path)
    return path, headers, body, None


class Infers:
    """Requests to infer: odd ones, and of some that look alike whether each gets the answer to its own tensors."""

    def __init__(self, target: Target) -> None:
        self._client = Client(target.port)
        self._name = target.name

    cases = _cases()
    variants = 9

    def vary(self, case: Case, random: Random) -> Case:
        """Edit the body, or send another tensor."""
        path, headers, body, tensor = case
        if tensor is None:
            return path, headers, edited(body, edits_by(random)), None
        other = random.randbytes(random.choice((11, 12, 12, 12, 12)))
        return path, headers, body[: len(body) - len(tensor)] + other, other

    def attempt(self, case: Case, number: int) -> str:
        """Ask, and compare the answer where it is known."""
        path, headers, body, tensor = case
        request = post(path, body, ("x-request-id", f"{self._name}-{number}"), *headers)
        answer = self._client.ask(request)
        if tensor is not None:
            _check(answer, tensor, request)
        return answer.outcome

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _check(answer: Answer, tensor: bytes, request: bytes) -> None:
    """See whether an identity has answered `tensor`, or has refused one that is not of its shape."""
    if answer.status == 429:
        return
    if answer.status != (200 if len(tensor) == len(ROW) else 400):
        raise Finding(f"a tensor of {len(tensor)} bytes is answered with {answer.status}: {answer.body!r}", request)
    if answer.status == 200:
        head = int(answer.headers[LENGTH])
        named = json.loads(answer.body[:head])["outputs"][0]
        if answer.body[head:] != tensor or named["shape"] != [1, 3]:
            raise Finding(f"the answer is another tensor's: {answer.body!r}", request)
