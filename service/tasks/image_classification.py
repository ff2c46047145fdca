"""Image classification: the bytes of a picture in, labels with scores out, best first."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from service.errors import BadInput, BundleRefused, RuntimeFailure
from service.images import FORMATS, Picture, decode, decode_pixels, open_picture
from service.manifest import ClassificationPostprocessing, ImagePreprocessing, Manifest
from service.tasks.base import TaskLimits, parse_parameters
from service.tasks.labels import read_labels
from service.tensors import Arrays

_LIGHT_PIXELS = 64 * 64
"""Pictures up to this size are decoded in the event loop: a thread would cost more than the decoding."""


class Parameters(BaseModel):
    """What a request may ask for.

    Attributes:
        top_k: how many labels come back; more than there are means all of them.
        invert: whether brightness is turned round before the network sees it; None = as the model's manifest says.
        function_to_apply: in place of the manifest's activation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(5, ge=1)
    invert: bool | None = None
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None


@dataclass(frozen=True)
class Request:
    """A picture whose header was checked, and what is asked of it."""

    picture: Picture
    parameters: Parameters


class ImageClassification:
    """The task of one model.

    Args:
        folder: the bundle's folder.
        manifest: its manifest.
        limits: of a request.

    Raises:
        BundleRefused: the labels are no list of texts, or not as many as the graph has outputs; or the graph takes
            something else than the preprocessing makes.
    """

    graphs: tuple[str, ...] = ("model",)
    slots_a_row = 1

    def __init__(self, folder: Path, manifest: Manifest, limits: TaskLimits) -> None:
        if not isinstance(manifest.preprocessing, ImagePreprocessing) or not isinstance(
            manifest.postprocessing, ClassificationPostprocessing
        ):
            raise BundleRefused(
                "manifest.json", f"task {manifest.task!r} needs a preprocessing of images and a postprocessing"
            )
        self._preprocessing = manifest.preprocessing
        self._postprocessing = manifest.postprocessing
        self._limits = limits
        _check_input(manifest, self._preprocessing)
        self.labels = _read_labels(folder, manifest, self._postprocessing)

    def parse(self, inputs: object, parameters: Mapping[str, object]) -> Request:
        """Check the parameters and the picture's header.

        Args:
            inputs: the bytes of a PNG, JPEG or WebP, or their base64 text.
            parameters: see `Parameters`.

        Raises:
            BadInput: either is wrong.
        """
        asked = parse_parameters(Parameters, parameters)
        return Request(open_picture(_picture_bytes(inputs), max_pixels=self._limits.max_pixels), asked)

    def is_heavy(self, request: Request) -> bool:
        """Whether decoding is worth a thread."""
        return request.picture.pixels > _LIGHT_PIXELS

    def encode(self, request: Request) -> Arrays:
        """Decode the picture into one row of the graph's input."""
        return {
            self._preprocessing.input: decode(request.picture, self._preprocessing, invert=request.parameters.invert)
        }

    def seen(self, request: Request) -> NDArray[np.uint8]:
        """The picture as the network is given it, before its numbers are normalised: (height, width, channels).

        Raises:
            BadInput: the pixels are truncated or broken.
        """
        pixels = decode_pixels(request.picture, self._preprocessing, invert=request.parameters.invert)
        return pixels.transpose(1, 2, 0)

    def decode(self, request: Request, outputs: Arrays) -> list[dict[str, object]]:
        """Return `[{"label", "score"}]`, best first.

        Raises:
            RuntimeFailure: a score is no number.
        """
        asked = request.parameters
        activation = asked.function_to_apply or self._postprocessing.activation
        scores = _ACTIVATIONS[activation](outputs[self._postprocessing.output][0].astype(np.float64))
        if not np.isfinite(scores).all():
            raise RuntimeFailure("the model answered with numbers that are not finite")
        best = np.argsort(-scores, kind="stable")[: asked.top_k]
        return [{"label": self.labels[index], "score": float(scores[index])} for index in best]

    def describe(self) -> dict[str, object]:
        """What the model takes, and its labels."""
        how = self._preprocessing
        return {
            "input": {
                "formats": list(FORMATS),
                "max_pixels": self._limits.max_pixels,
                "seen_as": {"width": how.width, "height": how.height, "channels": how.channels, "fit": how.fit},
                "invert": how.invert,
            },
            "parameters": Parameters.model_json_schema()["properties"],
            "labels": list(self.labels),
        }


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max())
    scores: NDArray[np.float64] = exponentials / exponentials.sum()
    return scores


_ACTIVATIONS: Mapping[str, Any] = {
    "softmax": _softmax,
    "sigmoid": lambda logits: np.exp(-np.logaddexp(0, -logits)),  # 1 / (1 + exp(-x)), for any x
    "none": lambda scores: scores,
}


def _picture_bytes(inputs: object) -> bytes:
    if isinstance(inputs, bytes):
        return inputs
    if not isinstance(inputs, str):
        raise BadInput("inputs must be a picture: its bytes as the request's body, or their base64 text in JSON")
    try:
        return base64.b64decode(inputs, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"inputs is no base64 text of a picture ({error}); addresses are not fetched") from error


def _check_input(manifest: Manifest, how: ImagePreprocessing) -> None:
    made = ("batch", how.channels, how.height, how.width)
    for graph in (graph for variant in manifest.variants.values() for graph in variant.graphs.values()):
        kinds = [(tensor.name, tensor.datatype, len(tensor.shape or ())) for tensor in graph.inputs]
        sizes = zip(graph.inputs[0].shape or (), made, strict=False)
        if kinds != [(how.input, "FP32", len(made))] or any(
            isinstance(one, int) and one != size for one, size in sizes
        ):
            inputs = ", ".join(f"{tensor.name!r} {tensor.datatype} {tensor.shape}" for tensor in graph.inputs)
            raise BundleRefused(
                "manifest.json",
                f"preprocessing makes {how.input!r} FP32 {made}, but {graph.file} has the inputs {inputs}",
            )


def _read_labels(folder: Path, manifest: Manifest, how: ClassificationPostprocessing) -> tuple[str, ...]:
    labels = read_labels(folder, how.labels, manifest.files[how.labels])
    for variant in manifest.variants.values():
        outputs = {tensor.name: tensor.shape for graph in variant.graphs.values() for tensor in graph.outputs}
        shape = outputs.get(how.output)
        if shape != ("batch", len(labels)):
            raise BundleRefused(how.labels, f"has {len(labels)} labels, but output {how.output!r} has shape {shape}")
    return labels
