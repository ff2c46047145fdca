from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import BadInput
from service.manifest import Tensor
from service.protocols.open_inference import _InputTensor, _to_array, _to_arrays
from service.settings import Settings
from service.tensors import DTYPES
from tests.bundles import HEIGHT, WIDTH, golden_inputs, logits_of, make_bundle
from tests.conftest import Serve, running
from tests.service.requests import gained, metrics, tensor

MODEL = "/v2/models/tiny"
INFER = f"{MODEL}/infer"
SIZE = HEIGHT * WIDTH


def infer(client: TestClient, *inputs: Any, **others: Any) -> Any:
    return client.post(INFER, json={"inputs": list(inputs), **others})


def logits_in(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert output["name"] == "logits"
    assert output["datatype"] == "FP32"
    return np.array(output["data"]).reshape(output["shape"])


# Who is there


def test_the_server_gives_its_name_version_and_extensions(client: TestClient) -> None:
    assert client.get("/v2").json() == {"name": "inferd", "version": version("inferd"), "extensions": []}


def test_the_server_lives_and_is_ready_when_its_models_are(client: TestClient) -> None:
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/1"])
def test_a_model_describes_its_tensors(client: TestClient, path: str) -> None:
    assert client.get(path).json() == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, HEIGHT, WIDTH]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/1"])
def test_a_model_says_that_it_is_ready(client: TestClient, path: str) -> None:
    answer = client.get(f"{path}/ready")
    assert answer.status_code == 200
    assert answer.json() == {"name": "tiny", "ready": True}


@pytest.mark.parametrize("path", ["", "/ready", "/versions/1", "/versions/1/ready"])
def test_an_unknown_model_is_not_there(client: TestClient, path: str) -> None:
    answer = client.get(f"/v2/models/nobody{path}")
    assert answer.status_code == 404
    assert "there is no model 'nobody'" in answer.json()["error"]


@pytest.mark.parametrize("path", ["", "/ready"])
def test_an_unknown_version_is_not_there(client: TestClient, path: str) -> None:
    answer = client.get(f"{MODEL}/versions/2{path}")
    assert answer.status_code == 404
    assert "model 'tiny' has no version '2'" in answer.json()["error"]


# Inference


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_tensors_are_answered_as_the_graph_computes(client: TestClient, rows: int) -> None:
    inputs = golden_inputs(rows)
    answer = infer(client, tensor(inputs))
    np.testing.assert_allclose(logits_in(answer), logits_of(inputs), atol=1e-5)
    assert answer.json().keys() == {"model_name", "model_version", "outputs"}
    assert answer.json()["model_name"] == "tiny"
    assert answer.json()["model_version"] == "1"


def test_data_may_be_flat_or_nested_as_the_shape_says(client: TestClient) -> None:
    inputs = golden_inputs(2)
    flat = infer(client, tensor(inputs))
    nested = infer(client, tensor(inputs, data=inputs.tolist()))
    assert nested.json() == flat.json()


def test_whole_numbers_are_taken_for_floats(client: TestClient) -> None:
    answer = infer(client, tensor(golden_inputs(1), data=[1] * SIZE))
    np.testing.assert_allclose(logits_in(answer), [[-4, 4, 0]], atol=1e-5)


def test_the_answer_has_the_bits_that_the_graph_gave(client: TestClient) -> None:
    inputs = golden_inputs(3)
    found = np.array(infer(client, tensor(inputs)).json()["outputs"][0]["data"], np.float32)
    again = np.array(infer(client, tensor(inputs)).json()["outputs"][0]["data"], np.float32)
    assert found.tobytes() == again.tobytes()
    assert np.abs(found.reshape(3, 3) - logits_of(inputs)).max() < 1e-5


@pytest.mark.parametrize("identity", ["42", "", "a b/c", "\u00fc"])
def test_the_id_comes_back(client: TestClient, identity: str) -> None:
    assert infer(client, tensor(golden_inputs(1)), id=identity).json()["id"] == identity


def test_outputs_may_be_chosen_by_name(client: TestClient) -> None:
    answer = infer(client, tensor(golden_inputs(1)), outputs=[{"name": "logits"}])
    assert [output["name"] for output in answer.json()["outputs"]] == ["logits"]
    assert infer(client, tensor(golden_inputs(1)), outputs=[]).json()["outputs"] == answer.json()["outputs"]


