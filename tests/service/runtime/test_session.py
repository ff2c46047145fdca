from __future__ import annotations

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
from tests.bundles import HEIGHT, WIDTH, golden_inputs, logits_of, model_of, tiny_graph, weights

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
    with pytest.raises(BundleRefused, match=r"model\.onnx: ONNX Runtime can't load it"):
        OnnxSession(tmp_path, graph, providers=CPU, threads=1)
    assert capsys.readouterr().out == ""


def test_an_operator_that_does_not_exist_is_refused_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BundleRefused, match=r"model\.onnx: ONNX Runtime can't load it .*Guess"):
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


def test_every_datatype_that_numpy_has_is_as_wide_as_its_name_says() -> None:
    for name, dtype in DTYPES.items():
        bits = 8 if name == "BOOL" else int(name.lstrip("UINTFP"))
        assert 8 * dtype.itemsize == bits
