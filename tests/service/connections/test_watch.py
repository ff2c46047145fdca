from __future__ import annotations

from service.connections.limits import ConnectionLimits
from service.connections.watch import Watch

LIMITS = ConnectionLimits(
    max_connections=100,
    max_head_bytes=100,
    max_url_bytes=100,
    max_message_bytes=100,
    max_unread_bytes=600,
    head_timeout_s=1,
    body_timeout_s=1,
    send_timeout_s=1,
)


class Slow:
    """A connection whose client reads nothing."""

    doing = "reads"
    since = 0.0

    def __init__(self, unread: int) -> None:
        self.unread = unread
        self.cut_off_for: list[str] = []

    def look(self, now: float) -> None:
        pass

    def close(self) -> None:
        raise AssertionError("nobody is idle")

    def cut_off(self, why: str) -> None:
        self.cut_off_for.append(why)


def test_of_all_that_is_not_read_the_most_is_dropped() -> None:
    connections = [Slow(unread) for unread in (300, 500, 200, 400)]
    watch = Watch(connections, LIMITS)
    watch.look(0.0)
    assert [bool(one.cut_off_for) for one in connections] == [False, True, False, True]
    assert "600 bytes" in connections[1].cut_off_for[0]