def test_a_large_body_is_read_like_a_small_one(client: TestClient) -> None:
    body = json.dumps({"inputs": [tensor(golden_inputs(3))], "id": "large"}) + " " * 100_000
    answer = client.post(INFER, content=body)
    assert answer.json() == infer(client, tensor(golden_inputs(3)), id="large").json()
    answer = client.post(INFER, content=body + "}")
    assert answer.status_code == 400
    assert "the body must be an inference request" in answer.json()["error"]


def test_a_version_may_be_named(client: TestClient) -> None:
    answer = client.post(f"{MODEL}/versions/1/infer", json={"inputs": [tensor(golden_inputs(1))]})
    np.testing.assert_allclose(logits_in(answer), logits_of(golden_inputs(1)), atol=1e-5)


def test_the_headers_tell_who_answered_and_how_many_rows_ran_together(client: TestClient) -> None:
    headers = infer(client, tensor(golden_inputs(5))).headers
    assert headers["x-inferd-model"] == "tiny"
    assert headers["x-inferd-version"] == "1"
    assert headers["x-batch-size"] == "5"
    assert float(headers["x-compute-ms"]) > 0


def test_keys_of_extensions_that_this_server_has_not_are_passed_over(client: TestClient) -> None:
    """The protocol has servers ignore parameters that they don't know."""
    inputs = tensor(golden_inputs(1), parameters={"anything": 1})
    outputs = [{"name": "logits", "parameters": {"anything": 2}}]
    assert infer(client, inputs, outputs=outputs, parameters={"anything": 3}).status_code == 200


# What is wrong is said


ONE = tensor(golden_inputs(1))

WRONG: dict[str, tuple[Any, str]] = {
    "no input": ([], r"inputs must be ['image'], once each; given: []"),
    "another name": ([{**ONE, "name": "picture"}], "inputs must be ['image'], once each; given: ['picture']"),
    "one too many": ([ONE, {**ONE, "name": "mask"}], "given: ['image', 'mask']"),
    "twice": ([ONE, ONE], "given: ['image', 'image']"),
    "another datatype": ([{**ONE, "datatype": "FP64"}], "input 'image' must be FP32, not FP64"),
    "no datatype": ([{**ONE, "datatype": "float"}], "input 'image' must be FP32, not float"),
    "another shape": ([{**ONE, "shape": [1, 1, WIDTH, HEIGHT]}], "expected [-1, 1, 4, 6] (-1: any size)"),
    "another rank": ([{**ONE, "shape": [1, SIZE]}], "input 'image' has shape [1, 24]; expected [-1, 1, 4, 6]"),
    "no shape": ([{**ONE, "shape": []}], "input 'image' has shape []"),
    "no rows": ([{**ONE, "shape": [0, 1, HEIGHT, WIDTH], "data": []}], "input 'image' has shape [0, 1, 4, 6]"),
    "negative rows": ([{**ONE, "shape": [-1, 1, HEIGHT, WIDTH]}], "input 'image' has shape [-1, 1, 4, 6]"),
    "endless rows": ([{**ONE, "shape": [10**15, 1, HEIGHT, WIDTH]}], "input 'image': data have 24 numbers"),
    "too few numbers": ([{**ONE, "data": [0.5] * (SIZE - 1)}], "input 'image': data have 23 numbers"),
    "too many numbers": ([{**ONE, "data": [0.5] * (SIZE + 1)}], "input 'image': data have 25 numbers"),
    "no numbers": ([{**ONE, "data": []}], "input 'image': data have 0 numbers"),
    "nested otherwise": ([{**ONE, "data": [[0.5] * SIZE]}], "data are nested as [1, 24], but shape is [1, 1, 4, 6]"),
    "nested unevenly": ([{**ONE, "data": [[0.5], [0.5, 0.5]]}], "input 'image': data are not nested evenly"),
    "numbers and lists": ([{**ONE, "data": [0.5, [0.5] * (SIZE - 1)]}], "input 'image': data are not nested evenly"),
    "texts": ([{**ONE, "data": ["0.5"] * SIZE}], "input 'image': data are no FP32 numbers"),
    "one text": ([{**ONE, "data": [0.5] * (SIZE - 1) + ["x"]}], "input 'image': data are no FP32 numbers"),
    "nothing": ([{**ONE, "data": [None] * SIZE}], "input 'image': data are no FP32 numbers"),
    "one nothing": ([{**ONE, "data": [0.5] * (SIZE - 1) + [None]}], "input 'image': data are no FP32 numbers"),
    "truths": ([{**ONE, "data": [True] * SIZE}], "input 'image': data are no FP32 numbers"),
    "objects": ([{**ONE, "data": [{}] * SIZE}], "input 'image': data are no FP32 numbers"),
    "numbers beyond": ([{**ONE, "data": [1e39] * SIZE}], "input 'image': data have numbers too large for FP32"),
    "whole numbers beyond": ([{**ONE, "data": [10**30] * SIZE}], "input 'image': data"),
    "rows beyond": ([tensor(golden_inputs(9))], "at most 8 rows; this one has 9"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_do_not_fit_are_refused_with_what_would(client: TestClient, case: str) -> None:
    inputs, said = WRONG[case]
    before = metrics(client)
    answer = client.post(INFER, json={"inputs": inputs})
    assert answer.status_code == (413 if case == "rows beyond" else 400)
    assert said in answer.json()["error"]
    after = metrics(client)
    assert gained(before, after, "inferd_request_failures_total", model="tiny", reason="invalid") == 1
    assert gained(before, after, "inferd_batch_size_count") == 0


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in ONE.items() if name != key}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body must be an inference request"),
        (b"{", "the body must be an inference request"),
        (b"[]", "the body must be an inference request"),
        (b"{}", "inputs"),
        (b'{"inputs": null}', "inputs"),
        (b'{"inputs": {}}', "inputs"),
        (b'{"inputs": [7]}', "inputs[0]"),
        (json.dumps({"inputs": [without("name")]}).encode(), "`name`"),
        (json.dumps({"inputs": [without("shape")]}).encode(), "`shape`"),
        (json.dumps({"inputs": [without("datatype")]}).encode(), "`datatype`"),
        (json.dumps({"inputs": [without("data")]}).encode(), "`data`"),
        (json.dumps({"inputs": [{**ONE, "data": 0.5}]}).encode(), "data"),
        (json.dumps({"inputs": [{**ONE, "data": "AAAA"}]}).encode(), "data"),
        (json.dumps({"inputs": [{**ONE, "shape": [1.5, 1, 4, 6]}]}).encode(), "shape"),
        (json.dumps({"inputs": [{**ONE, "shape": 24}]}).encode(), "shape"),
        (json.dumps({"inputs": [{**ONE, "name": 7}]}).encode(), "name"),
        (json.dumps({"inputs": [ONE], "id": 7}).encode(), "id"),
        (json.dumps({"inputs": [ONE], "outputs": ["logits"]}).encode(), "outputs[0]"),
        (json.dumps({"inputs": [ONE], "outputs": [{}]}).encode(), "`name`"),
        (json.dumps({"inputs": [ONE], "outputs": [{"name": "scores"}]}).encode(), "there is no output 'scores'"),
        (json.dumps({"inputs": [{**ONE, "data": [float("nan")] * SIZE}]}).encode(), "must be an inference request"),
        (b'{"inputs": "\xff"}', "the body must be an inference request"),
        (b'{"inputs": ' + b"[" * 50_000, "the body must be an inference request"),
        (json.dumps({"inputs": [{**ONE, "data": "@"}]}).replace('"@"', "[" * 90 + "]" * 90).encode(), "input 'image'"),
    ],
    ids=range(24),
)
def test_a_body_that_is_no_inference_request_is_refused_with_what_is_wrong(
    client: TestClient, body: bytes, said: str
) -> None:
    answer = client.post(INFER, content=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3)
)


