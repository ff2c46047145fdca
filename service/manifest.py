"""The contract between training and service: what `manifest.json` in a bundle folder says.

A bundle is the folder `models/<name>/<version>/`. Its manifest names every other file with size and sha256, the graphs
with their tensors, what happens to an input before the graph and to an output after it, and how good the model is and
where it comes from. The folder gives the name and the version; the manifest does not repeat them.

Models are frozen and refuse unknown keys. `schema_version` is looked at before anything else. Version 2 added models
that are served as their graph (task `tensors`), of which less is known; of all others it asks what version 1 asked.
Version 3 added graphs that are run once a token (`step`) and text that is read character by character; version 4 steps
that pick their candidates and look at a context, tokenizers, and translation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from service.errors import BundleRefused

SCHEMA_VERSION: Final = 4
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.npz"
MODEL_FILE = "model.onnx"
LABELS_FILE = "labels.json"
TENSORS: Final = "tensors"
"""The task of a model that is served as its graph, with nothing before or after it."""
BATCH: Final = "batch"
"""What the batch axis is called, the first of each tensor."""

_MAX_MANIFEST_BYTES = 1_000_000
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
"""What a model's name (its folder's name) looks like."""

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "BYTES",
]
"""The datatypes of the Open Inference Protocol."""


def _inside_the_folder(name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise ValueError("a file is named by a path inside the bundle folder: letters, digits, '.', '_', '-', one '/'")
    return name


FileName = Annotated[str, AfterValidator(_inside_the_folder)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


class _Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Contract):
    """A file of the bundle as it was written."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class Tensor(_Contract):
    """An input or output of a graph.

    Attributes:
        name: in the graph.
        datatype: of its elements.
        shape: sizes; a text is a symbolic axis. The batch axis is the first, and is called `batch`. None: not even the
            number of axes is known.
    """

    name: str
    datatype: Datatype
    shape: tuple[Size | str, ...] | None

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape fits: as many axes, and the declared sizes where they are no symbols."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            size == declared or isinstance(declared, str) for size, declared in zip(shape, self.shape, strict=True)
        )


class StatePair(_Contract):
    """A state of an autoregressive graph: an input (zeros at the start), and the output that is its next value."""

    input: str
    output: str


class Candidates(_Contract):
    """Outputs of a graph that picks the likeliest next tokens of each sequence itself, the best first.

    Attributes:
        tokens: INT64 (batch, candidates).
        logprobs: natural logarithms of their probabilities, FP32 (batch, candidates).
    """

    tokens: str
    logprobs: str


class Step(_Contract):
    """What the tensors of a graph mean that is run once a token.

    Attributes:
        token: the input, INT64 (batch,): the last token of each sequence.
        logits: the output, FP32 (batch, vocabulary): of each sequence's next token. There are either these,
        candidates: or these.
        states: what is carried from step to step, FP32, batch axis first.
        context: inputs that stay as they are for as long as a sequence lives. An axis of theirs that is symbolic, and
            is not the batch's, may be longer than a sequence needs, and is then filled up with zeros.
        attention: the output, FP32 (batch, the context's length), if there is one: how much each sequence looked at
            each place of its context.
    """

    token: str
    logits: str | None = None
    candidates: Candidates | None = None
    states: tuple[StatePair, ...] = Field(min_length=1)
    context: tuple[str, ...] = ()
    attention: str | None = None

    @model_validator(mode="after")
    def _one_kind_of_answer(self) -> Self:
        if (self.logits is None) == (self.candidates is None):
            raise ValueError("a step answers either logits or candidates")
        return self

    @property
    def answers(self) -> tuple[str, ...]:
        """The outputs that are no states."""
        picked = (self.candidates.tokens, self.candidates.logprobs) if self.candidates else ()
        return tuple(name for name in (self.logits, *picked, self.attention) if name is not None)


class Graph(_Contract):
    """One ONNX file with its tensors; `step` is there where it is run once a token."""

    file: FileName
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    step: Step | None = None

    @model_validator(mode="after")
    def _step_names_every_tensor(self) -> Self:
        if self.step:
            states = self.step.states
            named = sorted([self.step.token, *self.step.context, *(pair.input for pair in states)])
            answered = sorted([*self.step.answers, *(pair.output for pair in states)])
            for kind, found, tensors in (("inputs", named, self.inputs), ("outputs", answered, self.outputs)):
                if found != (expected := sorted(tensor.name for tensor in tensors)):
                    raise ValueError(f"step names the {kind} {found}, and the graph has {expected}")
        return self

    @property
    def batched(self) -> bool:
        """Whether requests may share a run: the first axis of every input and output is the batch."""
        return all(tensor.shape and tensor.shape[0] == BATCH for tensor in (*self.inputs, *self.outputs))


