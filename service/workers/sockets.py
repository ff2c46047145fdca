"""The sockets that workers share: who binds them, and how a worker takes connections from one."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import ssl
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from service.workers.counts import Counts

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_YIELDS_S = 0.02
"""How long a connection is left to processes that have fewer, at first."""
_LOOK_AGAIN_S = 0.001
_BUSY_FOR_S = 0.5
"""For so long it is remembered that nobody took a connection: who was busy then may not be any more."""
_MOST_AT_ONCE = 32
_NO_MORE_FILES_S = 0.5
"""How long to wait after the process could open no more connections."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind and listen on every address of `host`, all on one port.

    Args:
        host: a name or an address.
        port: 0 takes a free one.

    Raises:
        OSError: one can't be bound; the message names it.
    """
    listeners: list[socket.socket] = []
    absent = None
    for family, address in _addresses(host, port):
        where = (address[0], port, *address[2:])
        try:
            listener = socket.create_server(where, family=family, backlog=_BACKLOG)
        except OSError as error:
            refused = _error(error, f"can't listen on {address[0]} port {port}")
            if error.errno in _NO_SUCH_ADDRESS:
                absent = absent or refused  # a name may have addresses that this machine has not, of IPv6 say
                continue
            for one in listeners:
                one.close()
            raise refused from error
        port = listener.getsockname()[1]
        listeners.append(listener)
    if absent and not listeners:
        raise absent
    return listeners


def reserve(host: str, port: int) -> socket.socket:
    """Hold a port that several processes will bind at once (SO_REUSEPORT), without listening on it.

    Raises:
        OSError: it is taken.
    """
    family, address = _addresses(host, port)[0]
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        holder.close()
        raise _error(error, f"can't bind {address[0]} port {port}") from error
    return holder


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Family and address of each address of `host`."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"can't find the address of {host!r}: {error.strerror}") from error
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _error(error: OSError, what: str) -> OSError:
    """Say what failed; the reason is the system's own, without what Python adds to it."""
    return OSError(error.errno, f"{what}: {os.strerror(error.errno or 0)}")


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """The address to call."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@dataclass
class _Yielding:
    """That connections are left to others.

    Attributes:
        patience_s: for how long; less each time that nobody took one,
        lost_at: which was at this time last.
        until: when the one that waits is taken in any case.
        looked_at: when it waited still.
    """

    patience_s: float = _YIELDS_S
    until: float = -math.inf
    looked_at: float = -math.inf
    lost_at: float = -math.inf


class Acceptor:
    """Takes connections from listeners that other processes take from too.

    It leaves a connection to others for a moment if any of them has fewer, or as many if it took the last one:
    connections are kept for long, and whoever gets many has many requests later, while another
    rests.

    Args:
        listeners: shared.
        protocol: makes the protocol of a connection.
        open_connections: how many there are.
        counts: where all processes say how many they have; None = this one doesn't look at others.
        tls: how connections are encrypted; None = they are not.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        protocol: Callable[[], asyncio.Protocol],
        *,
        open_connections: Callable[[], int] = lambda: 0,
        counts: Counts | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.listeners = listeners
        self._protocol = protocol
        self._open_connections = open_connections
        self._counts = counts
        self._tls = tls
        self._yielding: dict[socket.socket, _Yielding] = {}
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._stopped = False
        for listener in listeners:
            listener.setblocking(False)

    @property
    def opening(self) -> Collection[asyncio.Task[object]]:
        """Connections that were taken and can't be used yet, as they have to be encrypted."""
        return tuple(self._opening)

    def start(self) -> None:
        """Take connections from now on, unless `stop` was quicker."""
        self.tell()
        for listener in self.listeners:
            self._resume(listener)

    def stop(self) -> None:
        """Take no more; the listeners stay as they are."""
        self._stopped = True
        if self._counts:
            self._counts.put(None)
        for listener in self.listeners:
            self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take what waits, up to a bound: one at a pass of a loop that is busy would be slower than they come."""
        if not self._is_ahead():
            self._yielding.pop(listener, None)
        elif self._may_yield(listener):
            self._loop.remove_reader(listener)
            self._loop.call_later(_LOOK_AGAIN_S, self._resume, listener)
            return
        for _ in range(_MOST_AT_ONCE):
            if not self._accept_one(listener) or (self._counts and self._counts.is_far_ahead()):
                return

    def _accept_one(self, listener: socket.socket) -> bool:
        """Take a connection; whether there was one."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another process was quicker, or the client has gone again
        except OSError as error:
            logger.error("a connection can't be taken: %s", error.strerror)
            self._loop.remove_reader(listener)
            self._loop.call_later(_NO_MORE_FILES_S, self._resume, listener)
            return False
        connection.setblocking(False)
        task: asyncio.Task[object] = self._loop.create_task(
            self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._tls)
        )
        self._opening.add(task)
        task.add_done_callback(self._opened)
        if self._counts:
            self._counts.took()
            self.tell()
        return True

    def _opened(self, task: asyncio.Task[object]) -> None:
        """Look at a connection that can be used, or can't: its client has gone, or speaks no TLS that is taken here."""
        self._opening.discard(task)
        if not task.cancelled() and (error := task.exception()):
            if not isinstance(error, OSError):
                raise error
            logger.debug("a connection came to nothing: %s", error)

    def tell(self) -> None:
        """Say how many connections there are: when one has come, and also when one has gone."""
        if self._counts and not self._stopped:
            self._counts.put(self._open_connections() + len(self._opening))

    def _is_ahead(self) -> bool:
        """Say how many there are; whether the next one is for another process."""
        self.tell()
        return self._counts is not None and self._counts.is_ahead()

    def _may_yield(self, listener: socket.socket) -> bool:
        """Whether there is time yet to leave what waits at `listener` to others: they may be busy, and clients wait."""
        yielding = self._yielding.setdefault(listener, _Yielding())
        now = self._loop.time()
        if now > yielding.looked_at + 5 * _LOOK_AGAIN_S:  # what was left then, others have taken
            if now > yielding.lost_at + _BUSY_FOR_S:
                yielding.patience_s = _YIELDS_S
            yielding.until = now + yielding.patience_s
        yielding.looked_at = now
        if now < yielding.until:
            return True
        yielding.looked_at = -math.inf
        yielding.lost_at = now
        yielding.patience_s /= 2
        return False

    def _resume(self, listener: socket.socket) -> None:
        if not self._stopped:
            self._loop.add_reader(listener, self._accept, listener)
