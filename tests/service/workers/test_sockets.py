from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from service.workers import sockets
from service.workers.counts import Counts, make_counts
from service.workers.sockets import Acceptor, listen, reserve, url_of

PATIENT_S = 20.0
LOOPBACKS = ("127.0.0.1", "127.0.0.2")


@contextmanager
def listening(host: str = "127.0.0.1", port: int = 0) -> Iterator[list[socket.socket]]:
    with ExitStack() as resources:
        yield [resources.enter_context(one) for one in listen(host, port)]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Have every name stand for these addresses."""

    def resolved(_: object, port: int, **others: object) -> list[object]:
        known = [
            (socket.AF_INET6, (host, port, 0, 0)) if ":" in host else (socket.AF_INET, (host, port)) for host in hosts
        ]
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in known]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# Listening


def test_a_free_port_is_taken_and_told() -> None:
    with listening() as (listener,):
        port = listener.getsockname()[1]
        assert port > 0
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port), PATIENT_S):
            pass


def test_all_addresses_of_a_name_share_a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, *LOOPBACKS, LOOPBACKS[0])
    with listening("a-name") as listeners:
        assert [one.getsockname()[0] for one in listeners] == list(LOOPBACKS)
        assert len({one.getsockname()[1] for one in listeners}) == 1


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_an_address_of_ipv6_is_written_in_brackets() -> None:
    try:
        (listener,) = listen("::1", 0)
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_an_empty_host_stands_for_every_address() -> None:
    with listening("") as listeners:
        assert "0.0.0.0" in {one.getsockname()[0] for one in listeners}
        assert len({one.getsockname()[1] for one in listeners}) == 1


def test_a_port_that_is_taken_is_named_with_its_address() -> None:
    with listening() as (taken,):
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"can't listen on 127\.0\.0\.1 port {port}: Address already in use$"):
            listen("127.0.0.1", port)


def test_where_one_address_is_taken_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACKS[1], 0)) as taken:
        port = taken.getsockname()[1]
        resolve_to(monkeypatch, *LOOPBACKS)
        with pytest.raises(OSError, match=rf"can't listen on 127\.0\.0\.2 port {port}"):
            listen("a-name", port)
        socket.create_server((LOOPBACKS[0], port)).close()  # it is free again


def test_an_address_of_a_name_that_this_machine_has_not_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # 192.0.2.0/24 and 2001:db8::/32 are for documentation: no machine has them.
    resolve_to(monkeypatch, "2001:db8::1", "127.0.0.1", "192.0.2.1")
    with listening("a-name") as (listener,):
        assert listener.getsockname()[0] == "127.0.0.1"


def test_where_this_machine_has_none_of_the_addresses_the_first_is_named() -> None:
    with pytest.raises(OSError, match=r"can't listen on 192\.0\.2\.1 port 0: Cannot assign requested address$"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("bind", [listen, reserve])
def test_a_name_that_nobody_knows_is_named(bind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="can't find the address of 'nobody': Name or service not known"):
        bind("nobody", 1)  # type: ignore[operator]


# Reserving


def test_a_reserved_port_is_held_for_those_who_share_it() -> None:
    with reserve("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use"):
            socket.create_server(("127.0.0.1", port))
        with socket.socket() as one, socket.socket() as other:
            for sharing in (one, other):
                sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sharing.bind(("127.0.0.1", port))
                sharing.listen()
            with socket.create_connection(("127.0.0.1", port), PATIENT_S):
                pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENT_S)


def test_a_port_that_can_not_be_reserved_is_named_with_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"can't bind 127\.0\.0\.1 port {port}: Address already in use$"):
            reserve("127.0.0.1", port)


# Taking connections


class Echo(asyncio.Protocol):
    """Answers with its name."""

    def __init__(self, name: str, met: list[str]) -> None:
        self._name = name
        self._met = met

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._met.append(self._name)
        transport.write(self._name.encode())
        transport.close()


def acceptor_of(listeners: Sequence[socket.socket], name: str, met: list[str]) -> Acceptor:
    return Acceptor(listeners, lambda: Echo(name, met))


async def who_answers(listener: socket.socket) -> str:
    async with asyncio.timeout(PATIENT_S):
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        try:
            return (await reader.read()).decode()
        finally:
            writer.close()


def test_two_acceptors_share_what_comes_to_their_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, *LOOPBACKS)

    async def scenario(shared: list[socket.socket], copies: list[socket.socket]) -> None:
        met: list[str] = []
        first, second = acceptor_of(shared, "first", met), acceptor_of(copies, "second", met)
        first.start()
        for listener in shared:
            assert await who_answers(listener) == "first"
        second.start()
        answers = await asyncio.gather(*(who_answers(listener) for listener in shared * 50))
        assert sorted(answers) == sorted(met[2:])
        assert set(answers) == {"first", "second"}
        first.stop()
        assert {await who_answers(listener) for listener in shared * 5} == {"second"}
        second.stop()

    with listening("a-name") as shared, ExitStack() as resources:
        # As another process has them: descriptors of its own, of the same sockets.
        copies = [resources.enter_context(one.dup()) for one in shared]
        monkeypatch.undo()
        asyncio.run(scenario(shared, copies))


class Kept(asyncio.Protocol):
    """Keeps its connection, and a place among those that are open."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._keeper.opened.append(self)
        self._keeper.changed.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._keeper.opened.remove(self)
        self._keeper.changed.set()

    def close(self) -> None:
        self._transport.close()


