from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import resnets
from classifier import write_classifier
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from service.repository.bundle import LoadOptions, load_bundle
from service.repository.scan import BundleFolder
from service.settings import Settings

SMALL = resnets.NETWORKS["resnet-20"]
OPTIONS = LoadOptions.of(Settings(device="cpu", threads=1, workers=1))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: resnets.write(folder, name) for name in ("resnet-20", "resnet-20-int8")}


def run(path: Path, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run([resnets.OUTPUT], {resnets.INPUT: rows})
    return logits


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet-20", 268_746), ("resnet-18", 11_684_712), ("resnet-50", 25_530_472)]
)
def test_networks_have_as_many_parameters_as_the_papers_without_batch_norm(name: str, parameters: int) -> None:
    """With batch norm, two numbers a channel where here a bias is, the large ones have 11,689,512 and 25,557,032."""
    model = resnets.model_of(resnets.NETWORKS[name])
    assert resnets.parameters_of(model) == parameters
    (made,) = model.graph.output
    assert [axis.dim_param or axis.dim_value for axis in made.type.tensor_type.shape.dim] == [
        "batch",
        resnets.NETWORKS[name].classes,
    ]


@pytest.mark.parametrize("name", ["resnet-20", "resnet-20-int8"])
def test_a_row_has_the_same_answer_alone_and_among_others(written: dict[str, Path], name: str) -> None:
    rows = resnets.pictures(SMALL, 9, seed=5)
    together = run(written[name], rows)
    assert together.shape == (9, 10)
    assert np.isfinite(together).all()
    assert len(np.unique(together, axis=0)) == 9  # rows are told apart
    alone = np.concatenate([run(written[name], rows[number : number + 1]) for number in range(9)])
    assert alone.tobytes() == together.tobytes()


def test_a_large_network_answers(tmp_path: Path) -> None:
    path = resnets.write(tmp_path, "resnet-18")
    assert path == tmp_path / "resnet-18" / "1" / "model.onnx"
    logits = run(path, resnets.pictures(resnets.NETWORKS["resnet-18"], 2))
    assert logits.shape == (2, 1000)
    assert np.isfinite(logits).all()


def test_in_bytes_it_answers_nearly_the_same(written: dict[str, Path]) -> None:
    rows = resnets.pictures(SMALL, 64, seed=6)
    exact, rounded = (run(written[name], rows) for name in ("resnet-20", "resnet-20-int8"))
    assert np.abs(exact - rounded).max() < 0.1 * exact.std()
    assert not np.array_equal(exact, rounded)


def test_weights_in_bytes_have_seven_bits_and_most_nodes_multiply_bytes(written: dict[str, Path]) -> None:
    graph = onnx.load(written["resnet-20-int8"]).graph
    weights = [one for one in graph.initializer if one.data_type == TensorProto.INT8 and len(one.dims) > 1]
    assert len(weights) == 20
    assert max(int(np.abs(numpy_helper.to_array(one).astype(int)).max()) for one in weights) <= 64
    assert sum(one.data_type == TensorProto.FLOAT and len(one.dims) > 1 for one in graph.initializer) == 0


def test_whoever_writes_a_network_writes_the_same_one(written: dict[str, Path], tmp_path: Path) -> None:
    assert resnets.write(tmp_path, "resnet-20").read_bytes() == written["resnet-20"].read_bytes()


def test_there_is_no_other_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model 'resnet-21', only resnet-20"):
        resnets.write(tmp_path, "resnet-21")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["resnet-20", "resnet-20-int8"])
def test_it_is_served_as_it_is_with_rows_in_one_run(written: dict[str, Path], name: str) -> None:
    bundle = load_bundle(BundleFolder(name, 1, written[name].parent), OPTIONS)
    assert bundle.batched
    assert [one.name for one in bundle.session.graph.inputs] == [resnets.INPUT]


def test_a_classifier_of_it_takes_pictures(tmp_path: Path) -> None:
    path = write_classifier(tmp_path, "pictures")
    bundle = load_bundle(BundleFolder("pictures", 1, path), OPTIONS)
    assert bundle.manifest.task == "image-classification"
    assert bundle.manifest.parameters == 268_746
    rows = resnets.pictures(SMALL, 3)
    assert (
        bundle.session.run({resnets.INPUT: rows})[resnets.OUTPUT].tobytes() == run(path / "model.onnx", rows).tobytes()
    )
