"""Loading one bundle: everything that must be true before it may answer, in the order in which it is checked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from service.errors import BundleRefused, Unsupported
from service.machine import cpu_quota
from service.manifest import ImagesPostprocessing, Manifest, read_manifest, verify_files
from service.repository.bare import describe, open_bare, probe
from service.repository.drawing import draw_alone
from service.repository.generation import grow_alone, text_slots
from service.repository.golden import Golden, GoldenMismatch
from service.repository.placement import Profiles
from service.repository.scan import BundleFolder
from service.repository.translating import translate_alone
from service.runtime.devices import choose_providers
from service.runtime.probe import ROWS, find_example
from service.runtime.profile import measure_latency
from service.runtime.runs import ModelRuns, Runs
from service.runtime.session import OnnxSession
from service.runtime.spread import SpreadSession
from service.settings import Settings
from service.tasks import TASKS, AnyTask
from service.tasks.base import TaskLimits
from service.tasks.image_generation import ImageGeneration
from service.tasks.image_requests import Drawings
from service.tasks.text_generation import TextGeneration
from service.tasks.translation import Translation
from service.tasks.translation_requests import Translated
from service.tensors import Arrays

logger = logging.getLogger(__name__)

_MOST_THREADS = 8

_VARYING_S = 0.001
"""What a run is taken to last at least if requests may be larger than what was measured, for the same reason."""


@dataclass(frozen=True)
class LoadOptions:
    """How bundles are loaded.

    Attributes:
        providers: ONNX Runtime's execution providers, the preferred one first.
        threads: of one run.
        most_threads: that it may have if it is long; 0 = no more than others.
        max_batch_rows: largest batch, whatever a manifest says.
        limits: of a request.
        insist: whether a model that can't have the preferred provider is refused, or takes the next one.
        runs: where runs are told, and ended when they take too long; None = nowhere, and never.
    """

    providers: tuple[str, ...]
    threads: int
    max_batch_rows: int
    limits: TaskLimits
    insist: bool = True
    most_threads: int = 0
    runs: Runs | None = None

    @classmethod
    def of(cls, settings: Settings) -> LoadOptions:
        """How `settings` ask for bundles to be loaded.

        Raises:
            ValueError: the device asked for is not to be had.
        """
        return cls(
            providers=choose_providers(settings.device, tensorrt=settings.tensorrt),
            insist=settings.device == "cuda",
            threads=settings.threads or max(1, min(cpu_quota() // settings.processes, _MOST_THREADS)),
            most_threads=settings.threads or min(cpu_quota(), _MOST_THREADS),
            max_batch_rows=settings.max_batch_rows,
            limits=TaskLimits(
                max_pixels=settings.max_pixels,
                max_prompt_tokens=settings.max_prompt_tokens,
                max_new_tokens=settings.max_new_tokens,
                max_text_characters=settings.max_text_characters,
            ),
        )


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked, loaded and replayed.

    Attributes:
        folder: where it lies, with its name and version.
        manifest: its contract.
        variant: the one that serves: the default, or what took its place.
        sessions: its graphs by role, ready to run.
        task: how requests become tensors and tensors answers.
        max_batch_rows: the largest batch to build.
        batched: whether requests share runs; else each runs alone, its arrays as the graph declares them.
        examples: inputs to time each graph with, several rows where there is a batch; those that are not there are not
            known.
        profiles: how long runs of those of its graphs take of which it is known.
        wide: the graph that batches are made for once more, on more threads, for runs that have the machine to
            themselves; None = those are like others.
    """

    folder: BundleFolder
    manifest: Manifest
    variant: str
    sessions: Mapping[str, OnnxSession]
    task: AnyTask
    max_batch_rows: int
    batched: bool
    examples: Mapping[str, Arrays]
    profiles: Profiles = field(default_factory=dict)
    wide: OnnxSession | None = None

    @property
    def session(self) -> OnnxSession:
        """The graph that batches are made for."""
        return self.sessions[self.task.graphs[-1]]

    @property
    def run(self) -> Callable[[Arrays], Arrays]:
        """What runs a batch."""
        if self.wide and (runs := self.session.runs):
            return SpreadSession(self.session, self.wide, runs, rows_of=self._rows_of).run
        return self.session.run

    @property
    def most_rows(self) -> int:
        """The largest batch that its graph is run with, where a request's row may take several of the graph's."""
        return self.max_batch_rows * self.task.slots_a_row

    def is_fixed(self, session: OnnxSession) -> bool:
        """Whether every run of a graph has inputs of the same size, but for its rows."""
        shapes = [tensor.shape for tensor in session.graph.inputs]
        return all(
            shape is not None and not any(isinstance(size, str) for size in shape[self.batched :]) for shape in shapes
        )

    def _rows_of(self, inputs: Arrays) -> int:
        return len(next(iter(inputs.values()))) if self.batched else 1

    def example_of(self, rows: int, role: str | None = None) -> Arrays:
        """So many rows of inputs that a graph runs on, by default the one that batches are made for.

        Raises:
            KeyError: none are known.
        """
        example = self.examples[role or self.task.graphs[-1]]
        if not self.batched:
            return example
        return {name: np.resize(array, (rows, *array.shape[1:])) for name, array in example.items()}

    def measure_latency(self, role: str | None = None, *, budget_s: float = 1.0) -> tuple[tuple[int, float], ...]:
        """Time a graph, by default the one that batches are made for, by batch size: (rows, seconds).

        This takes about as long as said, and blocks. Nothing is timed, and there are no points, where nobody knows how
        large requests are: inputs that were made up for a graph say nothing of axes that it leaves open.
        """
        role = role or self.task.graphs[-1]
        session = self.sessions[role]
        fixed = self.is_fixed(session)
        if role not in self.examples or not (fixed or self.manifest.golden):
            return ()
        most = self.most_rows if session is self.session else self.max_batch_rows
        points = measure_latency(
            session.run,
            partial(self.example_of, role=role),
            max_rows=most,
            budget_s=budget_s,
            run_clock=time.thread_time if session.is_of_one_thread else time.perf_counter,
        )
        return points if fixed else tuple((rows, max(seconds, _VARYING_S)) for rows, seconds in points)

    def load_wide(self, options: LoadOptions, threads: int) -> OnnxSession:
        """Load the graph that batches are made for once more, to run on so many threads that spin. This blocks.

        Raises:
            BundleRefused, NotReady: see `OnnxSession`.
        """
        graph = self.session.graph
        return OnnxSession(
            self.folder.path,
            graph,
            providers=options.providers,
            threads=threads,
            spins=True,
            insist=options.insist,
            entry=None if self.folder.is_bare else self.manifest.files[graph.file],
            runs=self.session.runs,
        )

    def predict(self, inputs: object, parameters: Mapping[str, object]) -> object:
        """Answer one request right here, with no batching: for the command line.

        Raises:
            BadInput: the request is wrong.
            Unsupported: the model's answers are no single run.
        """
        if isinstance(self.task, TextGeneration):
            raise Unsupported(f"{self.folder.name} continues texts: inferd generate asks it")
        if isinstance(self.task, Translation):
            raise Unsupported(f"{self.folder.name} translates: inferd translate asks it")
        if isinstance(self.task, ImageGeneration):
            raise Unsupported(f"{self.folder.name} draws pictures: inferd draw asks it")
        request = self.task.parse(inputs, parameters)
        return self.task.decode(request, self.session.run(self.task.encode(request)))

    def generate(self, prompt: str, parameters: Mapping[str, object]) -> Iterator[str]:
        """Continue a text right here, alone: for the command line.

        Args:
            prompt: the text.
            parameters: as of the task dialect.

        Raises:
            BadInput: the request is wrong.
            Unsupported: the model's answers are no texts.
        """
        if not isinstance(self.task, TextGeneration):
            raise Unsupported(f"{self.folder.name} continues no texts: inferd predict asks it")
        request, _ = self.task.parse(prompt, parameters)
        slots = text_slots(self.session.run, self.session.graph, capacity=1)
        return grow_alone(request, slots, self.task.characters.pieces)

    def translate(self, inputs: object, parameters: Mapping[str, object]) -> list[Translated]:
        """Translate a text or several right here, a sentence at a time: for the command line.

        Args:
            inputs: as of the task dialect.
            parameters: likewise.

        Raises:
            BadInput: the request is wrong.
            Unsupported: the model does not translate.
        """
        if not isinstance(self.task, Translation):
            raise Unsupported(f"{self.folder.name} does not translate: inferd predict or generate asks it")
        request, _ = self.task.parse(inputs, parameters)
        encoder, decoder = (self.sessions[role] for role in self.task.graphs)
        found = translate_alone(request, self.task, encoder.run, decoder.run, decoder.graph)
        return self.task.put_together(request, found)

    def draw(self, inputs: object, parameters: Mapping[str, object]) -> Drawings:
        """Draw pictures right here, with no batching: for the command line.

        Args:
            inputs: as of the task dialect.
            parameters: likewise.

        Raises:
            BadInput: the request is wrong.
            Unsupported: the model draws none.
        """
        if not isinstance(self.task, ImageGeneration):
            raise Unsupported(f"{self.folder.name} draws no pictures: inferd predict, generate or translate asks it")
        request = self.task.parse(inputs, parameters)
        return draw_alone(request, self.task, self.sessions, most_rows=self.max_batch_rows)


