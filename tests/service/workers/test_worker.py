"""A worker's models as the supervisor sees them, and the server as a worker sees it: both ends of a real channel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.errors import BundleRefused, NotFound, NotReady
from service.metrics import Metrics
from service.repository.bundle import LoadOptions
from service.repository.control import Listed, Listing, VersionPolicy
from service.repository.placement import Placement, Tuning
from service.repository.repository import QueueLimits, Repository
from service.repository.statistics import Duration, VersionStatistics
from service.snapshots import snapshot
from service.tasks.base import TaskLimits
from service.threads import BoundedThreads
from service.workers import remote
from service.workers.channel import Channel, ChannelClosed, Handler
from service.workers.remote import RemoteControl, RemoteReplica
from service.workers.worker import handlers
from tests import virtual_clock
from tests.bundles import golden_inputs, make_bundle, truncate
from tests.service.workers.channels import connected


@dataclass
class Worker:
    """A worker without a process."""

    repository: Repository
    metrics: Metrics
    channel: Channel
    said: list[str] = field(default_factory=list)


@asynccontextmanager
async def worker_and_replica(**changes: Handler) -> AsyncIterator[tuple[Worker, RemoteReplica]]:
    metrics = Metrics("1")
    repository = Repository(
        options=LoadOptions(("CPUExecutionProvider",), 1, 64, TaskLimits(max_pixels=10_000)),
        queue=QueueLimits(max_s=10.0, max_rows=1000),
        metrics=metrics,
        decoding=BoundedThreads(1, max_pending=8, name="decode"),
        let_go_s=10.0,
    )
    said: list[str] = []

    async def accept() -> None:
        said.append("accept")

    methods = handlers(repository, metrics, accept=accept, stop=lambda: said.append("stop"))
    async with connected({}, {**methods, **changes}) as (here, there):
        yield Worker(repository, metrics, there, said), RemoteReplica(here, load_timeout_s=60.0)
        await repository.close()


def placement(bundle: Path) -> Placement:
    return Placement(bundle.parent.name, int(bundle.name), str(bundle), Tuning())


def test_a_worker_answers_all_that_its_replica_asks(models: Path) -> None:
    first, second = make_bundle(models, version=1), make_bundle(models, version=2)
    inputs = golden_inputs()

    async def scenario() -> None:
        async with worker_and_replica() as (worker, replica):
            await replica.started()
            truncate(second / "model.onnx")
            outcomes = await replica.prepare([placement(first), placement(second)])
            assert outcomes[0] is None
            assert type(outcomes[1]) is BundleRefused
            assert outcomes[1].file == "model.onnx"
            assert worker.repository.versions("tiny") == []
            await replica.commit([("tiny", 1)], [])
            assert worker.repository.versions("tiny") == [1]

            listing = Listing((Listed("tiny", 1, "READY"),), ready=True)
            await replica.publish(listing)
            assert worker.repository.entries() == listing.entries
            assert worker.repository.is_ready

            model = worker.repository.get("tiny")
            with model.measured():
                model.observe(await model.submit({"image": inputs}))
            metrics, statistics = await replica.measure()
            assert metrics == snapshot(worker.metrics.registry)
            assert statistics == worker.repository.statistics()
            assert (statistics[0].inference_count, statistics[0].execution_count) == (len(inputs), 1)

            await replica.commit([], [("tiny", 1)])
            assert worker.repository.versions("tiny") == []
            await replica.accept()
            await replica.drain()
            assert worker.repository.is_draining
            await replica.stop()
            assert worker.said == ["accept", "stop"]

    asyncio.run(scenario())


async def hang() -> None:
    await asyncio.Event().wait()


async def crash() -> None:
    raise LookupError("a defect")


def test_a_worker_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_QUICK_S", 0.01)

    async def scenario() -> None:
        async with worker_and_replica(drain=hang) as (worker, replica):
            with pytest.raises(ChannelClosed, match="has not answered 'drain'"):
                await replica.drain()
            with pytest.raises(ChannelClosed, match="is gone"):
                await replica.accept()
            assert worker.said == []

    asyncio.run(scenario())


def test_a_worker_that_fails_a_change_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with worker_and_replica() as (_, replica):
            with pytest.raises(ChannelClosed, match="the worker is given up: the control call 'commit' failed"):
                await replica.commit([("never", 1)], [])  # it was not prepared
            with pytest.raises(ChannelClosed, match="is gone"):
                await replica.publish(Listing())

    asyncio.run(scenario())
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == [
        "the control call 'commit' failed"
    ]


@pytest.mark.parametrize("measure", [hang, crash])
def test_a_worker_that_does_not_tell_its_figures_is_not_given_up(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MEASURE_S", 0.01)

    async def scenario() -> None:
        async with worker_and_replica(measure=measure) as (worker, replica):
            with pytest.raises(ConnectionError):
                await replica.measure()
            await replica.accept()
            assert worker.said == ["accept"]

    asyncio.run(scenario())


# Whether it hangs


@asynccontextmanager
async def watched(started: Handler, **others: Handler) -> AsyncIterator[tuple[RemoteReplica, asyncio.Task[None]]]:
    """A replica that is taken to hang after 20 seconds, and what returns then."""
    async with connected({}, {"started": started, **others}) as (here, _):
        replica = RemoteReplica(here, load_timeout_s=300.0)
        silent = asyncio.create_task(replica.until_silent(20.0))
        yield replica, silent
        silent.cancel()


def test_a_worker_is_silent_once_it_has_missed_two_calls_on_end() -> None:
    async def scenario() -> None:
        async with watched(hang) as (_, silent):
            await asyncio.sleep(19.9)
            assert not silent.done()
            await asyncio.sleep(4.2)
            assert silent.done()

    virtual_clock.run(scenario())


@pytest.mark.parametrize("times", [(9.9, 9.9), (0.0, 30.0)], ids=["slow", "misses every other call"])
def test_a_worker_that_answers_now_and_then_is_not_silent(times: tuple[float, float]) -> None:
    calls = 0

    async def answers_in_time() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(times[calls % 2])

    async def scenario() -> None:
        async with watched(answers_in_time) as (_, silent):
            await asyncio.sleep(50.0)
            assert not silent.done()
            assert calls > 3

    virtual_clock.run(scenario())


def test_a_worker_that_loads_may_be_silent() -> None:
    loading = False

    async def prepare(placements: list[Placement]) -> list[None]:
        nonlocal loading
        loading = True
        await asyncio.sleep(55.0)
        loading = False
        return [None] * len(placements)

    async def answers_unless_it_loads() -> None:
        if loading:
            await hang()

    async def scenario() -> None:
        async with watched(answers_unless_it_loads, prepare=prepare) as (replica, silent):
            assert await replica.prepare([Placement("a", 1, "/nowhere")]) == [None]
            await asyncio.sleep(1.0)
            assert not silent.done()

    virtual_clock.run(scenario())


def test_the_time_to_load_grows_with_what_is_to_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_QUICK_S", 0.0)

    async def slow(placements: list[Placement]) -> list[None]:
        await asyncio.sleep(0.2)
        return [None] * len(placements)

    async def scenario() -> None:
        async with connected({}, {"prepare": slow}) as (here, _):
            replica = RemoteReplica(here, load_timeout_s=0.15)
            asked = [Placement("a", version, "/nowhere") for version in range(10)]
            assert await replica.prepare(asked) == [None] * 10
            with pytest.raises(ChannelClosed):
                await replica.prepare(asked[:1])

    asyncio.run(scenario())


# The server as a worker sees it


class Supervisor:
    """Answers what a worker may ask."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.listed = [Listed("a", 1, "READY"), Listed("a", 2, "UNAVAILABLE", "is broken")]
        self.counted = [VersionStatistics("a", 1, success=Duration(1, 2))]

    def handlers(self) -> dict[str, Handler]:
        async def index() -> list[Listed]:
            return self.listed

        async def load(name: str, policy: VersionPolicy | None) -> None:
            self.asked.append((name, policy))
            if name == "lost":
                raise NotFound("there is no model 'lost'")

        async def unload(name: str) -> None:
            self.asked.append(name)

        async def statistics() -> list[VersionStatistics]:
            return self.counted

        async def metrics() -> bytes:
            return b"inferd_build_info 1.0\n"

        return {"index": index, "load": load, "unload": unload, "statistics": statistics, "metrics": metrics}