class Keeper:
    """An acceptor that keeps what it takes, beside others that see how much that is."""

    def __init__(self, listener: socket.socket, counts: Counts, changed: asyncio.Event) -> None:
        self.opened: list[Kept] = []
        self.counts = counts
        self.changed = changed
        self.acceptor = Acceptor(
            [listener], lambda: Kept(self), open_connections=lambda: len(self.opened), counts=counts
        )


class Keepers:
    """So many, each with a descriptor of its own, as another process has it; to be used in an event loop."""

    def __init__(self, listener: socket.socket, count: int, resources: ExitStack) -> None:
        descriptor = make_counts(count)
        resources.callback(os.close, descriptor)
        self._resources = resources
        self._address = listener.getsockname()[:2]
        self._changed = asyncio.Event()
        self.all = [
            Keeper(resources.enter_context(listener.dup()), Counts(descriptor, place), self._changed)
            for place in range(count)
        ]

    @property
    def opened(self) -> list[int]:
        return [len(one.opened) for one in self.all]

    async def connect(self, count: int) -> None:
        """Open so many connections, and wait until all are taken."""
        expected = count + sum(self.opened)
        for _ in range(count):  # the kernel completes them, whoever takes them later
            self._resources.enter_context(socket.create_connection(self._address, PATIENT_S))
            await asyncio.sleep(0)
        await self._until(expected)

    async def drop(self, kept: Sequence[Kept]) -> None:
        """Close connections, and wait until they are gone."""
        expected = sum(self.opened) - len(kept)
        for one in list(kept):
            one.close()
        await self._until(expected)

    async def end(self) -> None:
        """Take nothing more, and close what is open."""
        for one in self.all:
            one.acceptor.stop()
        await self.drop([kept for one in self.all for kept in one.opened])

    async def _until(self, expected: int) -> None:
        async with asyncio.timeout(PATIENT_S):
            while sum(self.opened) != expected:
                self._changed.clear()
                await self._changed.wait()


def keeping(count: int, scenario: Callable[[Keepers], Coroutine[object, object, None]]) -> None:
    """Run a scenario with so many acceptors at one listener, none of them started."""

    async def main(listener: socket.socket, resources: ExitStack) -> None:
        keepers = Keepers(listener, count, resources)
        await scenario(keepers)
        await keepers.end()

    with listening() as (listener,), ExitStack() as resources:
        asyncio.run(main(listener, resources))
    gc.collect()


def test_connections_that_are_kept_are_spread_evenly() -> None:
    async def scenario(keepers: Keepers) -> None:
        for one in keepers.all:
            one.acceptor.start()
        await keepers.connect(60)
        assert sum(keepers.opened) == 60
        assert (
            max(keepers.opened) - min(keepers.opened) <= 4
        )  # a lead of a sixteenth is none, and counts are a moment old
        # Whoever has lost his, and said so, gets the next; unless it takes so long to take them that others do.
        await keepers.drop(keepers.all[1].opened)
        keepers.all[1].counts.put(0)
        await keepers.connect(15)
        assert keepers.opened[1] >= 8

    keeping(3, scenario)


