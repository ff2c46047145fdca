"""The models of one worker: changed in two phases, looked up by name and version, drained at the end."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

from service.batching.batcher import INLINE_S
from service.batching.policy import LatencyProfile, Limits
from service.errors import BundleRefused, InferdError, NotFound, NotReady
from service.machine import trim_memory
from service.metrics import Metrics, ModelMetrics
from service.repository.batched_model import BatchedModel
from service.repository.bundle import Bundle, LoadOptions
from service.repository.control import Listed, Listing
from service.repository.image_model import ImageModel
from service.repository.model import Model
from service.repository.placement import Key, Placement
from service.repository.profiles import Profiling
from service.repository.statistics import VersionStatistics
from service.repository.text_model import TextModel
from service.repository.translation_model import TranslationModel
from service.repository.tuning import load_as_tuned, load_tuned
from service.tasks.image_generation import ImageGeneration
from service.tasks.image_graphs import TEXT
from service.tasks.text_generation import TextGeneration
from service.tasks.translation import Translation
from service.threads import BoundedThreads

logger = logging.getLogger(__name__)

_MOST_NAMES = 10
_LONGEST_NAME = 64
"""Characters of what somebody has asked for, in a message: no name is longer."""

_UNKNOWN = LatencyProfile(((1, 0.01),))
"""What runs are taken to last of which nothing is known: long enough to be kept out of the event loop."""


_INLINE_ON_FULL_CORES_S = 0.005
"""Where every core has a process that serves, a run in a thread gains nothing: it and the event loop take turns on one
core, and each finds the caches cold. This is how long others wait for a run at most."""


class _Common(TypedDict):
    """What a model of any kind is made with."""

    profile: LatencyProfile
    limits: Limits
    decoding: BoundedThreads
    metrics: ModelMetrics
    statistics: VersionStatistics


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait for a model: predicted seconds, and rows whatever the prediction."""

    max_s: float
    max_rows: int


