"""Open Inference's main call: run a model's graph on tensors. What is small goes the short way, see `express`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import Response

from service.batching.records import Answer
from service.protocols.express import Sent, Work
from service.protocols.open_inference import compression, messages
from service.protocols.open_inference.inference import Inference
from service.protocols.requests import (
    TENSORS,
    TIMEOUT_HEADER,
    AnswerResponse,
    addressed,
    deadline_in,
    deadline_of,
    read_body,
    run,
    while_connected,
)
from service.repository.model import Model
from service.repository.repository import Repository

_HEADER_LENGTH = "inference-header-content-length"

_INLINE_BODY = 64 * 1024
"""Bytes up to which a body is parsed in the event loop,"""
_INLINE_BINARY = 2**20
"""and up to which it goes the short way where most of it are numbers as they lie, which nobody parses."""

_INLINE_ELEMENTS = 8 * 1024
"""Elements of an answer up to which they are written as JSON in the event loop."""

_INLINE_COMPRESSION = 16 * 1024
"""Bytes of an answer up to which it is compressed in the event loop."""

_BYTES_OF_NUMBER = 20
"""That a number takes in JSON, about."""

_SMALLEST_COMPRESSED = 1024
"""Bytes below which compressing an answer saves nothing."""


class Infer:
    """The call; see `express.Call`.

    Args:
        repository: the models that answer.
        max_body_bytes: of a request, as it is sent and once it is decompressed.
    """

    paths: Sequence[str] = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")

    def __init__(self, repository: Repository, *, max_body_bytes: int) -> None:
        self._repository = repository
        self._max_body_bytes = max_body_bytes
        self._readers: WeakKeyDictionary[Model, messages.Reader] = WeakKeyDictionary()

    def waits_for(self, headers: Mapping[bytes, bytes], size: int) -> bool:
        """See `express.Call`."""
        most = _INLINE_BINARY if _HEADER_LENGTH.encode() in headers else _INLINE_BODY
        return size <= min(most, self._max_body_bytes)

    def prepare(self, model: Model, sent: Sent) -> Work | None:
        """See `express.Call`."""
        headers = sent.headers
        if not self.waits_for(headers, sent.size):
            return None
        timeout = headers.get(TIMEOUT_HEADER.encode())
        deadline = None if timeout is None else deadline_in(timeout.decode("latin-1"), sent.now)
        length = headers.get(_HEADER_LENGTH.encode())
        header_length = messages.header_length_of([] if length is None else [length.decode("latin-1")])
        reader = self._reader(model)
        if reader.bytes_to_parse(sent.size, header_length) > _INLINE_BODY:
            return None
        asked = reader.read(messages.whole(sent.pieces, header_length), header_length, sent.now, deadline)
        accepted = headers.get(b"accept-encoding", b"").decode("latin-1")
        return Work(
            asked.arrays,
            partial(respond, model, asked, accepted),
            partial(_takes_long, asked, accepted),
            asked.deadline,
            asked.priority,
            asked.parameters,
        )

    async def answer(self, request: Request) -> Response:
        """Run the model's graph on tensors."""
        served = addressed(self._repository, request)
        with served.measured():
            now = time.monotonic()
            deadline = deadline_of(request)
            header_length = messages.header_length_of(request.headers.getlist(_HEADER_LENGTH))
            encoding = compression.encoding_of(",".join(request.headers.getlist("content-encoding")))
            is_json = header_length is None and not encoding
            body = await read_body(request, self._max_body_bytes, TENSORS if is_json else None)
            reader = self._reader(served)

            def read() -> Inference:
                content = compression.decompress(body, encoding, self._max_body_bytes) if encoding else body
                return reader.read(content, header_length, now, deadline)

            takes_long = encoding or reader.bytes_to_parse(len(body), header_length) > _INLINE_BODY
            asked = await while_connected(request, served.offload(read)) if takes_long else read()
            answer = await run(request, served, asked.arrays, asked.deadline, asked.priority, asked.parameters)
            accepted = ",".join(request.headers.getlist("accept-encoding"))
            write = partial(respond, served, asked, accepted, answer)
            return (
                await while_connected(request, served.offload(write))
                if _takes_long(asked, accepted, answer)
                else write()
            )

    def _reader(self, model: Model) -> messages.Reader:
        if (reader := self._readers.get(model)) is None:
            reader = self._readers[model] = messages.Reader(model.graph, batched=model.batched)
        return reader


def respond(model: Model, asked: Inference, accepted: str, answer: Answer) -> Response:
    """Write an answer, compressed if the client would rather have it so.

    Args:
        model: which answered.
        asked: what it was asked for.
        accepted: the header `accept-encoding`.
        answer: what it gave.
    """
    body, header_length = messages.write(model, asked, answer)
    headers: list[tuple[bytes, bytes]] = []
    media_type = b"application/json"
    if header_length is not None:
        headers.append((_HEADER_LENGTH.encode(), b"%d" % header_length))
        media_type = b"application/octet-stream"
    if len(body) > _SMALLEST_COMPRESSED:
        headers.append((b"vary", b"accept-encoding"))
        if encoding := compression.choose(accepted):
            smaller = compression.compress(body, encoding)
            if len(smaller) < len(body):
                body = smaller
                headers.append((b"content-encoding", encoding.encode()))
    return AnswerResponse(body, media_type, model, answer, headers)


def _takes_long(asked: Inference, accepted: str, answer: Answer) -> bool:
    """Whether writing an answer belongs in a thread."""
    if messages.elements_to_write(asked, answer) > _INLINE_ELEMENTS:
        return True
    if not accepted:
        return False
    arrays = [(one, answer.outputs[one.tensor.name]) for one in asked.outputs]
    size = sum(array.nbytes if one.binary else _BYTES_OF_NUMBER * array.size for one, array in arrays)
    return size > _INLINE_COMPRESSION and compression.choose(accepted) is not None
