"""The process that owns the listening socket, what is served, and the workers that serve it.

It answers no request itself: it starts the workers, replaces those that end, has all of them change together
(`repository.controller`), adds up what they count, and has them drain at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server

from service.errors import InferdError
from service.repository.control import Listed, VersionPolicy
from service.repository.controller import Controller, ControlOptions
from service.repository.placement import Key
from service.repository.statistics import VersionStatistics
from service.runtime.runs import make_runs, open_runs, take_running
from service.security.usage import make_usage, open_usage
from service.settings import Settings
from service.snapshots import Exposed, Snapshot, render
from service.workers.blame import DEATHS, Blame
from service.workers.channel import Channel
from service.workers.children import describe_end, kill, python
from service.workers.counts import Counts, make_counts
from service.workers.figures import Figures
from service.workers.remote import RemoteReplica
from service.workers.sockets import listen, reserve, url_of
from service.workers.trial import TrialProcess

logger = logging.getLogger(__name__)

_MEASURE_EVERY_S = 2.0
_HUNG_AFTER_S = 20.0
"""How long a worker may be silent before it is taken to hang, and is replaced."""
_KILL_AFTER_S = 5.0
"""How long after its own bound a worker that drains is ended in any case."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_STARTS_BEFORE_GIVING_UP = 3

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
"""What native code ends a process by; who is killed otherwise may be killed for any reason, whatever it was at."""


@dataclass(frozen=True)
class _Worker:
    """A worker that runs."""

    process: asyncio.subprocess.Process
    channel: Channel
    replica: RemoteReplica


