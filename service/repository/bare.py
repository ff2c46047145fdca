"""A model that is nothing but its graph: `model.onnx` in a version's folder, and no manifest beside it.

Its manifest is read from the graph. What a graph does not say, whether requests may share a run, is found out by
running it on made-up inputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import BundleRefused
from service.manifest import (
    BATCH,
    LABELS_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    TENSORS,
    Graph,
    Manifest,
    Tensor,
    Tolerance,
    Variant,
    check_plain,
    file_entry,
)
from service.runtime.onnx_graph import stand_in
from service.runtime.probe import find_example, influence
from service.runtime.runs import ModelRuns
from service.runtime.session import OnnxSession
from service.tensors import Arrays

GRAPH: Final = "model"
"""The role of a stateless model's only graph."""
VARIANT: Final = "original"
"""The only variant of a model that was not made here."""

_BESIDE = {MODEL_FILE, LABELS_FILE, "README.md", "LICENSE"}
_NO_NAME = re.compile(r"unk__\d+")
"""tf2onnx numbers the axes that have no name; so two of one size have two names."""


@dataclass(frozen=True)
class Probed:
    """A graph, and what running it has shown.

    Attributes:
        graph: its tensors; the first axis of each is called `batch` only if requests may share a run.
        example: inputs that it has run on, if any were found.
        no_example: why none was found.
        no_batch: why requests may not share a run, where the graph looks as if they might.
    """

    graph: Graph
    example: Arrays | None
    no_example: str | None = None
    no_batch: str | None = None


def open_bare(
    folder: Path, *, providers: Sequence[str], threads: int, insist: bool = True, runs: ModelRuns | None = None
) -> OnnxSession:
    """Load the graph in `folder`, with its tensors as it names them itself.

    Args:
        folder: of a version without a manifest.
        providers: as of `OnnxSession`.
        threads: as of `OnnxSession`.
        insist: as of `OnnxSession`.
        runs: as of `OnnxSession`.

    Raises:
        BundleRefused: the graph can't be served; or it is part of a bundle that has lost its manifest.
        NotReady: as `OnnxSession`.
    """
    for name in (MODEL_FILE, LABELS_FILE):
        if (folder / name).exists() or (folder / name).is_symlink():
            check_plain(folder, name)
    # First the graph: if it keeps tensors in another file, that is what to say, and not that the file lies there.
    session = OnnxSession(folder, MODEL_FILE, providers=providers, threads=threads, insist=insist, runs=runs)
    others = sorted(path.name for path in folder.iterdir() if path.name not in _BESIDE and path.name[0] != ".")
    if others:
        raise BundleRefused(
            MANIFEST_FILE,
            f"is missing. A graph is served without one if nothing but {', '.join(sorted(_BESIDE))} lies in its "
            f"folder; there is also {', '.join(others[:5])}",
        )
    return session


def describe(folder: Path, session: OnnxSession, *, title: str) -> Manifest:
    """Make the manifest of a graph that has none.

    Args:
        folder: where the graph lies, and maybe labels.
        session: of the graph.
        title: what people call it.
    """
    return Manifest(
        schema_version=SCHEMA_VERSION,
        title=title,
        description="An ONNX graph, served as it is: tensors in, tensors out.",
        task=TENSORS,
        parameters=session.parameters,
        files={name: file_entry(folder / name) for name in (MODEL_FILE, LABELS_FILE) if (folder / name).exists()},
        variants={VARIANT: Variant(graphs={GRAPH: session.graph}, tolerance=Tolerance(runtime=1.0))},
        default_variant=VARIANT,
        golden=None,
        quality=(),
    )


def probe(session: OnnxSession, given: Arrays | None = None) -> Probed:
    """Find out by running it whether a graph can take several requests in one run.

    Args:
        session: of a graph that was read from its file.
        given: inputs to run it on; else they are made up.
    """
    batched = _with_batch_axis(session.graph)
    unbatched = _without_batch_axis(session.graph)
    if batched is None:
        return _probed(unbatched, given or find_example(session.run, unbatched, rows=1))
    example = given or find_example(session.run, batched)
    if isinstance(example, str):
        no_batch: str | None = f"it could not be tried with several rows ({example})"
        return _probed(unbatched, find_example(session.run, batched, rows=1), no_batch)
    if len({len(array) for array in example.values()}) > 1 or len(next(iter(example.values()))) < 2:
        return _probed(unbatched, example, "the inputs that it was tried with have not several rows")
    no_batch = influence(session.run, batched, example)
    return _probed(unbatched if no_batch else batched, example, no_batch)


def _probed(graph: Graph, example: Arrays | str, no_batch: str | None = None) -> Probed:
    if isinstance(example, str):
        return Probed(graph, None, no_example=example, no_batch=no_batch)
    return Probed(graph, example, no_batch=no_batch)


def _with_batch_axis(graph: Graph) -> Graph | None:
    """The graph with all first axes called `batch`, if they are symbols that may be one and the same."""
    tensors = (*graph.inputs, *graph.outputs)
    symbols = {(tensor.shape or (None,))[0] for tensor in tensors if not _is_unnamed(tensor)}
    if len(symbols) > 1 or not all(isinstance(symbol, str) for symbol in symbols):
        return None
    return _renamed(graph, BATCH)


def _without_batch_axis(graph: Graph) -> Graph:
    """The graph with its axes as they are, but not every first one called `batch`, which would be a promise."""
    return _renamed(graph, "axis_0") if graph.batched else graph


def _is_unnamed(tensor: Tensor) -> bool:
    symbol = tensor.shape[0] if tensor.shape else None
    return isinstance(symbol, str) and (symbol == stand_in(tensor.name, 0) or bool(_NO_NAME.fullmatch(symbol)))


def _renamed(graph: Graph, first: str) -> Graph:
    """Call the first axis of every tensor `first`."""

    def rename(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(one.model_copy(update={"shape": (first, *(one.shape or ())[1:])}) for one in tensors)

    return graph.model_copy(update={"inputs": rename(graph.inputs), "outputs": rename(graph.outputs)})
