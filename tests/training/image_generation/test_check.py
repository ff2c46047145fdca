from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from training.core.export import open_session, tensors_of
from training.image_generation.check import check_generator, check_text, generator_rows
from training.image_generation.data import to_pixels
from training.image_generation.graph import export_generator, export_text, with_drawn
from training.image_generation.model import Generator, ModelConfig
from training.image_generation.text import TextConfig, TextEncoder, read

TEXTS = ("red", "a picture of the deep blue sea", "", "draw something green, please, and make it large")


def network(*, classes: int = 3, seed: int = 1) -> Generator:
    """A generator that nobody trained, of 12 x 12 pixels."""
    torch.manual_seed(seed)
    how = ModelConfig(latent=8, generator=8, widest=16, conditional=classes > 1)
    made = Generator(how, size=12, channels=3, classes=classes)
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type] # it keeps statistics
    return made.eval()


def encoder(seed: int = 1) -> TextEncoder:
    """A text encoder that nobody trained."""
    torch.manual_seed(seed)
    made = TextEncoder(TextConfig(buckets=300, width=8, hidden=16), 3)
    nn.init.normal_(made.embed.weight)
    return made.eval()


@dataclass(frozen=True)
class Files:
    generator: Path
    text: Path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("graphs")
    export_generator(network(), folder / "model.onnx")
    export_text(encoder(), folder / "text.onnx")
    return Files(folder / "model.onnx", folder / "text.onnx")


def _changed(path: Path, folder: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, folder / path.name)
    return folder / path.name


def _node(graph: onnx.GraphProto, kind: str) -> onnx.NodeProto:
    (found,) = (node for node in graph.node if node.op_type == kind)
    return found


# Graphs as they are written


def test_sound_graphs_pass(written: Files) -> None:
    check_generator(written.generator, network(), 1)
    check_text(written.text, encoder(), TEXTS, 1)


def test_a_generator_without_classes_has_no_condition(tmp_path: Path) -> None:
    made = network(classes=1)
    export_generator(made, tmp_path / "model.onnx")
    check_generator(tmp_path / "model.onnx", made, 1)
    assert [one.name for one in tensors_of(tmp_path / "model.onnx")[0]] == ["latent"]
    assert list(generator_rows(made, 4, 1)) == ["latent"]


def test_what_the_graphs_give_is_what_is_measured(written: Files) -> None:
    inputs = generator_rows(network(), 8, seed=5)
    with torch.no_grad():
        expected = to_pixels(network()(*(torch.from_numpy(one) for one in inputs.values())))
    (pixels,) = open_session(written.generator).run(None, inputs)
    assert (pixels.shape, pixels.dtype) == ((8, 12, 12, 3), np.uint8)
    assert len(np.unique(pixels)) > 100
    assert (np.abs(pixels.transpose(0, 3, 1, 2).astype(int) - expected.numpy()) > 0).mean() < 1e-3
    tokens = np.array([[2, 3, 290]])
    conditions, meant = open_session(written.text).run(None, {"tokens": tokens})
    assert conditions.sum() == pytest.approx(1)
    logits = encoder()(torch.from_numpy(tokens))
    assert meant[0] == pytest.approx(1 - float(logits.softmax(1)[0, -1].detach()), abs=1e-6)
    assert read(encoder(), ["red"]).meant.shape == (1,)


def test_a_generator_is_tried_with_classes_mixtures_and_sums() -> None:
    conditions = generator_rows(network(), 64, seed=1)["condition"]
    assert np.allclose(conditions.sum(1), 1, atol=1e-6)
    assert (np.sort(conditions[0]) == [0, 0, 1]).all()
    assert conditions.min() < 0
    assert any(one.min() > 0 for one in conditions)


def test_the_text_graph_takes_any_length_and_any_number_of_texts(written: Files) -> None:
    session = open_session(written.text)
    for rows, length in ((1, 1), (1, 1024), (5, 2)):
        conditions, meant = session.run(None, {"tokens": np.full((rows, length), 7)})
        assert (conditions.shape, meant.shape) == ((rows, 3), (rows,))


def test_graphs_hold_nothing_of_the_machine_that_wrote_them(written: Files) -> None:
    for path in (written.generator, written.text):
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert str(Path(__file__).parents[3]).encode() not in content


# Each check, on graphs that are bad in just its way


@pytest.mark.parametrize("tensor", ["latent", "condition", "image"])
def test_a_frozen_batch_axis_is_refused(written: Files, tmp_path: Path, tensor: str) -> None:
    def freeze(graph: onnx.GraphProto) -> None:
        (value,) = (one for one in (*graph.input, *graph.output) if one.name == tensor)
        value.type.tensor_type.shape.dim[0].dim_value = 2

    with pytest.raises(ValueError, match=f"'{tensor}' is declared as"):
        check_generator(_changed(written.generator, tmp_path, freeze), network(), 1)


