"""What every dialect does with a request: read its body within bounds, run it for as long as someone listens."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.batching.records import Answer
from service.bodies import count
from service.connections.protocol import CONNECTION, BoundedProtocol
from service.errors import BadInput, Cancelled, TooLarge
from service.repository.model import Model
from service.repository.repository import Repository
from service.tensors import Arrays

T = TypeVar("T")

TIMEOUT_HEADER = "x-request-timeout-ms"

GONE = "the client went away before its answer"

_PIECE = 2**17

_TIME = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?|\.[0-9]+")
"""A number as people write it; Python's own float takes more, such as 1_0."""


class JsonBounds(NamedTuple):
    """How much a body of JSON may have: each takes many times the room and the time of what it is written in.

    Attributes:
        containers: arrays and objects,
        values: of all of them.
        size: in bytes, where that is less than any body may have.
    """

    containers: int
    values: int
    size: float = math.inf


TENSORS: Final = JsonBounds(2**18, 2**21)
"""Of what may carry a tensor, number by number."""
TEXTS: Final = JsonBounds(2**14, 2**17, 2**21)
"""Of what asks with texts: they are read in the event loop, and no such request has a use for more."""


class _Counts:
    """Counts arrays, objects and values of a body as its pieces come: a whole one would keep everybody waiting.

    Those in texts count too, which only who sends many megabytes of text could notice.
    """

    def __init__(self, bounds: JsonBounds) -> None:
        self._bounds = bounds
        self._containers = self._values = 0

    def add(self, piece: bytes) -> None:
        """Count what is in a piece.

        Raises:
            TooLarge: there is more than may be.
        """
        self._containers += piece.count(b"[") + piece.count(b"{")
        self._values += piece.count(b",")
        if self._containers > self._bounds.containers:
            raise TooLarge(f"the body may have {self._bounds.containers} arrays and objects, and has more")
        if self._values > self._bounds.values:
            tensors = ": tensors can go as binary data" if self._bounds is TENSORS else ""
            raise TooLarge(f"the body may have {self._bounds.values} values, and has more{tensors}")


def addressed(repository: Repository, request: Request) -> Model:
    """The model that a path names.

    It is read from the path as it is: FastAPI takes longer over two texts than all of what follows over small tensors.

    Raises:
        NotFound, NotReady: see `Repository.get`.
    """
    return repository.get(request.path_params["model"], request.path_params.get("version"))


async def read_json(
    request: Request, limit: int, decoder: msgspec.json.Decoder[T], expected: str, bounds: JsonBounds = TEXTS
) -> T:
    """Read and decode a body of JSON. What it may not have is counted as it comes, and the rest is not read.

    Raises:
        BadInput: it is no JSON, or not what was `expected`, or nested too deeply.
        TooLarge: it has more than `bounds` allow, or is longer than `limit`.
        Overloaded: see `read_body`.
        Cancelled: see `read_body`.
    """
    return parse_json(decoder, await read_body(request, limit, bounds), expected, bounds=None)


async def read_body(request: Request, limit: int, bounds: JsonBounds | None = None) -> bytes:
    """Read the whole body.

    Args:
        request: its body not read yet.
        limit: in bytes.
        bounds: of its arrays, objects and values, if it is JSON and nothing else.

    Raises:
        TooLarge: the body is, or says it is, longer than `limit`, or has more than `bounds` allow; the rest is not
            read.
        Overloaded: the bodies of all requests are too many bytes together.
        Cancelled: the client went away.
    """
    if bounds and bounds.size < limit:
        limit = int(bounds.size)
        too_large = TooLarge(f"the body is larger than {limit} bytes, which is what a request of texts may have")
    else:
        too_large = TooLarge(f"the body is larger than {limit} bytes (INFERD_MAX_BODY_BYTES)")
    length = request.headers.get("content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        raise too_large
    counts = _Counts(bounds) if bounds else None
    # One block that grows, and not many small ones: those would leave holes in memory that nothing else fits into.
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client went away while it sent its body")
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise too_large
        count(request.scope, len(chunk))
        if counts:
            counts.add(chunk)
        more = message.get("more_body", False)
        if not more and not body:
            return chunk
        body += chunk
        if not more:
            return bytes(body)


@asynccontextmanager
async def form_of(request: Request, limit: int, *, max_files: int, max_fields: int) -> AsyncIterator[FormData]:
    """Read a form. The body is bounded first; then the form's parser sees it.

    Args:
        request: its body not read yet.
        limit: of the body, in bytes.
        max_files: that the form may have.
        max_fields: that it may have besides.

    Raises:
        BadInput: it is no such form, or (as TooLarge) its body is longer than `limit`.
    """
    body = await read_body(request, limit)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, receive).form(max_files=max_files, max_fields=max_fields)
    except HTTPException as error:
        raise BadInput(f"the form can't be read: {error.detail}") from error
    try:
        yield form
    finally:
        await form.close()


