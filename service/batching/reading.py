"""Slots of a graph whose groups are read by another graph first: those together that are seated together.

What has to be read waits as what it is, and costs nothing before it has its slots. While a step runs others come, so
the more there is to do the more are read in one run; what comes alone is read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from service.batching.groups import Group
from service.batching.slots import Slots


class ReadingSlots(Slots):
    """Slots whose groups get their first states and their contexts as they join.

    Args:
        slots: what `Slots` takes.
        read: gives groups their `start` and `context`, or an `error` to those that it can't read.
        others: what else `Slots` takes.
    """

    def __init__(self, *slots: Any, read: Callable[[Sequence[Group]], None], **others: Any) -> None:
        self._read = read
        self._unreadable: list[Group] = []
        super().__init__(*slots, **others)

    def join(self, groups: Sequence[Group]) -> None:
        """See `Slots`; what can't be read gets no slots, and the next step tells of it."""
        self._read(groups)
        self._unreadable.extend(group for group in groups if group.error)
        if readable := [group for group in groups if not group.error]:
            super().join(readable)

    def step(self) -> list[Group]:
        """See `Slots`."""
        unreadable, self._unreadable = self._unreadable, []
        return unreadable + (super().step() if self.live else [])
