"""HTTP/1.1 over a plain socket: a client that sends whatever it is given, and notices an answer that never comes."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass

from tests.fuzz.playing import HANG_S, Finding

ALLOWED_5XX = (501, 504)
"""No such ability, and a deadline of the caller's own. All models serve, so 503 would be a defect."""


@dataclass(frozen=True)
class Answer:
    """What came back; the body of one that was dropped is what had come until then."""

    status: int
    headers: dict[str, str]
    body: bytes
    dropped: bool = False

    @property
    def outcome(self) -> str:
        """What a case is counted by."""
        return "dropped" if self.dropped else str(self.status)


class Client:
    """A client that keeps its connection as long as the server does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._rest = b""

    def ask(self, request: bytes, *, drop_after: int | None = None) -> Answer:
        """Send a request and read its answer.

        Args:
            request: all of it.
            drop_after: go away after so many bytes of the answer's body, if it has more.

        Raises:
            Finding: there is none, or an error of the server's.
        """
        again = self._socket is not None
        try:
            answer = self._try(request, drop_after)
        except ConnectionError as error:
            self.close()
            if not again:
                raise Finding(f"the connection ended without an answer: {error!r}", request) from error
            return self.ask(request, drop_after=drop_after)  # it had ended before this request came
        except (KeyError, ValueError) as error:
            self.close()
            raise Finding(f"the answer is no HTTP: {error!r}", request) from error
        except TimeoutError as error:
            self.close()
            raise Finding(f"no answer within {HANG_S:g} s", request) from error
        if answer.status >= 500 and answer.status not in ALLOWED_5XX:
            raise Finding(f"status {answer.status}: {answer.body[:300]!r}", request)
        return answer

    def close(self) -> None:
        """End the connection."""
        if self._socket:
            self._socket.close()
        self._socket, self._rest = None, b""

    def _try(self, request: bytes, drop_after: int | None) -> Answer:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), HANG_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):  # it may have been refused, with an answer, before it was sent as a whole
            self._socket.sendall(request)
        status = 100
        while status < 200:
            line, _, rest = self._until(b"\r\n\r\n").partition(b"\r\n")
            status = int(line.split(b" ", 2)[1])
        headers = {
            name.strip().lower().decode("latin-1"): value.strip().decode("latin-1")
            for name, _, value in (one.partition(b":") for one in rest.split(b"\r\n"))
        }
        body, whole = self._body(status, headers, drop_after)
        if not whole or headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body, not whole)

    def _body(self, status: int, headers: dict[str, str], drop_after: int | None) -> tuple[bytes, bool]:
        if status in (204, 304):
            return b"", True
        if headers.get("transfer-encoding") != "chunked":
            length = int(headers["content-length"])
            if drop_after is not None and drop_after < length:
                return self._exactly(drop_after), False
            return self._exactly(length), True
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            self._exactly(2)
            if drop_after is not None and len(body) > drop_after:
                return body, False
        self._exactly(2)
        return body, True

    def _until(self, end: bytes) -> bytes:
        while end not in self._rest:
            self._receive()
        found, _, self._rest = self._rest.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._receive()
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def _receive(self) -> None:
        assert self._socket
        some = self._socket.recv(256 * 1024)
        if not some:
            raise ConnectionResetError("it was closed")
        self._rest += some


def post(path: str, body: bytes, *headers: tuple[str, object]) -> bytes:
    """Write a request whose length is right, whatever else is odd."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join((*lines, "", "")).encode("utf-8", "replace") + body
