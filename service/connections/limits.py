"""What connections may take, each alone and all together; and what a client may be doing on one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Doing = Literal["waits", "head", "body", "runs", "reads", "refused"]
"""What a client does: it waits to ask, sends a request's head or body, waits for the answer, or reads less of it than
has come; or it was refused, and nothing that it sends is looked at any more."""


@dataclass(frozen=True)
class ConnectionLimits:
    """The bounds of one connection, and of all that a process has.

    Attributes:
        max_connections: so many at once.
        max_head_bytes: of a request's line and headers.
        max_url_bytes: of its target.
        max_message_bytes: of all that follows a head, with what the transfer adds to a body.
        max_unread_bytes: of all answers that wait for clients that don't read them.
        head_timeout_s: from the first byte of a head to its last.
        body_timeout_s: from there to the last byte of the body.
        send_timeout_s: for so long an answer may wait for a client that doesn't read it.
    """

    max_connections: int
    max_head_bytes: int
    max_url_bytes: int
    max_message_bytes: int
    max_unread_bytes: int
    head_timeout_s: float
    body_timeout_s: float
    send_timeout_s: float
