"""Files that are read again when they change, while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5

_Signature: TypeAlias = "list[tuple[int, int, int, int] | None]"


class Watched:
    """Some files that belong together. Make it before they are read for the first time.

    Args:
        files: to look at; a link is followed, so that what swaps links (Kubernetes does) is seen.
        reload: reads them again, or raises OSError or ValueError and leaves everything as it was.
    """

    def __init__(self, files: Sequence[Path], reload: Callable[[], None]) -> None:
        self._files = files
        self._reload = reload
        self._loaded = self._seen = self._signature()

    def look(self) -> None:
        """Read them again if they have changed, and have been left alone since the last look: one may be half written.

        What can't be read is logged once.
        """
        signature = self._signature()
        settled, self._seen = signature == self._seen, signature
        if signature == self._loaded or not settled:
            return
        self._loaded = signature
        names = ", ".join(map(str, self._files))
        try:
            self._reload()
        except (OSError, ValueError) as error:
            logger.error("%s changed and can't be used, so what was there before goes on: %s", names, error)
        else:
            logger.info("%s changed and was read again", names)

    def _signature(self) -> _Signature:
        return [_signature_of(file) for file in self._files]


async def watch(watched: Sequence[Watched]) -> None:
    """Look at files for ever."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for one in watched:
            one.look()


def _signature_of(file: Path) -> tuple[int, int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
