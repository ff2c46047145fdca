from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.errors import BadInput, BundleRefused
from service.repository.bundle import Bundle, LoadOptions, load_bundle, verify_bundle
from service.repository.scan import scan
from service.tasks.base import TaskLimits
from service.tensors import DTYPES
from tests.bundles import (
    entangled_graph,
    graph_of,
    identities_graph,
    identity_graph,
    lengths_graph,
    lookup_graph,
    make_bare,
    make_bundle,
    sum_graph,
    tensor,
    tiny_graph,
    truncate,
)
from tests.conftest import Serve

OPTIONS = LoadOptions(("CPUExecutionProvider",), threads=1, max_batch_rows=16, limits=TaskLimits(max_pixels=10_000))
INLINE_S = 0.001


def load(models: Path, graph: onnx.ModelProto | bytes | None = None) -> Bundle:
    if graph is not None:
        make_bare(models, graph=graph)
    (folder,) = scan(models)
    return load_bundle(folder, OPTIONS)


def shapes(bundle: Bundle) -> list[Any]:
    return [one.shape for one in (*bundle.session.graph.inputs, *bundle.session.graph.outputs)]


def refusal(models: Path) -> BundleRefused:
    (folder,) = scan(models)
    with pytest.raises(BundleRefused) as loading:
        load_bundle(folder, OPTIONS)
    with pytest.raises(BundleRefused) as verifying:
        verify_bundle(folder, OPTIONS)
    assert str(loading.value) == str(verifying.value)
    return loading.value


# What is served without a manifest


def test_a_graph_with_nothing_beside_it_is_loaded_with_a_manifest_read_from_it(models: Path) -> None:
    folder = make_bare(models, "sums", 3, sum_graph())
    bundle = load(models)
    manifest = bundle.manifest
    assert (manifest.task, manifest.title, manifest.parameters) == ("tensors", "sums", 1)
    content = (folder / "model.onnx").read_bytes()
    assert manifest.files["model.onnx"].sha256 == hashlib.sha256(content).hexdigest()
    assert manifest.files["model.onnx"].bytes == len(content)
    assert manifest.default.graphs["model"] == bundle.session.graph
    assert (bundle.folder.name, bundle.folder.version, bundle.variant) == ("sums", 3, "original")
    assert manifest.golden is manifest.provenance is manifest.preprocessing is None
    (found,) = scan(models)
    assert verify_bundle(found, OPTIONS) == manifest


def test_a_manifest_beside_the_graph_counts(models: Path) -> None:
    make_bundle(models)
    assert load(models).manifest.task == "image-classification"


@pytest.mark.parametrize("file", ["README.md", "LICENSE", ".DS_Store", ".git"])
def test_what_is_nothing_to_a_server_may_lie_beside_the_graph(models: Path, file: str) -> None:
    folder = make_bare(models)
    (folder / file).write_text("anything", encoding="utf-8")
    assert set(load(models).manifest.files) == {"model.onnx"}


@pytest.mark.parametrize("file", ["golden.npz", "model.int8.onnx", "config.pbtxt", "model.onnx.data", "folder"])
def test_a_bundle_that_has_lost_its_manifest_is_refused_by_what_is_left_of_it(models: Path, file: str) -> None:
    folder = make_bare(models)
    (folder / file).mkdir() if file == "folder" else (folder / file).write_bytes(b"anything")
    error = refusal(models)
    assert error.file == "manifest.json"
    assert error.problem.startswith("is missing.")
    assert f"there is also {file}" in error.problem


def test_a_folder_with_nothing_is_refused(models: Path) -> None:
    (models / "empty" / "1").mkdir(parents=True)
    error = refusal(models)
    assert (error.file, error.problem) == ("manifest.json", "can't be read (No such file or directory)")


def test_a_manifest_that_leads_nowhere_is_not_passed_over(models: Path) -> None:
    (make_bare(models) / "manifest.json").symlink_to(models / "nowhere")
    assert refusal(models).file == "manifest.json"


