"""Whatever a tensor holds, it comes back through a model that changes nothing, bit by bit, wherever it fits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from numpy.typing import NDArray
from starlette.testclient import TestClient

from service.protocols.open_inference.tensors import to_raw
from service.tensors import DTYPES
from tests.bundles import identity_graph, make_bare
from tests.conftest import start

LENGTH = "inference-header-content-length"

Array = NDArray[Any]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Give a client of an app with two models for each datatype: of any shape, and with a batch axis."""
    folder = tmp_path_factory.mktemp("models")
    for datatype in DTYPES:
        make_bare(folder, datatype.lower(), graph=identity_graph(datatype, None))
        make_bare(folder, f"{datatype.lower()}-rows", graph=identity_graph(datatype, ("batch", "n")))
    with start(models=folder) as client:
        yield client


@st.composite
def arrays(draw: st.DrawFn, datatype: str, shape: tuple[int, ...]) -> Array:
    """Draw a tensor of any bits that the datatype has: every kind of NaN, subnormal numbers, both zeros, extremes."""
    size = int(np.prod(shape, dtype=int))
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        texts = np.empty(size, object)
        texts[:] = draw(st.lists(st.text(max_size=12), min_size=size, max_size=size))
        return texts.reshape(shape)
    if datatype == "BOOL":
        truths = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        return np.array(truths, np.bool_).reshape(shape)
    bits = 8 * dtype.itemsize
    special = [0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1]
    if dtype.kind == "f":
        notable = np.array([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, 0.1], dtype).view(f"u{dtype.itemsize}")
        limits = np.array([np.finfo(dtype).max, np.finfo(dtype).tiny], dtype).view(f"u{dtype.itemsize}")
        special += [*notable.tolist(), *limits.tolist()]
    element = st.sampled_from(special) | st.integers(0, 2**bits - 1)
    values = draw(st.lists(element, min_size=size, max_size=size))
    return np.array(values, f"u{dtype.itemsize}").view(dtype).reshape(shape)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, str, Array]:
    """Draw a model, its datatype, and a tensor for it; a batch has a row at least."""
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    if draw(st.booleans()):
        shape = (draw(st.integers(1, 4)), draw(st.integers(0, 4)))
        return f"{datatype.lower()}-rows", datatype, draw(arrays(datatype, shape))
    shape = draw(st.just(()) | array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3))
    return datatype.lower(), datatype, draw(arrays(datatype, shape))


def output_in(answer: Any) -> tuple[dict[str, Any], bytes]:
    """Read the only output, and the bytes after the JSON."""
    assert answer.status_code == 200, answer.text
    end = int(answer.headers.get(LENGTH, len(answer.content)))
    (output,) = json.loads(answer.content[:end])["outputs"]
    return output, answer.content[end:]


def without_payloads(array: Array) -> bytes:
    """The bytes, but that every NaN is the same one: JSON has but one."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return array.tobytes() if array.dtype != object else to_raw(array, "BYTES")


@settings(max_examples=300)
@given(tensors())
@example(("fp32", "FP32", np.array([-0.0, 1e-45, np.nan, np.inf, -np.inf, 3.4028235e38], np.float32)))
@example(("fp64", "FP64", np.array([5e-324, 1.7976931348623157e308, -0.0], np.float64)))
@example(("bytes", "BYTES", np.array("\ud7ff\U0010ffff\0\u2028", object)))
def test_raw_tensors_come_back_with_the_same_bytes(identities: TestClient, drawn: tuple[str, str, Array]) -> None:
    model, datatype, array = drawn
    raw = to_raw(array, datatype)
    tensor = {
        "name": "x",
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answer = identities.post(f"/v2/models/{model}/infer", content=header + raw, headers={LENGTH: str(len(header))})
    output, found = output_in(answer)
    assert output == {
        "name": "y",
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    assert found == raw


@settings(max_examples=300)
@given(tensors(), st.booleans())
@example(("fp32", "FP32", np.array([-0.0, 1e-45, np.nan, np.inf, -np.inf, 3.4028235e38], np.float32)), False)
@example(("fp64", "FP64", np.array([5e-324, 1.7976931348623157e308, -0.0], np.float64)), False)
@example(("bool", "BOOL", np.zeros((1, 0, 2), np.bool_)), True)
@example(("uint64", "UINT64", np.array([2**64 - 1], np.uint64)), False)
@example(("int64", "INT64", np.array([-(2**63)], np.int64)), False)
def test_json_tensors_come_back_with_the_same_bits(
    identities: TestClient, drawn: tuple[str, str, Array], nested: bool
) -> None:
    model, datatype, array = drawn
    data = array.tolist() if nested or not array.ndim else array.ravel().tolist()
    tensor = {"name": "x", "datatype": datatype, "shape": list(array.shape), "data": data}
    answer = identities.post(f"/v2/models/{model}/infer", content=json.dumps({"inputs": [tensor]}))
    if datatype == "BF16":
        assert answer.status_code == 400
        assert "BF16 can't be sent as JSON" in answer.json()["error"]
        return
    output, rest = output_in(answer)
    assert rest == b""
    assert {name: output[name] for name in ("name", "datatype", "shape")} == {
        "name": "y",
        "datatype": datatype,
        "shape": list(array.shape),
    }
    found = np.array([*output["data"], None], object)[:-1].astype(DTYPES[datatype]).reshape(array.shape)
    assert without_payloads(found) == without_payloads(array)


@settings(max_examples=60)
@given(tensors())
def test_json_goes_in_and_raw_bytes_come_out(identities: TestClient, drawn: tuple[str, str, Array]) -> None:
    model, datatype, array = drawn
    tensor = {"name": "x", "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]})
    answer = identities.post(f"/v2/models/{model}/infer", content=body)
    if datatype == "BF16":
        assert answer.status_code == 400
        return
    _, found = output_in(answer)
    if datatype == "BYTES":
        assert found == to_raw(array, datatype)
    else:
        read = np.frombuffer(found, DTYPES[datatype]).reshape(array.shape)
        assert without_payloads(read) == without_payloads(array)