def test_a_worker_controls_the_server_through_its_supervisor() -> None:
    async def scenario() -> None:
        supervisor = Supervisor()
        async with connected({}, supervisor.handlers()) as (here, _):
            control = RemoteControl(here, load_timeout_s=60.0)
            assert await control.index() == supervisor.listed
            await control.load("a", None)
            await control.load("a", VersionPolicy(specific=(1, 2)))
            await control.load("a", VersionPolicy(latest=3))
            with pytest.raises(NotFound, match="there is no model 'lost'"):
                await control.load("lost", None)
            await control.unload("a")
            assert supervisor.asked == [
                ("a", None),
                ("a", VersionPolicy(specific=(1, 2))),
                ("a", VersionPolicy(latest=3)),
                ("lost", None),
                "a",
            ]
            assert await control.statistics() == supervisor.counted
            assert await control.render_metrics() == b"inferd_build_info 1.0\n"

    asyncio.run(scenario())


def test_without_a_supervisor_the_server_is_not_ready_to_be_controlled() -> None:
    async def scenario() -> None:
        async with connected({}, {"index": hang}) as (here, there):
            control = RemoteControl(here, load_timeout_s=60.0)
            waiting = asyncio.create_task(control.index())
            await asyncio.sleep(0.01)
            there.close()
            with pytest.raises(NotReady, match="what controls the server can't be reached: the other process is gone"):
                await waiting
            calls = (control.load("a", None), control.unload("a"), control.statistics(), control.render_metrics())
            for call in calls:
                with pytest.raises(NotReady):
                    await call

    asyncio.run(scenario())
