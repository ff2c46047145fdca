"""An answer's head leaves together with what follows it: one call of the kernel, and one wake-up of the client.

uvicorn writes a head and then the body, and an event loop sends each at once: the client wakes up for half an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

_HEAD = b"HTTP/1."


class TogetherTransport(asyncio.Transport):
    """A transport that keeps a head until the next write, or until the event loop has done all that it had to do.

    Args:
        transport: that sends.
        call_soon: of the event loop.
    """

    def __init__(self, transport: asyncio.Transport, call_soon: Callable[[Callable[[], None]], object]) -> None:
        super().__init__()
        self._transport = transport
        self._call_soon = call_soon
        self._head: bytes | None = None
        self._is_paused = self._rests = False
        # What is asked most goes straight through.
        self.is_closing = transport.is_closing  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, a head a little later; nothing if the connection ends: whoever answers may not know it yet."""
        if self._transport.is_closing():
            return
        head = self._head
        if head is not None:
            self._head = None
            self._transport.writelines((head, data))
        elif data[:7] == _HEAD:
            self._head = bytes(data)
            self._call_soon(self._send_head_alone)
        else:
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of it."""
        self._send_head()
        self._transport.writelines(list_of_data)

    def write_eof(self) -> None:
        """Send no more."""
        self._send_head()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Whether that can be told to the client."""
        return self._transport.can_write_eof()

    def close(self) -> None:
        """Send what was written, and end."""
        self._send_head()
        self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._head = None
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """How many bytes wait."""
        return self._transport.get_write_buffer_size() + len(self._head or b"")

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """From how many bytes on whoever writes is told to pause, and to go on."""
        return self._transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set them."""
        self._transport.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless it rests."""
        self._is_paused = False
        if not self._rests:
            self._transport.resume_reading()

    def rest(self) -> None:
        """Read nothing, whoever would, until `go_on`."""
        self._rests = True
        if not (self._is_paused or self._transport.is_closing()):
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again, unless it is paused."""
        self._rests = False
        if not (self._is_paused or self._transport.is_closing()):
            self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Whether anything is read."""
        return self._transport.is_reading()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told of what comes."""
        return self._transport.get_protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell somebody else."""
        self._transport.set_protocol(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What there is to know."""
        return self._transport.get_extra_info(name, default)

    def _send_head_alone(self) -> None:
        """Nothing has followed so far."""
        if not self._transport.is_closing():
            self._send_head()

    def _send_head(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)
