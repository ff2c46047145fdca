from __future__ import annotations

import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.errors import BundleRefused, NotReady, RuntimeFailure
from service.manifest import Graph
from service.runtime.session import OnnxSession
from service.tensors import DTYPES
from tests.bundles import (
    HEIGHT,
    WIDTH,
    golden_inputs,
    graph_of,
    identities_graph,
    identity_graph,
    logits_of,
    lookup_graph,
    model_of,
    tiny_graph,
    weights,
)
from tests.bundles import tensor as onnx_tensor

CPU = ("CPUExecutionProvider",)
IMAGE = {"name": "image", "datatype": "FP32", "shape": ["batch", 1, HEIGHT, WIDTH]}
LOGITS = {"name": "logits", "datatype": "FP32", "shape": ["batch", 3]}


GPU_FIRST = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def session_of(
    folder: Path,
    model: onnx.ModelProto | None = None,
    *,
    inputs: list[Mapping[str, Any]] | None = None,
    outputs: list[Mapping[str, Any]] | None = None,
    providers: tuple[str, ...] = CPU,
    insist: bool = True,
) -> OnnxSession:
    (folder / "model.onnx").write_bytes((model or tiny_graph()).SerializeToString())
    graph = Graph.model_validate({"file": "model.onnx", "inputs": inputs or [IMAGE], "outputs": outputs or [LOGITS]})
    return OnnxSession(folder, graph, providers=providers, threads=1, insist=insist)


