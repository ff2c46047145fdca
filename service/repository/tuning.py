"""On how many threads a bundle runs: on the worker's share of the cores, or, if its runs are long, on all of them.

Workers use the cores side by side, so one thread each is best for small models; but a run that has the machine to
itself may have all cores, and has them where that is sooner done (`runtime/spread.py`). The run of a large one takes so
long that it always has every core; where all workers run at once, they share the cores as they would have shared them
anyway.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from service.batching.policy import LatencyProfile
from service.errors import InferdError
from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.placement import Tuning
from service.repository.profiles import Profiling
from service.repository.scan import BundleFolder
from service.runtime.devices import CPU
from service.runtime.probe import ROWS
from service.runtime.spread import answer_alike
from service.tasks.image_generation import ImageGeneration
from service.threads import step_back

logger = logging.getLogger(__name__)

LONG_S = 0.005
"""A row takes so long, on the usual threads, if more are tried."""
SHORT_S = 0.0002
"""A row that takes less, on one thread, is done before others have begun."""
WORTH = 0.75
"""More threads are taken if a row takes at most this share of the time then."""

_MOST_PARAMETERS = 2**23
"""A larger graph is not held twice."""


def load_tuned(folder: BundleFolder, options: LoadOptions, profiling: Profiling) -> Bundle:
    """Check, load, replay and time the bundle in `folder`, on as many threads as are good for it. This blocks.

    Raises:
        BundleRefused, NotReady: see `load_bundle`.
    """
    usual = _timed(load_bundle(folder, options), profiling)
    row_s = _row_s(usual)
    if usual.manifest.is_stepped or usual.session.provider != CPU or options.most_threads <= options.threads:
        return usual
    if row_s is None:
        return usual
    if row_s <= LONG_S:
        return _with_wide(usual, options) if row_s >= SHORT_S else usual
    wide = _timed(load_bundle(folder, replace(options, threads=options.most_threads)), profiling)
    wide_s = _row_s(wide)
    if wide_s is None or wide_s > WORTH * row_s:
        return usual
    logger.info(
        "model %s version %d runs on %d threads: %.3g ms a row, not %.3g",
        folder.name,
        folder.version,
        options.most_threads,
        1000 * wide_s,
        1000 * row_s,
    )
    return wide


def load_as_tuned(folder: BundleFolder, options: LoadOptions, tuning: Tuning) -> Bundle:
    """Check, load and replay the bundle in `folder` as another process has found it best. This blocks.

    Raises:
        BundleRefused, NotReady: see `load_bundle`.
    """
    if tuning.threads > options.threads:
        bundle = _load_to_step_back(folder, options, tuning.threads)
    else:
        bundle = load_bundle(folder, replace(options, threads=tuning.threads or options.threads))
    wide = bundle.load_wide(options, tuning.wide_threads) if tuning.wide_threads else None
    return replace(bundle, profiles=tuning.profiles, wide=wide)


def _load_to_step_back(folder: BundleFolder, options: LoadOptions, threads: int) -> Bundle:
    """Load a bundle whose runs are long: others go before its threads, as before the one that asks for a run.

    A thread is as nice as the one that starts it, so ONNX Runtime is asked for them by one that has stepped back. Where
    it is measured whether they are worth it they don't: who else starts at that moment would decide it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="load", initializer=step_back) as loading:
        return loading.submit(load_bundle, folder, replace(options, threads=threads)).result()


def tuning_of(bundle: Bundle) -> Tuning:
    """How `bundle` was loaded, for others to do it alike."""
    return Tuning(dict(bundle.profiles), bundle.session.threads, bundle.wide.threads if bundle.wide else 0)


def _with_wide(bundle: Bundle, options: LoadOptions) -> Bundle:
    """`bundle`, which may run on all cores what runs alone, if that can be had and its answers are the same then."""
    session = bundle.session
    if not (bundle.examples and session.is_of_one_thread and bundle.is_fixed(session)):
        return bundle
    if session.parameters > _MOST_PARAMETERS or isinstance(bundle.task, ImageGeneration):
        return bundle
    try:
        wide = bundle.load_wide(options, options.most_threads)
        alike = all(answer_alike(session, wide, bundle.example_of(rows)) for rows in (1, ROWS))
    except InferdError as error:  # it serves without
        logger.info("%s version %d runs on one thread alone too: %s", bundle.folder.name, bundle.folder.version, error)
        return bundle
    return replace(bundle, wide=wide) if alike else bundle


def _timed(bundle: Bundle, profiling: Profiling) -> Bundle:
    return replace(bundle, profiles=profiling.profiles_of(bundle))


def _row_s(bundle: Bundle) -> float | None:
    points = bundle.profiles.get(bundle.task.graphs[-1])
    return LatencyProfile(points).seconds(1) if points else None
