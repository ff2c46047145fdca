"""Residual networks with random weights as ONNX files, to be asked for their speed: what they answer means nothing.

`.venv/serve/bin/python loadtests/resnets.py FOLDER` writes all of them, `... FOLDER resnet-20 resnet-20-int8` these, so
that `inferd serve --models FOLDER` serves them as bare graphs, one `FOLDER/<name>/1/model.onnx` each:

- `resnet-20`: the small network of CIFAR (He et al. 2015, section 4.2; shortcuts without parameters) for grey pictures
  of 28 x 28 pixels, 0.27 million parameters. Speed is promised of this one: it takes so little that what a server does
  beside it counts.
- `resnet-20-int8`: the same, quantised as the bundles that ship are.
- `resnet-18` and `resnet-50`: for 224 x 224 pixels in colour, 11.7 and 25.5 million parameters.

Batch norm is folded, input is `input` FP32 (batch, channels, size, size), output `logits` FP32 (batch, classes). The
weights are seeded, so whoever writes a network writes the same one; nothing here needs PyTorch.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT: Final = "input"
OUTPUT: Final = "logits"
_OPSET, _IR_VERSION = 20, 10
_INT8: Final = "-int8"
_SEED = 20
_CALIBRATED_ROWS, _CALIBRATED_BATCHES = 16, 4
_DAMPED = 0.3
"""Of the last convolution of a block, so that sums over many blocks stay small."""


@dataclass(frozen=True)
class Network:
    """A residual network.

    Attributes:
        channels: of a picture,
        size: of it, in pixels,
        classes: that it may be of.
        widths: channels of the stages,
        blocks: and how many each has.
        large: whether it begins as those for large pictures do, with stride 2 and pooling, and its shortcuts have
            parameters; else it begins with one convolution and they have none.
        bottleneck: whether blocks are 1x1, 3x3 and 1x1 convolutions to four times their width, and not two of 3x3.
    """

    channels: int
    size: int
    classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    large: bool = True
    bottleneck: bool = False


NETWORKS: Final[Mapping[str, Network]] = {
    "resnet-20": Network(1, 28, 10, (16, 32, 64), (3, 3, 3), large=False),
    "resnet-18": Network(3, 224, 1000, (64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet-50": Network(3, 224, 1000, (64, 128, 256, 512), (3, 4, 6, 3), bottleneck=True),
}
NAMES: Final = ("resnet-20", f"resnet-20{_INT8}", "resnet-18", "resnet-50")
"""Of the models that can be written."""


def write(folder: Path, name: str) -> Path:
    """Write a model into a folder of models.

    Args:
        folder: of models; it is made if need be.
        name: one of `NAMES`.

    Returns:
        the ONNX file, `folder/name/1/model.onnx`.

    Raises:
        ValueError: there is no model of that name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no model {name!r}, only {', '.join(NAMES)}")
    path = folder / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    network = NETWORKS[name.removesuffix(_INT8)]
    model = model_of(network)
    if name.endswith(_INT8):
        quantise(model, path, network)
    else:
        onnx.save(model, path)
    return path


def model_of(network: Network) -> onnx.ModelProto:
    """The network in float32, its weights random and always the same."""
    drawn = _Drawing(np.random.default_rng(_SEED))
    x = _stem(drawn, network)
    channels = network.widths[0]
    for stage, (width, blocks) in enumerate(zip(network.widths, network.blocks, strict=True)):
        for block in range(blocks):
            x, channels = _block(drawn, network, x, channels, width, stride=2 if stage and not block else 1)
    axes = drawn.constant("axes", np.array([2, 3], np.int64))
    drawn.linear(drawn.node("ReduceMean", [x, axes], keepdims=0), channels, network.classes)
    shape: list[int | str] = ["batch", network.channels, network.size, network.size]
    graph = helper.make_graph(
        drawn.nodes,
        "resnet",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", network.classes])],
        drawn.constants,
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="inferd")
    onnx.checker.check_model(model, full_check=True)
    return model


def parameters_of(model: onnx.ModelProto) -> int:
    """How many weights and biases a float32 model has."""
    constants = model.graph.initializer
    return sum(math.prod(one.dims) for one in constants if one.data_type == TensorProto.FLOAT and one.dims)


def pictures(network: Network, rows: int, seed: int = 1) -> NDArray[np.float32]:
    """Noise in [0, 1), shape (rows, channels, size, size): what networks are calibrated by, and may be asked."""
    shape = (rows, network.channels, network.size, network.size)
    return np.random.default_rng(seed).random(shape, np.float32)


