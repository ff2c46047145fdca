"""The short way of the busiest calls: from a connection to the batch and back, with no task and no layer in between.

What is small and asks for one run of a graph is answered here; everything else goes through Starlette and FastAPI,
which know all the paths and document them. Both ways use what a `Call` has: `prepare`, before the run, and what it says
of the answer. So they answer alike, and differ in what is around that: here callbacks, there coroutines and threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

import msgspec
from starlette.responses import Response

from service.batching.records import Answer
from service.bodies import Bodies
from service.connections.exchanges import Exchange, Header
from service.connections.polling import BusyPolling
from service.errors import Cancelled, InferdError, Overloaded
from service.metrics import Metrics
from service.observability import identity_of, log_request, protocol_of, request_id
from service.protocols.errors import SHORTEST_RETRY_AFTER_S, error_response, unexpected_response
from service.protocols.gate import GRANT, scope_of
from service.protocols.requests import GONE
from service.repository.model import Measured, Model
from service.repository.repository import Repository
from service.security.access import Access, Grant, presented
from service.security.keys import Scope as KeyScope
from service.tensors import Arrays

logger = logging.getLogger(__name__)

_MOST_TARGETS, _LONGEST_TARGET = 1024, 256
"""Of targets that are known without looking."""

_READ = frozenset(
    (
        b"accept-encoding",
        b"authorization",
        b"content-length",
        b"content-type",
        b"inference-header-content-length",
        b"x-api-key",
        b"x-request-id",
        b"x-request-timeout-ms",
    )
)
"""The headers that mean something here, once each."""

_LONG_WAY = frozenset((b"content-encoding", b"origin"))
"""Headers that mean something elsewhere."""


_IMPATIENT_S = 0.2
"""So long a client waits to be refused again that has not waited before it asked again: answering thousands of those in
a second would take the time of those who are let in."""


class Sent(NamedTuple):
    """A request, as a `Call` sees it.

    Attributes:
        headers: by name in lower case, of those that calls read.
        query: parameters behind the path.
        pieces: in which the body came.
        size: of all of it, in bytes.
        now: when its head had come, on the clock of `time.monotonic`.
    """

    headers: Mapping[bytes, bytes]
    query: Mapping[str, str]
    pieces: Sequence[bytes]
    size: int
    now: float

    @property
    def body(self) -> bytes:
        """All of it."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


class Work(msgspec.Struct):
    """What a request comes to: one run, and an answer made of it.

    Attributes:
        arrays: the graph's inputs, of its dtypes and shapes.
        respond: makes the answer.
        is_heavy: whether that takes so long that it belongs in a thread.
        deadline: on the clock of `time.monotonic`.
        priority: 1 is the highest; 0 stands for the default.
        parameters: see `Model.submit`.
    """

    arrays: Arrays
    respond: Callable[[Answer], Response]
    is_heavy: Callable[[Answer], bool]
    deadline: float | None = None
    priority: int = 0
    parameters: Mapping[str, Any] | None = None


class Call(Protocol):
    """A call that may come the short way.

    Attributes:
        paths: where, with `{model}` and maybe `{version}` in the place of names.
    """

    paths: Sequence[str]

    def waits_for(self, headers: Mapping[bytes, bytes], size: int) -> bool:
        """Whether a body of so many bytes is waited for; else its request goes the long way, and is read there."""

    def prepare(self, model: Model, sent: Sent) -> Work | None:
        """Make a request ready to run; None: it is one for the long way.

        Raises:
            InferdError: it is wrong.
        """


class Target(NamedTuple):
    """What a request's target comes to: the call, and what else its path says of it, as for the application."""

    call: Call
    path: str
    scope: KeyScope | None
    protocol: str
    model: str
    version: str | None
    query: Mapping[str, str]


