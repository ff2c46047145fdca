"""HTTP/1.1 as far as load needs it: requests as bytes, and answers read no further than what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.bench.address import Address

_EVENT = b"\ndata: "
_FAILURE = b'\ndata: {"error"'
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_TAIL = len(_FAILURE) - 1
"""Bytes of what came before that may be the beginning of something that is looked for."""

_LONGEST_HEAD = 64 * 1024
_SHOWN = 300
"""Bytes of an error's body that are kept."""

_LENGTH, _CHUNKED = b"\r\ncontent-length:", b"\r\ntransfer-encoding: chunked\r\n"
_CLOSES = b"\r\nconnection: close\r\n"
QUEUE_MS, COMPUTE_MS, BATCH_SIZE = b"\r\nx-queue-ms:", b"\r\nx-compute-ms:", b"\r\nx-batch-size:"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ready to be sent.

    Attributes:
        content: all of it.
        units: how much it asks for, in what the model gives: images, rows, tokens, texts. 0 = that can't be told.
    """

    content: bytes
    units: float = 1.0


def post(
    address: Address, path: str, body: bytes, kind: str, units: float = 1.0, headers: Mapping[str, str] | None = None
) -> Request:
    """Make a request of `body`, of the media type `kind`."""
    lines = [
        f"POST {address.prefix}{path} HTTP/1.1",
        f"host: {address.authority}",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return Request("\r\n".join(lines).encode() + b"\r\n\r\n" + body, units)


class Unreadable(ConnectionError):
    """What came is no answer that can be read on."""


class Answer:
    """An answer as it comes; it is used again for the next one.

    Attributes:
        status: 0 until it is known.
        head: in small letters.
        closes: whether the connection ends with it.
        events: of a stream that have come.
        failed: whether one of them tells an error.
        shown: how the body of an error begins.
    """

    __slots__ = ("_left", "_seen", "closes", "events", "failed", "head", "shown", "status")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget everything: another answer begins."""
        self.status = 0
        self.head = b""
        self.closes = False
        self.events = 0
        self.failed = False
        self.shown = b""
        self._seen = b""
        self._left = -1  # of the body, in bytes; negative: it comes in chunks

    def feed(self, data: bytes) -> bool:
        """Read on; whether that was all of the answer.

        Raises:
            Unreadable: it is no answer, has no end, or more comes than belongs to it.
        """
        if not self.status:
            data = self._seen + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > _LONGEST_HEAD:
                    raise Unreadable("an answer's head does not end")
                self._seen = data
                return False
            self._read_head(data[: end + 2])
            data = data[end + 4 :]
            self._seen = b"\r\n"  # so that the first chunk begins as the others do
        if self.status != 200 and len(self.shown) < _SHOWN:
            self.shown += data[: _SHOWN - len(self.shown)]
        if self._left < 0:
            return self._feed_chunks(data)
        self._left -= len(data)
        if self._left < 0:
            raise Unreadable("more has come than the answer's content-length says")
        return self._left == 0

    def number(self, name: bytes) -> float | None:
        """The number that a header says, `name` being its beginning such as `QUEUE_MS`."""
        start = self.head.find(name)
        if start < 0:
            return None
        start += len(name)
        try:
            return float(self.head[start : self.head.find(b"\r\n", start)])
        except ValueError:
            return None

    def _read_head(self, head: bytes) -> None:
        self.head = head = head.lower()
        if not head.startswith(b"http/1.") or not head[9:12].isdigit():
            raise Unreadable(f"the server answers {head[:80]!r}")
        self.closes = _CLOSES in head or head.startswith(b"http/1.0")
        length = self.number(_LENGTH)
        if length is not None:
            self._left = int(length)
        elif _CHUNKED not in head:
            raise Unreadable("an answer tells no length")
        self.status = int(head[9:12])

    def _feed_chunks(self, data: bytes) -> bool:
        text = self._seen + data
        # As much of what was seen before may be the beginning of an event, and no more: none is counted twice.
        self.events += text.count(_EVENT, max(0, len(self._seen) - len(_EVENT) + 1))
        self.failed = self.failed or _FAILURE in text
        self._seen = text[-_TAIL:]
        return text.endswith(_LAST_CHUNK)
