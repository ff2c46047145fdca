from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.messages import read_inference
from service.tensors import DTYPES
from tests.service.protocols.open_inference.grpc.conftest import Shared
from tests.service.protocols.open_inference.grpc.serving import infer_request

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def raw_bytes(array: NDArray[Any]) -> bytes:
    """Write a tensor as the protocol says, without the code that is tested."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in array.ravel())
    return array.tobytes()


def tensors(datatype: str) -> st.SearchStrategy[NDArray[Any]]:
    if datatype == "BYTES":
        texts = hnp.arrays(object, SHAPES, elements=st.text(max_size=8), fill=st.nothing())
        return texts.filter(lambda array: all(isinstance(text, str) for text in array.ravel()))
    if datatype == "BF16":  # every pattern of bits is one; NumPy has no such type of its own
        return hnp.arrays(np.uint16, SHAPES).map(lambda bits: bits.view(DTYPES["BF16"]))
    return hnp.arrays(DTYPES[datatype], SHAPES)


def typed_request(datatype: str, shape: tuple[int, ...], field: str, values: list[Any]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=datatype.lower())
    one = request.inputs.add(name="x", datatype=datatype, shape=shape)
    getattr(one.contents, field).extend(values)
    return request


def assert_same(answer: pb.ModelInferResponse, datatype: str, array: NDArray[Any], raw: bytes) -> None:
    (output,) = answer.outputs
    assert (output.name, output.datatype, tuple(output.shape)) == ("y", datatype, array.shape)
    assert list(answer.raw_output_contents) == [raw]


@pytest.mark.parametrize("datatype", DTYPES)
@settings(max_examples=30)
@given(data=st.data())
def test_raw_contents_come_back_byte_by_byte(shared: Shared, datatype: str, data: st.DataObject) -> None:
    array = data.draw(tensors(datatype))
    raw = raw_bytes(array)
    request = pb.ModelInferRequest(model_name=datatype.lower(), raw_input_contents=[raw])
    request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    assert_same(shared.ask("ModelInfer", request), datatype, array, raw)


@pytest.mark.parametrize("datatype", TYPED)
@settings(max_examples=30)
@given(data=st.data())
def test_typed_contents_come_back_as_the_same_values(shared: Shared, datatype: str, data: st.DataObject) -> None:
    array = data.draw(tensors(datatype))
    if array.dtype.kind == "f":
        # As numbers; which of the many NaNs it is, Python does not say.
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    values = [text.encode() for text in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
    answer = shared.ask("ModelInfer", typed_request(datatype, array.shape, TYPED[datatype], values))
    assert_same(answer, datatype, array, raw_bytes(array))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
@given(values=st.lists(st.floats(width=16), max_size=3))
@example(values=[])
@settings(max_examples=10)
def test_half_floats_have_no_typed_contents(shared: Shared, datatype: str, values: list[float]) -> None:
    error = shared.refused("ModelInfer", typed_request(datatype, (len(values),), "fp32_contents", values))
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert datatype in error.details()
    assert "raw contents" in error.details()


@pytest.mark.parametrize(
    ("datatype", "field", "values", "details"),
    [
        ("INT8", "int_contents", [128], "its contents have numbers that INT8 has not"),
        ("INT16", "int_contents", [-32769], "its contents have numbers that INT16 has not"),
        ("UINT8", "uint_contents", [256], "its contents have numbers that UINT8 has not"),
        ("UINT16", "uint_contents", [65536], "its contents have numbers that UINT16 has not"),
        ("INT32", "int64_contents", [1], "INT32 belongs in int_contents, not in int64_contents"),
        ("FP32", "fp64_contents", [1.0], "FP32 belongs in fp32_contents, not in fp64_contents"),
        ("BYTES", "bytes_contents", [b"\xff"], "BYTES elements must be UTF-8 text"),
        ("BOOL", "int_contents", [1], "BOOL belongs in bool_contents, not in int_contents"),
        ("INT64", "int64_contents", [1, 2], "data have 2 elements; shape [1] has 1"),
        ("INT64", "int64_contents", [], "data have 0 elements; shape [1] has 1"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(
    shared: Shared, datatype: str, field: str, values: list[Any], details: str
) -> None:
    error = shared.refused("ModelInfer", typed_request(datatype, (1,), field, values))
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"input 'x': {details}")


@pytest.mark.parametrize(
    ("raw", "details"),
    [
        (b"\1\0\0", "has 3 bytes of data"),
        (b"\2\0\0\0x", "element 0 of BYTES ends after the data's 5 bytes"),
        (b"\1\0\0\0xy", "1 bytes are left over after 1 BYTES elements"),
        (b"\1\0\0\0\xff", "BYTES elements must be UTF-8 text"),
    ],
)
def test_raw_texts_that_are_cut_or_no_text_are_refused(shared: Shared, raw: bytes, details: str) -> None:
    request = pb.ModelInferRequest(model_name="bytes", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype="BYTES", shape=[1])
    error = shared.refused("ModelInfer", request)
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert details in error.details()


@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_what_takes_long_to_convert_is_converted_all_the_same(shared: Shared, datatype: str) -> None:
    array = np.arange(40_000).astype(DTYPES["FP32"])
    if datatype == "BYTES":
        array = np.array([str(number) for number in range(40_000)], object)
    raw = raw_bytes(array)
    request = pb.ModelInferRequest(model_name=datatype.lower(), raw_input_contents=[raw])
    request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    assert_same(shared.ask("ModelInfer", request), datatype, array, raw)
    values = [text.encode() for text in array] if datatype == "BYTES" else array.tolist()
    answer = shared.ask("ModelInfer", typed_request(datatype, array.shape, TYPED[datatype], values))
    assert_same(answer, datatype, array, raw)


def test_inputs_may_be_typed_each_in_its_own_field(shared: Shared) -> None:
    request = infer_request("sum")
    for name in ("a", "b"):
        one = request.inputs.add(name=name, datatype="FP32", shape=[1, 3])
        one.contents.fp32_contents.extend([1, 2, 3])
    answer = shared.ask("ModelInfer", request)
    assert answer.raw_output_contents[0] == np.array([2, 4, 6], np.float32).tobytes()


@pytest.mark.parametrize(
    ("timeout_us", "of_call_s", "expected_s"),
    [(None, None, None), (None, 5.0, 5.0), (2_000_000, None, 2.0), (2_000_000, 5.0, 2.0), (9_000_000, 5.0, 5.0)],
)
def test_the_earlier_deadline_counts(
    shared: Shared, timeout_us: int | None, of_call_s: float | None, expected_s: float | None
) -> None:
    request = infer_request("rows", ("x", "FP32", np.ones((1, 1), np.float32)))
    if timeout_us is not None:
        request.parameters["timeout"].int64_param = timeout_us
    graph, now = shared.serving.repository.get("rows").graph, time.monotonic()
    deadline = None if of_call_s is None else now + of_call_s
    asked = read_inference(request, graph, batched=True, deadline=deadline)
    if expected_s is None:
        assert asked.deadline is None
    else:
        assert asked.deadline == pytest.approx(now + expected_s, abs=0.5)


def test_the_priority_is_a_parameter_of_any_whole_kind(shared: Shared) -> None:
    graph = shared.serving.repository.get("rows").graph
    for kind in ("int64_param", "uint64_param"):
        request = infer_request("rows", ("x", "FP32", np.ones((1, 1), np.float32)))
        setattr(request.parameters["priority"], kind, 2)
        assert read_inference(request, graph, batched=True, deadline=None).priority == 2


def test_raw_numbers_are_not_copied(shared: Shared) -> None:
    graph = shared.serving.repository.get("rows").graph
    request = infer_request("rows", ("x", "FP32", np.ones((1, 5), np.float32)))
    array = read_inference(request, graph, batched=True, deadline=None).arrays["x"]
    assert not array.flags.owndata
    assert not array.flags.writeable