def load_bundle(folder: BundleFolder, options: LoadOptions) -> Bundle:
    """Check, load and replay the bundle in `folder`. This takes up to seconds and blocks.

    Raises:
        BundleRefused: it may not be served; file and reason are in the message.
        NotReady: this machine can't run it as asked.
    """
    _check_place(folder)
    if folder.is_bare:
        return _load_bare(folder, options)
    manifest, task, golden = _open(folder, options)
    variant, sessions = _first_that_replays(folder, manifest, task.graphs, golden, options)
    examples: dict[str, Arrays] = {}
    for role, session in sessions.items():
        if golden:
            examples[role] = golden.inputs(role, session)
        else:
            found = find_example(session.run, session.graph, rows=ROWS if session.graph.batched else 1)
            if not isinstance(found, str):
                examples[role] = found
    return _bundle(folder, manifest, variant, sessions, task, examples, options)


def verify_bundle(folder: BundleFolder, options: LoadOptions) -> Manifest:
    """Check the bundle in `folder` and replay every one of its variants.

    Raises:
        BundleRefused: as `load_bundle`, but no variant may take another one's place.
    """
    _check_place(folder)
    if folder.is_bare:
        return _load_bare(folder, options).manifest
    manifest, task, golden = _open(folder, options)
    for name in manifest.variants:
        _load_variant(folder, manifest, name, task.graphs, golden, options)
    return manifest


