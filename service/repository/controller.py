"""Which versions of which models serve: decided once for all workers, changed in all of them or in none.

The controller looks at the models folder, tries what is new there (in a process of its own where it is given a
`trial`), has every replica prepare it, and then switches them all. One change happens at a time. It knows replicas only
as `Replica`: the one in its own process, or those of other processes at the ends of their channels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from service.errors import Forbidden, InferdError, NotFound, NotReady, Quarantined
from service.repository.control import Listed, Listing, State, VersionPolicy
from service.repository.placement import Key, Placement, Replica, Tuning, fingerprint
from service.repository.scan import BundleFolder, scan
from service.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
Trial = Callable[[Sequence[BundleFolder]], Awaitable[Sequence[Tuning | InferdError]]]
"""Loads, replays and times bundles where a crash does no harm; for each, how it is best run or why it may not serve."""

_NOT_LOADED = "is not loaded"
_BEING_LOADED = "is being loaded"


@dataclass(frozen=True)
class ControlOptions:
    """How models are controlled.

    Attributes:
        mode: what changes them, see INFERD_MODEL_CONTROL.
        policy: which versions serve unless a call says otherwise.
        load_at_start: names to load at start in mode `explicit`; None = all.
        poll_s: how often the folder is looked at in mode `poll`.
    """

    mode: Literal["none", "poll", "explicit"] = "none"
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    load_at_start: frozenset[str] | None = None
    poll_s: float = 5.0

    @classmethod
    def of(cls, settings: Settings) -> ControlOptions:
        """What `settings` ask for."""
        names = settings.load_at_start.strip()
        return cls(
            mode=settings.model_control,
            policy=VersionPolicy(latest=1 if settings.version_policy == "latest" else None),
            load_at_start=None
            if names == "*"
            else frozenset(name.strip() for name in names.split(",") if name.strip()),
            poll_s=settings.poll_s,
        )


@dataclass(frozen=True)
class _Version:
    """A version of a model as it was last looked at; `placement` is set while it serves.

    One that is quarantined has ended processes, and is not loaded again by itself.
    """

    state: State
    seen: str = ""
    reason: str = ""
    placement: Placement | None = None
    quarantined: bool = False


_UNWANTED = _Version("UNAVAILABLE", reason=_NOT_LOADED)


class Controller:
    """Decides what serves.

    Args:
        folder: of the models.
        options: how they are controlled.
        trial: tries bundles elsewhere first; None = replicas load them untried.
        replicas: how many must have joined before the server is ready.
    """

    def __init__(self, folder: Path, options: ControlOptions, *, trial: Trial | None, replicas: int = 1) -> None:
        self._folder = folder
        self._options = options
        self._trial = trial
        self._awaited = replicas
        self._replicas: list[Replica] = []
        self._versions: dict[str, dict[int, _Version]] = {}
        self._policies: dict[str, VersionPolicy] = {}  # of the models asked for
        self._tried: dict[Key, tuple[str, Tuning]] = {}  # by what was seen then: it need not be tried again
        self._published: Listing | None = None
        self._changing = asyncio.Lock()
        self._started = False
        self._ready = False
        self._polling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def discover(self) -> None:
        """Look which models there are; none of them answers yet.

        Raises:
            FileNotFoundError: there is no models folder.
        """
        found = await asyncio.to_thread(scan, self._folder)
        if not found:
            logger.warning("no models under %s", self._folder)
        names = {folder.name for folder in found}
        asked = names
        if self._options.mode == "explicit" and self._options.load_at_start is not None:
            asked = names & self._options.load_at_start
            for name in sorted(self._options.load_at_start - names):
                logger.error("INFERD_LOAD_AT_START: there is no model %r under %s", name, self._folder)
        self._policies = dict.fromkeys(sorted(asked), self._options.policy)
        for folder in found:
            loading = _Version("LOADING", reason=_BEING_LOADED)
            self._list(folder.name, folder.version, loading if folder.name in asked else _UNWANTED)
        await self._publish()

    async def start(self, *, tried: bool) -> None:
        """Load what was discovered; what is refused is logged, and does not stop the others.

        Args:
            tried: whether it goes through the trial, all of it at once; else, where nobody can be harmed yet, each
                model is loaded right here and answers as soon as it is.
        """
        async with self._changing:
            found = await self._find(self._policies)
            for some in [found] if tried else [{name: folders} for name, folders in found.items()]:
                await self._change(some, self._trial if tried else None)
            self._started = True
            await self._publish()
        if self._options.mode == "poll":
            self._polling = asyncio.create_task(self._poll())

    async def close(self) -> None:
        """Change nothing any more."""
        running = [*self._tasks, *([self._polling] if self._polling else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def join(self, replica: Replica) -> None:
        """Bring a new replica to where the others are; from then on it takes part in every change.

        Where there are no others, what it can't load serves no longer: its folder may have changed since others loaded
        it, and the rest must not go down with it.

        Raises:
            InferdError: it can't load what the others serve.
            ConnectionError: it is gone.
        """
        await replica.publish(Listing(tuple(map(_not_yet, self.listing().entries))))
        async with self._changing:
            placements = self._placements()
            outcomes = await replica.prepare(placements)
            refused = {one.key: error for one, error in zip(placements, outcomes, strict=True) if error}
            if refused and self._replicas:
                raise refused[min(refused)]
            await replica.commit([one.key for one in placements if one.key not in refused], [])
            for key, error in refused.items():
                logger.error("model %s version %d serves no longer: %s", *key, error)
                self._list(*key, _Version("UNAVAILABLE", self._get(*key).seen, str(error)))
            self._replicas.append(replica)
            self._published = None  # the new one was told something else
            await self._publish()

    def leave(self, replica: Replica) -> None:
        """Forget a replica that has ended, if it ever joined."""
        if replica in self._replicas:
            self._replicas.remove(replica)

    async def quarantine(self, key: Key, reason: str) -> None:
        """Have a version that serves answer nobody any more, as it does harm.

        It is loaded again when its folder changes, if that is looked at, or when somebody calls for it.
        """
        async with self._changing:
            one = self._get(*key)
            if not one.placement:
                return
            logger.error("model %s version %d is quarantined: %s", *key, reason)
            self._tried.pop(key, None)
            self._list(*key, _Version("UNAVAILABLE", one.seen, f"quarantined: {reason}", quarantined=True))
            await self._switch([], [key])
            await self._publish()

    def count_quarantined(self) -> int:
        """How many versions are quarantined."""
        return sum(one.quarantined for versions in self._versions.values() for one in versions.values())

    def listing(self) -> Listing:
        """The index as it stands, by name and version."""
        entries = tuple(
            Listed(name, version, one.state, one.reason)
            for name, versions in sorted(self._versions.items())
            for version, one in sorted(versions.items())
        )
        return Listing(entries, self._ready)

    async def index(self) -> list[Listed]:
        """See `Control.index`. What lies in the folder and was never asked for is in it too."""
        entries = list(self.listing().entries)
        if self._options.mode == "explicit":
            found = {(one.name, one.version) for one in await self._scan()}
            known = {(one.name, one.version) for one in entries}
            entries = [one for one in entries if one.state != "UNAVAILABLE" or (one.name, one.version) in found]
            entries += [Listed(*key, "UNAVAILABLE", _NOT_LOADED) for key in found - known]
        return sorted(entries, key=lambda one: (one.name, one.version))

    async def load(self, name: str, policy: VersionPolicy | None) -> None:
        """See `Control.load`."""
        self._must_be_explicit()
        await self._finish(self._load(name, policy or self._options.policy))

    async def unload(self, name: str) -> None:
        """See `Control.unload`."""
        self._must_be_explicit()
        await self._finish(self._unload(name))

    async def _load(self, name: str, policy: VersionPolicy) -> None:
        async with self._changing:
            found = await self._find([name])
            there = [folder.version for folder in found[name]]
            if not there and name not in self._versions:
                raise NotFound(f"there is no model {name!r} in the models folder")
            if missing := sorted(set(policy.specific or ()) - set(there)):
                raise NotFound(f"model {name!r} has no version {missing[0]}; versions: {_join(there)}")
            if not policy.choose(there):
                raise NotFound(f"model {name!r} has no version in the models folder")
            self._policies[name] = policy
            self._forget_refusals(name)
            refused = await self._change(found, self._trial)
        if refused:
            raise refused[min(refused)]

    async def _unload(self, name: str) -> None:
        async with self._changing:
            there = {folder.version for folder in (await self._find([name]))[name]}
            if not there and name not in self._versions:
                raise NotFound(f"there is no model {name!r} in the models folder")
            self._policies.pop(name, None)
            serving = [(name, version) for version in sorted(self._serving(name))]
            await self._switch([], serving)
            self._settle(name, there, set(), serving)
            await self._publish()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._options.poll_s)
            try:
                await self._look()
            except Exception:
                logger.exception("looking for changed models failed; what serves goes on")

    async def _look(self) -> None:
        """Follow the folder once; between two models there is time for a replica that wants to join."""
        found: dict[str, list[BundleFolder]] = {name: [] for name in self._versions}
        for folder in await self._scan():
            found.setdefault(folder.name, []).append(folder)
        for name, folders in sorted(found.items()):
            async with self._changing:
                self._policies.setdefault(name, self._options.policy)
                await self._change({name: folders}, self._trial)

    async def _change(self, found: Mapping[str, Sequence[BundleFolder]], trial: Trial | None) -> dict[Key, InferdError]:
        """Bring models to what was found in their folders and to what their policies say, in one switch.

        Returns:
            What was refused, and why.
        """
        there = {name: {folder.version for folder in folders} for name, folders in found.items()}
        wanted = {name: set(self._policies[name].choose(sorted(there[name]))) for name in found}
        news: dict[Key, tuple[BundleFolder, str]] = {}
        for name, folders in found.items():
            for folder in folders:
                if folder.version in wanted[name]:
                    seen = await asyncio.to_thread(fingerprint, folder.path)
                    if self._get(name, folder.version).seen != seen:
                        news[name, folder.version] = (folder, seen)
        placements, refused = await self._prepare(news, trial)
        dropped = [key for name in found for key in self._surplus(name, there[name], wanted[name], placements)]
        if news or dropped:
            await self._switch(list(placements), dropped)

        for key, (_, seen) in news.items():
            if key in refused:
                self._refuse(key, seen, refused[key])
            else:
                self._list(*key, _Version("READY", seen, placement=placements[key]))
        for name in found:
            self._settle(name, there[name], wanted[name], dropped)
        await self._publish()
        return refused

    def _surplus(self, name: str, there: set[int], wanted: set[int], placements: Mapping[Key, Placement]) -> list[Key]:
        """What of `name` is to serve no longer.

        While a version that is wanted is refused, nothing that lies in the folder is taken away for it, and the model
        is not left without a version that serves.
        """
        serving = self._serving(name)
        added = {version for one, version in placements if one == name}
        surplus = serving - wanted
        if wanted - serving - added:
            surplus -= there
            if not (serving | added) - surplus:
                return []
        return [(name, version) for version in sorted(surplus)]

    async def _prepare(
        self, news: Mapping[Key, tuple[BundleFolder, str]], trial: Trial | None
    ) -> tuple[dict[Key, Placement], dict[Key, InferdError]]:
        """Try what is new, have every replica load it, and tell what all of them can serve from what is refused."""
        if not news:
            return {}, {}
        for key in news:
            one = self._get(*key)
            if not one.placement:
                self._list(*key, _Version("LOADING", one.seen, _BEING_LOADED))
        await self._publish()
        outcomes = await self._try(news, trial) if trial else dict.fromkeys(news)
        placements: dict[Key, Placement] = {}
        refused: dict[Key, InferdError] = {}
        for key, outcome in outcomes.items():
            if isinstance(outcome, InferdError):
                refused[key] = outcome
            else:
                placements[key] = Placement(*key, str(news[key][0].path), outcome)
        if placements:
            asked = list(placements.values())
            for answers in await asyncio.gather(
                *(_unless_gone(partial(replica.prepare, asked)) for replica in self._replicas)
            ):
                refused |= {key: error for key, error in zip(placements, answers or (), strict=False) if error}
        return {key: one for key, one in placements.items() if key not in refused}, refused

    async def _try(
        self, news: Mapping[Key, tuple[BundleFolder, str]], trial: Trial
    ) -> Mapping[Key, Tuning | InferdError]:
        """Try what was not tried as it is now."""
        unknown = [key for key, (_, seen) in news.items() if self._tried.get(key, ("",))[0] != seen]
        outcomes = await trial([news[key][0] for key in unknown]) if unknown else []
        for key, outcome in zip(unknown, outcomes, strict=True):
            if isinstance(outcome, InferdError):
                self._tried.pop(key, None)
            else:
                self._tried[key] = (news[key][1], outcome)
        refused = {key: one for key, one in zip(unknown, outcomes, strict=True) if isinstance(one, InferdError)}
        return {key: refused[key] if key in refused else self._tried[key][1] for key in news}

    async def _switch(self, taken: Sequence[Key], dropped: Sequence[Key]) -> None:
        await asyncio.gather(*(_unless_gone(partial(replica.commit, taken, dropped)) for replica in self._replicas))

    def _refuse(self, key: Key, seen: str, error: InferdError) -> None:
        logger.error("model %s version %d is refused: %s", *key, error)
        one = self._get(*key)
        if one.placement:
            reason = f"serves as it was loaded; its folder has changed and is refused: {error}"
            quarantined = isinstance(error, Quarantined)
            self._list(*key, _Version("READY", seen, reason, one.placement, quarantined))
        else:
            quarantined = isinstance(error, Quarantined)
            self._list(*key, _Version("UNAVAILABLE", seen, str(error), quarantined=quarantined))

    def _settle(self, name: str, there: set[int], wanted: set[int], dropped: Sequence[Key]) -> None:
        """List the versions of `name` that don't serve as what they are: gone, refused, or not wanted."""
        for version in there | set(self._versions.get(name, ())):
            if self._get(name, version).placement and (name, version) not in dropped:
                continue
            if version not in there:
                del self._versions[name][version]
                self._tried.pop((name, version), None)
            elif version not in wanted:
                self._list(name, version, _UNWANTED)
        if not self._versions.get(name):
            self._versions.pop(name, None)

    def _forget_refusals(self, name: str) -> None:
        """Try again what was refused, although its folder is as it was: who asks has a reason."""
        for version, one in self._versions.get(name, {}).items():
            if one.state == "UNAVAILABLE" or one.reason:
                self._list(name, version, _Version(one.state, "", one.reason, one.placement))

    async def _scan(self) -> list[BundleFolder]:
        try:
            return await asyncio.to_thread(scan, self._folder)
        except OSError as error:
            raise NotReady(f"the models folder can't be read: {error}") from error

    async def _find(self, names: Iterable[str]) -> dict[str, list[BundleFolder]]:
        """What lies in the folders of the models called `names`."""
        found: dict[str, list[BundleFolder]] = {name: [] for name in names}
        for folder in await self._scan():
            if folder.name in found:
                found[folder.name].append(folder)
        return found

    async def _publish(self) -> None:
        """Tell every replica how things stand, unless it knows.

        Once ready, the server stays so, whatever a later change does.
        """
        wanted = [
            one.state
            for name, versions in self._versions.items()
            if name in self._policies
            for one in versions.values()
            if one != _UNWANTED
        ]
        all_joined = len(self._replicas) >= self._awaited
        if self._started and all_joined and all(state == "READY" for state in wanted):
            self._ready = True
        listing = self.listing()
        if listing != self._published:
            self._published = listing
            await asyncio.gather(*(_unless_gone(partial(replica.publish, listing)) for replica in self._replicas))

    def _placements(self) -> list[Placement]:
        return [one.placement for versions in self._versions.values() for one in versions.values() if one.placement]

    def _serving(self, name: str) -> set[int]:
        return {version for version, one in self._versions.get(name, {}).items() if one.placement}

    def _get(self, name: str, version: int) -> _Version:
        return self._versions.get(name, {}).get(version) or _Version("UNAVAILABLE")

    def _list(self, name: str, version: int, one: _Version) -> None:
        self._versions.setdefault(name, {})[version] = one

    def _must_be_explicit(self) -> None:
        if self._options.mode != "explicit":
            raise Forbidden(
                f"models are loaded and unloaded by calls only with INFERD_MODEL_CONTROL=explicit; "
                f"it is {self._options.mode}"
            )

    async def _finish(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change to its end, even if who asked for it goes away meanwhile."""
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


async def _unless_gone(call: Callable[[], Awaitable[T]]) -> T | None:
    """Call a replica; one that is gone has no say, and the one that comes in its place will join."""
    try:
        return await call()
    except ConnectionError as error:
        logger.warning("a worker went away during a change: %s", error)
        return None


def _not_yet(one: Listed) -> Listed:
    """What a replica is told of a version that serves, while it has not loaded it itself."""
    return msgspec.structs.replace(one, state="LOADING", reason=_BEING_LOADED) if one.state == "READY" else one


def _join(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