def quantise(model: onnx.ModelProto, path: Path, network: Network) -> None:
    """Write a statically quantised copy as the project's exports do it: see `training.core.export.quantise`.

    Unsigned activations, signed weights of seven bits a channel, so that processors without VNNI answer the same.
    """
    # It takes a second to import, and whoever writes in float32 alone has no use for it.
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        written, prepared = Path(folder) / "written.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model, written)
        # What shapes are follows without symbols here, and inferring them by symbols needs a package more.
        quant_pre_process(str(written), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            _Calibration(network),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
        )


class _Calibration:
    """Batches of noise, as ONNX Runtime's quantisation asks for them."""

    def __init__(self, network: Network) -> None:
        self._left = [pictures(network, _CALIBRATED_ROWS, seed) for seed in range(_CALIBRATED_BATCHES)]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return {INPUT: self._left.pop()} if self._left else None


class _Drawing:
    """Nodes and weights of a graph, which grow as it is written."""

    def __init__(self, random: np.random.Generator) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = random

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """A node with one output; the name of that."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output or name], name, **attributes))
        return output or name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant; its name, which `name` begins."""
        unique = f"{name}_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, unique))
        return unique

    def convolution(self, x: str, channels: tuple[int, int], size: int, stride: int = 1, factor: float = 1.0) -> str:
        """A convolution from so many channels to so many, a batch norm folded in; weights as He et al. draw them."""
        inputs, outputs = channels
        deviation = factor * math.sqrt(2 / (inputs * size * size))
        weight = self._random.normal(0, deviation, (outputs, inputs, size, size)).astype(np.float32)
        bias = self._random.normal(0, 0.05, outputs).astype(np.float32)
        names = [x, self.constant("weight", weight), self.constant("bias", bias)]
        return self.node(
            "Conv", names, kernel_shape=[size, size], strides=[stride, stride], pads=[size // 2] * 4, group=1
        )

    def linear(self, x: str, inputs: int, outputs: int) -> None:
        """The last layer, whose output is the graph's."""
        weight = self._random.normal(0, math.sqrt(1 / inputs), (outputs, inputs)).astype(np.float32)
        names = [x, self.constant("weight", weight), self.constant("bias", np.zeros(outputs, np.float32))]
        self.node("Gemm", names, OUTPUT, transB=1)


def _stem(drawn: _Drawing, network: Network) -> str:
    size, stride = (7, 2) if network.large else (3, 1)
    x = drawn.convolution(INPUT, (network.channels, network.widths[0]), size, stride)
    x = drawn.node("Relu", [x])
    return drawn.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4) if network.large else x


def _block(drawn: _Drawing, network: Network, x: str, channels: int, width: int, stride: int) -> tuple[str, int]:
    """A block, and how many channels come out of it."""
    outputs = 4 * width if network.bottleneck else width
    if network.bottleneck:
        y = drawn.node("Relu", [drawn.convolution(x, (channels, width), 1)])
        y = drawn.node("Relu", [drawn.convolution(y, (width, width), 3, stride)])
        y = drawn.convolution(y, (width, outputs), 1, factor=_DAMPED)
    else:
        y = drawn.node("Relu", [drawn.convolution(x, (channels, width), 3, stride)])
        y = drawn.convolution(y, (width, outputs), 3, factor=_DAMPED)
    if channels != outputs or stride != 1:
        shortcut: Callable[..., str] = _projected if network.large else _padded
        x = shortcut(drawn, x, channels, outputs, stride)
    return drawn.node("Relu", [drawn.node("Add", [y, x])]), outputs


def _projected(drawn: _Drawing, x: str, channels: int, outputs: int, stride: int) -> str:
    return drawn.convolution(x, (channels, outputs), 1, stride)


def _padded(drawn: _Drawing, x: str, channels: int, outputs: int, stride: int) -> str:
    """Every second pixel, and zeros for the channels that are new."""
    values = {"starts": [0, 0], "ends": [sys.maxsize] * 2, "axes": [2, 3], "steps": [stride] * 2}
    names = [drawn.constant(name, np.array(value, np.int64)) for name, value in values.items()]
    half = (outputs - channels) // 2
    pads = drawn.constant("pads", np.array([0, half, 0, 0, 0, outputs - channels - half, 0, 0], np.int64))
    return drawn.node("Pad", [drawn.node("Slice", [x, *names]), pads])


def main() -> None:
    """Write what is asked for, and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of models")
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(NAMES)}; all of them if none is named")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in given.names or NAMES:
        print(write(given.folder, name))


if __name__ == "__main__":
    main()
