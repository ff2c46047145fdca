"""Loading one bundle: everything that must be true before it may answer, in the order in which it is checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.errors import BundleRefused
from service.manifest import Manifest, read_manifest, verify_files
from service.repository.golden import Golden, GoldenMismatch
from service.repository.scan import BundleFolder
from service.runtime.profile import measure_latency
from service.runtime.session import OnnxSession
from service.tasks import TASKS
from service.tasks.base import Task, TaskLimits
from service.tensors import Arrays

logger = logging.getLogger(__name__)

GRAPH = "model"
"""The role of a stateless model's only graph."""


@dataclass(frozen=True)
class LoadOptions:
    """How bundles are loaded.

    Attributes:
        providers: ONNX Runtime's execution providers, the preferred one first.
        threads: of one run.
        max_batch_rows: largest batch, whatever a manifest says.
        limits: of a request.
        insist: whether a model that can't have the preferred provider is refused, or takes the next one.
    """

    providers: tuple[str, ...]
    threads: int
    max_batch_rows: int
    limits: TaskLimits
    insist: bool = True


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked, loaded and replayed.

    Attributes:
        folder: where it lies, with its name and version.
        manifest: its contract.
        variant: the one that serves: the default, or what took its place.
        session: its graph, ready to run.
        task: how requests become tensors and tensors answers.
        max_batch_rows: the largest batch to build.
        example: rows to time it with.
    """

    folder: BundleFolder
    manifest: Manifest
    variant: str
    session: OnnxSession
    task: Task[Any]
    max_batch_rows: int
    example: Arrays

    def measure_latency(self) -> tuple[tuple[int, float], ...]:
        """Time the graph by batch size: (rows, seconds). This takes about a second and blocks."""

        def rows_of(count: int) -> Arrays:
            return {name: np.resize(array, (count, *array.shape[1:])) for name, array in self.example.items()}

        return measure_latency(self.session.run, rows_of, max_rows=self.max_batch_rows)

    def predict(self, inputs: object, parameters: Mapping[str, object]) -> object:
        """Answer one request right here, with no batching: for the command line.

        Raises:
            BadInput: the request is wrong.
        """
        request = self.task.parse(inputs, parameters)
        return self.task.decode(request, self.session.run(self.task.encode(request)))


def load_bundle(folder: BundleFolder, options: LoadOptions) -> Bundle:
    """Check, load and replay the bundle in `folder`. This takes up to seconds and blocks.

    Raises:
        BundleRefused: it may not be served; file and reason are in the message.
        NotReady: this machine can't run it as asked.
    """
    manifest, task, golden = _open(folder, options)
    variant, session = _first_that_replays(folder, manifest, golden, options)
    max_rows = min(options.max_batch_rows, manifest.batching.max_batch_size)
    return Bundle(folder, manifest, variant, session, task, max_rows, golden.inputs(GRAPH, session))


def verify_bundle(folder: BundleFolder, options: LoadOptions) -> Manifest:
    """Check the bundle in `folder` and replay every one of its variants.

    Raises:
        BundleRefused: as `load_bundle`, but no variant may take another one's place.
    """
    manifest, _, golden = _open(folder, options)
    for name in manifest.variants:
        _load_variant(folder, manifest, name, golden, options)
    return manifest


def _open(folder: BundleFolder, options: LoadOptions) -> tuple[Manifest, Task[Any], Golden]:
    """Check all of a bundle that can be checked without running it."""
    manifest = read_manifest(folder.path)
    verify_files(folder.path, manifest)
    if manifest.task not in TASKS:
        raise BundleRefused("manifest.json", f"task {manifest.task!r} is none of {', '.join(sorted(TASKS))}")
    task = TASKS[manifest.task](folder.path, manifest, options.limits)
    return manifest, task, Golden(folder.path, manifest)


def _first_that_replays(
    folder: BundleFolder, manifest: Manifest, golden: Golden, options: LoadOptions
) -> tuple[str, OnnxSession]:
    """Load the default variant or, where this processor computes it differently, float32."""
    default = manifest.default_variant
    try:
        return default, _load_variant(folder, manifest, default, golden, options)
    except GoldenMismatch as error:
        if default == "fp32" or "fp32" not in manifest.variants:
            raise
        session = _load_variant(folder, manifest, "fp32", golden, options)
        logger.warning("%s version %d serves fp32 in place of its default: %s", folder.name, folder.version, error)
        return "fp32", session


def _load_variant(
    folder: BundleFolder, manifest: Manifest, name: str, golden: Golden, options: LoadOptions
) -> OnnxSession:
    variant = manifest.variants[name]
    if set(variant.graphs) != {GRAPH}:
        raise BundleRefused("manifest.json", f"{manifest.task} needs exactly one graph, called {GRAPH!r}")
    session = OnnxSession(
        folder.path,
        variant.graphs[GRAPH],
        providers=options.providers,
        threads=options.threads,
        insist=options.insist,
    )
    golden.replay(name, variant, GRAPH, session)
    return session