def parse_json(
    decoder: msgspec.json.Decoder[T], body: bytes | memoryview, expected: str, bounds: JsonBounds | None = TENSORS
) -> T:
    """Decode a JSON body that is there already; without `bounds` where they were kept while it came.

    Raises:
        BadInput: it is no JSON, or not what was `expected`, or nested too deeply.
        TooLarge: it has more than `bounds` allow.
    """
    if bounds and len(body) > min(bounds):  # less can't have as many
        counts, view = _Counts(bounds), memoryview(body)
        for start in range(0, len(view), _PIECE):  # other threads have their turn in between
            counts.add(bytes(view[start : start + _PIECE]))
    try:
        return decoder.decode(body)
    except RecursionError as error:
        raise BadInput(f"the body must be {expected}: its arrays and objects are nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"the body must be {expected}: {error}") from error


async def run(
    request: Request,
    model: Model,
    arrays: Arrays,
    deadline: float | None,
    priority: int = 0,
    parameters: Mapping[str, Any] | None = None,
) -> Answer:
    """Run `arrays` through `model` by `deadline`, unless the client of `request` goes away first.

    Args:
        request: its body was read.
        model: what runs.
        arrays: the graph's inputs, of its dtypes and shapes.
        deadline: on the clock of `time.monotonic`.
        priority: 1 is the highest; 0 stands for the default.
        parameters: what else the request said; see `Model.submit`.

    Raises:
        Cancelled: the client went away.
        InferdError: whatever the queue or the run raises.
    """
    starts_at_once = model.is_idle
    future = model.submit(arrays, deadline, priority, parameters)
    # Watching costs a task, so only those are watched that have to wait for others.
    answer = await (future if starts_at_once else while_connected(request, future))
    model.observe(answer)
    return answer


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Wait for `work`, and cancel it when the client of `request`, whose body was read, goes away.

    Raises:
        Cancelled: it went away.
    """
    future = asyncio.ensure_future(work)
    connection: BoundedProtocol | None = request.scope.get(CONNECTION)
    if connection is not None:  # it says so itself; else a task would have to watch for it
        return await _while_there(connection, future)
    gone = asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait((future, gone), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise Cancelled(GONE)
        return future.result()
    finally:
        future.cancel()
        gone.cancel()


async def _while_there(connection: BoundedProtocol, future: asyncio.Future[T]) -> T:
    connection.ends_with.add(future)
    try:
        if connection.is_lost:
            raise Cancelled(GONE)
        return await future
    except asyncio.CancelledError:
        if connection.is_lost and future.cancelled():
            raise Cancelled(GONE) from None
        raise
    finally:
        connection.ends_with.discard(future)
        future.cancel()


def json_response(content: object, headers: dict[str, str] | None = None) -> Response:
    """Answer `content`, which must be ready for JSON."""
    return Response(msgspec.json.encode(content), headers=headers, media_type="application/json")


class AnswerResponse(Response):
    """A model's answer. Its headers are made as bytes: a dictionary of them takes longer than small models run.

    Args:
        body: as it is sent.
        media_type: of it.
        model: which answers.
        answer: how long it took.
        headers: others.
    """

    def __init__(
        self,
        body: bytes,
        media_type: bytes,
        model: Model,
        answer: Answer,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        self.status_code = 200
        self.body = body
        self.background = None
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", media_type),
            (b"x-inferd-model", model.name.encode("latin-1")),
            (b"x-inferd-version", b"%d" % model.version),
            (b"x-queue-ms", b"%.3f" % (1000 * answer.queue_s)),
            (b"x-compute-ms", b"%.3f" % (1000 * answer.compute_s)),
            (b"x-batch-size", b"%d" % answer.batch_rows),
            *headers,
        ]


def model_headers(model: Model) -> dict[str, str]:
    """Which model answers."""
    return {"x-inferd-model": model.name, "x-inferd-version": str(model.version)}


def answer_headers(model: Model, answer: Answer) -> dict[str, str]:
    """Which model answered, and how long it took."""
    return {
        **model_headers(model),
        "x-queue-ms": f"{1000 * answer.queue_s:.3f}",
        "x-compute-ms": f"{1000 * answer.compute_s:.3f}",
        "x-batch-size": str(answer.batch_rows),
    }


def deadline_of(request: Request) -> float | None:
    """When the answer becomes worthless, on the clock of `time.monotonic`; asked first, as reading takes time too.

    Raises:
        BadInput: the header is no time.
    """
    text = request.headers.get(TIMEOUT_HEADER)
    return None if text is None else deadline_in(text, time.monotonic())


def deadline_in(text: str, now: float) -> float:
    """The deadline of a request that came at `now` with this time in its header.

    Raises:
        BadInput: it is no time.
    """
    timeout_ms = float(text) if len(text) < 40 and _TIME.fullmatch(text) else -1.0
    if not 0 < timeout_ms < 1e9:
        raise BadInput(f"{TIMEOUT_HEADER} must be a positive number of milliseconds, not {text[:40]!r}")
    return now + timeout_ms / 1000


async def disconnected(receive: Receive) -> None:
    """Return when the client, whose body was read, has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