def test_an_image_that_is_not_bytes_is_refused(written: Files, tmp_path: Path) -> None:
    def widen(graph: onnx.GraphProto) -> None:
        _node(graph, "Cast").attribute[0].i = TensorProto.INT32
        graph.output[0].type.tensor_type.elem_type = TensorProto.INT32

    with pytest.raises(ValueError, match="'image' is INT32, not UINT8"):
        check_generator(_changed(written.generator, tmp_path, widen), network(), 1)


def test_the_graph_of_another_network_is_refused(written: Files) -> None:
    with pytest.raises(ValueError, match=r"model\.onnx: ONNX Runtime differs from PyTorch by \d\.\d+; allowed"):
        check_generator(written.generator, network(seed=2), 1)


@pytest.mark.parametrize("value", [1e-2, float("nan")])
def test_one_number_that_was_changed_is_noticed(written: Files, tmp_path: Path, value: float) -> None:
    def change(graph: onnx.GraphProto) -> None:
        (weight,) = (one for one in graph.initializer if one.name.endswith("draw.weight"))
        array = numpy_helper.to_array(weight).copy()
        array[1, 2, 0, 2] += value
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))

    with pytest.raises(ValueError, match="ONNX Runtime differs from PyTorch by"):
        check_generator(_changed(written.generator, tmp_path, change), network(), 1)


def test_bytes_that_are_not_the_nearest_are_refused(written: Files, tmp_path: Path) -> None:
    def cut_off(graph: onnx.GraphProto) -> None:
        _node(graph, "Round").op_type = "Floor"

    with pytest.raises(ValueError, match="'image' is not the bytes nearest to 'drawn'"):
        check_generator(_changed(written.generator, tmp_path, cut_off), network(), 1)


def test_a_row_that_its_neighbours_change_in_the_last_digits_is_refused(written: Files, tmp_path: Path) -> None:
    def mix(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.input[:] = ["mixed" if name == "latent" else name for name in node.input]
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array([0]), "rows"),
                numpy_helper.from_array(np.array(1e-7, np.float32), "little"),
            ]
        )
        for place, node in enumerate(
            (
                helper.make_node("ReduceMean", ["latent", "rows"], ["mean"], keepdims=1),
                helper.make_node("Mul", ["mean", "little"], ["hardly"]),
                helper.make_node("Add", ["latent", "hardly"], ["mixed"]),
            )
        ):
            graph.node.insert(place, node)

    with pytest.raises(ValueError, match=r"model\.onnx: '(image|drawn)' of a row is another alone than in a batch of"):
        check_generator(_changed(written.generator, tmp_path, mix), network(), 1)


def test_a_graph_whose_image_can_not_be_looked_into_is_refused(written: Files, tmp_path: Path) -> None:
    def rename(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.input[:] = ["other" if name == "drawn" else name for name in node.input]
            node.output[:] = ["other" if name == "drawn" else name for name in node.output]

    with pytest.raises(ValueError, match="has no tensor 'drawn'"):
        with_drawn(_changed(written.generator, tmp_path, rename), tmp_path / "copy.onnx")


@pytest.mark.parametrize(("tensor", "axis"), [("tokens", 0), ("tokens", 1), ("meant", 0)])
def test_a_frozen_axis_of_the_text_graph_is_refused(written: Files, tmp_path: Path, tensor: str, axis: int) -> None:
    def freeze(graph: onnx.GraphProto) -> None:
        (value,) = (one for one in (*graph.input, *graph.output) if one.name == tensor)
        value.type.tensor_type.shape.dim[axis].dim_value = 3

    with pytest.raises(ValueError, match=f"'{tensor}' is declared as"):
        check_text(_changed(written.text, tmp_path, freeze), encoder(), TEXTS, 1)


def test_a_text_graph_that_reads_what_a_row_is_filled_up_with_is_refused(written: Files, tmp_path: Path) -> None:
    def read_on(graph: onnx.GraphProto) -> None:
        where = _node(graph, "Where")
        where.CopyFrom(helper.make_node("Identity", [where.input[2]], list(where.output)))

    with pytest.raises(ValueError, match=r"text\.onnx reads a text filled up otherwise than alone, by"):
        check_text(_changed(written.text, tmp_path, read_on), encoder(), TEXTS, 1)


def test_the_text_graph_of_another_network_is_refused(written: Files, tmp_path: Path) -> None:
    shutil.copyfile(written.text, tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"text\.onnx: ONNX Runtime differs from PyTorch by"):
        check_text(tmp_path / "text.onnx", encoder(2), TEXTS, 1)
