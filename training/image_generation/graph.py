"""The graphs of a bundle: from latents and conditions to bytes, and from n-grams to conditions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from service.ngrams import NONE, PAD
from training.core.export import BATCH_AXIS, export_onnx
from training.image_generation.data import to_pixels
from training.image_generation.model import Generator
from training.image_generation.text import TextEncoder, reading_of

GENERATOR, TEXT = "generator", "text"
"""The graphs' roles."""

LATENT, CONDITION, IMAGE = "latent", "condition", "image"
TOKENS, CONDITIONS, MEANT = "tokens", "conditions", "meant"
LENGTH_AXIS = "length"

DRAWN = "drawn"
"""The image before it becomes bytes, (N, channels, height, width), -1..1: inside the graph, and none of its outputs."""

Shapes = Mapping[str, tuple[int | str, ...]]


class ImageGraph(nn.Module):
    """What the generator's graph does.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: Generator) -> None:
        super().__init__()
        self.network = network

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents and conditions to bytes (N, height, width, channels), and to `DRAWN`.

        Where there are no classes there is no condition.
        """
        if condition is None:
            condition = torch.ones_like(latent[:, :1])
        drawn = self.network(latent, condition)
        return to_pixels(drawn).permute(0, 2, 3, 1), drawn


class TextGraph(nn.Module):
    """What the text encoder's graph does.

    Args:
        encoder: in evaluation mode.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map n-grams (N, length) to conditions (N, classes), and to how surely any class is meant (N,)."""
        found = reading_of(self.encoder(tokens))
        return found.conditions, found.meant


def export_generator(network: Generator, path: Path) -> None:
    """Write the generator's graph; raises ValueError where the exporter froze an axis."""
    example = {LATENT: torch.zeros(2, network.latent)}
    if network.classes > 1:
        example[CONDITION] = torch.eye(network.classes)[:2]
    export_onnx(ImageGraph(network), example, [IMAGE, DRAWN], path)
    model = onnx.load(path)
    del model.graph.output[1]
    onnx.save(model, path)


def export_text(encoder: TextEncoder, path: Path) -> None:
    """Write the text encoder's graph; raises ValueError where the exporter froze an axis."""
    example = {TOKENS: torch.tensor([[NONE + 1, NONE + 1, NONE + 1], [NONE, PAD, PAD]])}
    export_onnx(TextGraph(encoder), example, [CONDITIONS, MEANT], path, {TOKENS: {1: LENGTH_AXIS}})


def with_drawn(path: Path, copy: Path) -> None:
    """Write a copy of a generator's graph that has `DRAWN` as an output too.

    Raises:
        ValueError: the graph has no such tensor.
    """
    model = onnx.load(path)
    if not any(DRAWN in node.output for node in model.graph.node):
        raise ValueError(f"{path.name} has no tensor {DRAWN!r}")
    (image,) = model.graph.output
    height, width, channels = (axis.dim_value for axis in image.type.tensor_type.shape.dim[1:])
    model.graph.output.append(
        helper.make_tensor_value_info(DRAWN, TensorProto.FLOAT, [BATCH_AXIS, channels, height, width])
    )
    onnx.save(model, copy)


def generator_shapes(network: Generator) -> Shapes:
    """What the generator's graph must declare."""
    size, channels = network.base * 2 ** len(network.blocks), network.draw.out_channels
    condition = {CONDITION: (BATCH_AXIS, network.classes)} if network.classes > 1 else {}
    return {LATENT: (BATCH_AXIS, network.latent), **condition, IMAGE: (BATCH_AXIS, size, size, channels)}


def text_shapes(encoder: TextEncoder) -> Shapes:
    """What the text encoder's graph must declare."""
    return {
        TOKENS: (BATCH_AXIS, LENGTH_AXIS),
        CONDITIONS: (BATCH_AXIS, encoder.answer.out_features - 1),
        MEANT: (BATCH_AXIS,),
    }