def _check_place(folder: BundleFolder) -> None:
    """Refuse a folder that lies outside of the models folder: whoever may write a link there might not read it."""
    try:
        if not folder.path.resolve().is_relative_to(folder.path.parents[1].resolve()):
            raise BundleRefused("bundle", "lies outside of the models folder, at the end of a link")
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, to Python 3.12 and older
        raise BundleRefused("bundle", f"can't be read ({error})") from error


def _runs(folder: BundleFolder, options: LoadOptions) -> ModelRuns | None:
    return options.runs.of(folder.name, folder.version) if options.runs else None


def _load_bare(folder: BundleFolder, options: LoadOptions) -> Bundle:
    """Load a graph that has no manifest, and find out how it may be served."""
    session = open_bare(
        folder.path,
        providers=options.providers,
        threads=options.threads,
        insist=options.insist,
        runs=_runs(folder, options),
    )
    probed = probe(session)
    if probed.no_batch:
        logger.warning(
            "%s version %d runs its requests one by one, though its first axis looks like a batch: %s",
            folder.name,
            folder.version,
            probed.no_batch,
        )
    if probed.example is None:
        logger.warning(
            "%s version %d runs on no inputs that were made up for it, so how long it takes is not known: %s",
            folder.name,
            folder.version,
            probed.no_example,
        )
    session.graph = probed.graph
    if probed.example is not None:
        session.check_shapes(session.run(probed.example))
    manifest = describe(folder.path, session, title=folder.name)
    task = TASKS[manifest.task](folder.path, manifest, options.limits)
    (role,) = task.graphs
    examples = {role: probed.example} if probed.example is not None else {}
    return _bundle(folder, manifest, manifest.default_variant, {role: session}, task, examples, options)