def test_a_graph_that_lies_elsewhere_is_refused(models: Path) -> None:
    folder = make_bare(models)
    (folder / "model.onnx").rename(models / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(models / "elsewhere.onnx")
    error = refusal(models)
    assert (error.file, error.problem) == ("model.onnx", "is no plain file of this folder: a link leads out of it")


def test_a_graph_that_keeps_tensors_in_another_file_is_refused_for_that(models: Path) -> None:
    model = tiny_graph()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="model.onnx.data")
    folder = make_bare(models, graph=model)
    (folder / "model.onnx.data").write_bytes(bytes(10_000))
    error = refusal(models)
    assert (error.file, error.problem) == (
        "model.onnx",
        "keeps tensor 'factors' in another file; export it in one file",
    )


def test_half_a_graph_and_no_graph_are_refused(models: Path) -> None:
    truncate(make_bare(models) / "model.onnx")
    assert "no ONNX model" in refusal(models).problem
    (models / "bare" / "1" / "model.onnx").write_bytes(b"")
    assert "no ONNX model" in refusal(models).problem


def test_what_is_no_tensor_is_refused(models: Path) -> None:
    several = helper.make_tensor_sequence_value_info("several", TensorProto.FLOAT, None)
    make_bare(
        models,
        graph=graph_of(
            [helper.make_node("SequenceConstruct", ["x"], ["several"])], [tensor("x", "FP32", ["n"])], [several]
        ),
    )
    assert "output 'several' is seq(tensor(float))" in refusal(models).problem


# The batch


@pytest.mark.parametrize("datatype", DTYPES)
def test_rows_of_every_datatype_are_batched(models: Path, datatype: str) -> None:
    bundle = load(models, identity_graph(datatype, ["n", 2]))
    assert bundle.batched
    assert bundle.max_batch_rows == 16
    assert shapes(bundle) == [("batch", 2), ("batch", 2)]
    assert [rows for rows, _ in bundle.measure_latency()] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (sum_graph(), [("batch", 3), ("batch", 3), ("batch", 3), ("batch",)]),
        (lengths_graph(), [("batch", "length"), ("batch", "length"), ("batch",)]),
        (identity_graph("FP32", [None, 2]), [("batch", 2), ("batch", 2)]),
        (identity_graph("FP32", ["n", None]), [("batch", "x_dim_1"), ("batch", "y_dim_1")]),
        (
            identities_graph({"a": ("FP32", ["n"]), "b": ("INT8", [None, 0])}),
            [("batch",), ("batch", 0), ("batch",), ("batch", 0)],
        ),
        (
            graph_of(
                [helper.make_node("Identity", ["x"], ["y"])],
                [tensor("x", "FP32", ["unk__6", 2])],
                [tensor("y", "FP32", ["unk__7", 2])],
            ),
            [("batch", 2), ("batch", 2)],
        ),
    ],
    ids=["several", "inner", "unnamed", "unnamed-inner", "partly-unnamed", "numbered"],
)
def test_a_first_axis_that_all_share_is_the_batch(models: Path, graph: onnx.ModelProto, expected: list[Any]) -> None:
    bundle = load(models, graph)
    assert shapes(bundle) == expected
    assert bundle.batched
    assert bundle.session.graph.batched


