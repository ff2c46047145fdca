"""Loading a bundle where a crash does no harm: in a process of its own that is thrown away.

The parent writes one line of JSON to the child's standard input, settings and folders; the child writes one line for
each folder to its standard output: how it is best run, or why it may not serve. Where the child dies, the folder
that it was at is to blame, and another child goes on with the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from service.errors import BundleRefused, InferdError, OutOfMemory, Quarantined
from service.repository.placement import Tuning
from service.repository.scan import BundleFolder
from service.settings import Settings
from service.workers.channel import WireError, decode_error, encode_error
from service.workers.children import describe_end, kill

logger = logging.getLogger(__name__)

Try = Callable[[BundleFolder], Tuning]

_LONGEST_LINE = 2**20
"""Bytes of an outcome: a refusal's reason may be long."""


class _Folder(msgspec.Struct, frozen=True):
    name: str
    version: int
    path: str


class _Order(msgspec.Struct, frozen=True):
    settings: str
    folders: tuple[_Folder, ...]


class _Outcome(msgspec.Struct, frozen=True):
    tuning: Tuning = Tuning()
    error: WireError | None = None


class TrialProcess:
    """Tries bundles one after the other in processes of their own; called by a controller.

    Args:
        command: what runs `answer_trial` with its standard streams.
        settings: of the server, with which bundles are loaded.
        timeout_s: how long one bundle may take.
    """

    def __init__(self, command: Sequence[str], settings: Settings, *, timeout_s: float) -> None:
        self._command = command
        self._settings = settings
        self._timeout_s = timeout_s

    async def __call__(self, folders: Sequence[BundleFolder]) -> list[Tuning | InferdError]:
        """Try `folders`; for each, how it is best run or why it may not serve."""
        outcomes: list[Tuning | InferdError] = []
        while len(outcomes) < len(folders):
            outcomes += await self._try(folders[len(outcomes) :])
        return outcomes

    async def _try(self, folders: Sequence[BundleFolder]) -> list[Tuning | InferdError]:
        """Try `folders` up to the first one that the process does not survive: that one is refused."""
        order = _Order(
            self._settings.to_json().decode(),
            tuple(_Folder(one.name, one.version, str(one.path)) for one in folders),
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LONGEST_LINE
            )
        except OSError as error:
            return [BundleRefused("trial", f"no process could be made to load it in ({error})") for _ in folders]
        assert process.stdin is not None  # noqa: S101 - both were asked for
        assert process.stdout is not None  # noqa: S101
        outcomes: list[Tuning | InferdError] = []
        try:
            process.stdin.write(msgspec.json.encode(order) + b"\n")  # and left open: its end means that we are gone
            for _ in folders:
                line = await asyncio.wait_for(process.stdout.readline(), self._timeout_s)
                if not line:
                    end = describe_end(await asyncio.wait_for(process.wait(), self._timeout_s))
                    outcomes.append(Quarantined("trial", f"quarantined: loading it ended the process ({end})"))
                    break
                outcome = msgspec.json.decode(line, type=_Outcome)
                outcomes.append(decode_error(outcome.error) if outcome.error else outcome.tuning)
        except TimeoutError:
            outcomes.append(Quarantined("trial", f"quarantined: loading it took more than {self._timeout_s:.3g} s"))
        except (ConnectionError, ValueError) as error:  # ValueError: no outcome, or a line without an end
            outcomes.append(BundleRefused("trial", f"the process that loaded it failed ({error})"))
        finally:
            kill(process)
            process.stdin.close()
            await process.wait()
        return outcomes


def answer_trial(given: IO[bytes], taken: IO[bytes], make_try: Callable[[Settings], Try]) -> None:
    """Be the child: read what is to be tried from `given`, write what came of it to `taken`."""
    order = msgspec.json.decode(given.readline(), type=_Order)
    attempt = make_try(Settings.from_json(order.settings.encode()))
    for folder in order.folders:
        try:
            outcome = _Outcome(attempt(BundleFolder(folder.name, folder.version, Path(folder.path))))
        except (MemoryError, OutOfMemory):
            problem = "loading it takes more memory than it may have (INFERD_LOAD_MEMORY_BYTES)"
            outcome = _Outcome(error=encode_error(BundleRefused("trial", problem)))
        except InferdError as error:
            outcome = _Outcome(error=encode_error(error))
        except Exception:
            logger.exception("model %s version %d could not be loaded", folder.name, folder.version)
            outcome = _Outcome(error=encode_error(BundleRefused("bundle", "loading failed unexpectedly; see the log")))
        taken.write(msgspec.json.encode(outcome) + b"\n")
        taken.flush()
