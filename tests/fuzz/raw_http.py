"""HTTP/1.1 as bytes: what no client would send, in whatever pieces; and whether every connection comes to an end."""

from __future__ import annotations

import re
import select
import socket
import time
from contextlib import suppress
from random import Random
from typing import Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.edits import Edit, edited, edits, edits_by
from tests.fuzz.playing import HANG_S, Finding, Target
from tests.fuzz.wire import ALLOWED_5XX

_JSON: Final = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}'
_GET: Final = b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
_POST: Final = (
    b"POST /v2/models/bare/infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 72\r\n\r\n"
    + _JSON
)
_VALID: Final = (
    _GET,
    _POST,
    _GET + _POST + _GET,
    b"HEAD /v2/models/bare/ready?a=%20&b HTTP/1.1\r\nhost: a:80\r\nCookie: a=b\r\n\r\n",
    b"POST /v2/models/bare/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10;a=b\r\n" + _JSON[:16]
    + b"\r\n38\r\n" + _JSON[16:] + b"\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"POST /predict/tiny-text HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\n"
    b"Content-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://[::1]:80/openapi.json HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABk\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 59\r\n"
    b"\r\n"
    b'--b\r\nContent-Disposition: form-data; name="q"\r\n\r\nHi\r\n--b--',
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 40,
)  # fmt: skip
_PIECES: Final = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\r\n\r\n", b"\x80\xff", b"HTTP/1.1", b"HTTP/9.9", b"?", b"#",
    b"%", b"%00", b"//", b"/../", b"Host: [\r\n", b"Host: a b\r\n", b"Host: \xff\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: 2000000\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: x\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive, close\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Expect: 100-continue\r\n", b" folded\r\n", b"X: " + b"y" * 4000 + b"\r\n", b"A: b\r\n" * 300, b"/" + b"p" * 9000,
    b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"-1\r\n", b"CONNECT", b"TRACE", b"BREW",
    b"Content-Type: multipart/form-data\r\n",
    b"Content-Type: application/x-www-form-urlencoded; charset=none\r\n", b"Authorization: Basic \xff\r\n",
    b"Accept-Encoding: gzip;q=nan\r\n", b"X-Request-Timeout-Ms: 1\r\n",
)  # fmt: skip

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z]")
_LIVE: Final = b'{"live":true}'
_SILENCE_S: Final = 0.05
_LIMITS_S: Final = 10.0
"""In so long a request has failed that is not complete, by the limits of `served.SETTINGS`, even if time is scarce."""
_MOST_WAITING: Final = 200


@st.composite
def _cases(draw: DrawFn) -> list[bytes]:
    """What is sent, in pieces."""
    content = draw(st.sampled_from(_VALID))
    places = st.lists(st.tuples(st.integers(0, 2**12), st.sampled_from(_PIECES)), max_size=2)
    for place, piece in draw(places):
        lines = [found.end() for found in re.finditer(rb"\r\n", content)]
        at = lines[place // 2 % len(lines)] if lines and place % 2 else place % (len(content) + 1)
        content = content[:at] + piece + content[at:]
    changes: list[Edit] = draw(edits) if draw(st.booleans()) else []
    content = edited(content, changes)
    cut = draw(st.integers(0, 400))
    return [content[:cut], content[cut:]] if 0 < cut < len(content) else [content]


class RawHttp:
    """Bytes on a connection, and behind them a plain request: it is answered, or the connection ends, sooner or later.

    Where nothing comes for a moment, the server may be waiting for the rest of a request. Such connections are kept
    until the server's own limits must have ended that; one that is still open then is idle, and answers.
    """

    def __init__(self, target: Target) -> None:
        self._port = target.port
        self._name = target.name
        self._socket: socket.socket | None = None
        self._waiting: list[tuple[socket.socket, bytes, bytes, float]] = []

    cases = _cases()
    variants = 9

    def vary(self, case: list[bytes], random: Random) -> list[bytes]:
        """Edit the bytes, wherever they are cut, or cut them elsewhere."""
        content = b"".join(case)
        if random.random() < 0.8:
            content = edited(content, edits_by(random))
        cut = random.randrange(len(content) + 1)
        return [content[:cut], content[cut:]]

    def attempt(self, case: list[bytes], number: int) -> str:
        """Send it, and a plain request behind it."""
        name = f"{self._name}-{number}".encode()
        marker = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n\r\n" % name
        sent = b"".join(case)
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), HANG_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in (*case, marker):
                self._socket.sendall(piece)
        except ConnectionError:
            pass  # it ended before; whether with an answer is seen below
        return self._read(sent, name)

    def close(self) -> None:
        """Wait for the end of what is still open.

        Raises:
            Finding: it does not end.
        """
        if self._socket:
            self._socket.close()
            self._socket = None
        while self._waiting:
            self._wait_for(self._waiting.pop(0))

    def _read(self, sent: bytes, name: bytes) -> str:
        received = b""
        assert self._socket
        while True:
            if not select.select([self._socket], [], [], _SILENCE_S)[0]:
                self._waiting.append((self._socket, sent, received, time.monotonic()))
                self._socket = None
                if len(self._waiting) > _MOST_WAITING:
                    self._wait_for(self._waiting.pop(0))
                return "waited"
            try:
                some = self._socket.recv(2**16)
            except ConnectionError:
                some = b""
            received += some
            if not some:
                self._socket.close()
                self._socket = None
                return _outcome(received, sent, "closed")
            if received.endswith(_LIVE) and name in received:
                return _outcome(received, sent, "answered")

    def _wait_for(self, one: tuple[socket.socket, bytes, bytes, float]) -> None:
        connection, sent, received, since = one
        with connection, suppress(ConnectionError):
            while time.monotonic() < since + _LIMITS_S:
                connection.settimeout(max(0.1, since + _LIMITS_S - time.monotonic()))
                with suppress(TimeoutError):
                    if not (some := connection.recv(2**16)):
                        break
                    received += some
            else:
                connection.settimeout(HANG_S)
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
                try:
                    while not received.endswith(_LIVE) and (some := connection.recv(2**16)):
                        received += some
                except TimeoutError as error:
                    raise Finding(f"the connection is open and deaf; received {received!r}", sent) from error
        _outcome(received, sent, "closed")


def _outcome(received: bytes, sent: bytes, ended: str) -> str:
    statuses = [int(status) for status in _STATUS.findall(received)]
    if any(status >= 500 and status not in ALLOWED_5XX for status in statuses):
        raise Finding(f"status {statuses}: {received[:600]!r}", sent)
    return ended