@pytest.mark.parametrize(
    "graph",
    [
        identity_graph("FP32", [4, 2]),
        identity_graph("FP32", []),
        identity_graph("FP32", None),
        identity_graph("BYTES", [0]),
        identities_graph({"a": ("FP32", ["n"]), "b": ("FP32", ["m"])}),
        identities_graph({"a": ("FP32", ["batch"]), "b": ("FP32", [])}),
        identities_graph({"a": ("FP32", ["batch"]), "b": ("FP32", [2])}),
        graph_of(
            [helper.make_node("Identity", ["x"], ["y"])],
            [tensor("x", "FP32", ["batch"])],
            [tensor("y", "FP32", ["other"])],
        ),
    ],
    ids=["fixed", "scalar", "unranked", "nothing", "two-names", "a-scalar-too", "a-fixed-one-too", "other-output"],
)
def test_otherwise_requests_run_one_by_one_and_nothing_is_logged(
    models: Path, graph: onnx.ModelProto, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load(models, graph)
    assert not bundle.batched
    assert not bundle.session.graph.batched
    assert bundle.max_batch_rows == 1
    assert [rows for rows, _ in bundle.measure_latency()] in ([1], [])
    assert not caplog.records


def test_rows_that_influence_each_other_run_one_by_one_and_the_log_says_why(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load(models, entangled_graph())
    assert not bundle.batched
    assert shapes(bundle) == [("axis_0", 3), ("axis_0", 3)]
    assert bundle.manifest.default.graphs["model"] == bundle.session.graph
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "bare version 1 runs its requests one by one, though its first axis looks like a batch: "
        "output 'y' of a row depends on the rows beside it"
    )


def test_a_graph_that_takes_only_one_row_runs_one_by_one(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [  # a shape that ONNX Runtime can't see before it runs
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "nothing"], ["zero"]),
        helper.make_node("Cast", ["zero"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["one_row", "whole"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    model = graph_of(
        nodes,
        [tensor("x", "FP32", ["batch", 4])],
        [tensor("y", "FP32", ["batch", 4])],
        {"one_row": np.array([1, 4], np.int64), "nothing": np.float32(0)},
    )
    bundle = load(models, model)
    assert not bundle.batched
    assert bundle.examples["model"]["x"].shape == (1, 4)
    assert "it could not be tried with several rows" in caplog.text


def test_a_graph_that_answers_otherwise_each_time_is_served_one_by_one(models: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["y"])]
    model = graph_of(nodes, [tensor("x", "FP32", ["n", 4])], [tensor("y", "FP32", ["n", 4])])
    assert not load(models, model).batched


# How long it takes


def test_a_graph_that_runs_on_nothing_made_up_is_served_and_kept_out_of_the_event_loop(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load(models, lookup_graph(9))
    assert not bundle.examples
    assert not bundle.batched
    assert bundle.measure_latency() == ()
    assert "runs on no inputs that were made up for it" in caplog.text
    assert "indices element out of data bounds" in caplog.text
    assert bundle.predict({"index": [9, 12]}, {}) == {"row": [[0, 1, 2], [9, 10, 11]]}


@pytest.mark.parametrize(
    "shape",
    [["batch", "length"], [None, None], ["length"], ["a", "b", 1], None],
    ids=["batch", "unnamed", "1", "2", "?"],
)
def test_a_graph_whose_requests_may_be_of_any_size_is_kept_out_of_the_event_loop(
    models: Path, shape: list[int | str | None] | None
) -> None:
    model = identities_graph({"x": ("FP32", shape), "fixed": ("FP32", ["batch", 1] if shape else [])})
    points = load(models, model).measure_latency()
    assert points == ()  # nobody knows how large requests are


def test_a_small_graph_of_fixed_size_may_run_in_the_event_loop(models: Path) -> None:
    ((_, first), *_) = load(models, identity_graph()).measure_latency()
    assert first < INLINE_S


# Labels


def test_labels_beside_the_graph_are_its_classes(models: Path) -> None:
    folder = make_bare(models)
    (folder / "labels.json").write_text('["a", "b", "c"]', encoding="utf-8")
    bundle = load(models)
    assert bundle.task.describe()["labels"] == ["a", "b", "c"]
    assert set(bundle.manifest.files) == {"model.onnx", "labels.json"}


@pytest.mark.parametrize("content", ["[1]", "[]", "{}", "["])
def test_labels_that_are_none_are_refused(models: Path, content: str) -> None:
    (make_bare(models) / "labels.json").write_text(content, encoding="utf-8")
    assert refusal(models).file == "labels.json"


# Served


def test_bare_models_answer_through_the_server(models: Path, serve: Serve) -> None:
    make_bare(models, "sums", graph=sum_graph())
    make_bare(models, "entangled", graph=entangled_graph())
    make_bare(models, "scalar", graph=identity_graph("INT64", []))
    make_bare(models, "texts", graph=identity_graph("BYTES", ["n", None]))
    make_bare(models, "halves", graph=identity_graph("BF16", None))
    make_bare(models, "nothing", graph=identity_graph("BOOL", [2, 0]))
    client = serve(models=models)
    assert client.get("/health/ready").status_code == 200

    def ask(name: str, inputs: object) -> Any:
        response = client.post(f"/predict/{name}", json={"inputs": inputs})
        assert response.status_code == 200, response.text
        return response.json()

    rows = [[1, 2, 3], [3, 4, 5]]
    assert ask("sums", {"a": rows, "b": rows}) == {"sum": [[2, 4, 6], [6, 8, 10]], "total": [6, 12]}
    assert ask("entangled", rows) == {"y": [[-1, -1, -1], [1, 1, 1]]}
    assert ask("scalar", 2**63 - 1) == {"y": 2**63 - 1}
    assert ask("texts", [["h\u00e9", ""], ["\u0000", "b"]]) == {"y": [["h\u00e9", ""], ["\u0000", "b"]]}
    assert ask("halves", {"x": [[[1.5]]]}) == {"y": [[[1.5]]]}
    assert ask("nothing", [[], []]) == {"y": [[], []]}
    about = client.get("/predict/sums").json()
    assert (about["task"], about["title"], about["licence"]) == ("tensors", "sums", None)
    assert [one["name"] for one in about["inputs"]] == ["a", "b"]


def test_requests_that_may_not_share_a_run_do_not(models: Path, serve: Serve) -> None:
    make_bare(models, "entangled", graph=entangled_graph())
    make_bare(models, "apart", graph=lengths_graph())
    client = serve(models=models)

    def ask(number: int) -> None:
        rows = [[number, number, number], [number + 2.0, number + 2, number + 2]]
        answer = client.post("/predict/entangled", json={"inputs": rows})
        assert answer.json() == {"y": [[-1, -1, -1], [1, 1, 1]]}
        assert answer.headers["x-batch-size"] == "1"
        length = 1 + number % 3
        answer = client.post("/predict/apart", json={"inputs": [[number] * length]})
        assert answer.json() == {"y": [[2 * number] * length], "mean": [number]}

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(64)))


def test_a_wrong_request_to_a_bare_model_is_told_what_is_right(models: Path, serve: Serve) -> None:
    make_bare(models, "sums", graph=sum_graph())
    client = serve(models=models)
    right = [[1, 2, 3]]
    for inputs, said in [
        ({"a": right}, "inputs must be ['a', 'b']; given: ['a']"),
        (right, "inputs must be an object of nested lists by name"),
        ({"a": right, "b": [[1, 2]]}, "input 'b' is nested as [1, 2]; expected [-1, 3]"),
        ({"a": right, "b": [["x", 1, 2]]}, "input 'b': data of FP32 must be numbers; found: a text"),
        ({"a": right, "b": right * 2}, "inputs must have one batch size; given: [1, 2]"),
    ]:
        answer = client.post("/predict/sums", json={"inputs": inputs})
        assert answer.status_code == 400
        assert said in answer.json()["error"]
    answer = client.post("/predict/sums", content=b"picture", headers={"content-type": "image/png"})
    assert answer.status_code == 400
    assert "the model takes tensors" in answer.json()["error"]


def test_a_bare_model_that_is_refused_leaves_the_others_serving(models: Path, serve: Serve) -> None:
    truncate(make_bare(models, "half") / "model.onnx")
    make_bare(models, "whole")
    client = serve(models=models)
    assert client.post("/predict/whole", json={"inputs": [[1, 2, 3]]}).status_code == 200
    assert client.post("/predict/half", json={"inputs": [[1, 2, 3]]}).status_code == 503


def test_a_request_without_rows_is_told_so(models: Path) -> None:
    with pytest.raises(BadInput, match="expected"):
        load(models, identity_graph()).predict([], {})