def _bundle(
    folder: BundleFolder,
    manifest: Manifest,
    variant: str,
    sessions: Mapping[str, OnnxSession],
    task: AnyTask,
    examples: Mapping[str, Arrays],
    options: LoadOptions,
) -> Bundle:
    batched = sessions[task.graphs[-1]].graph.batched
    max_rows = min(options.max_batch_rows, manifest.batching.max_batch_size) if batched else 1
    return Bundle(folder, manifest, variant, sessions, task, max_rows, batched, examples)


def _open(folder: BundleFolder, options: LoadOptions) -> tuple[Manifest, AnyTask, Golden | None]:
    """Check all of a bundle that can be checked without running it."""
    manifest = read_manifest(folder.path)
    verify_files(folder.path, manifest)
    if manifest.task not in TASKS:
        raise BundleRefused("manifest.json", f"task {manifest.task!r} is none of {', '.join(sorted(TASKS))}")
    task = TASKS[manifest.task](folder.path, manifest, options.limits)
    drawing = manifest.postprocessing
    rounded = (drawing.output,) if isinstance(drawing, ImagesPostprocessing) else ()
    if not manifest.golden:
        return manifest, task, None
    listed = manifest.files[manifest.golden]
    return manifest, task, Golden(folder.path, manifest.golden, rounded=rounded, entry=listed)


def _first_that_replays(
    folder: BundleFolder, manifest: Manifest, roles: Sequence[str], golden: Golden | None, options: LoadOptions
) -> tuple[str, Mapping[str, OnnxSession]]:
    """Load the default variant or, where this processor computes it differently, float32."""
    default = manifest.default_variant
    try:
        return default, _load_variant(folder, manifest, default, roles, golden, options)
    except GoldenMismatch as error:
        if default == "fp32" or "fp32" not in manifest.variants:
            raise
        sessions = _load_variant(folder, manifest, "fp32", roles, golden, options)
        logger.warning("%s version %d serves fp32 in place of its default: %s", folder.name, folder.version, error)
        return "fp32", sessions


def _load_variant(
    folder: BundleFolder,
    manifest: Manifest,
    name: str,
    roles: Sequence[str],
    golden: Golden | None,
    options: LoadOptions,
) -> Mapping[str, OnnxSession]:
    variant = manifest.variants[name]
    if set(variant.graphs) != set(roles):
        raise BundleRefused("manifest.json", f"{manifest.task} needs {_graphs(roles)}, not {sorted(variant.graphs)}")
    sessions = {}
    for role in roles:
        sessions[role] = OnnxSession(
            folder.path,
            variant.graphs[role],
            providers=options.providers,
            threads=options.threads,
            insist=options.insist,
            entry=manifest.files[variant.graphs[role].file],
            runs=_runs(folder, options),
        )
        if golden:
            golden.replay(name, variant, role, sessions[role])
    return sessions


def _graphs(roles: Sequence[str]) -> str:
    return f"exactly one graph, called {roles[0]!r}" if len(roles) == 1 else f"the graphs {sorted(roles)}"
