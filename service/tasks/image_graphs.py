"""The graphs of a model that draws: what they must take and answer to go together."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import BundleRefused
from service.manifest import MANIFEST_FILE, Graph, ImagesPostprocessing, NgramPreprocessing, Variant
from service.tasks.graphs import by_name, expect

TEXT, GENERATOR = "text", "generator"
"""Their roles."""


def check_graphs(
    variant: Variant, reading: NgramPreprocessing | None, drawing: ImagesPostprocessing, classes: int
) -> tuple[int, int, int, int]:
    """Refuse graphs that don't go together; return the numbers of a latent, and height, width and channels.

    Raises:
        BundleRefused: a graph is missing or too many, or takes or answers something else.
    """
    if GENERATOR not in variant.graphs or (TEXT in variant.graphs) != (reading is not None):
        wanted = f"the graph {GENERATOR!r}" if reading is None else f"the graphs {TEXT!r} and {GENERATOR!r}"
        raise BundleRefused(MANIFEST_FILE, f"images are drawn by {wanted}, not by {sorted(variant.graphs)}")
    generator = variant.graphs[GENERATOR]
    given = by_name(generator.inputs)
    wanted_inputs = [drawing.latent] if drawing.condition is None else [drawing.latent, drawing.condition]
    _named(generator, "inputs", sorted(given), wanted_inputs)
    _named(generator, "outputs", [one.name for one in generator.outputs], [drawing.output])
    (image,) = generator.outputs
    sizes = image.shape or ()
    if drawing.condition is not None:
        expect(generator, given[drawing.condition], "FP32", ("batch", classes))
    if reading is not None:
        _check_text_graph(variant.graphs[TEXT], reading, classes)
    latent = (given[drawing.latent].shape or ())[-1:]
    expect(generator, given[drawing.latent], "FP32", ("batch", *latent))
    whole = [size for size in (*latent, *sizes[1:]) if isinstance(size, int)]
    if image.datatype != "UINT8" or len(whole) != 4 or len(sizes) != 4 or whole[3] not in (1, 3):
        raise BundleRefused(
            MANIFEST_FILE,
            f"{generator.file}: {image.name!r} must be UINT8 of batch, height, width, and 1 or 3 channels, and "
            f"{drawing.latent!r} FP32 of batch and numbers, all but the batch of one size",
        )
    numbers, height, width, channels = whole
    return numbers, height, width, channels


def _check_text_graph(graph: Graph, reading: NgramPreprocessing, classes: int) -> None:
    given, answered = by_name(graph.inputs), by_name(graph.outputs)
    _named(graph, "inputs", sorted(given), [reading.input])
    _named(graph, "outputs", sorted(answered), [reading.conditions, reading.meant])
    expect(graph, given[reading.input], "INT64", ("batch", None))
    expect(graph, answered[reading.conditions], "FP32", ("batch", classes))
    expect(graph, answered[reading.meant], "FP32", ("batch",))


def _named(graph: Graph, kind: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    if sorted(found) != sorted(wanted):
        raise BundleRefused(MANIFEST_FILE, f"{graph.file} must have the {kind} {sorted(wanted)}, not {sorted(found)}")
