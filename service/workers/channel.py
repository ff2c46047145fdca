"""The control channel: calls in both directions over one inherited socket between the supervisor and a worker.

A frame is its length (4 bytes, big-endian) and a MessagePack array: what kind it is, the call's number, the method's
name or none, and the arguments, the result or the error. Errors of `service.errors` arrive as what they were.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, TypeVar, get_type_hints

import msgspec

from service import errors
from service.errors import BundleRefused, InferdError, Overloaded, RuntimeFailure

logger = logging.getLogger(__name__)

T = TypeVar("T")

Handler = Callable[..., Awaitable[object]]

_MAX_FRAME: Final = 64 * 2**20
_LENGTH = struct.Struct(">I")


class _Frame(msgspec.Struct, array_like=True):
    kind: Literal["call", "result", "error"]
    number: int
    method: str
    content: msgspec.Raw


_FRAME = msgspec.msgpack.Decoder(_Frame)
_ENCODER = msgspec.msgpack.Encoder()


class ChannelClosed(ConnectionError):
    """The other end is gone, or does not answer."""


class Channel:
    """One end of the channel.

    Args:
        reader: of the socket.
        writer: of the socket.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._methods: dict[str, _Method] = {}
        self._calls: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._last = 0
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Make a channel of a connected socket."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end))

    async def serve(self, handlers: Mapping[str, Handler]) -> None:
        """Answer the other end until it is gone. Calls of this end are answered only while this runs.

        Args:
            handlers: what the other end may call, by name; arguments come as the types of their annotations.
        """
        self._methods = {name: _Method(handler) for name, handler in handlers.items()}
        try:
            while True:
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                if length > _MAX_FRAME:
                    raise ValueError(f"a frame of {length} bytes; the most is {_MAX_FRAME}")
                self._take(_FRAME.decode(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception:
            logger.exception("what came over the control channel can't be read; it is closed")
        finally:
            self.close()

    async def call(self, method: str, *arguments: object, answer: type[T], timeout_s: float) -> T:
        """Call `method` at the other end.

        Args:
            method: its name there.
            arguments: of it, ready for MessagePack.
            answer: the type of its result.
            timeout_s: how long it may take.

        Raises:
            InferdError: the one that the method raised; RuntimeFailure if its result is of another type.
            ChannelClosed: the other end is gone, or has not answered in time.
        """
        if self._closed:
            raise ChannelClosed("the other process is gone")
        self._last += 1
        number = self._last
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            self._send(_encode("call", number, method, arguments))
            content = await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise ChannelClosed(f"the other process has not answered {method!r} in {timeout_s:.3g} s") from None
        finally:
            self._calls.pop(number, None)
        try:
            return msgspec.msgpack.decode(content, type=answer)
        except msgspec.DecodeError as error:
            raise RuntimeFailure(f"the control call {method!r} was answered with something else: {error}") from error

    def close(self) -> None:
        """Hang up; whoever waits for an answer is told."""
        self._closed = True
        self._writer.close()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ChannelClosed("the other process is gone"))
        for task in self._running:
            task.cancel()

    def _take(self, frame: _Frame) -> None:
        if frame.kind == "call":
            task = asyncio.create_task(self._answer(frame))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            return
        future = self._calls.get(frame.number)
        if future is None or future.done():
            return  # it was given up
        if frame.kind == "result":
            future.set_result(frame.content)
        else:
            future.set_exception(decode_error(msgspec.msgpack.decode(frame.content, type=WireError)))

    async def _answer(self, frame: _Frame) -> None:
        try:
            try:
                answer = _encode("result", frame.number, "", await self._methods[frame.method](frame.content))
            except InferdError as error:
                answer = _encode("error", frame.number, "", encode_error(error))
        except Exception:
            logger.exception("the control call %r failed", frame.method)
            failure = RuntimeFailure(f"the control call {frame.method!r} failed; see the log")
            answer = _encode("error", frame.number, "", encode_error(failure))
        self._send(answer)

    def _send(self, frame: bytes) -> None:
        if not self._closed:
            self._writer.write(frame)


def _encode(kind: str, number: int, method: str, content: object) -> bytes:
    """Make a frame.

    Raises:
        TypeError: `content` holds what can't travel.
        ValueError: it holds too much, or text that is no Unicode.
    """
    frame = _ENCODER.encode((kind, number, method, content))
    if len(frame) > _MAX_FRAME:
        raise ValueError(f"a frame of {len(frame)} bytes; the most is {_MAX_FRAME}")
    return _LENGTH.pack(len(frame)) + frame


class _Method:
    """A handler that takes its arguments as they travel."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        hints = get_type_hints(handler)
        hints.pop("return", None)
        self._arguments = msgspec.msgpack.Decoder(tuple[tuple(hints.values())])  # type: ignore[misc]

    async def __call__(self, content: msgspec.Raw) -> object:
        return await self._handler(*self._arguments.decode(content))


class WireError(msgspec.Struct, array_like=True):
    """An error of `service.errors` as it travels."""

    kind: str
    arguments: tuple[str, ...]
    retry_after_s: float = 0.0


def encode_error(error: InferdError) -> WireError:
    """Make of an error what can travel."""
    kind = next(one.__name__ for one in type(error).__mro__ if getattr(errors, one.__name__, None) is one)
    if isinstance(error, BundleRefused):
        return WireError(kind, (error.file, error.problem))
    return WireError(kind, (str(error),), error.retry_after_s if isinstance(error, Overloaded) else 0.0)


def decode_error(error: WireError) -> InferdError:
    """Make an error of what has travelled."""
    kind: type[InferdError] = getattr(errors, error.kind)
    if issubclass(kind, Overloaded):
        return kind(*error.arguments, retry_after_s=error.retry_after_s)
    return kind(*error.arguments)