@settings(max_examples=40)
@given(
    change=st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), values, min_size=1),
    others=st.dictionaries(st.sampled_from(["id", "outputs", "parameters", "else"]), values),
)
def test_whatever_stands_in_a_request_it_is_answered_or_refused(
    client: TestClient, change: dict[str, Any], others: dict[str, Any]
) -> None:
    answer = client.post(INFER, content=json.dumps({"inputs": [{**ONE, **change}], **others}))
    assert answer.status_code in {200, 400, 413}
    assert "error" in answer.json() or "outputs" in answer.json()


@settings(max_examples=20)
@given(rows=st.integers(1, 8), data=st.data())
def test_any_numbers_of_any_number_of_rows_are_answered_row_by_row(
    client: TestClient, rows: int, data: st.DataObject
) -> None:
    numbers = st.floats(-100, 100, width=32)
    inputs = np.array(data.draw(st.lists(numbers, min_size=rows * SIZE, max_size=rows * SIZE)), np.float32)
    batch = inputs.reshape(rows, 1, HEIGHT, WIDTH)
    np.testing.assert_allclose(logits_in(infer(client, tensor(batch))), logits_of(batch), rtol=1e-4, atol=1e-2)


# Numbers of every datatype: none is cut, rounded to another, or wrapped round


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("INT8", [-128, 127]),
        ("UINT16", [0, 65_535]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [2**63, 2**64 - 1]),
        ("FP16", [-65_504.0, 0.5]),
        ("FP32", [1, -2]),
        ("FP64", [1e300, 2**53]),
        ("FP32", [0.1, 2]),
    ],
)
def test_numbers_that_a_datatype_has_are_taken_as_they_are(datatype: Any, data: list[Any]) -> None:
    found = _to_array(
        _InputTensor("x", [2, 1], datatype, data), Tensor(name="x", datatype=datatype, shape=("batch", 1))
    )
    assert found.dtype == DTYPES[datatype]
    assert found.ravel().tolist() == np.array(data, DTYPES[datatype]).tolist()


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [1, 0]),
        ("BOOL", [0.0, 1.0]),
        ("UINT8", [0, 256]),
        ("UINT8", [-1, 0]),
        ("UINT8", [0.0, 1.0]),
        ("UINT8", [True, False]),
        ("INT8", [-129, 0]),
        ("INT32", [0.5, 1]),
        ("INT64", [0, 2**63]),
        ("UINT64", [0, 2**64]),
        ("UINT64", [-1, 2**63]),
        ("FP16", [0, 70_000]),
        ("FP32", [1e39, 0]),
        ("FP64", [True, False]),
        ("FP64", ["1", "2"]),
        ("FP64", [None, None]),
        ("BYTES", ["a", "b"]),
        ("BF16", [1, 2]),
    ],
)
def test_numbers_that_a_datatype_has_not_are_refused(datatype: Any, data: list[Any]) -> None:
    with pytest.raises(BadInput, match="input 'x': "):
        _to_array(_InputTensor("x", [2, 1], datatype, data), Tensor(name="x", datatype=datatype, shape=("batch", 1)))