def two_headed() -> onnx.ModelProto:
    """Make a model of two inputs and two outputs, in an order that isn't the alphabet's."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["y", "x"], ["sum"]), helper.make_node("Sub", ["y", "x"], ["difference"])],
        "two",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "k"]) for name in ("y", "x")],
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "k"]) for name in ("sum", "difference")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def tensor(name: str, *shape: int | str, datatype: str = "INT64") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_a_graph_answers_what_it_computes_for_any_number_of_rows(tmp_path: Path, rows: int) -> None:
    inputs = golden_inputs(rows)
    outputs = session_of(tmp_path).run({"image": inputs})
    assert outputs.keys() == {"logits"}
    np.testing.assert_allclose(outputs["logits"], logits_of(inputs), atol=1e-5)


def test_outputs_go_by_their_names_whatever_their_order(tmp_path: Path) -> None:
    session = session_of(
        tmp_path,
        two_headed(),
        inputs=[tensor("y", "batch", "size"), tensor("x", "batch", "size")],
        outputs=[tensor("sum", "batch", "size"), tensor("difference", "batch", "size")],
    )
    outputs = session.run({"x": np.array([[1, 2]]), "y": np.array([[10, 20]])})
    assert outputs["sum"].tolist() == [[11, 22]]
    assert outputs["difference"].tolist() == [[9, 18]]


def test_a_session_may_be_run_by_many_threads_at_once(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    inputs = golden_inputs(50)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda row: session.run({"image": inputs[row : row + 1]})["logits"], range(50)))
    np.testing.assert_allclose(np.concatenate(answers), logits_of(inputs), atol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"picture": golden_inputs()},
        {"image": golden_inputs()[:, :, :2]},
        {"image": golden_inputs().astype(np.float64)},
        {"image": "no tensor"},
    ],
    ids=["none", "other name", "other shape", "other dtype", "no array"],
)
def test_inputs_that_do_not_fit_fail_with_the_files_name(tmp_path: Path, inputs: Any) -> None:
    with pytest.raises(RuntimeFailure, match=r"model\.onnx: ONNX Runtime failed"):
        session_of(tmp_path).run(inputs)


def test_a_run_that_fails_leaves_the_session_as_it_was(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    with pytest.raises(RuntimeFailure):
        session.run({})
    np.testing.assert_allclose(session.run({"image": golden_inputs()})["logits"], logits_of(golden_inputs()), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"inputs": [{**IMAGE, "name": "x"}]}, r"has the inputs \['image'\], the manifest says \['x'\]"),
        (
            {"inputs": [IMAGE, {**IMAGE, "name": "x"}]},
            r"has the inputs \['image'\], the manifest says \['image', 'x'\]",
        ),
        ({"outputs": [{**LOGITS, "name": "y"}]}, r"has the outputs \['logits'\], the manifest says \['y'\]"),
        (
            {"inputs": [{**IMAGE, "shape": ["batch", 3, HEIGHT, WIDTH]}]},
            r"input 'image' is FP32 \('\*', 1, 4, 6\), the manifest says FP32 \('\*', 3, 4, 6\)",
        ),
        (
            {"inputs": [{**IMAGE, "shape": ["batch", 1, HEIGHT, "width"]}]},
            r"the manifest says FP32 \('\*', 1, 4, '\*'\)",
        ),
        ({"inputs": [{**IMAGE, "shape": ["batch", HEIGHT, WIDTH]}]}, "input 'image' is FP32"),
        ({"inputs": [{**IMAGE, "datatype": "UINT8"}]}, "input 'image' is FP32 .* the manifest says UINT8"),
        ({"outputs": [{**LOGITS, "datatype": "FP64"}]}, "output 'logits' is FP32 .* the manifest says FP64"),
        ({"outputs": [{**LOGITS, "shape": ["batch", 4]}]}, r"output 'logits' is FP32 \('\*', 3\), .* \('\*', 4\)"),
    ],
)
def test_a_graph_with_other_tensors_than_the_manifest_says_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BundleRefused, match=rf"model\.onnx: .*{problem}"):
        session_of(tmp_path, **changes)


def test_a_graph_whose_batch_axis_is_fixed_is_refused(tmp_path: Path) -> None:
    model = tiny_graph()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(BundleRefused, match=r"input 'image' is FP32 \(1, 1, 4, 6\), the manifest says FP32 \('\*'"):
        session_of(tmp_path, model)


def test_a_symbolic_axis_may_be_called_anything_in_the_graph(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.output[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    assert session_of(tmp_path, model).run({"image": golden_inputs()})


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    content = tiny_graph().SerializeToString().replace(b"batch", b"ba\xfft\xfe")
    (tmp_path / "model.onnx").write_bytes(content)
    graph = Graph.model_validate({"file": "model.onnx", "inputs": [IMAGE], "outputs": [LOGITS]})
    with pytest.raises(BundleRefused, match=r"model\.onnx: "):
        OnnxSession(tmp_path, graph, providers=CPU, threads=1)


def test_a_graph_whose_very_error_is_no_text_is_refused_and_nothing_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of([helper.make_node("Guess", ["image"], ["logits"])], {})
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString().replace(b"Guess", b"Gu\xff\xfes"))
    graph = Graph.model_validate({"file": "model.onnx", "inputs": [IMAGE], "outputs": [LOGITS]})
    with pytest.raises(BundleRefused, match=r"model\.onnx: "):
        OnnxSession(tmp_path, graph, providers=CPU, threads=1)
    assert capsys.readouterr().out == ""


def test_an_operator_that_does_not_exist_is_refused_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BundleRefused, match=r"model\.onnx: is no ONNX model to onnx.checker .*Guess"):
        session_of(tmp_path, model_of([helper.make_node("Guess", ["image"], ["logits"])], {}))
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_a_graph_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "factors", "offsets"], ["logits"]),
    ]
    constants = {"factors": weights()[0][:-1], "offsets": weights()[1]}
    with pytest.raises((BundleRefused, RuntimeFailure), match=r"model\.onnx"):
        session_of(tmp_path, model_of(nodes, constants)).run({"image": golden_inputs()})


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_provider_that_was_asked_for_and_not_given_is_an_error_and_no_silent_processor(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(
            NotReady,
            match=r"model\.onnx: CUDAExecutionProvider was asked for, but ONNX Runtime gave CPUExecutionProvider",
        ),
    ):
        session_of(tmp_path, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_provider_that_was_only_preferred_gives_way_to_the_processor_and_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(UserWarning, match="is not in available provider names"):
        session = session_of(tmp_path, providers=GPU_FIRST, insist=False)
    assert session.provider == "CPUExecutionProvider"
    for name in GPU_FIRST[:2]:
        assert f"model.onnx runs without {name}: model.onnx: {name} was asked for" in caplog.text
    np.testing.assert_allclose(session.run({"image": golden_inputs()})["logits"], logits_of(golden_inputs()), atol=1e-5)


def test_a_broken_graph_is_refused_whatever_was_preferred(tmp_path: Path) -> None:
    broken = model_of([helper.make_node("Guess", ["image"], ["logits"])], {})
    for insist in (True, False):
        with pytest.raises(BundleRefused, match="Guess"):
            session_of(tmp_path, broken, insist=insist)


# Datatypes


SOME = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [np.nan, -np.inf],
    "FP32": [np.nan, 1e-45],
    "FP64": [-0.0, 1.7e308],
    "BF16": [np.nan, 1e-40],
    "BYTES": ["h\u00e9\U0001f600", "ends with nothing\x00"],
}


def as_it_is(folder: Path, model: onnx.ModelProto) -> OnnxSession:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return OnnxSession(folder, "model.onnx", providers=CPU, threads=1)


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2,), (2, 0), (1, 2), (2, 1, 1)], ids=str)
def test_an_array_of_any_datatype_and_shape_comes_back_as_it_went_in(
    tmp_path: Path, datatype: str, shape: tuple[int, ...]
) -> None:
    session = as_it_is(tmp_path, identity_graph(datatype, None))
    given = np.resize(np.array(SOME[datatype], DTYPES[datatype]), shape)
    found = session.run({"x": given})["y"]
    assert (found.dtype, found.shape) == (given.dtype, given.shape)
    assert found.tolist() == given.tolist() if datatype == "BYTES" else found.tobytes() == given.tobytes()


@pytest.mark.parametrize("datatype", DTYPES)
def test_an_array_need_not_lie_in_one_piece(tmp_path: Path, datatype: str) -> None:
    session = as_it_is(tmp_path, identity_graph(datatype, None))
    given = np.array([[0, 1, 1], [1, 0, 1]]).astype(DTYPES[datatype])
    if datatype == "BYTES":
        given = np.array([["a", "b", "c"], ["d", "e", "f"]], object)
    for part in (given.T, given[:, ::2], given[::-1]):
        np.testing.assert_array_equal(session.run({"x": part})["y"].astype(object), part.astype(object))


def test_every_bit_of_bf16_survives(tmp_path: Path) -> None:
    session = as_it_is(tmp_path, identity_graph("BF16", ["n"]))
    every = np.arange(2**16).astype(np.uint16)
    found = session.run({"x": every.view(DTYPES["BF16"])})["y"]
    np.testing.assert_array_equal(found.view(np.uint16), every)


def test_an_answer_in_bf16_outlives_its_run(tmp_path: Path) -> None:
    session = as_it_is(tmp_path, identity_graph("BF16", ["n"]))
    answers = [session.run({"x": np.full(1000, number).astype(DTYPES["BF16"])})["y"] for number in range(50)]
    assert all((answer == number).all() for number, answer in enumerate(answers))


def test_bf16_goes_in_beside_other_datatypes_and_other_datatypes_come_out_beside_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["text"], ["said"]),
    ]
    model = graph_of(
        nodes,
        [onnx_tensor("half", "BF16", ["n"]), onnx_tensor("text", "BYTES", ["n"])],
        [onnx_tensor("wide", "FP32", ["n"]), onnx_tensor("said", "BYTES", ["n"])],
    )
    half = np.array([1.5, 2]).astype(DTYPES["BF16"])
    found = as_it_is(tmp_path, model).run({"half": half, "text": np.array(["a", "b"], object)})
    assert {name: array.tolist() for name, array in found.items()} == {"wide": [1.5, 2], "said": ["a", "b"]}

    nodes = [
        helper.make_node("Cast", ["wide"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("Constant", [], ["said"], value_strings=["a", "b"]),
    ]
    model = graph_of(
        nodes,
        [onnx_tensor("wide", "FP32", ["n"])],
        [onnx_tensor("half", "BF16", ["n"]), onnx_tensor("said", "BYTES", [2])],
    )
    found = as_it_is(tmp_path, model).run({"wide": np.array([1.5], np.float32)})
    assert found["half"].tolist() == [1.5]
    assert found["said"].tolist() == ["a", "b"]


def test_a_graph_from_texts_to_bf16_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = identities_graph({"text": ("BYTES", ["n"]), "half": ("BF16", ["n"])})
    with pytest.raises(BundleRefused, match=r"model\.onnx: takes BYTES and answers BF16: ONNX Runtime's Python can't"):
        as_it_is(tmp_path, model)


@pytest.mark.parametrize("datatype", ["BF16", "FP32", "BYTES"])
def test_an_array_of_another_datatype_fails_with_the_files_name(tmp_path: Path, datatype: str) -> None:
    session = as_it_is(tmp_path, identity_graph(datatype, ["n"]))
    for wrong in (np.array([1], np.uint16), "no array", np.array([1], np.int64)):
        with pytest.raises(RuntimeFailure, match=r"model\.onnx: ONNX Runtime failed"):
            session.run({"x": wrong})  # type: ignore[dict-item]


def test_a_run_that_fails_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    session = as_it_is(tmp_path, lookup_graph())
    with pytest.raises(RuntimeFailure, match="indices element out of data bounds"):
        session.run({"index": np.array([9])})
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


# A graph that is asked itself


def test_a_graph_may_be_asked_what_its_tensors_are(tmp_path: Path) -> None:
    session = as_it_is(tmp_path, lookup_graph())
    assert session.graph.file == "model.onnx"
    assert [(one.name, one.datatype, one.shape) for one in session.graph.inputs] == [("index", "INT64", ("batch",))]
    assert [(one.name, one.datatype, one.shape) for one in session.graph.outputs] == [("row", "FP32", ("batch", 3))]
    assert session.parameters == 4 * 3 + 1


def test_a_rank_that_the_manifest_does_not_know_fits_any(tmp_path: Path) -> None:
    image, logits = {**IMAGE, "shape": None}, {**LOGITS, "shape": None}
    session = session_of(tmp_path, inputs=[image], outputs=[logits])
    assert session.run({"image": golden_inputs()})["logits"].shape == (5, 3)
    with pytest.raises(BundleRefused, match=r"output 'logits' is FP32 .* the manifest says FP64"):
        session_of(tmp_path, inputs=[image], outputs=[{**logits, "datatype": "FP64"}])


def test_a_session_ends_with_its_last_name(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    gone = weakref.ref(session)
    del session
    assert gone() is None  # not when the garbage collector comes by: the graph's memory is a lot