def test_connections_that_are_not_kept_are_taken_in_turns() -> None:
    async def scenario(keepers: Keepers) -> None:
        one, other = keepers.all
        for each in keepers.all:
            each.acceptor.start()
        taken = []
        for _ in range(12):
            await keepers.connect(1)
            taken.append(one if one.opened else other)
            await keepers.drop([*one.opened, *other.opened])
        assert {taken.count(one), taken.count(other)} in ({6}, {5, 7})

    keeping(2, scenario)


def test_a_connection_that_others_do_not_take_is_not_left_waiting() -> None:
    async def scenario(keepers: Keepers) -> None:
        one, other = keepers.all
        other.counts.put(0)  # it hangs, say
        one.acceptor.start()
        await keepers.connect(3)
        assert keepers.opened == [3, 0]

    keeping(2, scenario)


@pytest.mark.parametrize(("remembered_s", "patience_s"), [(60.0, 0.0025), (0.0, 0.01)], ids=["just now", "long ago"])
def test_others_are_given_less_time_if_they_took_none_just_now(
    monkeypatch: pytest.MonkeyPatch, remembered_s: float, patience_s: float
) -> None:
    monkeypatch.setattr("service.workers.sockets._BUSY_FOR_S", remembered_s)

    async def scenario(keepers: Keepers) -> None:
        one, other = keepers.all
        other.counts.put(0)  # it hangs, say
        one.acceptor.start()
        for _ in range(4):  # the first of them is taken at once
            await keepers.connect(1)
        (yielding,) = one.acceptor._yielding.values()
        assert yielding.patience_s == patience_s

    keeping(2, scenario)


def test_who_stops_leaves_its_share_to_others() -> None:
    async def scenario(keepers: Keepers) -> None:
        one, other = keepers.all
        one.acceptor.start()
        other.counts.put(1)
        assert other.counts.is_ahead()
        one.acceptor.stop()
        assert not other.counts.is_ahead()
        other.acceptor.start()
        await keepers.connect(2)
        assert keepers.opened == [0, 2]

    keeping(2, scenario)


def test_who_stops_leaves_what_waits_to_others() -> None:
    async def scenario(listener: socket.socket) -> None:
        met: list[str] = []
        stopping = acceptor_of([listener], "stopping", met)
        stopping.start()
        assert await who_answers(listener) == "stopping"
        stopping.stop()
        waiting = [asyncio.create_task(who_answers(listener)) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in waiting)
        assert met == ["stopping"]
        taking = acceptor_of([listener], "taking", met)
        taking.start()
        assert await asyncio.gather(*waiting) == ["taking"] * 5
        taking.stop()
        assert listener.fileno() >= 0, "the listeners stay open"

    with listening() as (listener,):
        asyncio.run(scenario(listener))


def test_nothing_is_taken_before_the_start_and_stopping_twice_does_no_harm() -> None:
    async def scenario(listener: socket.socket) -> None:
        met: list[str] = []
        acceptor = acceptor_of([listener], "it", met)
        waiting = asyncio.create_task(who_answers(listener))
        await asyncio.sleep(0.05)
        assert met == []
        acceptor.start()
        assert await waiting == "it"
        acceptor.stop()
        acceptor.stop()
        acceptor.start()  # the end was quicker
        waiting = asyncio.create_task(who_answers(listener))
        await asyncio.sleep(0.05)
        assert met == ["it"]
        waiting.cancel()
        await asyncio.wait([waiting])

    with listening() as (listener,):
        asyncio.run(scenario(listener))


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let this process open no further file, socket or anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("stops", [False, True])
def test_where_no_more_files_can_be_opened_there_is_a_pause_and_then_it_goes_on(
    stops: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sockets, "_NO_MORE_FILES_S", 0.1)

    async def scenario(listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        met: list[str] = []
        acceptor = acceptor_of([listener], "it", met)
        acceptor.start()
        with socket.socket() as client:
            client.setblocking(False)
            with no_more_files():
                await loop.sock_connect(client, listener.getsockname())
                await asyncio.sleep(0.25)
                assert met == []
                assert 1 <= len(caplog.records) <= 4, "it does not try again and again"
                if stops:
                    acceptor.stop()
            if stops:
                await asyncio.sleep(0.2)
                assert met == []
                return
            async with asyncio.timeout(PATIENT_S):
                assert await loop.sock_recv(client, 10) == b"it"
            acceptor.stop()

    with listening() as (listener,):
        asyncio.run(scenario(listener))
    assert {one.levelno for one in caplog.records} == {logging.ERROR}
    assert {one.getMessage() for one in caplog.records} == {"a connection can't be taken: Too many open files"}
