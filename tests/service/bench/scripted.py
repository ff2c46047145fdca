"""A server of a few lines that says what a test has it say, and a clock that it can move."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from service.bench.address import Address

HANG_UP = b"hang up"
"""In place of a piece of an answer: the connection is closed."""

Script = Callable[[int], Iterable[bytes]]


class Clock:
    """Time that stands still unless somebody moves it; called, it is a clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class ScriptedServer:
    """Answers the n-th request of all, from 0 on, with the pieces that `script(n)` gives, each sent by itself.

    Attributes:
        address: where it listens.
        requests: that have come, in their order.
        connections: how many were made.
    """

    def __init__(self, script: Script) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._script = script
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._start(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(30)  # it may have been accepting one more
        for one in self._sockets:
            with contextlib.suppress(OSError):  # the other side has gone already
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(30)

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(connection)
            self.connections += 1
            self._start(lambda connection=connection: self._serve(connection))

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other side has gone
            while request := self._read(connection):
                with self._lock:
                    number = len(self.requests)
                    self.requests.append(request)
                for piece in self._script(number):
                    if piece is HANG_UP:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    connection.sendall(piece)

    def _read(self, connection: socket.socket) -> bytes:
        """One request; nothing once the other side has gone."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = sum(lengths)
        pieces = [head, b"\r\n\r\n", body]
        left = length - len(body)
        while left:
            pieces.append(connection.recv(65536))
            left -= len(pieces[-1])
        return b"".join(pieces)


@contextmanager
def scripted(script: Script) -> Iterator[ScriptedServer]:
    server = ScriptedServer(script)
    try:
        yield server
    finally:
        server.close()


def answer(body: bytes = b"[]", status: int = 200, **headers: object) -> bytes:
    """An answer as a whole; `_` in names of headers stands for a hyphen."""
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunk(*events: str) -> bytes:
    """Events as one chunk of a stream."""
    content = "".join(f"data: {event}\n\n" for event in events).encode()
    return b"%x\r\n%b\r\n" % (len(content), content)
