"""What a protocol may ask about or do to the whole server, whichever worker it runs in."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from service.repository.statistics import VersionStatistics

State = Literal["LOADING", "READY", "UNAVAILABLE"]


class Listed(msgspec.Struct, frozen=True):
    """A row of the index: one version of one model, what became of it, and why if it is not as it should be.

    A version that serves may have a reason too: its folder changed and was refused, and what was loaded before serves.
    """

    name: str
    version: int
    state: State
    reason: str = ""


class Listing(msgspec.Struct, frozen=True):
    """The whole index as it stands.

    Attributes:
        entries: by name and version.
        ready: whether every model asked for answers, in every worker.
    """

    entries: tuple[Listed, ...] = ()
    ready: bool = False


class VersionPolicy(msgspec.Struct, frozen=True):
    """Which versions of a model to serve; with neither attribute, all of them.

    Attributes:
        latest: so many of the highest.
        specific: these.
    """

    latest: int | None = None
    specific: tuple[int, ...] | None = None

    def choose(self, versions: list[int]) -> list[int]:
        """The versions to serve of those that there are."""
        if self.specific is not None:
            return [version for version in versions if version in self.specific]
        return sorted(versions)[-self.latest :] if self.latest is not None else versions


class Control(Protocol):
    """The server as a whole: every worker, and what they serve."""

    async def index(self) -> list[Listed]:
        """Every version that was found, by name and version."""
        ...

    async def load(self, name: str, policy: VersionPolicy | None) -> None:
        """Serve what lies in the folder of `name` now; return once every worker does.

        A version that is unchanged stays as it is; one that is new or changed is loaded, replayed and warm before it
        takes the place of another; one that is gone, or is not in `policy`, is let go.

        Args:
            name: of the model.
            policy: which versions; None = as the server is set.

        Raises:
            Forbidden: models are not controlled this way here (INFERD_MODEL_CONTROL).
            NotFound: there is no such model, or no version of it that `policy` wants.
            BundleRefused: a version may not be served; the others, and what was loaded before of it, serve.
        """
        ...

    async def unload(self, name: str) -> None:
        """Serve `name` no longer; return once no worker takes new requests for it.

        Raises:
            Forbidden: models are not controlled this way here (INFERD_MODEL_CONTROL).
            NotFound: there is no such model.
        """
        ...

    async def statistics(self) -> list[VersionStatistics]:
        """What every version that serves has done, in all workers together."""
        ...

    async def render_metrics(self) -> bytes:
        """The metrics of all workers together, in Prometheus's text format."""
        ...
