"""All models of a process: loaded at start, looked up by name and version, drained at the end."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.batching.policy import LatencyProfile, Limits
from service.errors import InferdError, NotFound, NotReady
from service.metrics import Metrics
from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.model import Model
from service.repository.scan import BundleFolder, scan
from service.threads import BoundedThreads

logger = logging.getLogger(__name__)

State = Literal["LOADING", "READY", "UNAVAILABLE"]


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait for a model: predicted seconds, and rows whatever the prediction."""

    max_s: float
    max_rows: int


@dataclass(frozen=True)
class Entry:
    """One version of one model that was found: what became of it, and why if it does not answer."""

    folder: BundleFolder
    state: State
    reason: str = ""
    model: Model | None = None


class Repository:
    """The models under one folder.

    Args:
        folder: of the models.
        options: how bundles are loaded.
        queue: how much may wait for each model.
        metrics: where models get their series.
        decoding: threads for large inputs.
    """

    def __init__(
        self, folder: Path, *, options: LoadOptions, queue: QueueLimits, metrics: Metrics, decoding: BoundedThreads
    ) -> None:
        self._folder = folder
        self._options = options
        self._queue = queue
        self._metrics = metrics
        self._decoding = decoding
        self._entries: dict[str, dict[int, Entry]] = {}
        self._started = False
        self._draining = False
        self._runs = ThreadPoolExecutor(1)

    def discover(self) -> None:
        """Look which models there are; none of them answers yet.

        Raises:
            FileNotFoundError: there is no models folder.
        """
        folders = scan(self._folder)
        if not folders:
            logger.warning("no models under %s", self._folder)
        for folder in folders:
            self._enter(Entry(folder, "LOADING", "is being loaded"))
        # Each model has one run in flight at most, so a thread each is all that is ever used.
        self._runs = ThreadPoolExecutor(max(1, len(folders)), thread_name_prefix="run")

    async def load(self) -> None:
        """Load what was discovered, one after the other; what is refused is logged, and does not stop the others."""
        for entry in self.entries():
            self._enter(await self._load(entry.folder))
        self._started = True

    def get(self, name: str, version: str | None = None) -> Model:
        """Return a model that answers.

        Args:
            name: of the model.
            version: None = the highest that is ready.

        Raises:
            NotFound: there is no such model or version.
            NotReady: there is, but it does not answer; the message says why.
        """
        try:
            return self._get(name, version)
        except InferdError as error:
            self._metrics.unaddressed(error.reason)
            raise

    def versions(self, name: str) -> list[int]:
        """The versions of `name` that are ready, rising."""
        return [version for version, entry in sorted(self._entries.get(name, {}).items()) if entry.state == "READY"]

    def entries(self) -> list[Entry]:
        """Every version of every model that was found, by name and version."""
        return [entry for versions in self._entries.values() for _, entry in sorted(versions.items())]

    @property
    def is_ready(self) -> bool:
        """Whether every model answers and the process is not about to end."""
        return self._started and not self._draining and all(entry.state == "READY" for entry in self.entries())

    @property
    def is_draining(self) -> bool:
        """Whether the process is about to end."""
        return self._draining

    def begin_drain(self) -> None:
        """Turn readiness off; requests are still answered."""
        self._draining = True

    async def close(self) -> None:
        """Finish every request that was accepted, and let go of the models."""
        self.begin_drain()
        for entry in self.entries():
            if entry.model:
                await entry.model.drain()
        self._runs.shutdown(wait=False)
        self._decoding.close()

    def _get(self, name: str, version: str | None) -> Model:
        versions = self._entries.get(name)
        if not versions:
            raise NotFound(f"there is no model {name!r}; models: {', '.join(sorted(self._entries)) or 'none'}")
        if version is None:
            ready = [entry for entry in versions.values() if entry.state == "READY"]
            entry = max(ready or versions.values(), key=lambda one: one.folder.version)
        elif version.isascii() and version.isdigit() and len(version) < 10 and int(version) in versions:
            entry = versions[int(version)]
        else:
            known = ", ".join(map(str, sorted(versions)))
            raise NotFound(f"model {name!r} has no version {version!r}; versions: {known}")
        if entry.model is None:
            raise NotReady(f"model {name!r} version {entry.folder.version} is not ready: {entry.reason}")
        return entry.model

    def _enter(self, entry: Entry) -> None:
        self._entries.setdefault(entry.folder.name, {})[entry.folder.version] = entry

    async def _load(self, folder: BundleFolder) -> Entry:
        try:
            bundle = await asyncio.to_thread(load_bundle, folder, self._options)
            profile = LatencyProfile(await asyncio.to_thread(bundle.measure_latency))
        except InferdError as error:
            logger.error("model %s version %d is refused: %s", folder.name, folder.version, error)
            return Entry(folder, "UNAVAILABLE", str(error))
        except Exception:
            logger.exception("model %s version %d could not be loaded", folder.name, folder.version)
            return Entry(folder, "UNAVAILABLE", "loading failed unexpectedly; see the log")
        model = self._serve(bundle, profile)
        logger.info(
            "model %s version %d is ready: variant %s, %s, %.3g ms a row alone, batches up to %d",
            folder.name,
            folder.version,
            bundle.variant,
            bundle.session.provider,
            1000 * profile.seconds(1),
            bundle.max_batch_rows,
        )
        return Entry(folder, "READY", model=model)

    def _serve(self, bundle: Bundle, profile: LatencyProfile) -> Model:
        name, version = bundle.folder.name, bundle.folder.version
        metrics = self._metrics.bind(name, version)
        limits = Limits(
            max_batch_rows=bundle.max_batch_rows,
            max_queue_rows=max(self._queue.max_rows, bundle.max_batch_rows),
            max_queue_s=self._queue.max_s,
        )
        model = Model(bundle, profile=profile, limits=limits, runs=self._runs, decoding=self._decoding, metrics=metrics)
        self._metrics.watch_queue(name, version, model.queued_rows)
        metrics.ready.set(1)
        if bundle.variant != bundle.manifest.default_variant:
            metrics.variant_fallbacks.inc()
        return model