def test_inputs_must_have_one_batch_size() -> None:
    expected = tuple(Tensor(name=name, datatype="FP32", shape=("batch", 1)) for name in ("x", "y"))
    x, y = _InputTensor("x", [2, 1], "FP32", [1, 2]), _InputTensor("y", [3, 1], "FP32", [1, 2, 3])
    with pytest.raises(BadInput, match=r"one batch size; given: \[2, 3\]"):
        _to_arrays([x, y], expected)


# Limits, deadlines


def test_a_body_over_the_limit_is_refused_and_the_limit_named(models: Path, serve: Serve) -> None:
    make_bundle(models)
    answer = infer(serve(models=models, max_body_bytes=100), ONE)
    assert answer.status_code == 413
    assert answer.json()["error"] == "the body is larger than 100 bytes (INFERD_MAX_BODY_BYTES)"


def test_the_server_may_allow_fewer_rows_than_the_manifest(models: Path, serve: Serve) -> None:
    make_bundle(models)
    client = serve(models=models, max_batch_rows=2)
    assert infer(client, tensor(golden_inputs(2))).status_code == 200
    answer = infer(client, tensor(golden_inputs(3)))
    assert answer.status_code == 413
    assert "at most 2 rows" in answer.json()["error"]


def test_a_request_whose_deadline_can_not_be_met_is_not_run(client: TestClient) -> None:
    before = metrics(client)
    answer = client.post(INFER, json={"inputs": [ONE]}, headers={"x-request-timeout-ms": "0.0001"})
    assert answer.status_code == 504
    assert gained(before, metrics(client), "inferd_batch_size_count") == 0


def test_a_deadline_that_is_no_time_is_refused(client: TestClient) -> None:
    answer = client.post(INFER, json={"inputs": [ONE]}, headers={"x-request-timeout-ms": "soon"})
    assert answer.status_code == 400


def test_methods_that_a_path_has_not_are_refused_with_those_that_it_has(client: TestClient) -> None:
    answer = client.get(INFER)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json() == {"error": f"GET is not allowed at {INFER}; allowed: POST"}


def test_requests_of_many_sizes_are_run_together_and_each_gets_its_own_rows(models: Path) -> None:
    make_bundle(models)
    batches = [
        golden_inputs(8)[start : start + rows] for start, rows in ((0, 1), (1, 3), (4, 2), (6, 1), (0, 8), (2, 5))
    ]

    async def main() -> None:
        async with running(create_app(Settings(models=models, threads=1))) as client:
            bodies = [{"inputs": [tensor(batch)]} for batch in batches]
            answers = await asyncio.gather(*(client.post(INFER, json=body) for body in bodies))
            for batch, answer in zip(batches, answers, strict=True):
                np.testing.assert_allclose(logits_in(answer), logits_of(batch), atol=1e-5)
            assert any(
                int(answer.headers["x-batch-size"]) > len(batch) for batch, answer in zip(batches, answers, strict=True)
            )

    asyncio.run(main())
