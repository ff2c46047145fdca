"""Whatever happens to the folder and to the replicas, in whatever order: what serves is the same everywhere, was good
when it was loaded, and is lost only if somebody wants it gone."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.errors import InferdError, RuntimeFailure
from service.repository.control import VersionPolicy
from service.repository.controller import Controller, ControlOptions
from service.repository.placement import Key
from tests.service.repository.replicas import MemoryReplica, MemoryTrial, Shelf
from tests.virtual_clock import VirtualClockLoop

T = TypeVar("T")

NAMES = ("a", "b")
names = st.sampled_from(NAMES)
versions = st.integers(1, 3)
policies = st.sampled_from([VersionPolicy(), VersionPolicy(latest=1), VersionPolicy(latest=2)])
specific = st.sets(versions, min_size=1, max_size=3).map(lambda some: VersionPolicy(specific=tuple(sorted(some))))
bundles = st.tuples(names, versions, st.booleans())

POLL_S = 5.0


class Server(RuleBasedStateMachine):
    """A controller with its replicas, a folder that changes under it, and what is known of both."""

    def __init__(self, template: Path, mode: Literal["poll", "explicit"]) -> None:
        super().__init__()
        self.mode = mode
        self.root = Path(tempfile.mkdtemp())
        self.shelf = Shelf(self.root, template)
        self.runner = asyncio.Runner(loop_factory=VirtualClockLoop)
        self.numbers = itertools.count()
        self.good: set[tuple[str, int, str]] = set()
        self.live: list[MemoryReplica] = []
        self.policies: dict[str, VersionPolicy] = {}
        self.known: dict[Key, str] = {}
        """What serves, or would if there were a replica."""

    def teardown(self) -> None:
        if hasattr(self, "controller"):
            self.run(self.controller.close())
        self.runner.close()
        shutil.rmtree(self.root)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def in_time() -> T:
            async with asyncio.timeout(100):
                return await work

        return self.runner.run(in_time())

    # What happens

    @initialize(policy=policies, there=st.lists(bundles, max_size=4), replicas=st.integers(1, 3))
    def begin(self, policy: VersionPolicy, there: list[tuple[str, int, bool]], replicas: int) -> None:
        for name, version, broken in there:
            self._put(name, version, broken=broken)
        self.options = ControlOptions(self.mode, policy, poll_s=POLL_S)

        async def start() -> None:
            self.controller = Controller(self.root, self.options, trial=MemoryTrial(), replicas=replicas)
            await self.controller.discover()
            await self.controller.start(tried=True)
            for _ in range(replicas):
                self.live.append(MemoryReplica())
                await self.controller.join(self.live[-1])

        self.run(start())
        self.policies = dict.fromkeys(NAMES, policy)
        self.known = dict(self.live[0].serving)
        for name in NAMES:
            self._check_that_good_ones_serve(name)

    @rule(name=names, version=versions, broken=st.booleans())
    def put(self, name: str, version: int, broken: bool) -> None:
        with self.nothing_changes():
            self._put(name, version, broken=broken)

    @precondition(lambda self: self.known)
    @rule(number=st.integers(0, 5))
    def damage(self, number: int) -> None:
        keys = sorted(self.known)
        self.put(*keys[number % len(keys)], broken=True)

    @rule(name=names, version=versions)
    def remove(self, name: str, version: int) -> None:
        with self.nothing_changes():
            self.shelf.remove(name, version)

    @precondition(lambda self: self.mode == "explicit")
    @rule(name=names, policy=st.none() | policies | specific)
    def load(self, name: str, policy: VersionPolicy | None) -> None:
        there = self.shelf.versions(name)
        wanted = set((policy or self.options.policy).choose(there))
        broken = {version for version in wanted if self.shelf.title(name, version) is None}
        missing = set((policy and policy.specific) or ()) - set(there)
        try:
            self.run(self.controller.load(name, policy))
            assert wanted
            assert not broken | missing
        except InferdError:
            assert broken or missing or not wanted
        if wanted and not missing:
            self.policies[name] = policy or self.options.policy
            self._check_that_good_ones_serve(name)
            self._check_what_is_lost([name])
        self.reap()

    @precondition(lambda self: self.mode == "explicit" and self.live)
    @rule(name=names, policy=policies, which=st.integers(0, 2), version=versions)
    def load_where_memory_is_short(self, name: str, policy: VersionPolicy, which: int, version: int) -> None:
        refusing = self.live[which % len(self.live)]
        refusing.refuses[name, version] = RuntimeFailure("no memory is left")
        with suppress(InferdError):
            self.run(self.controller.load(name, policy))
        refusing.refuses.clear()
        if self.shelf.versions(name):
            self.policies[name] = policy
            self._check_what_is_lost([name])
        self.reap()

    @precondition(lambda self: self.mode == "explicit")
    @rule(name=names)
    def unload(self, name: str) -> None:
        try:
            self.run(self.controller.unload(name))
        except InferdError:
            assert not self.shelf.versions(name)
        expected = {key for key in self.known if key[0] != name}
        self.reap()
        assert self._serving() == expected

    @precondition(lambda self: self.mode == "poll")
    @rule()
    def look(self) -> None:
        self.run(asyncio.sleep(POLL_S + 0.1))
        for name in NAMES:
            self._check_that_good_ones_serve(name)
        self._check_what_is_lost(NAMES)
        self.reap()
        assert all(replica.serving == self.known for replica in self.live), "not the same content"

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 2), step=st.sampled_from(["prepare", "commit", "publish", "now"]))
    def kill(self, which: int, step: str) -> None:
        victim = self.live[which % len(self.live)]
        with self.nothing_changes():
            if step == "now":
                victim.gone = True
                self.reap()
            else:
                victim.dies_at = step

    @precondition(lambda self: self.live)
    @rule()
    def kill_all(self) -> None:
        with self.nothing_changes():
            for victim in self.live:
                victim.gone = True
            self.reap()

    @precondition(lambda self: len(self.live) < 3)
    @rule()
    def join(self) -> None:
        # One that is about to die may still be there when another joins; the supervisor tells of deaths later.
        others = bool(self.live)
        unloadable = {key for key in self.known if self.shelf.title(*key) is None}
        replica = MemoryReplica()
        try:
            self.run(self.controller.join(replica))
        except InferdError:
            assert others
            assert unloadable
            return
        assert not (others and unloadable)
        self.live.append(replica)
        assert set(self.known) - self._serving() == unloadable
        self.known = dict(replica.serving)
        self.reap()

    # What holds all the while

    @invariant()
    def all_replicas_serve_the_same(self) -> None:
        for replica in self.live:
            if not replica.gone:
                assert set(replica.serving) == self._serving()
                assert replica.listing == self.controller.listing()
                assert replica.prepared == {}

    @invariant()
    def what_serves_was_good(self) -> None:
        assert {(*key, title) for replica in self.live for key, title in replica.serving.items()} <= self.good

    @contextmanager
    def nothing_changes(self) -> Iterator[None]:
        before = self._serving() if hasattr(self, "controller") else set()
        yield
        if hasattr(self, "controller"):
            assert self._serving() == before

    def reap(self) -> None:
        """Take note of replicas that went away, as a supervisor does, and of what serves now."""
        for replica in self.live:
            if replica.gone:
                self.controller.leave(replica)
        self.live = [replica for replica in self.live if not replica.gone]
        self.known = {key: self.known.get(key, "") for key in self._serving()}
        if self.live:
            self.known = dict(self.live[0].serving)

    def _serving(self) -> set[Key]:
        return {(one.name, one.version) for one in self.controller.listing().entries if one.state == "READY"}

    def _put(self, name: str, version: int, *, broken: bool) -> None:
        title = f"title {next(self.numbers)}"
        self.shelf.put(name, version, title, broken=broken)
        if not broken:
            self.good.add((name, version, title))

    def _check_that_good_ones_serve(self, name: str) -> None:
        """What lies there, is wanted and is not broken serves, as it lies there."""
        for version in self.policies[name].choose(self.shelf.versions(name)):
            if title := self.shelf.title(name, version):
                assert (name, version) in self._serving()
                assert all(one.serving[name, version] == title for one in self.live if not one.gone)

    def _check_what_is_lost(self, looked_at: tuple[str, ...] | list[str]) -> None:
        """Of what served before, only what is gone or not wanted is lost, and only if that leaves something that is."""
        serving = self._serving()
        for name, version in set(self.known) - serving:
            assert name in looked_at
            there = self.shelf.versions(name)
            wanted = set(self.policies[name].choose(there))
            assert version not in wanted
            if version in there:
                assert {(name, one) for one in wanted} <= serving
            elif wanted:
                assert any(one == name for one, _ in serving)


@pytest.mark.parametrize("mode", ["explicit", "poll"])
def test_histories(template: Path, mode: Literal["poll", "explicit"]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Server(template, mode), settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