class Express:
    """Answers requests that came whole; see `service.connections.exchanges.Quick`.

    Args:
        calls: that may be made this way.
        repository: whose models answer.
        access: who may make them.
        metrics: where requests are counted,
        bodies: and what they hold.
        polling: told of requests and answers.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        *,
        repository: Repository,
        access: Access,
        metrics: Metrics,
        bodies: Bodies,
        polling: BusyPolling,
    ) -> None:
        self.repository = repository
        self.metrics = metrics
        self.bodies = bodies
        self.polling = polling
        self._access = access
        self._patterns = [(path.split("/"), call) for call in calls for path in call.paths]
        self._targets: dict[bytes, Target] = {}

    def find(self, url: bytes) -> Target | None:
        """A request's head has come: what its target comes to, if it is that of such a call."""
        self.polling.came()
        target = self._targets.get(url)
        if target is None and (target := self._match(url)) is not None and len(url) <= _LONGEST_TARGET:
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            self._targets[url] = target
        return target

    def waits_for(self, found: Target, headers: Sequence[Header]) -> bool:
        """Whether a body that does not come with its head is waited for."""
        repository = self.repository
        read = _read(headers)
        if read is None or (size := read.get(b"content-length")) is None:
            return False
        if repository.is_draining or repository.find(found.model, found.version) is None:
            return False
        return self._may_ask(found, read) and found.call.waits_for(read, int(size))

    def begin(self, found: Target, exchange: Exchange) -> bool:
        """Take a request, and answer it when its batch has run; False: it goes the long way, as if never seen here."""
        repository = self.repository
        if repository.is_draining or (model := repository.find(found.model, found.version)) is None:
            return False
        headers = _read(exchange.scope["headers"])
        if headers is None or not self.bodies.hold(exchange.size):
            return False
        underway = _Underway(self, found, exchange, model, headers)
        try:
            underway.admit(self._access)
            work = found.call.prepare(model, Sent(headers, found.query, exchange.pieces, exchange.size, exchange.since))
            if work is None:
                underway.hand_over()
                return False
            exchange.pieces = ()  # what is needed of them is in the work; both would be twice what is counted
            underway.start(work)
        except Exception as error:
            underway.fail(error)
        return True

    def _may_ask(self, found: Target, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the key that came with a request is one that opens what it asks for."""
        if found.scope is None:
            return True
        try:
            self._access.check(found.scope, presented(headers.get(b"authorization"), headers.get(b"x-api-key")))
        except InferdError:
            return False
        return True

    def _match(self, url: bytes) -> Target | None:
        path, _, query = url.decode("latin-1").partition("?")
        if "%" in path:
            return None
        parts = path.split("/")
        for pattern, call in self._patterns:
            if len(pattern) != len(parts):
                continue
            values = {}
            for one, expected in zip(parts, pattern, strict=True):
                if expected.startswith("{") and one:
                    values[expected] = one
                elif one != expected:
                    break
            else:
                given = dict(parse_qsl(query, keep_blank_values=True))
                model, version = values["{model}"], values.get("{version}")
                return Target(call, path, scope_of(path), protocol_of(path), model, version, given)
        return None


def _read(headers: Sequence[Header]) -> dict[bytes, bytes] | None:
    """The headers that mean something to a call; None where the long way has to see to them."""
    read: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _READ:
            if name in read:
                return None
            read[name] = value
        elif name in _LONG_WAY:
            return None
    return read


def _nothing() -> None:
    """In the place of what is no more to be done."""


class _Underway:
    """A request that was taken.

    Args:
        express: that took it.
        target: what it asks for.
        exchange: by which it is answered.
        model: which answers.
        headers: of the request, those that were read.
    """

    __slots__ = (
        "_exchange",
        "_express",
        "_grant",
        "_headers",
        "_identity",
        "_measured",
        "_model",
        "_started",
        "_target",
        "_withdraw",
        "_work",
    )

    def __init__(
        self, express: Express, target: Target, exchange: Exchange, model: Model, headers: Mapping[bytes, bytes]
    ) -> None:
        self._express = express
        self._target = target
        self._exchange = exchange
        self._model = model
        self._headers = headers
        given = headers.get(b"x-request-id")
        self._identity = identity_of(None if given is None else given.decode("latin-1"))
        request_id.set(self._identity)  # what is called later is called in the context of now
        self._grant: Grant | None = None
        self._measured: Measured | None = None
        self._withdraw: Callable[[], object] = _nothing
        self._started = time.perf_counter()

    def admit(self, access: Access) -> None:
        """See that it may go on.

        Raises:
            InferdError: it may not.
        """
        if (scope := self._target.scope) is not None:
            headers = self._headers
            self._grant = access.admit(scope, presented(headers.get(b"authorization"), headers.get(b"x-api-key")))
        self._measured = self._model.measured()
        self._measured.begin()

    def hand_over(self) -> None:
        """Leave it to the application, by which it need not be admitted again."""
        if self._measured:
            self._measured.abandon()
        self._express.bodies.let_go(self._exchange.size)
        if self._grant:
            self._exchange.scope[GRANT] = self._grant

    def start(self, work: Work) -> None:
        """Have it run.

        Raises:
            InferdError: the queue is full, or it is wrong.
        """
        self._work = work
        self._withdraw = self._model.start(work.arrays, self._has_run, work.deadline, work.priority, work.parameters)
        self._exchange.connection.ends_with.add(self)

    def cancel(self) -> None:
        """The client has gone away."""
        self._withdraw()
        self.fail(Cancelled(GONE))

    def fail(self, error: BaseException) -> None:
        """Answer an error."""
        if self._measured:
            self._measured.end(error)
            self._measured = None
        if isinstance(error, InferdError):
            response = error_response(self._target.path, error)
        else:
            logger.error("a request failed unexpectedly", exc_info=error)
            response = unexpected_response(self._target.path)
        if isinstance(error, Overloaded) and self._is_impatient():
            self._answer_later(response)
        else:
            self._answer(response)

    def _answer_later(self, response: Response) -> None:
        exchange = self._exchange
        self._express.bodies.let_go(exchange.size)
        exchange.pieces, exchange.size = (), 0
        exchange.connection.ends_with.add(self)
        self._withdraw = asyncio.get_running_loop().call_later(_IMPATIENT_S, self._answer, response).cancel

    def _is_impatient(self) -> bool:
        """Whether this client was told a moment ago to come again later."""
        connection, now = self._exchange.connection, asyncio.get_running_loop().time()
        before, connection.refused_at = connection.refused_at, now
        return now - before < SHORTEST_RETRY_AFTER_S

    def _has_run(self, outcome: Answer | BaseException) -> None:
        if not isinstance(outcome, Answer):
            self.fail(outcome)
            return
        try:
            self._model.observe(outcome)
            respond = self._work.respond
            if self._work.is_heavy(outcome):
                writing = asyncio.ensure_future(self._model.offload(partial(respond, outcome)))
                self._withdraw = writing.cancel
                writing.add_done_callback(self._is_written)
                return
            response = respond(outcome)
        except Exception as error:
            self.fail(error)
        else:
            self._succeed(response)

    def _is_written(self, writing: asyncio.Future[Response]) -> None:
        if writing.cancelled():
            return
        if error := writing.exception():
            self.fail(error)
        else:
            self._succeed(writing.result())

    def _succeed(self, response: Response) -> None:
        if self._measured:
            self._measured.end()
        self._answer(response)

    def _answer(self, response: Response) -> None:
        express, exchange, status = self._express, self._exchange, response.status_code
        if status == 500:
            seconds = time.perf_counter() - self._started
            log_request("POST", self._target.path, status, seconds, self._grant.name if self._grant else None)
        exchange.connection.ends_with.discard(self)
        self._withdraw = _nothing  # else this and the request in the batcher would keep each other
        express.bodies.let_go(exchange.size)
        if self._grant:
            self._grant.give_back()
        express.metrics.count_request(self._target.protocol, status)
        headers = [*response.raw_headers, (b"x-request-id", self._identity.encode())]
        exchange.answer(status, headers, bytes(response.body), last=express.repository.is_draining)
        express.polling.answered()
