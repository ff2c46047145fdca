from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from service.manifest import Tensor as TensorEntry
from training.core.export import (
    OPSET,
    export_onnx,
    largest_difference,
    open_session,
    quantise,
    seconds_a_run,
    tensors_of,
)

BATCH_SIZES = (1, 2, 7, 64)


class SmallNet(nn.Module):
    """Convolutions, normalisation, a shortcut and a linear layer: what image classifiers are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        nn.init.uniform_(self.norm.running_mean, -1, 1)  # type: ignore[arg-type] # it keeps statistics
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, 9, 9) to (N, 5)."""
        x = functional.relu(self.norm(self.conv1(image)))
        answer: Tensor = self.head(functional.relu(x + self.conv2(x)).mean((2, 3)))
        return answer


@dataclass(frozen=True)
class Exported:
    model: SmallNet
    fp32: Path
    int8: Path


def _images(rows: int, seed: int = 3) -> Tensor:
    return torch.randn(rows, 1, 9, 9, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(5)
    model = SmallNet()
    export_onnx(model, {"image": _images(2)}, ["logits"], folder / "fp32.onnx")

    def calibration() -> Iterator[dict[str, NDArray[np.float32]]]:
        for seed in range(8):
            yield {"image": _images(16, seed).numpy()}

    quantise(folder / "fp32.onnx", folder / "int8.onnx", calibration())
    return Exported(model, folder / "fp32.onnx", folder / "int8.onnx")


@pytest.fixture
def session(exported: Exported) -> ort.InferenceSession:
    return open_session(exported.fp32, threads=1)


# Exporting


@pytest.mark.parametrize("rows", BATCH_SIZES)
def test_onnx_runtime_answers_as_pytorch_does_at_any_batch_size(
    exported: Exported, session: ort.InferenceSession, rows: int
) -> None:
    images = _images(rows)
    with torch.no_grad():
        expected = exported.model(images).numpy()
    (found,) = session.run(None, {"image": images.numpy()})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_an_export_normalises_as_in_evaluation_whatever_the_mode_before(exported: Exported) -> None:
    nodes = {node.op_type for node in onnx.load(exported.fp32).graph.node}
    assert not nodes & {"Dropout", "ReduceVar", "ReduceSumSquare"}
    assert not exported.model.training


def test_an_export_has_a_symbolic_batch_axis_and_the_names_asked_for(exported: Exported) -> None:
    for path in (exported.fp32, exported.int8):
        assert tensors_of(path) == (
            (TensorEntry(name="image", datatype="FP32", shape=("batch", 1, 9, 9)),),
            (TensorEntry(name="logits", datatype="FP32", shape=("batch", 5)),),
        )


def test_an_export_is_one_valid_file_of_the_opset_that_manifests_name(exported: Exported) -> None:
    for path in (exported.fp32, exported.int8):
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        assert {opset.domain: opset.version for opset in model.opset_import}[""] == OPSET
        assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_an_example_of_one_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two rows or more"):
        export_onnx(SmallNet(), {"image": _images(1)}, ["logits"], tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class FrozenInput(nn.Module):
    """Has the batch size of its example written into it."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (2, 4) to (2, 4)."""
        return image + torch.zeros(2, 4)


class FrozenOutput(nn.Module):
    """Mixes the rows of a batch."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 4) to (1, 4)."""
        return image.sum(0, keepdim=True)


@pytest.mark.parametrize(
    ("model", "tensor"), [(FrozenInput(), "image"), (FrozenOutput(), "sums")], ids=["input", "output"]
)
def test_a_network_with_a_fixed_batch_size_is_refused(tmp_path: Path, model: nn.Module, tensor: str) -> None:
    with pytest.raises(ValueError, match=f"froze the batch axis of '{tensor}'"):
        export_onnx(model, {"image": torch.ones(2, 4)}, ["sums"], tmp_path / "model.onnx")


class Mixture(nn.Module):
    """Takes two inputs, and a third axis that is as long as it is."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map (N, T, 4) and (N, 3) to (N, 7)."""
        return torch.cat([first.sum(1), second], 1)


def test_inputs_share_the_batch_axis_and_others_are_as_long_as_they_are(tmp_path: Path) -> None:
    path, example = tmp_path / "model.onnx", {"first": torch.ones(2, 5, 4), "second": torch.ones(2, 3)}
    export_onnx(Mixture(), example, ["both"], path, {"first": {1: "length"}})
    given, answered = tensors_of(path)
    assert [one.shape for one in (*given, *answered)] == [("batch", "length", 4), ("batch", 3), ("batch", 7)]
    for rows, length in ((1, 1), (3, 2), (7, 11)):
        first, second = np.ones((rows, length, 4), np.float32), np.zeros((rows, 3), np.float32)
        (found,) = open_session(path, threads=1).run(None, {"first": first, "second": second})
        assert found.tolist() == [[length] * 4 + [0] * 3] * rows


def test_an_export_tells_nothing_of_the_machine_it_was_made_on(exported: Exported) -> None:
    content = exported.fp32.read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(__file__).parent).encode() not in content


# Comparing


def test_the_largest_difference_is_over_all_batch_sizes(exported: Exported, session: ort.InferenceSession) -> None:
    images = _images(8)
    assert largest_difference(exported.model, session, {"image": images}, BATCH_SIZES) < 1e-5


class Moved(nn.Module):
    """Answers as another network, moved by so much for one image of the batch."""

    def __init__(self, model: nn.Module, by: float, row: int) -> None:
        super().__init__()
        self.model, self.by, self.row = model, by, row

    def forward(self, image: Tensor) -> Tensor:
        """Map images to answers."""
        answers: Tensor = self.model(image).clone()
        if len(answers) > self.row:
            answers[self.row, 2] += self.by
        return answers


@pytest.mark.parametrize("by", [0.25, -0.25])
def test_a_difference_in_one_value_of_one_row_is_found(
    exported: Exported, session: ort.InferenceSession, by: float
) -> None:
    moved, inputs = Moved(exported.model, by, row=60), {"image": _images(8)}
    assert largest_difference(moved, session, inputs, (1, 2, 7)) < 1e-5
    # Also when a batch that agrees comes last.
    assert largest_difference(moved, session, inputs, (64, 1)) == pytest.approx(0.25, abs=1e-4)


def test_an_answer_that_is_no_number_is_a_difference(exported: Exported, session: ort.InferenceSession) -> None:
    broken = Moved(exported.model, float("nan"), row=1)
    assert not largest_difference(broken, session, {"image": _images(8)}, BATCH_SIZES) <= 1.0


def test_an_answer_of_another_shape_is_refused(exported: Exported, session: ort.InferenceSession) -> None:
    class Shorter(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            answers: Tensor = exported.model(image)[:, :3]
            return answers

    with pytest.raises(ValueError, match=r"at batch size 2 ONNX Runtime gives \(2, 5\), PyTorch \(2, 3\)"):
        largest_difference(Shorter(), session, {"image": _images(8)}, (2,))


def test_the_time_of_a_run_is_a_short_positive_one(session: ort.InferenceSession) -> None:
    assert 0 < seconds_a_run(session, {"image": _images(2).numpy()}, runs=3) < 1


# Quantising


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def _zero_points(path: Path, operator: str) -> dict[str, NDArray[np.generic]]:
    """The zero points of all nodes of a kind, by what they take in: their type is that of the quantised values."""
    arrays = _arrays(path)
    nodes = onnx.load(path).graph.node
    return {node.input[0]: arrays[node.input[2]] for node in nodes if node.op_type == operator}


def test_a_quantised_graph_has_unsigned_bytes_for_activations(exported: Exported) -> None:
    types = {points.dtype for points in _zero_points(exported.int8, "QuantizeLinear").values()}
    assert types == {np.dtype(np.uint8)}
    assert "image" in _zero_points(exported.int8, "QuantizeLinear")


def test_quantised_weights_have_seven_bits_and_a_scale_for_each_channel(exported: Exported) -> None:
    arrays = _arrays(exported.int8)
    weights = {
        name: array for name, array in arrays.items() if array.dtype == np.int8 and array.ndim > 1 and array.size > 1
    }
    assert sorted(array.shape for array in weights.values()) == [(5, 8), (8, 1, 3, 3), (8, 8, 3, 3)]
    for array in weights.values():
        assert -64 <= array.min() < array.max() <= 64
    # The range is used to its end, or less than seven bits would be left of them.
    assert all(np.abs(array.astype(int)).max() >= 63 for array in weights.values())
    points = _zero_points(exported.int8, "DequantizeLinear")
    assert sorted(points[name].shape for name in weights) == [(5,), (8,), (8,)]
    assert all(not points[name].any() for name in weights)


def test_no_float_weights_stay_in_a_quantised_graph(exported: Exported) -> None:
    left = {name: array.shape for name, array in _arrays(exported.int8).items() if array.dtype == np.float32}
    assert {name for name, shape in left.items() if len(shape) > 1} == set()


def test_a_quantised_graph_answers_nearly_as_the_one_before(exported: Exported) -> None:
    images = _images(256).numpy()
    (before,), (after,) = (
        open_session(path, threads=1).run(None, {"image": images}) for path in (exported.fp32, exported.int8)
    )
    assert 0 < np.abs(after - before).max() < 0.1 * np.ptp(before)


@pytest.mark.parametrize("rows", BATCH_SIZES)
def test_a_quantised_graph_answers_each_row_to_the_same_bits_alone_and_in_a_batch(
    exported: Exported, rows: int
) -> None:
    session = open_session(exported.int8, threads=1)
    images = _images(rows).numpy()
    (together,) = session.run(None, {"image": images})
    alone = [session.run(None, {"image": image[None]})[0][0] for image in images]
    assert np.array_equal(together, np.stack(alone))