class Tolerance(_Contract):
    """How far an output may lie from its golden value.

    Attributes:
        framework: largest absolute difference to PyTorch's output, measured at export, with a margin. None where there
            is nothing but the graph.
        runtime: largest absolute difference to ONNX Runtime's own output on the machine of the export.
    """

    framework: float | None = Field(None, gt=0)
    runtime: float = Field(gt=0)


class Variant(_Contract):
    """One way of computing the model (float32 or quantised): graphs by role, and what its golden replay allows."""

    graphs: dict[str, Graph] = Field(min_length=1)
    tolerance: Tolerance


class ImagePreprocessing(_Contract):
    """From the bytes of a picture to the graph's input (N, channels, height, width), float32.

    The picture is turned upright by its EXIF orientation, laid on `background` where it is transparent, made grey or
    RGB, brought to size, inverted where asked, then mapped to `(value / 255 - mean) / std`.

    Attributes:
        input: the graph's input.
        fit: `stretch` to size, `crop` the middle after resizing the shorter side, or `pad` the shorter side.
        background: brightness 0..255 under transparency and around a padded picture.
        invert: whether brightness is turned round unless the request says otherwise.
    """

    kind: Literal["image"] = "image"
    input: str
    width: Annotated[int, Field(ge=1, le=4096)]
    height: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[1, 3]
    fit: Literal["stretch", "crop", "pad"]
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    background: Annotated[int, Field(ge=0, le=255)] = 0
    invert: bool = False
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values each, one a channel")
        return self


def _single_characters(replacements: dict[str, str]) -> dict[str, str]:
    if long := [character for character in replacements if len(character) != 1]:
        raise ValueError(f"replacements are of single characters, not of {long}")
    return replacements


class CharacterPreprocessing(_Contract):
    """From a text to the tokens of a graph that reads it character by character.

    Attributes:
        vocabulary: a JSON file, the list of characters in the order of their token ids.
        start: the character that an empty prompt stands for.
        replacements: what stands in for characters outside the vocabulary; any other such character is refused.
    """

    kind: Literal["characters"] = "characters"
    vocabulary: FileName = "vocab.json"
    start: Annotated[str, Field(min_length=1, max_length=1)] = "\n"
    replacements: Annotated[dict[str, str], AfterValidator(_single_characters)] = {}


