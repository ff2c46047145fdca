"""The whole of a manifest, and what must be consistent in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from service.manifest.graphs import Variant
from service.manifest.ground import BATCH, GOLDEN_FILE, TENSORS, Contract, FileName, Positive, Sha256, Size
from service.manifest.processing import (
    CharacterPreprocessing,
    ClassificationPostprocessing,
    ImagesPostprocessing,
    NgramPreprocessing,
    Postprocessing,
    Preprocessing,
    TokenizerPreprocessing,
    TranslationPostprocessing,
)


class FileEntry(Contract):
    """A file of the bundle as it was written."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class Batching(Contract):
    """Hints for the batcher: the largest batch, in rows, that is worth building."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 64


class Quality(Contract):
    """One measured figure of one variant.

    Attributes:
        metric: its name, e.g. `accuracy`.
        value: as measured, not rounded up.
        split: the part of the data it was measured on.
        n: how many examples that part has.
        variant: what was measured; the default variant's figures come first.
        seeds: of the trainings behind it.
        hardware: on which it was measured.
    """

    metric: str
    value: float
    split: str
    n: Positive
    variant: str
    seeds: tuple[int, ...]
    hardware: str


class Source(Contract):
    """Data or initial weights that the model was made from."""

    name: str
    licence: str
    url: str
    sha256: dict[str, Sha256]


class Provenance(Contract):
    """Where the model comes from, complete enough to make it again."""

    created: str
    commit: str
    seed: int
    config: dict[str, Any]
    data: Source
    initial_weights: Source | None = None
    tools: dict[str, str]
    opset: Positive
    training_hardware: str
    training_seconds: float = Field(ge=0)


class Manifest(Contract):
    """The whole of `manifest.json`.

    Attributes:
        schema_version: of this contract.
        title: what people call the model.
        description: one paragraph.
        task: as named on the Hugging Face hub, e.g. `image-classification`; or `tensors`.
        parameters: trained numbers in the network.
        files: every file of the bundle but the manifest itself.
        variants: by name; each has a whole set of graphs.
        default_variant: the one served.
        golden: inputs and outputs (npz without pickle) that the service replays at load; only a model that is served as
            its graph may have none.
        preprocessing: from a request's input to the graph's; None where requests are tensors, or numbers that images
            are drawn from.
        postprocessing: from the graph's output to an answer; None where answers are tensors, or made token by token.
        not_finite: what becomes of an answer in which a number is NaN or infinite: `pass` gives tensors as they came
            (what has to be told as a score, a text or JSON fails all the same), `refuse` makes it an error everywhere.
        quality: measured figures.
        provenance: of a model that was trained here.
        licence: of a model that was not, where its owner said.
    """

    schema_version: Literal[1, 2, 3, 4, 5, 6]
    title: str
    description: str
    task: Annotated[str, Field(pattern=r"^[a-z]+(-[a-z]+)*$")]
    parameters: Size
    files: dict[FileName, FileEntry]
    variants: dict[str, Variant]
    default_variant: str
    golden: FileName | None = GOLDEN_FILE
    preprocessing: Preprocessing | None = None
    postprocessing: Postprocessing | None = None
    batching: Batching = Batching()
    not_finite: Literal["pass", "refuse"] = "pass"
    quality: tuple[Quality, ...]
    provenance: Provenance | None = None
    licence: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_variant not in self.variants:
            raise ValueError(f"default_variant {self.default_variant!r} is none of {sorted(self.variants)}")
        graphs = [graph for variant in self.variants.values() for graph in variant.graphs.values()]
        used = {graph.file for graph in graphs}
        used |= {self.golden} if self.golden else set()
        if isinstance(self.postprocessing, ClassificationPostprocessing | ImagesPostprocessing):
            used |= {self.postprocessing.labels} if self.postprocessing.labels else set()
        if isinstance(self.preprocessing, CharacterPreprocessing):
            used.add(self.preprocessing.vocabulary)
        if isinstance(self.preprocessing, TokenizerPreprocessing):
            used.add(self.preprocessing.tokenizer)
        if unlisted := sorted(used - set(self.files)):
            raise ValueError(f"files has no entry for {', '.join(unlisted)}")
        for kind, since in _since(self):
            if self.schema_version < since:
                raise ValueError(f"{kind} came with schema_version {since}")
        if self.schema_version == 1 or self.task != TENSORS:
            if problem := next(_missing_from_a_trained_model(self), None):
                raise ValueError(problem)
        elif self.preprocessing or self.postprocessing:
            raise ValueError(f"task {TENSORS!r} has no preprocessing and no postprocessing")
        return self

    @property
    def default(self) -> Variant:
        """The variant that is served."""
        return self.variants[self.default_variant]

    @property
    def is_stepped(self) -> bool:
        """Whether answers are made token by token."""
        return any(graph.step for variant in self.variants.values() for graph in variant.graphs.values())


def _since(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """What the manifest has that the first version did not know, and the version that it came with."""
    steps = [graph.step for variant in manifest.variants.values() for graph in variant.graphs.values() if graph.step]
    if steps or isinstance(manifest.preprocessing, CharacterPreprocessing):
        yield "steps and characters", 3
    if any(step.candidates or step.attention for step in steps):
        yield "candidates and attention", 4
    if isinstance(manifest.preprocessing, TokenizerPreprocessing):
        yield "tokenizers", 4
    if isinstance(manifest.postprocessing, TranslationPostprocessing):
        yield "translation", 4
    if isinstance(manifest.preprocessing, NgramPreprocessing):
        yield "n-grams", 5
    if isinstance(manifest.postprocessing, ImagesPostprocessing):
        yield "images that are drawn", 5
    if manifest.not_finite != "pass":
        yield "not_finite", 6


def _missing_from_a_trained_model(manifest: Manifest) -> Iterator[str]:
    """What a model needs that is more than its graph: how requests become tensors, proof, and an origin."""
    needless = {"postprocessing"} if manifest.is_stepped else set()
    if isinstance(manifest.postprocessing, ImagesPostprocessing):
        needless = {"preprocessing"}  # what is drawn can be said without a text
    for key in ("golden", "preprocessing", "postprocessing", "provenance"):
        if getattr(manifest, key) is None and key not in needless:
            yield f"{key}: Field required by task {manifest.task!r}"
    if manifest.parameters < 1:
        yield "parameters: Input should be greater than or equal to 1"
    for name, variant in manifest.variants.items():
        if variant.tolerance.framework is None:
            yield f"variants.{name}.tolerance.framework: Field required by task {manifest.task!r}"
        for role, graph in variant.graphs.items():
            for kind, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs)):
                for index, tensor in enumerate(tensors):
                    shape = tensor.shape or ()
                    if shape[:1] != (BATCH,):
                        yield f"{graph.file}: the first axis of {tensor.name!r} must be {BATCH!r}"
                    if 0 in shape:
                        yield (
                            f"variants.{name}.graphs.{role}.{kind}.{index}.shape.{shape.index(0)}: "
                            "Input should be greater than or equal to 1"
                        )