class Repository:
    """The models that answer in this process. It is a `Replica`: what it serves is decided by a controller.

    Args:
        options: how bundles are loaded.
        profiling: how it is found out how long they take, where that was not said; by default they are timed.
        queue: how much may wait for each model.
        metrics: where models get their series.
        decoding: threads for large inputs.
        let_go_s: how long a model that was replaced may go on with what it has begun.
        has_cores_to_spare: whether there are more cores than processes that serve.
    """

    def __init__(
        self,
        *,
        options: LoadOptions,
        profiling: Profiling | None = None,
        queue: QueueLimits,
        metrics: Metrics,
        decoding: BoundedThreads,
        let_go_s: float,
        has_cores_to_spare: bool = True,
    ) -> None:
        self._options = options
        self._profiling = profiling or Profiling()
        self._queue = queue
        self._metrics = metrics
        self._decoding = decoding
        self._let_go_s = let_go_s
        self._has_cores_to_spare = has_cores_to_spare
        self._models: dict[str, dict[int, Model]] = {}
        self._prepared: dict[Key, Bundle] = {}
        self._listing = Listing()
        self._statistics: dict[Key, VersionStatistics] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._draining = False

    # What a controller asks

    async def prepare(self, placements: Sequence[Placement]) -> list[InferdError | None]:
        """See `Replica.prepare`."""
        self._prepared.clear()
        outcomes: list[InferdError | None] = []
        for placement in placements:
            try:
                self._prepared[placement.key] = await asyncio.to_thread(self._load, placement)
                outcomes.append(None)
            except InferdError as error:
                outcomes.append(error)
            except Exception:
                logger.exception("model %s version %d could not be loaded", *placement.key)
                outcomes.append(BundleRefused("bundle", "loading failed unexpectedly; see the log"))
        return outcomes

    async def commit(self, taken: Sequence[Key], dropped: Sequence[Key]) -> None:
        """See `Replica.commit`."""
        prepared, self._prepared = self._prepared, {}
        replaced = [self._models.get(name, {}).pop(version, None) for name, version in (*taken, *dropped)]
        for key in taken:
            self._serve(prepared[key])
        for name in [name for name, versions in self._models.items() if not versions]:
            del self._models[name]
        for model in replaced:
            if model:
                self._run(self._let_go(model))

    async def publish(self, listing: Listing) -> None:
        """See `Replica.publish`."""
        self._listing = listing

    # What protocols ask

    def get(self, name: str, version: str | None = None) -> Model:
        """Return a model that answers.

        Args:
            name: of the model.
            version: None or empty = the highest that serves.

        Raises:
            NotFound: there is no such model or version.
            NotReady: there is, but it does not answer; the message says why.
        """
        try:
            return self._get(name, version)
        except InferdError as error:
            self._metrics.unaddressed(error.reason)
            raise

    def find(self, name: str, version: str | None = None) -> Model | None:
        """A model that answers, as `get` has it; None where there is none, which then is no failure yet."""
        serving = self._models.get(name)
        if not serving:
            return None
        if not version:
            return serving[max(serving)]
        return serving.get(int(version)) if version.isascii() and version.isdigit() and len(version) < 10 else None

    def versions(self, name: str) -> list[int]:
        """The versions of `name` that serve, rising."""
        return sorted(self._models.get(name, {}))

    def entries(self) -> Sequence[Listed]:
        """Every version of every model that is known, by name and version."""
        return self._listing.entries

    def statistics(self) -> list[VersionStatistics]:
        """What every version that serves has done in this process."""
        return [self._statistics[model.name, model.version] for model in self._serving()]

    @property
    def is_ready(self) -> bool:
        """Whether every model asked for answers, in every worker, and the server is not about to end."""
        return self._listing.ready and not self._draining

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
        await asyncio.gather(*self._background, *(model.drain() for model in self._serving()))
        self._decoding.close()
        if self._options.runs:
            self._options.runs.close()

    def _load(self, placement: Placement) -> Bundle:
        runs = self._options.runs
        with runs.of(*placement.key).loading() if runs else nullcontext():
            return self._load_as_placed(placement)

    def _load_as_placed(self, placement: Placement) -> Bundle:
        if placement.tuning:
            return load_as_tuned(placement.folder, self._options, placement.tuning)
        return load_tuned(placement.folder, self._options, self._profiling)

    def _get(self, name: str, version: str | None) -> Model:
        if model := self.find(name, version):
            return model
        known = {one.version: one for one in self._listing.entries if one.name == name}
        if not known:
            names = sorted({one.name for one in self._listing.entries})
            raise NotFound(f"there is no model {name[:_LONGEST_NAME]!r}; models: {_some(names)}")
        if not version:
            one = known[max(known)]
        elif version.isascii() and version.isdigit() and len(version) < 10 and int(version) in known:
            one = known[int(version)]
        else:
            told = version[:_LONGEST_NAME]
            raise NotFound(f"model {name!r} has no version {told!r}; versions: {_some(sorted(known))}")
        raise NotReady(f"model {name!r} version {one.version} is not ready: {one.reason or 'it is being changed'}")

    def _serving(self) -> list[Model]:
        return [model for versions in self._models.values() for _, model in sorted(versions.items())]

    def _serve(self, bundle: Bundle) -> None:
        name, version = bundle.folder.name, bundle.folder.version
        by_role = {role: LatencyProfile(points) for role, points in bundle.profiles.items()}
        profile = by_role.get(bundle.task.graphs[-1], _UNKNOWN)
        metrics = self._metrics.bind(name, version)
        most = bundle.max_batch_rows if bundle.batched else 1
        limits = Limits(
            max_batch_rows=most,
            max_queue_rows=max(self._queue.max_rows, most),
            max_queue_s=self._queue.max_s,
            # A single point says nothing of larger batches.
            full_batch_rows=profile.worthwhile_rows(most) if len(profile.points) > 1 else None,
        )
        statistics = self._statistics.setdefault((name, version), VersionStatistics(name, version))
        common = _Common(
            profile=profile, limits=limits, decoding=self._decoding, metrics=metrics, statistics=statistics
        )
        bind_text = partial(self._metrics.bind_text, name, version)
        model: Model
        if isinstance(bundle.task, TextGeneration):
            model = TextModel(bundle, bundle.task, bind_text=bind_text, **common)
        elif isinstance(bundle.task, Translation):
            model = TranslationModel(bundle, bundle.task, bind_text=bind_text, **common)
        elif isinstance(bundle.task, ImageGeneration):
            model = ImageModel(bundle, bundle.task, text_profile=by_role.get(TEXT), **common)
        else:
            model = BatchedModel(bundle, bundle.task, inline_below_s=self._inline_below_s(bundle), **common)
        self._models.setdefault(name, {})[version] = model
        self._metrics.watch_queue(name, version, model.queued_rows)
        metrics.ready.set(1)
        if bundle.variant != bundle.manifest.default_variant:
            metrics.variant_fallbacks.inc()
        logger.info(
            "model %s version %d is ready: variant %s, %s, %.3g ms a row alone, %s",
            name,
            version,
            bundle.variant,
            bundle.session.provider,
            1000 * profile.seconds(1),
            _described(model, limits),
        )

    def _inline_below_s(self, bundle: Bundle) -> float:
        """Below how long a run is done in the event loop."""
        session = bundle.session
        if self._has_cores_to_spare or not session.is_of_one_thread or not bundle.is_fixed(session):
            return INLINE_S
        return _INLINE_ON_FULL_CORES_S

    async def _let_go(self, model: Model) -> None:
        """Have a model that was replaced finish what it has begun, and forget its series if none has its place.

        What it held of memory goes back to the system.
        """
        finished = await model.finish_begun(self._let_go_s)
        logger.info(
            "model %s version %d as it was is let go%s",
            model.name,
            model.version,
            "" if finished else f", with requests unfinished after {self._let_go_s:.3g} s",
        )
        if model.version not in self._models.get(model.name, {}):
            self._metrics.forget(model.name, model.version)
            self._statistics.pop((model.name, model.version), None)
        del model
        # Models and what they call back refer to each other, and the collector would not look for them in hours: it
        # counts objects, and these are few but large.
        gc.collect()
        await asyncio.to_thread(trim_memory)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _described(model: Model, limits: Limits) -> str:
    """How requests share runs."""
    if not model.batched:
        return "one request at a time"
    if model.preferred_batch_rows is None:
        return f"up to {limits.max_batch_rows} at once"
    return f"batches of {model.preferred_batch_rows} rows, up to {limits.max_batch_rows} in one request"


def _some(names: Sequence[str | int]) -> str:
    """The first of `names`: a message has room for some."""
    return ", ".join(map(str, names[:_MOST_NAMES])) + (", ..." if len(names) > _MOST_NAMES else "") if names else "none"