class TokenizerPreprocessing(_Contract):
    """From a sentence to the inputs of a graph that reads all of it: tokens (N, length) and their numbers (N,), INT64.

    Attributes:
        input: the graph's input of tokens, the end token among them.
        lengths: the graph's input that says how many of them are the sentence's.
        tokenizer: a file in the format of Hugging Face's library `tokenizers`.
        start: the token with which an answer begins.
        end: the token with which a sentence and its answer end.
        padding: the token that fills a sentence up.
        sizes: to the smallest of these that is enough, in tokens. Nothing is longer than the largest.
    """

    kind: Literal["tokenizer"] = "tokenizer"
    input: str
    lengths: str
    tokenizer: FileName = "tokenizer.json"
    start: Size
    end: Size
    padding: Size
    sizes: tuple[Annotated[int, Field(ge=2, le=4096)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("sizes must rise")
        return self


def _discriminator(default: str, *kinds: str) -> Discriminator:
    """By `kind`; `default` where it does not say, as version 1 knew no other."""

    def kind_of(given: object) -> object:
        if isinstance(given, dict):
            return given.get("kind", default)
        return getattr(given, "kind", None)

    allowed = " or ".join(map(repr, kinds))
    return Discriminator(kind_of, custom_error_type="kind", custom_error_message=f"kind must be {allowed}")


Preprocessing = Annotated[
    Annotated[ImagePreprocessing, Tag("image")]
    | Annotated[CharacterPreprocessing, Tag("characters")]
    | Annotated[TokenizerPreprocessing, Tag("tokenizer")],
    _discriminator("image", "image", "characters", "tokenizer"),
]


class ClassificationPostprocessing(_Contract):
    """From the graph's output (N, classes) to scores by label.

    Attributes:
        output: the graph's output.
        activation: what makes scores of it; `none` where the graph gives scores already.
        labels: a JSON file, the list of class names in the order of the output.
    """

    kind: Literal["classification"] = "classification"
    output: str
    activation: Literal["softmax", "sigmoid", "none"]
    labels: FileName


class TranslationPostprocessing(_Contract):
    """How a translation is searched for and put together.

    Attributes:
        source: the language that is read, as ISO 639 has it.
        target: the language that is written.
        beams: beginnings that are kept unless the request says otherwise; 1 takes the likeliest token after token.
        length_penalty: the exponent of Wu et al. 2016 (arXiv:1609.08144, section 7), 0 for none.
        length_factor: a translation is cut off after so many tokens for each of its sentence's, without end tokens,
        length_offset: and so many more.
    """

    kind: Literal["translation"] = "translation"
    source: Language
    target: Language
    beams: Annotated[int, Field(ge=1, le=64)] = 5
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 1.0
    length_factor: Annotated[float, Field(ge=0, le=100)] = 2.0
    length_offset: Annotated[int, Field(ge=1, le=10_000)] = 10


Postprocessing = Annotated[
    Annotated[ClassificationPostprocessing, Tag("classification")]
    | Annotated[TranslationPostprocessing, Tag("translation")],
    _discriminator("classification", "classification", "translation"),
]


class Batching(_Contract):
    """Hints for the batcher: the largest batch, in rows, that is worth building."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 64


class Quality(_Contract):
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


class Source(_Contract):
    """Data or initial weights that the model was made from."""

    name: str
    licence: str
    url: str
    sha256: dict[str, Sha256]


class Provenance(_Contract):
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


class Manifest(_Contract):
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
        preprocessing: from a request's input to the graph's; None where requests are tensors.
        postprocessing: from the graph's output to an answer; None where answers are tensors, or made token by token.
        quality: measured figures.
        provenance: of a model that was trained here.
        licence: of a model that was not, where its owner said.
    """

    schema_version: Literal[1, 2, 3, 4]
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
        if isinstance(self.postprocessing, ClassificationPostprocessing):
            used.add(self.postprocessing.labels)
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


def _missing_from_a_trained_model(manifest: Manifest) -> Iterator[str]:
    """What a model needs that is more than its graph: how requests become tensors, proof, and an origin."""
    for key in ("golden", "preprocessing", "postprocessing", "provenance"):
        if getattr(manifest, key) is None and not (key == "postprocessing" and manifest.is_stepped):
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


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of the bundle in `folder` (the other files are not looked at).

    Raises:
        BundleRefused: it is missing, too large, no JSON, of a newer schema, or breaks the contract; the reason names
            the keys at fault.
    """
    path = folder / MANIFEST_FILE
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleRefused(MANIFEST_FILE, f"larger than {_MAX_MANIFEST_BYTES} bytes")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleRefused(MANIFEST_FILE, f"can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BundleRefused(MANIFEST_FILE, f"is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise BundleRefused(MANIFEST_FILE, "is no JSON object")
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleRefused(
            MANIFEST_FILE, f"made by a newer inferd (schema_version {version}; this one reads up to {SCHEMA_VERSION})"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors()[:5])
        raise BundleRefused(MANIFEST_FILE, problems) from error


def _place(keys: Sequence[str | int]) -> str:
    """Where something is wrong, in the keys of the file: pydantic puts the kind of a processing between them."""
    if keys[:1] in (("preprocessing",), ("postprocessing",)):
        keys = (*keys[:1], *keys[2:])
    return ".".join(map(str, keys)) or "manifest"


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file that `manifest` names with its size and sha256.

    Raises:
        BundleRefused: a file is missing, is no plain file, or has other bytes; it is named.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        linked = path.is_symlink() or (path.parent != folder and path.parent.is_symlink())
        if linked or not path.is_file():
            raise BundleRefused(name, "is missing or no plain file")
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleRefused(name, f"has {size} bytes, the manifest says {entry.bytes}")
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BundleRefused(name, f"can't be read ({error.strerror})") from error
        if digest != entry.sha256:
            raise BundleRefused(name, f"has sha256 {digest}, the manifest says {entry.sha256}")


def file_entry(path: Path) -> FileEntry:
    """Size and sha256 of a file, as a manifest lists them.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(sha256=digest, bytes=path.stat().st_size)


def json_schema() -> str:
    """The JSON Schema of `manifest.json`, as committed in docs/manifest.schema.json."""
    return json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True) + "\n"