class Supervisor:
    """Serves with several processes; `run` returns when all of it has ended.

    Args:
        settings: with a number of workers.
        hung_after_s: how long a worker may be silent before it is replaced.
    """

    def __init__(self, settings: Settings, *, hung_after_s: float = _HUNG_AFTER_S) -> None:
        assert isinstance(settings.workers, int)  # noqa: S101 - who makes it has counted
        self._settings = settings
        self._count = settings.workers
        self._hung_after_s = hung_after_s
        self._figures = Figures()
        self._workers: dict[int, _Worker] = {}
        self._listeners: list[socket.socket] = []
        self._stopping = asyncio.Event()
        self._stopping_at_once = asyncio.Event()
        self._blame = Blame()
        self._hung: set[int] = set()  # those that were killed because they hung
        self._quarantining: set[asyncio.Task[None]] = set()
        self._failed_starts = 0
        self._exit_code = 0

    async def run(self) -> int:
        """Serve until a signal comes; the exit code is 0, or 1 if no worker could be started.

        Raises:
            OSError: an address can't be bound, or there is no models folder.
        """
        settings = self._settings
        self._listeners = listen(settings.host, settings.port)
        with contextlib.ExitStack() as resources:
            for listener in self._listeners:
                resources.enter_context(listener)
            self._counted = make_counts(self._count)
            resources.callback(os.close, self._counted)
            self._used = make_usage(self._count)
            resources.callback(os.close, self._used)
            self._usage = open_usage(self._used)
            self._counts = resources.enter_context(contextlib.closing(Counts(self._counted)))
            if settings.grpc_port is not None:
                holder = resources.enter_context(reserve(settings.host, settings.grpc_port))
                settings = self._settings = settings.model_copy(update={"grpc_port": holder.getsockname()[1]})
            self._ran = make_runs(self._count)
            resources.callback(os.close, self._ran)
            self._running = resources.enter_context(contextlib.closing(open_runs(self._ran)))
            trial = TrialProcess(python("trial"), settings, timeout_s=settings.load_timeout_s)
            options = ControlOptions.of(settings)
            self._controller = Controller(settings.models, options, trial=trial, replicas=self._count)
            await self._controller.discover()
            self._loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop, number)
            if settings.metrics_port is not None:
                registry = CollectorRegistry()
                registry.register(Exposed(self._scrape))
                exporter, _ = start_http_server(settings.metrics_port, settings.host, registry)
                logger.info("metrics are served on %s:%d", settings.host, exporter.server_port)
                resources.callback(exporter.server_close)
                resources.callback(exporter.shutdown)
            for listener in self._listeners:
                logger.info(
                    "inferd is running on %s with %d workers",
                    url_of(listener, "https" if settings.tls_cert_file else "http"),
                    self._count,
                )
            async with asyncio.TaskGroup() as tasks:
                starting = tasks.create_task(self._controller.start(tried=True))
                keeping = [tasks.create_task(self._keep(index)) for index in range(self._count)]
                measuring = tasks.create_task(self._measure_regularly())
                await self._stopping.wait()
                starting.cancel()
                await self._controller.close()
                await self._drain()
                await asyncio.wait(keeping)
                measuring.cancel()
        return self._exit_code

    # What workers may call

    async def index(self) -> list[Listed]:
        """See `Control.index`."""
        return await self._controller.index()

    async def load(self, name: str, policy: VersionPolicy | None) -> None:
        """See `Control.load`."""
        await self._controller.load(name, policy)

    async def unload(self, name: str) -> None:
        """See `Control.unload`."""
        await self._controller.unload(name)

    async def statistics(self) -> list[VersionStatistics]:
        """See `Control.statistics`."""
        await self._measure()
        return self._figures.statistics(self._serving())

    async def metrics(self) -> bytes:
        """See `Control.render_metrics`."""
        return render(await self._merged())

    async def _merged(self) -> Snapshot:
        await self._measure()
        self._figures.quarantined(self._controller.count_quarantined())
        return self._figures.metrics(self._serving())

    def _serving(self) -> list[Key]:
        return [(one.name, one.version) for one in self._controller.listing().entries if one.state == "READY"]

    # Workers

    async def _keep(self, index: int) -> None:
        """Have a worker run in this place for as long as the server does."""
        pause_s = _FIRST_PAUSE_S
        replacement = False
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                end = await self._run(index, replacement=replacement)
            except OSError as error:
                end = f"an error before it began: {error}"
            if self._stopping.is_set():
                logger.info("worker %d ended with %s", index, end)
                return
            logger.error("worker %d ended with %s; it is replaced", index, end)
            self._figures.restarted()
            if time.monotonic() - started > 10 * _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            if self._give_up():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            replacement = True

    async def _run(self, index: int, *, replacement: bool) -> str:
        """Start a worker and wait for its end, which is described."""
        worker = self._workers[index] = await self._start(index)
        if self._stopping.is_set():  # meanwhile: those that are told to drain have been told
            kill(worker.process)
        joining = asyncio.create_task(self._join(worker, index, replacement=replacement))
        code = await worker.process.wait()
        worker.channel.close()
        await joining
        self._controller.leave(worker.replica)
        del self._workers[index]
        self._counts.put_at(index, None)
        self._usage.forget(index)
        self._figures.ended(index)
        self._figures.joined(len(self._workers))
        self._find_to_blame(index, code)
        return describe_end(code)

    def _find_to_blame(self, index: int, code: int) -> None:
        """Quarantine a model of which workers die, once it is known which."""
        running = take_running(self._running, index)
        hung = index in self._hung
        self._hung.discard(index)
        if self._stopping.is_set() or not (hung or -code in _CRASHES):
            return  # it ended as it should, or somebody else ended it
        for one in running:
            logger.error("worker %d died while model %s version %d ran, or was loaded", index, one.name, one.version)
        if key := self._blame.died(running):
            reason = (
                f"{DEATHS} workers died while it ran, or was loaded; the last ended with {describe_end(code)}. "
                "It is loaded again by a call to load, when its folder changes, or when the server starts"
            )
            task = asyncio.create_task(self._controller.quarantine(key, reason))
            self._quarantining.add(task)
            task.add_done_callback(self._quarantining.discard)

    async def _start(self, index: int) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            shared = [self._counted, self._used, self._ran, theirs.fileno()]
            shared += [listener.fileno() for listener in self._listeners]
            process = await asyncio.create_subprocess_exec(
                *python("worker", "--index", str(index), "--descriptors", ",".join(map(str, shared))),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=shared,
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, which has them drain
            )
        assert process.stdin is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(ConnectionError):
            process.stdin.write(self._settings.to_json())
            process.stdin.close()
        channel = await Channel.over(ours)
        return _Worker(process, channel, RemoteReplica(channel, load_timeout_s=self._settings.load_timeout_s))

    async def _join(self, worker: _Worker, index: int, *, replacement: bool) -> None:
        """Bring a worker to what the others serve; the first ones take connections at once, to answer liveness."""
        serving = asyncio.create_task(
            worker.channel.serve(
                {
                    "index": self.index,
                    "load": self.load,
                    "unload": self.unload,
                    "statistics": self.statistics,
                    "metrics": self.metrics,
                }
            )
        )
        try:
            await worker.replica.started()
            if not replacement:
                await worker.replica.accept()
            await self._controller.join(worker.replica)
            if replacement:
                await worker.replica.accept()
            self._failed_starts = 0
            self._figures.joined(len(self._workers))
            logger.info("worker %d (process %d) serves", index, worker.process.pid)
        except ConnectionError as error:
            self._kill(worker, f"worker {index} is not there to serve: {error}")
        except InferdError as error:
            self._kill(worker, f"worker {index} can't load what the others serve: {error}")
        watching = asyncio.create_task(self._watch(worker, index))
        await serving
        watching.cancel()
        # It has hung up, or was given up: it drains by itself, if it still can.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.process.wait(), self._settings.drain_timeout_s + _KILL_AFTER_S)
        self._kill(worker, "")

    async def _watch(self, worker: _Worker, index: int) -> None:
        """End a worker once it hangs."""
        await worker.replica.until_silent(self._hung_after_s)
        if not self._stopping.is_set():  # else it drains, within a bound of its own
            self._hung.add(index)
            self._kill(worker, f"worker {index} has not answered for {self._hung_after_s:.3g} s")

    def _kill(self, worker: _Worker, reason: str) -> None:
        if reason and not self._stopping.is_set():
            logger.error("%s", reason)
        kill(worker.process)

    def _give_up(self) -> bool:
        """Whether nothing has ever served, and trying again is of no use."""
        self._failed_starts += 1
        if self._failed_starts < _STARTS_BEFORE_GIVING_UP * self._count or self._controller.listing().ready:
            return False
        logger.error("no worker can be started; giving up")
        self._exit_code = 1
        self._stopping.set()
        return True

    # Figures

    async def _measure_regularly(self) -> None:
        """Read the workers' figures now and then, so that little is lost when one is killed."""
        while True:
            await asyncio.sleep(_MEASURE_EVERY_S)
            await self._measure()

    async def _measure(self) -> None:
        await asyncio.gather(*(self._measure_one(index, worker) for index, worker in list(self._workers.items())))

    async def _measure_one(self, index: int, worker: _Worker) -> None:
        with contextlib.suppress(ConnectionError):  # its last figures stand for it
            report = await worker.replica.measure()
            if self._workers.get(index) is worker:
                self._figures.report(index, *report)

    def _scrape(self) -> Snapshot:
        """Read all metrics, from the thread of their own port."""
        return asyncio.run_coroutine_threadsafe(self._merged(), self._loop).result()

    # The end

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            self._stopping_at_once.set()
            return
        logger.info("%s: draining", signal.Signals(number).name)
        self._stopping.set()

    async def _drain(self) -> None:
        """Have every worker drain and end, within their bound; a second signal ends them at once."""
        replicas = [worker.replica for worker in self._workers.values()]
        await asyncio.gather(*(replica.drain() for replica in replicas), return_exceptions=True)
        await self._unless_at_once(self._settings.drain_delay_s)
        # The workers close theirs once they have taken in what waits; a socket that lives on would collect more.
        for listener in self._listeners:
            listener.close()
        await asyncio.gather(*(replica.stop() for replica in replicas), return_exceptions=True)
        deadline_s = self._settings.drain_timeout_s + _KILL_AFTER_S
        ends = [asyncio.create_task(worker.process.wait()) for worker in self._workers.values()]
        at_once = asyncio.create_task(self._stopping_at_once.wait())
        if ends:
            ended = asyncio.gather(*ends)
            await asyncio.wait((ended, at_once), timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        for worker in self._workers.values():
            self._kill(worker, "")

    async def _unless_at_once(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping_at_once.wait(), seconds)
