"""The calls of the protocol over REST, a test and more for each, and what is wrong with a request said."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.app import create_app
from service.batching.policy import LatencyProfile
from service.errors import BadInput
from service.manifest import Graph, Tensor
from service.protocols.open_inference.messages import Reader, whole
from service.protocols.open_inference.tensors import from_raw, to_raw
from service.settings import Settings
from tests.bundles import (
    HEIGHT,
    LABELS,
    WIDTH,
    golden_inputs,
    identities_graph,
    identity_graph,
    lengths_graph,
    logits_of,
    make_bare,
    make_bundle,
    sum_graph,
)
from tests.conftest import Serve, running, start
from tests.service.requests import gained, metrics, tensor

MODEL = "/v2/models/tiny"
INFER = f"{MODEL}/infer"
SIZE = HEIGHT * WIDTH
LENGTH = "inference-header-content-length"
KEY = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Give a client of an app with models of many kinds; see `MODELS`."""
    folder = tmp_path_factory.mktemp("models")
    for name, graph in MODELS.items():
        make_bare(folder, name, graph=graph)
    with start(models=folder) as ready:
        yield ready


MODELS = {
    "rows": identity_graph("FP32", ("batch", "n")),
    "texts": identity_graph("BYTES", ("batch", 1)),
    "pairs": identity_graph("BYTES", ("batch", 2)),
    "brains": identity_graph("BF16", ("batch", 2)),
    "whole": identity_graph("INT64", (2, 3)),
    "scalar": identity_graph("FP32", ()),
    "free": identity_graph("FP32", ("n", "m", "k")),
    "anything": identity_graph("FP32", None),
    "lengths": lengths_graph(),
    "sum": sum_graph(),
    "mixed": identities_graph(
        {"numbers": ("FP32", ("batch", 2)), "names": ("BYTES", ("batch", "n")), "truths": ("BOOL", ("batch",))}
    ),
}


def infer(client: TestClient, *inputs: Any, model: str = "tiny", **others: Any) -> Any:
    return client.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs), **others})


def given_as(name: str, array: Any, datatype: str = "FP32", **changes: Any) -> dict[str, Any]:
    """Make an input of JSON."""
    shape = list(np.shape(array))
    return {"name": name, "datatype": datatype, "shape": shape, "data": np.ravel(array).tolist(), **changes}


def binary(name: str, shape: list[int], size: int, datatype: str = "FP32") -> dict[str, Any]:
    """Make an input whose data follow the JSON."""
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def send(
    client: TestClient, request: Any, raw: bytes = b"", *, model: str = "tiny", length: Any = None, **headers: str
) -> Any:
    """Send JSON and bytes after it."""
    header = json.dumps(request).encode()
    headers[LENGTH] = str(len(header) if length is None else length)
    return client.post(f"/v2/models/{model}/infer", content=header + raw, headers=headers)


def outputs_in(answer: Any) -> dict[str, Any]:
    """Read the outputs of an answer, each as an array, however they came."""
    assert answer.status_code == 200, answer.text
    body: bytes = answer.content
    end = int(answer.headers.get(LENGTH, len(body)))
    found = {}
    for output in json.loads(body[:end])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            assert LENGTH not in answer.headers or answer.headers["content-type"] == "application/octet-stream"
            found[output["name"]] = np.array(output["data"], object).reshape(output["shape"])
        else:
            assert "data" not in output
            found[output["name"]] = from_raw("y", output["datatype"], output["shape"], body[end : end + size])
            end += size
    assert end == len(body)
    return found


def logits_in(answer: Any) -> Any:
    found = outputs_in(answer)
    assert found.keys() == {"logits"}
    return found["logits"].astype(np.float32)


def assert_it_serves(client: TestClient) -> None:
    np.testing.assert_allclose(logits_in(infer(client, ONE)), logits_of(golden_inputs(1)), atol=1e-5)


# Who is there


def test_the_server_gives_its_name_version_and_extensions(client: TestClient) -> None:
    found = client.get("/v2").json()
    assert found == {
        "name": "inferd",
        "version": version("inferd"),
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_repository",
            "model_repository(unload_dependents)",
            "schedule_policy",
            "model_configuration",
            "parameters",
            "statistics",
        ],
    }


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/1/ready"])
def test_the_server_and_its_models_say_that_they_are_ready(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200
    head = client.head(path)
    assert head.status_code == 200
    assert head.content == b""


def test_a_server_that_is_not_ready_says_so(models: Path, serve: Serve) -> None:
    make_bundle(models)
    (make_bundle(models, "broken") / "model.onnx").write_bytes(b"broken")
    client = serve(models=models)
    for path in ("/v2/health/ready", "/v2/models/broken/ready", "/v2/models/broken/versions/1/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.json()["error"]
        assert client.head(path).status_code == 503
    for path in ("", "/config", "/stats"):
        assert client.get(f"/v2/models/broken{path}").status_code == 503
    assert infer(client, ONE, model="broken").status_code == 503
    assert client.get("/v2/health/live").status_code == 200
    assert client.get(f"{MODEL}/ready").json() == {"name": "tiny", "ready": True}


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
def test_a_model_has_tritons_configuration(client: TestClient, path: str) -> None:
    config = client.get(f"{path}/config").json()
    said = {name: json.loads(value["string_value"]) for name, value in config.pop("parameters").items()}
    profile = said.pop("latency_profile.model")
    assert said.keys() == {"threads", "threads_alone"}
    assert 1 <= said["threads"] <= said["threads_alone"]
    assert [rows for rows, _ in profile] == [1, 2, 4, 8]
    assert config["dynamic_batching"].pop("preferred_batch_size") == [
        LatencyProfile(tuple((rows, seconds) for rows, seconds in profile)).worthwhile_rows(8)
    ]
    assert config == {
        "name": "tiny",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [1]}},
        "max_batch_size": 8,
        "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": [1, HEIGHT, WIDTH]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [3]}],
        "instance_group": [{"name": "tiny_0", "kind": "KIND_CPU", "count": 1}],
        "default_model_filename": "model.onnx",
        "dynamic_batching": {
            "max_queue_delay_microseconds": 0,
            "priority_levels": 3,
            "default_priority_level": 2,
        },
    }


@pytest.mark.parametrize(
    ("model", "batch", "described"),
    [
        ("texts", 64, {"data_type": "TYPE_STRING", "dims": [1]}),
        ("whole", 0, {"data_type": "TYPE_INT64", "dims": [2, 3]}),
        ("scalar", 0, {"data_type": "TYPE_FP32", "dims": [1], "reshape": {"shape": []}}),
        ("anything", 0, {"data_type": "TYPE_FP32", "dims": [-1]}),
        ("rows", 64, {"data_type": "TYPE_FP32", "dims": [-1]}),
    ],
)
def test_a_configuration_has_the_batch_axis_apart(
    zoo: TestClient, model: str, batch: int, described: dict[str, Any]
) -> None:
    config = zoo.get(f"/v2/models/{model}/config").json()
    assert config["max_batch_size"] == batch
    assert config["input"] == [{"name": "x", **described}]
    assert config["output"] == [{"name": "y", **described}]
    assert ("dynamic_batching" in config) == bool(batch)


PATHS = ["", "/ready", "/config", "/stats"]


@pytest.mark.parametrize("path", [*PATHS, *(f"/versions/1{path}" for path in PATHS)])
def test_an_unknown_model_is_not_there(client: TestClient, path: str) -> None:
    answer = client.get(f"/v2/models/nobody{path}")
    assert answer.status_code == 404
    assert "there is no model 'nobody'" in answer.json()["error"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("number", ["2", "0", "-1", "one", "1.0"])
def test_an_unknown_version_is_not_there(client: TestClient, path: str, number: str) -> None:
    answer = client.get(f"{MODEL}/versions/{number}{path}")
    assert answer.status_code == 404
    assert f"model 'tiny' has no version '{number}'" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models/nobody/infer", f"{MODEL}/versions/2/infer"])
def test_nobody_infers(client: TestClient, path: str) -> None:
    answer = client.post(path, json={"inputs": [ONE]})
    assert answer.status_code == 404
    assert answer.json()["error"]
    assert_it_serves(client)


# Statistics


def test_statistics_count_as_triton_counts(models: Path, serve: Serve) -> None:
    make_bundle(models)
    make_bundle(models, version=2)
    make_bundle(models, "other")
    client = serve(models=models)
    began_ms = time.time() * 1000
    for rows in (1, 3, 3):
        path = f"{MODEL}/versions/1/infer"
        assert client.post(path, json={"inputs": [tensor(golden_inputs(rows))]}).status_code == 200
    assert client.post(f"{MODEL}/versions/1/infer", json={"inputs": []}).status_code == 400

    (found,) = client.get(f"{MODEL}/versions/1/stats").json()["model_stats"]
    assert found["name"] == "tiny"
    assert found["version"] == "1"
    assert began_ms - 1 <= found["last_inference"] <= time.time() * 1000
    assert found["inference_count"] == 7
    assert found["execution_count"] == 3
    kinds = found["inference_stats"]
    assert list(kinds) == [
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    ]
    assert {name: kind["count"] for name, kind in kinds.items()} == {
        "success": 3,
        "fail": 1,
        "queue": 3,
        "compute_input": 3,
        "compute_infer": 3,
        "compute_output": 3,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    assert 0 < kinds["compute_infer"]["ns"] < kinds["success"]["ns"]
    assert [batch["batch_size"] for batch in found["batch_stats"]] == [1, 3]
    assert [batch["compute_infer"]["count"] for batch in found["batch_stats"]] == [1, 2]
    assert found["batch_stats"][0].keys() == {"batch_size", "compute_input", "compute_infer", "compute_output"}

    def names(path: str) -> list[tuple[str, str]]:
        return [(one["name"], one["version"]) for one in client.get(path).json()["model_stats"]]

    assert names(f"{MODEL}/stats") == [("tiny", "1"), ("tiny", "2")]
    assert names(f"{MODEL}/versions/2/stats") == [("tiny", "2")]
    assert names("/v2/models/stats") == [("other", "1"), ("tiny", "1"), ("tiny", "2")]


# The repository


@pytest.fixture
def controlled(models: Path, serve: Serve) -> TestClient:
    """Give a client of a server whose models can be loaded and unloaded; none is at first."""
    make_bare(models, "one")
    make_bare(models, "many", 1)
    make_bare(models, "many", 2)
    make_bare(models, "many", 10)
    return serve(models=models, model_control="explicit", load_at_start="", admin_key="secret")


def states(client: TestClient, **body: Any) -> dict[str, str]:
    answer = client.post("/v2/repository/index", **body)
    assert answer.status_code == 200, answer.text
    assert all(one.keys() == {"name", "version", "state", "reason"} for one in answer.json())
    return {f"{one['name']}/{one['version']}": one["state"] for one in answer.json()}


def test_the_index_names_every_version_and_its_state(models: Path, serve: Serve) -> None:
    make_bundle(models)
    (make_bundle(models, "broken", 3) / "model.onnx").write_bytes(b"broken")
    client = serve(models=models)
    answer = client.post("/v2/repository/index")
    assert answer.status_code == 200
    broken, tiny = answer.json()
    assert tiny == {"name": "tiny", "version": "1", "state": "READY", "reason": ""}
    assert broken["name"] == "broken"
    assert broken["version"] == "3"
    assert broken["state"] == "UNAVAILABLE"
    assert "model.onnx" in broken["reason"]
    assert states(client, json={}) == states(client, json={"ready": False}) == states(client)
    assert states(client, json={"ready": True}) == {"tiny/1": "READY"}
    assert states(client, content=gzip.compress(b'{"ready": true}', mtime=0), headers={"content-encoding": "gzip"}) == {
        "tiny/1": "READY"
    }


@pytest.mark.parametrize("body", [b"[]", b'{"ready": 1}', b'{"ready": "yes"}', b"{", b"\xff", b'{"a":' + b"[" * 10**5])
def test_an_index_request_that_makes_no_sense_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/v2/repository/index", content=body)
    assert answer.status_code == 400
    assert "the body must be empty or" in answer.json()["error"]


def test_models_are_loaded_and_unloaded(controlled: TestClient) -> None:
    assert set(states(controlled).values()) <= {"UNAVAILABLE"}
    answer = controlled.post("/v2/repository/models/one/load", headers=KEY)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {}
    assert controlled.get("/v2/models/one/ready").status_code == 200
    assert states(controlled, json={"ready": True}) == {"one/1": "READY"}

    body = {"parameters": {"unload_dependents": True}}
    answer = controlled.post("/v2/repository/models/one/unload", headers=KEY, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {}
    assert controlled.get("/v2/models/one/ready").status_code in {404, 503}
    assert states(controlled, json={"ready": True}) == {}


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ({"all": {}}, ["1", "10", "2"]),
        ({"latest": {"num_versions": 2}}, ["10", "2"]),
        ({"specific": {"versions": [1, 2]}}, ["1", "2"]),
    ],
)
def test_a_policy_says_which_versions_are_loaded(
    controlled: TestClient, policy: dict[str, Any], versions: list[str]
) -> None:
    body = {"parameters": {"config": json.dumps({"version_policy": policy})}}
    answer = controlled.post("/v2/repository/models/many/load", headers=KEY, json=body)
    assert answer.status_code == 200, answer.text
    assert sorted(states(controlled, json={"ready": True})) == [f"many/{one}" for one in versions]
    assert sorted(controlled.get("/v2/models/many").json()["versions"]) == versions
    found = controlled.get("/v2/models/many/config").json()["version_policy"]
    assert sorted(map(str, found["specific"]["versions"])) == versions


@pytest.mark.parametrize("call", ["load", "unload"])
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "secret", "Basic secret", "Bearer "])
def test_control_needs_the_admin_key(controlled: TestClient, call: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    # The body is not even looked at.
    answer = controlled.post(f"/v2/repository/models/one/{call}", headers=headers, content=b"{")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "key" in answer.json()["error"]


@pytest.mark.parametrize("call", ["load", "unload"])
def test_without_an_admin_key_control_is_closed(client: TestClient, call: str) -> None:
    answer = client.post(f"/v2/repository/models/tiny/{call}", headers=KEY)
    assert answer.status_code == 403
    assert "control is closed" in answer.json()["error"]
    assert client.get(f"{MODEL}/ready").status_code == 200


@pytest.mark.parametrize("call", ["load", "unload"])
def test_an_unknown_model_can_not_be_controlled(controlled: TestClient, call: str) -> None:
    answer = controlled.post(f"/v2/repository/models/nobody/{call}", headers=KEY)
    assert answer.status_code == 404
    assert "nobody" in answer.json()["error"]


@pytest.mark.parametrize(
    ("call", "body", "status", "said"),
    [
        ("load", b"[]", 400, "the body must be empty or"),
        ("load", b"{", 400, "the body must be empty or"),
        ("load", b'{"parameters": 1}', 400, "the body must be empty or"),
        ("load", b'{"parameters": {"config": 1}}', 400, "config must be a text of JSON"),
        ("load", b'{"parameters": {"config": "{\\"max_batch_size\\": 4}"}}', 501, "'max_batch_size'"),
        ("load", b'{"parameters": {"file:1/model.onnx": "AAAA"}}', 501, "no files; given: ['file:1/model.onnx']"),
        ("unload", b'{"parameters": {"unload_dependents": 1}}', 400, "unload_dependents must be true or false"),
        ("unload", b"{", 400, "the body must be empty or"),
    ],
)
def test_a_control_request_that_makes_no_sense_is_refused(
    controlled: TestClient, call: str, body: bytes, status: int, said: str
) -> None:
    answer = controlled.post(f"/v2/repository/models/one/{call}", headers=KEY, content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]


# Inference


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_tensors_are_answered_as_the_graph_computes(client: TestClient, rows: int) -> None:
    inputs = golden_inputs(rows)
    answer = infer(client, tensor(inputs))
    np.testing.assert_allclose(logits_in(answer), logits_of(inputs), atol=1e-5)
    assert answer.json().keys() == {"model_name", "model_version", "parameters", "outputs"}
    assert answer.json()["model_name"] == "tiny"
    assert answer.json()["model_version"] == "1"
    assert LENGTH not in answer.headers


def test_data_may_be_flat_or_nested_as_the_shape_says(client: TestClient) -> None:
    inputs = golden_inputs(2)
    flat = infer(client, tensor(inputs))
    nested = infer(client, tensor(inputs, data=inputs.tolist()))
    assert nested.json()["outputs"] == flat.json()["outputs"]


def test_whole_numbers_are_taken_for_floats(client: TestClient) -> None:
    answer = infer(client, tensor(golden_inputs(1), data=[1] * SIZE))
    np.testing.assert_allclose(logits_in(answer), [[-4, 4, 0]], atol=1e-5)


def test_the_answer_has_the_bits_that_the_graph_gave(client: TestClient) -> None:
    inputs = golden_inputs(3)
    found = logits_in(infer(client, tensor(inputs)))
    raw = logits_in(infer(client, tensor(inputs), parameters={"binary_data_output": True}))
    assert found.tobytes() == raw.tobytes()
    assert np.abs(found - logits_of(inputs)).max() < 1e-5


@pytest.mark.parametrize("identity", ["42", "a b/c", "\u00fc", '"\\\n'])
def test_the_id_comes_back(client: TestClient, identity: str) -> None:
    assert infer(client, tensor(golden_inputs(1)), id=identity).json()["id"] == identity


@pytest.mark.parametrize("identity", ["", None])
def test_no_id_comes_back_where_there_was_none(client: TestClient, identity: str | None) -> None:
    assert "id" not in infer(client, tensor(golden_inputs(1)), id=identity).json()


def test_what_may_be_left_out_may_be_null(client: TestClient) -> None:
    answer = infer(client, tensor(golden_inputs(1), parameters=None), id=None, parameters=None, outputs=None)
    assert logits_in(answer).shape == (1, 3)
    answer = infer(client, ONE, outputs=[{"name": "logits", "parameters": None}])
    assert logits_in(answer).shape == (1, 3)


def test_outputs_may_be_chosen_by_name(zoo: TestClient) -> None:
    inputs = [given_as("a", [[1, 2, 3]]), given_as("b", [[10, 20, 30]])]
    both = outputs_in(infer(zoo, *inputs, model="sum"))
    assert list(both) == ["sum", "total"]
    assert both["sum"].tolist() == [[11, 22, 33]]
    assert both["total"].tolist() == [6]
    assert outputs_in(infer(zoo, *inputs, model="sum", outputs=[])).keys() == both.keys()
    turned = outputs_in(infer(zoo, *inputs[::-1], model="sum", outputs=[{"name": "total"}, {"name": "sum"}]))
    assert list(turned) == ["total", "sum"]
    assert list(outputs_in(infer(zoo, *inputs, model="sum", outputs=[{"name": "total"}]))) == ["total"]


def test_a_large_body_is_read_like_a_small_one(client: TestClient) -> None:
    body = json.dumps({"inputs": [tensor(golden_inputs(3))], "id": "large"}) + " " * 100_000
    answer = client.post(INFER, content=body)
    assert answer.json()["outputs"] == infer(client, tensor(golden_inputs(3)), id="large").json()["outputs"]
    assert answer.json()["id"] == "large"
    answer = client.post(INFER, content=body + "}")
    assert answer.status_code == 400
    assert "the body must be an inference request" in answer.json()["error"]


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_large_answer_is_written_like_a_small_one(zoo: TestClient, is_binary: bool) -> None:
    rows = np.random.default_rng(3).random((2, 50_000), dtype=np.float32)
    answer = infer(zoo, given_as("x", rows), model="rows", parameters={"binary_data_output": is_binary})
    assert outputs_in(answer)["y"].astype(np.float32).tobytes() == rows.tobytes()


def test_a_version_may_be_named(client: TestClient) -> None:
    answer = client.post(f"{MODEL}/versions/1/infer", json={"inputs": [tensor(golden_inputs(1))]})
    np.testing.assert_allclose(logits_in(answer), logits_of(golden_inputs(1)), atol=1e-5)


def test_headers_and_parameters_tell_who_answered_and_how_long_it_took(client: TestClient) -> None:
    answer = infer(client, tensor(golden_inputs(5)))
    headers = answer.headers
    assert headers["x-inferd-model"] == "tiny"
    assert headers["x-inferd-version"] == "1"
    assert headers["x-batch-size"] == "5"
    assert float(headers["x-compute-ms"]) > 0
    parameters = answer.json()["parameters"]
    assert parameters["batch_size"] == 5
    assert parameters["compute_us"] == pytest.approx(1000 * float(headers["x-compute-ms"]), abs=1.5)
    assert parameters["queue_us"] == pytest.approx(1000 * float(headers["x-queue-ms"]), abs=1.5)


def test_keys_of_extensions_that_this_server_has_not_are_passed_over(client: TestClient) -> None:
    """The protocol has servers ignore parameters that they don't know."""
    inputs = tensor(golden_inputs(1), parameters={"anything": 1})
    outputs = [{"name": "logits", "parameters": {"anything": 2}}]
    assert infer(client, inputs, outputs=outputs, parameters={"anything": [{}]}, model_name="x").status_code == 200


@pytest.mark.parametrize("shape", [[1, 0], [3, 0]])
def test_tensors_may_have_no_elements(zoo: TestClient, shape: list[int]) -> None:
    given_nothing = {"name": "x", "datatype": "FP32", "shape": shape, "data": []}
    for is_binary in (False, True):
        answer = infer(zoo, given_nothing, model="rows", parameters={"binary_data_output": is_binary})
        assert list(outputs_in(answer)["y"].shape) == shape
    assert list(outputs_in(send(zoo, {"inputs": [binary("x", shape, 0)]}, model="rows"))["y"].shape) == shape


def test_a_scalar_has_no_axes(zoo: TestClient) -> None:
    for data in ([0.5], 0.5):
        answer = infer(zoo, {"name": "x", "datatype": "FP32", "shape": [], "data": data}, model="scalar")
        assert answer.json()["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [], "data": [0.5]}]


def test_a_graph_that_tells_no_shape_takes_any(zoo: TestClient) -> None:
    for shape in ((), (3,), (2, 0), (1, 2, 3)):
        array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        assert outputs_in(infer(zoo, given_as("x", array), model="anything"))["y"].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("NaN, Infinity, -Infinity", "NaN,Infinity,-Infinity"),
        ("NaN, Inf, -Inf", "NaN,Infinity,-Infinity"),
        ("-0.0, Infinity, 1", "-0.0,Infinity,1.0"),
    ],
)
def test_numbers_that_are_not_finite_stand_in_json_as_triton_has_them(
    zoo: TestClient, words: str, expected: str
) -> None:
    before = (
        f'{{"id": "Inf NaN \\" Inf", "inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [{words}'
    )
    answer = zoo.post("/v2/models/rows/infer", content=before + "]}]}")
    assert answer.status_code == 200, answer.text
    assert f'"data":[{expected}]' in answer.text
    assert '"id":"Inf NaN \\" Inf"' in answer.text


def test_in_a_large_body_infinity_is_written_out(zoo: TestClient) -> None:
    for word, status in (("Infinity", 200), ("NaN", 200), ("Inf", 400)):
        data = ",".join([word] + ["0.5"] * 300_000)
        body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 300001], "data": [{data}]}}]}}'
        answer = zoo.post("/v2/models/rows/infer", content=body)
        assert answer.status_code == status
    assert "the body must be an inference request" in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [nan]}]}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [Infinit]}]}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [Inf 1]}]}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [Inf, 1e400]}]}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [NaN, "1"]}]}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, NaN], "data": []}]}',
        '{"inputs": [NaN]}',
        '{"inputs": [], "NaN',
        "NaN",
        '"' + '\\"' * 100_000 + "Inf",
        '{"id": "\\ud800", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [NaN]}]}',
    ],
    ids=range(11),
)
def test_what_only_looks_like_a_number_is_refused(zoo: TestClient, body: str) -> None:
    answer = zoo.post("/v2/models/rows/infer", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


# What is wrong is said


ONE = tensor(golden_inputs(1))

WRONG: dict[str, tuple[Any, str]] = {
    "no input": ([], r"inputs must be ['image'], once each; given: []"),
    "another name": ([{**ONE, "name": "picture"}], "inputs must be ['image'], once each; given: ['picture']"),
    "one too many": ([ONE, {**ONE, "name": "mask"}], "given: ['image', 'mask']"),
    "twice": ([ONE, ONE], "given: ['image', 'image']"),
    "another datatype": ([{**ONE, "datatype": "FP64"}], "input 'image' must be FP32, not FP64"),
    "no datatype": ([{**ONE, "datatype": "float"}], "there is no datatype 'float'; datatypes: BOOL, UINT8"),
    "another shape": ([{**ONE, "shape": [1, 1, WIDTH, HEIGHT]}], "expected [-1, 1, 4, 6] (-1: any size)"),
    "another rank": ([{**ONE, "shape": [1, SIZE]}], "input 'image' has shape [1, 24]; expected [-1, 1, 4, 6]"),
    "no shape": ([{**ONE, "shape": []}], "input 'image' has shape []"),
    "no rows": ([{**ONE, "shape": [0, 1, HEIGHT, WIDTH], "data": []}], "input 'image' has shape [0, 1, 4, 6]"),
    "negative rows": ([{**ONE, "shape": [-1, 1, HEIGHT, WIDTH]}], "input 'image' has shape [-1, 1, 4, 6]"),
    "endless rows": ([{**ONE, "shape": [10**15, 1, HEIGHT, WIDTH]}], "input 'image': data have 24 elements"),
    "too few numbers": ([{**ONE, "data": [0.5] * (SIZE - 1)}], "input 'image': data have 23 elements"),
    "too many numbers": ([{**ONE, "data": [0.5] * (SIZE + 1)}], "input 'image': data have 25 elements"),
    "no numbers": ([{**ONE, "data": []}], "input 'image': data have 0 elements"),
    "nested otherwise": ([{**ONE, "data": [[0.5] * SIZE]}], "data are nested as [1, 24], but shape is [1, 1, 4, 6]"),
    "nested unevenly": ([{**ONE, "data": [[0.5], [0.5, 0.5]]}], "input 'image': data are not nested evenly"),
    "numbers and lists": ([{**ONE, "data": [0.5, [0.5] * (SIZE - 1)]}], "input 'image': data are not nested evenly"),
    "texts": ([{**ONE, "data": ["0.5"] * SIZE}], "input 'image': data of FP32 must be numbers; found: a text"),
    "one text": ([{**ONE, "data": [0.5] * (SIZE - 1) + ["x"]}], "data of FP32 must be numbers; found: a text"),
    "nothing": ([{**ONE, "data": [None] * SIZE}], "data of FP32 must be numbers; found: null"),
    "one nothing": ([{**ONE, "data": [0.5] * (SIZE - 1) + [None]}], "data of FP32 must be numbers; found: null"),
    "truths": ([{**ONE, "data": [True] * SIZE}], "data of FP32 must be numbers; found: true or false"),
    "objects": ([{**ONE, "data": [{}] * SIZE}], "data of FP32 must be numbers; found: an object"),
    "numbers beyond": ([{**ONE, "data": [1e39] * SIZE}], "input 'image': data have numbers too large for FP32"),
    "whole numbers beyond": ([{**ONE, "data": [10**60] * SIZE}], "input 'image': data have numbers too large for FP32"),
    "one number": ([{**ONE, "data": 0.5}], "input 'image': data have 1 elements"),
    "one long text": ([{**ONE, "data": "AAAA"}], "data of FP32 must be numbers; found: a text"),
    "neither": ([{name: ONE[name] for name in ("name", "shape", "datatype")}], "must have either data or"),
    "null": ([{**ONE, "data": None}], "must have either data or"),
    "both": ([{**ONE, "parameters": {"binary_data_size": 96}}], "must have either data or the parameter"),
    "too many rows": ([tensor(np.zeros((9, 1, HEIGHT, WIDTH)))], "at most 8 rows"),
}


@pytest.mark.parametrize("inputs", WRONG.values(), ids=WRONG)
def test_inputs_that_the_graph_can_not_take_are_refused_with_what_is_wrong(
    client: TestClient, inputs: tuple[Any, str]
) -> None:
    wrong, said = inputs
    before = metrics(client)
    answer = infer(client, *wrong)
    assert answer.status_code == (413 if "rows" in said else 400)
    assert said in answer.json()["error"]
    after = metrics(client)
    assert gained(before, after, "inferd_request_failures_total", model="tiny", reason="invalid") == 1
    assert gained(before, after, "inferd_batch_size_count") == 0
    assert_it_serves(client)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ONE.items() if key != name}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body must be an inference request"),
        (b"nonsense", "the body must be an inference request"),
        (b"[]", "the body must be an inference request"),
        (b"{}", "`inputs`"),
        (b'{"inputs": 7}', "inputs"),
        (b'{"inputs": [7]}', "inputs[0]"),
        (b'{"inputs": {}}', "inputs"),
        (json.dumps({"inputs": [without("name")]}).encode(), "`name`"),
        (json.dumps({"inputs": [without("shape")]}).encode(), "`shape`"),
        (json.dumps({"inputs": [without("datatype")]}).encode(), "`datatype`"),
        (json.dumps({"inputs": [{**ONE, "shape": [1.5, 1, 4, 6]}]}).encode(), "shape"),
        (json.dumps({"inputs": [{**ONE, "shape": 24}]}).encode(), "shape"),
        (json.dumps({"inputs": [{**ONE, "name": 7}]}).encode(), "name"),
        (json.dumps({"inputs": [{**ONE, "parameters": 7}]}).encode(), "parameters"),
        (json.dumps({"inputs": [ONE], "id": 7}).encode(), "id"),
        (json.dumps({"inputs": [ONE], "parameters": []}).encode(), "parameters"),
        (json.dumps({"inputs": [ONE], "outputs": ["logits"]}).encode(), "outputs[0]"),
        (json.dumps({"inputs": [ONE], "outputs": [{}]}).encode(), "`name`"),
        (json.dumps({"inputs": [ONE], "outputs": [{"name": "scores"}]}).encode(), "there is no output 'scores'"),
        (json.dumps({"inputs": [ONE], "outputs": [{"name": "logits"}] * 2}).encode(), "asked for more than once"),
        (b'{"inputs": "\xff"}', "the body must be an inference request"),
        (b'{"inputs": ' + b"[" * 50_000, "the body must be an inference request"),
        (b'{"inputs": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "the body must be an inference request"),
        (b'{"NaN": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "the body must be an inference request"),
        (json.dumps({"inputs": [{**ONE, "data": "@"}]}).replace('"@"', "[" * 90 + "]" * 90).encode(), "input 'image'"),
        (json.dumps({"inputs": [{**ONE, "data": "@"}]}).replace('"@"', "[" * 10**5).encode(), "the body must be"),
    ],
    ids=range(26),
)
def test_a_body_that_is_no_inference_request_is_refused_with_what_is_wrong(
    client: TestClient, body: bytes, said: str
) -> None:
    answer = client.post(INFER, content=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert_it_serves(client)


@pytest.mark.parametrize("part", ["inputs", "outputs"])
@pytest.mark.parametrize(("tensors", "status"), [(50_000, 400), (1_000_000, 413)])
def test_very_many_tensors_are_refused_in_time_and_in_few_words(
    models: Path, serve: Serve, part: str, tensors: int, status: int
) -> None:
    make_bundle(models)
    client = serve(models=models, max_body_bytes=2**27)
    one = json.dumps({**ONE, "data": []} if part == "inputs" else {"name": "logits"})
    body = f'{{"{part}": [{",".join([one] * tensors)}]'
    body += "}" if part == "inputs" else f', "inputs": [{json.dumps(ONE)}]}}'
    began = time.monotonic()
    answer = client.post(INFER, content=body)
    assert time.monotonic() - began < 20
    assert answer.status_code == status
    assert len(answer.content) < 1000
    assert_it_serves(client)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("Inf")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3)
)
parameters = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "classification", "timeout", "priority"]),
    st.integers(-1, 100) | st.booleans() | values,
)


@settings(max_examples=60)
@given(
    change=st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), values, min_size=1),
    others=st.dictionaries(st.sampled_from(["id", "outputs", "parameters", "else"]), values),
    given_parameters=st.lists(st.none() | parameters, min_size=3, max_size=3),
    tail=st.binary(max_size=100),
    length=st.none() | st.integers(-1, 3),
)
def test_whatever_stands_in_a_request_it_is_answered_or_refused(
    client: TestClient,
    change: dict[str, Any],
    others: dict[str, Any],
    given_parameters: list[dict[str, Any] | None],
    tail: bytes,
    length: int | None,
) -> None:
    of_input, of_output, of_all = given_parameters
    request = {
        "inputs": [{**ONE, "parameters": of_input, **change}],
        "outputs": [{"name": "logits", "parameters": of_output}],
        "parameters": of_all,
        **others,
    }
    body = json.dumps(request).encode()
    headers = {} if length is None else {LENGTH: str(length if length < 1 else len(body) + length - 1)}
    answer = client.post(INFER, content=body + tail, headers=headers)
    assert answer.status_code in {200, 400, 413, 501, 504}
    assert (answer.status_code == 200) == (b'"outputs":' in answer.content)
    assert (answer.status_code != 200) == (b'"error":' in answer.content)


@settings(max_examples=20)
@given(rows=st.integers(1, 8), data=st.data())
def test_any_numbers_of_any_number_of_rows_are_answered_row_by_row(
    client: TestClient, rows: int, data: st.DataObject
) -> None:
    numbers = st.floats(-100, 100, width=32)
    inputs = np.array(data.draw(st.lists(numbers, min_size=rows * SIZE, max_size=rows * SIZE)), np.float32)
    batch = inputs.reshape(rows, 1, HEIGHT, WIDTH)
    np.testing.assert_allclose(logits_in(infer(client, tensor(batch))), logits_of(batch), rtol=1e-4, atol=1e-2)


# Binary data


IMAGE = binary("image", [1, 1, HEIGHT, WIDTH], 4 * SIZE)
RAW = golden_inputs(1).tobytes()


def test_inputs_may_follow_the_json_as_raw_bytes(client: TestClient) -> None:
    answer = send(client, {"inputs": [IMAGE], "id": "7"}, RAW)
    np.testing.assert_allclose(logits_in(answer), logits_of(golden_inputs(1)), atol=1e-5)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["id"] == "7"


def test_inputs_follow_in_the_order_in_which_they_are_listed(zoo: TestClient) -> None:
    names = to_raw(np.array([["a", "\u00fc"]], object), "BYTES")
    request = {
        "inputs": [
            binary("truths", [1], 1, "BOOL"),
            given_as("numbers", [[1, 2]]),
            binary("names", [1, 2], len(names), "BYTES"),
        ]
    }
    found = outputs_in(send(zoo, request, b"\1" + names, model="mixed"))
    assert found["out_truths"].tolist() == [True]
    assert found["out_numbers"].tolist() == [[1, 2]]
    assert found["out_names"].tolist() == [["a", "\u00fc"]]


@pytest.mark.parametrize(
    ("whole", "own", "is_binary"),
    [
        (None, {}, False),
        (True, {}, True),
        (False, {}, False),
        (None, {"binary_data": True}, True),
        (True, {"binary_data": False}, False),
        (False, {"binary_data": True}, True),
    ],
)
def test_outputs_are_raw_where_the_request_or_its_output_says(
    client: TestClient, whole: bool | None, own: dict[str, bool], is_binary: bool
) -> None:
    parameters = {} if whole is None else {"binary_data_output": whole}
    answer = infer(client, ONE, parameters=parameters, outputs=[{"name": "logits", "parameters": own}])
    np.testing.assert_allclose(logits_in(answer), logits_of(golden_inputs(1)), atol=1e-5)
    assert (LENGTH in answer.headers) == is_binary
    assert answer.headers["content-type"] == ("application/octet-stream" if is_binary else "application/json")
    assert len(answer.content) == int(answer.headers["content-length"])


def test_some_outputs_may_be_raw_and_some_not(zoo: TestClient) -> None:
    inputs = [
        given_as("numbers", [[1, 2]]),
        given_as("names", np.array([["a"]], object), "BYTES"),
        given_as("truths", [True], "BOOL"),
    ]
    outputs = [
        {"name": "out_truths", "parameters": {"binary_data": True}},
        {"name": "out_numbers"},
        {"name": "out_names", "parameters": {"binary_data": True}},
    ]
    answer = infer(zoo, *inputs, model="mixed", outputs=outputs)
    assert answer.content.endswith(b"}\1\1\0\0\0a")
    found = outputs_in(answer)
    assert {name: array.tolist() for name, array in found.items()} == {
        "out_truths": [True],
        "out_numbers": [[1, 2]],
        "out_names": [["a"]],
    }


def test_a_large_binary_body_is_read_like_a_small_one(zoo: TestClient) -> None:
    rows = np.random.default_rng(4).random((3, 100_000), dtype=np.float32)
    request = {"inputs": [binary("x", [3, 100_000], rows.nbytes)], "parameters": {"binary_data_output": True}}
    assert outputs_in(send(zoo, request, rows.tobytes(), model="rows"))["y"].tobytes() == rows.tobytes()


def test_json_that_was_said_before_is_read_as_it_was_at_first(client: TestClient) -> None:
    rows = golden_inputs(2)
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    request = {"id": "again", "inputs": [binary("image", [1, 1, HEIGHT, WIDTH], 96)], "outputs": outputs}
    for row in (0, 1, 0):
        answer = send(client, request, rows[row : row + 1].tobytes())
        np.testing.assert_allclose(logits_in(answer), logits_of(rows[row : row + 1]), atol=1e-5)
        assert json.loads(answer.content[: int(answer.headers[LENGTH])])["id"] == "again"
        for wrong, said in ((RAW[:-4], "the body has 92 bytes left"), (RAW + b"more", "4 bytes are left over")):
            refused = send(client, request, wrong)
            assert refused.status_code == 400
            assert said in refused.json()["error"]


def test_inputs_that_were_said_before_keep_their_order_and_their_texts() -> None:
    graph = Graph(
        file="model.onnx",
        inputs=tuple(Tensor(name=name, datatype=of, shape=("n",)) for name, of in (("a", "INT32"), ("b", "BYTES"))),
        outputs=(Tensor(name="y", datatype="INT32", shape=("n",)),),
    )
    reader = Reader(graph, batched=True)
    inputs = [binary("b", [2], 10, "BYTES"), binary("a", [2], 8, "INT32")]
    head = json.dumps({"inputs": inputs, "parameters": {"timeout": 2_000_000}}).encode()
    for text, numbers, now in ((b"x", [1, 2], 100.0), (b"y", [3, 4], 200.0)):
        element = b"\1\0\0\0" + text
        read = reader.read(head + element + element + np.array(numbers, "<i4").tobytes(), len(head), now, now + 5)
        assert read.arrays["a"].tolist() == numbers
        assert read.arrays["b"].tolist() == [text.decode()] * 2
        assert read.deadline == now + 2
    with pytest.raises(BadInput):
        reader.read(head + b"\7\0\0\0" * 2 + b"12" + np.array([1, 2], "<i4").tobytes(), len(head), 0.0)


def test_no_more_than_a_few_heads_are_kept() -> None:
    graph = Graph(
        file="model.onnx",
        inputs=(Tensor(name="a", datatype="INT32", shape=("n",)),),
        outputs=(Tensor(name="y", datatype="INT32", shape=("n",)),),
    )
    reader = Reader(graph, batched=True)
    for number in range(1000):
        head = json.dumps({"id": str(number), "inputs": [binary("a", [1], 4, "INT32")]}).encode()
        assert reader.read(head + b"\1\0\0\0", len(head), 0.0).id == str(number)
    assert len(reader._known) <= 64


def test_numbers_of_a_body_that_came_in_pieces_are_not_copied_again() -> None:
    graph = Graph(
        file="model.onnx",
        inputs=(Tensor(name="a", datatype="FP64", shape=("n",)),),
        outputs=(Tensor(name="y", datatype="FP64", shape=("n",)),),
    )
    reader = Reader(graph, batched=True)
    numbers = np.random.default_rng(1).random(500)
    for _ in range(2):  # the second time what was said before is known
        for spaces in range(20):
            head = json.dumps({"inputs": [binary("a", [500], 4000, "FP64")]}).encode() + b" " * spaces
            sent = head + numbers.tobytes()
            body = whole([sent[:30], sent[30:1000], sent[1000:]], len(head))
            assert bytes(body) == sent
            array = reader.read(body, len(head), 0.0).arrays["a"]
            np.testing.assert_array_equal(array, numbers, strict=True)
            assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not any(isinstance(head, memoryview) for head in reader._known)  # each would keep its body
    sent = numbers.tobytes()
    assert whole([sent], 0) is sent
    assert whole([sent[:1], sent[1:]], 0) == whole([sent[:1], sent[1:]], None) == sent


def test_raw_bodies_of_one_size_are_alike_but_for_their_numbers() -> None:
    graph = Graph(
        file="model.onnx",
        inputs=(Tensor(name="a", datatype="INT32", shape=("n", "size")),),
        outputs=(Tensor(name="y", datatype="INT32", shape=("n",)),),
    )
    reader = Reader(graph, batched=True)
    for size in range(1, 200):
        for first in range(3):
            numbers = np.arange(first, first + size, dtype=np.int32)
            read = reader.read(numbers.tobytes(), 0, 0.0, deadline=float(size))
            np.testing.assert_array_equal(read.arrays["a"], numbers[None], strict=True)
            assert read.deadline == size
            assert [(one.tensor.name, one.binary) for one in read.outputs] == [("y", True)]
    assert len(reader._known_raw) <= 64
    with pytest.raises(BadInput):
        reader.read(b"\1\0\0", 0, 0.0)
    with pytest.raises(BadInput):
        Reader(graph.model_copy(update={"inputs": graph.inputs * 2}), batched=True).read(b"\1\0\0\0", 0, 0.0)


def test_bf16_is_binary_alone(zoo: TestClient) -> None:
    request = {"inputs": [binary("x", [1, 2], 4, "BF16")]}
    answer = send(zoo, request, b"\xc0\x3f\x00\x00", model="brains")
    assert answer.status_code == 400
    assert "BF16 can't be sent as JSON; ask for it with the parameter binary_data" in answer.json()["error"]
    answer = send(zoo, {**request, "parameters": {"binary_data_output": True}}, b"\xc0\x3f\x00\x00", model="brains")
    assert answer.content.endswith(b"}\xc0\x3f\x00\x00")
    asked = [{"name": "y", "parameters": {"classification": 1}}]
    answer = send(zoo, {**request, "outputs": asked}, b"\xc0\x3f\x00\x00", model="brains")
    assert outputs_in(answer)["y"].tolist() == [["1.5:0"]]
    answer = infer(zoo, given_as("x", [[1, 2]], "BF16"), model="brains")
    assert answer.status_code == 400
    assert "BF16 can't be sent as JSON; send it as binary data" in answer.json()["error"]


def sized(size: object) -> dict[str, Any]:
    return {**IMAGE, "parameters": {"binary_data_size": size}}


WRONG_BINARY: dict[str, tuple[Any, bytes, str]] = {
    "short body": ([IMAGE], RAW[:-1], "binary_data_size is 96, but the body has 95 bytes left"),
    "no data": ([IMAGE], b"", "binary_data_size is 96, but the body has 0 bytes left"),
    "long body": ([IMAGE], RAW + b"x", "1 bytes are left over after the inputs' binary data"),
    "only left over": ([ONE], b"x", "1 bytes are left over after the inputs' binary data"),
    "size too small": ([sized(92)], RAW[:92], "input 'image' has 92 bytes of data; FP32 of shape [1, 1, 4, 6] has 96"),
    "size too large": ([sized(100)], RAW + b"1234", "input 'image' has 100 bytes of data"),
    "size of none": ([sized(0)], b"", "input 'image' has 0 bytes of data"),
    "size that lies": ([sized(2**62)], RAW, f"binary_data_size is {2**62}, but the body has 96 bytes left"),
    "negative size": ([sized(-96)], RAW, "binary_data_size must be a whole number, 0 or more"),
    "size with a fraction": ([sized(96.0)], RAW, "binary_data_size must be a whole number, 0 or more"),
    "size as text": ([sized("96")], RAW, "binary_data_size must be a whole number, 0 or more"),
    "size that is true": ([sized(True)], RAW, "binary_data_size must be a whole number, 0 or more"),
    "both": ([{**IMAGE, "data": [0.5] * SIZE}], RAW, "must have either data or the parameter binary_data_size"),
    "neither": ([sized(None)], b"", "must have either data or the parameter binary_data_size"),
    "twice": ([IMAGE, IMAGE], RAW + RAW, "inputs must be ['image'], once each; given: ['image', 'image']"),
    "another shape": ([{**IMAGE, "shape": [2, 1, HEIGHT, WIDTH]}], RAW, "FP32 of shape [2, 1, 4, 6] has 192"),
    "endless shape": ([{**IMAGE, "shape": [2**40, 1, HEIGHT, WIDTH]}], RAW, "has 96 bytes of data"),
    "another datatype": ([{**IMAGE, "datatype": "BYTES"}], RAW, "input 'image' must be FP32, not BYTES"),
}


@pytest.mark.parametrize("wrong", WRONG_BINARY.values(), ids=WRONG_BINARY)
def test_binary_data_that_do_not_fit_are_refused(client: TestClient, wrong: tuple[Any, bytes, str]) -> None:
    inputs, raw, said = wrong
    answer = send(client, {"inputs": inputs}, raw)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert_it_serves(client)


def test_without_the_length_of_the_json_there_are_no_binary_data(client: TestClient) -> None:
    body = json.dumps({"inputs": [IMAGE]}).encode()
    assert "but the body has 0 bytes left" in client.post(INFER, content=body).json()["error"]
    assert "the body must be an inference request" in client.post(INFER, content=body + RAW).json()["error"]


@pytest.mark.parametrize("length", ["-1", "+5", "1.0", "1e2", "many", "", "0x10", "1_0", "9" * 30])
def test_a_length_of_the_json_that_is_no_number_is_refused(client: TestClient, length: str) -> None:
    answer = send(client, {"inputs": [IMAGE]}, RAW, length=length)
    assert answer.status_code == 400
    assert "inference-header-content-length must be one number of bytes" in answer.json()["error"]
    assert_it_serves(client)


def test_there_is_one_length_of_the_json(client: TestClient) -> None:
    answer = client.post(INFER, content=b"{}", headers=[(LENGTH, "2"), (LENGTH, "2")])
    assert answer.status_code == 400
    assert "inference-header-content-length must be one number of bytes, not '2, 2'" in answer.json()["error"]


@pytest.mark.parametrize("beyond", [1, 10**12])
def test_the_json_ends_within_the_body(client: TestClient, beyond: int) -> None:
    size = len(json.dumps({"inputs": [IMAGE]})) + len(RAW)
    answer = send(client, {"inputs": [IMAGE]}, RAW, length=size + beyond)
    assert answer.status_code == 400
    assert f"the body has {size} bytes; {LENGTH} says {size + beyond}" in answer.json()["error"]
    assert_it_serves(client)


def test_a_length_that_cuts_the_json_short_is_refused(client: TestClient) -> None:
    answer = send(client, {"inputs": [IMAGE]}, RAW, length=5)
    assert answer.status_code == 400
    assert "the body must be an inference request" in answer.json()["error"]


def test_shared_memory_is_not_there(client: TestClient) -> None:
    memory = {"shared_memory_region": "r", "shared_memory_byte_size": 96}
    for request in (
        {"inputs": [{**without("data"), "parameters": memory}]},
        {"inputs": [ONE], "outputs": [{"name": "logits", "parameters": memory}]},
    ):
        answer = client.post(INFER, json=request)
        assert answer.status_code == 501
        assert "shared memory is not supported" in answer.json()["error"]


# A raw body


RAW_BODY = {LENGTH: "0"}


def test_a_raw_body_is_the_only_input_of_one_row(client: TestClient) -> None:
    answer = client.post(INFER, content=RAW, headers=RAW_BODY)
    np.testing.assert_allclose(logits_in(answer), logits_of(golden_inputs(1)), atol=1e-5)
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("model", "body", "shape"),
    [
        ("rows", b"\0" * 12, (1, 3)),
        ("rows", b"", (1, 0)),
        ("texts", "\u00fc and more".encode(), (1, 1)),
        ("texts", b"", (1, 1)),
        ("brains", b"\xc0\x3f\0\0", (1, 2)),
        ("whole", bytes(range(48)), (2, 3)),
        ("scalar", b"\0\0\0\x3f", ()),
        ("anything", b"\0" * 20, (5,)),
    ],
)
def test_a_raw_body_has_the_shape_that_the_model_leaves_it(
    zoo: TestClient, model: str, body: bytes, shape: tuple[int, ...]
) -> None:
    found = outputs_in(zoo.post(f"/v2/models/{model}/infer", content=body, headers=RAW_BODY))["y"]
    assert found.shape == shape
    assert (found.ravel()[0].encode() if model == "texts" else found.tobytes()) == body


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        ("rows", b"\0" * 13, "input 'x' has 13 bytes of data; FP32 of shape [1, 3] has 12"),
        ("whole", b"\0" * 47, "input 'x' has 47 bytes of data; INT64 of shape [2, 3] has 48"),
        ("texts", b"\xff", "BYTES elements must be UTF-8 text"),
        ("pairs", b"a", "a raw body is one element, but input 'x' has shape [-1, 2]"),
        ("free", b"\0" * 12, "a raw body tells no shape, and input 'x' has [-1, -1, -1]"),
        ("sum", b"\0" * 12, "needs a model of one input, not 2"),
    ],
)
def test_a_raw_body_that_tells_too_little_or_too_much_is_refused(
    zoo: TestClient, model: str, body: bytes, said: str
) -> None:
    answer = zoo.post(f"/v2/models/{model}/infer", content=body, headers=RAW_BODY)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


# Classification


@pytest.mark.parametrize("is_binary", [False, True])
def test_the_highest_values_come_with_their_labels(client: TestClient, is_binary: bool) -> None:
    rows = golden_inputs(2)
    wish = {"name": "logits", "parameters": {"classification": 2, "binary_data": is_binary}}
    answer = infer(client, tensor(rows), outputs=[wish])
    (output,) = json.loads(answer.content[: int(answer.headers.get(LENGTH, len(answer.content)))])["outputs"]
    assert output["datatype"] == "BYTES"
    assert output["shape"] == [2, 2]
    for texts, logits in zip(outputs_in(answer)["logits"].tolist(), logits_of(rows), strict=True):
        parts = [text.split(":") for text in texts]
        assert [int(index) for _, index, _ in parts] == np.argsort(-logits)[:2].tolist()
        assert [label for _, _, label in parts] == [LABELS[index] for index in np.argsort(-logits)[:2]]
        np.testing.assert_allclose([float(value) for value, _, _ in parts], np.sort(logits)[::-1][:2], atol=1e-5)


def test_without_labels_there_are_none(zoo: TestClient) -> None:
    wish = {"name": "y", "parameters": {"classification": 5}}
    assert outputs_in(infer(zoo, given_as("x", [[0, 2.5, 1]]), model="rows", outputs=[wish]))["y"].tolist() == [
        ["2.5:1", "1.0:2", "0.0:0"]
    ]
    found = outputs_in(infer(zoo, given_as("x", [[1, 2, 3], [6, 5, 4]], "INT64"), model="whole", outputs=[wish]))
    assert found["y"].tolist() == ["6:3", "5:4", "4:5", "3:2", "2:1"]


@pytest.mark.parametrize("count", [0, -1, "3", 1.5, True])
def test_a_number_of_classes_that_makes_no_sense_is_refused(client: TestClient, count: Any) -> None:
    answer = infer(client, ONE, outputs=[{"name": "logits", "parameters": {"classification": count}}])
    assert answer.status_code == 400
    assert "classification must be a whole number, 1 or more" in answer.json()["error"]


# Compression


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_compressed(client: TestClient, encoding: str, compress: Any) -> None:
    body = json.dumps({"inputs": [ONE]}).encode()
    answer = client.post(INFER, content=compress(body), headers={"content-encoding": encoding})
    np.testing.assert_allclose(logits_in(answer), logits_of(golden_inputs(1)), atol=1e-5)
    header = json.dumps({"inputs": [IMAGE]}).encode()
    headers = {"content-encoding": encoding, LENGTH: str(len(header))}
    answer = client.post(INFER, content=compress(header + RAW), headers=headers)
    np.testing.assert_allclose(logits_in(answer), logits_of(golden_inputs(1)), atol=1e-5)


def test_the_limit_holds_for_a_body_before_and_after_it_is_decompressed(models: Path, serve: Serve) -> None:
    make_bundle(models)
    client = serve(models=models, max_body_bytes=1000)
    gzipped = {"content-encoding": "gzip"}
    answer = client.post(INFER, content=gzip.compress(bytes(10**7)), headers=gzipped)
    assert answer.status_code == 413
    assert "INFERD_MAX_BODY_BYTES" in answer.json()["error"]
    answer = client.post(INFER, content=gzip.compress(b" " * 1001, mtime=0), headers=gzipped)
    assert answer.status_code == 413
    assert answer.json()["error"] == "the body is larger than 1000 bytes once decompressed (INFERD_MAX_BODY_BYTES)"
    answer = client.post(INFER, content=gzip.compress(b" " * 1000, mtime=0), headers=gzipped)
    assert answer.status_code == 400
    assert_it_serves(client)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "said"),
    [
        ("br", b"{}", 415, "content-encoding 'br' is not taken; allowed: gzip, deflate, identity"),
        ("gzip, deflate", b"{}", 415, "allowed: gzip, deflate, identity"),
        ("gzip", b"{}", 400, "the body is no gzip stream"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-3], 400, "it ends too early"),
        ("gzip", gzip.compress(b"{}", mtime=0) * 2, 400, "must be one gzip stream"),
        ("deflate", b"{}", 400, "the body is no deflate stream"),
    ],
)
def test_a_body_that_is_compressed_otherwise_is_refused(
    client: TestClient, encoding: str, body: bytes, status: int, said: str
) -> None:
    for path in (INFER, "/v2/repository/index"):
        answer = client.post(path, content=body, headers={"content-encoding": encoding})
        assert answer.status_code == status
        assert said in answer.json()["error"]
    assert_it_serves(client)


def plain(client: TestClient, path: str, accept: str | None, **request: Any) -> tuple[Any, bytes]:
    """Send a request and return its answer with the bytes that came, as they came."""
    headers = {**request.pop("headers", {}), "accept-encoding": accept or "identity"}
    with client.stream("POST", path, headers=headers, **request) as answer:
        return answer, b"".join(answer.iter_raw())


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("deflate;q=0.5, gzip", "gzip"), ("identity", None), ("br", None)],
)
@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("size", [1000, 50_000])
def test_large_answers_are_compressed_for_who_asks(
    zoo: TestClient, accept: str, encoding: str | None, is_binary: bool, size: int
) -> None:
    request = {"inputs": [given_as("x", np.zeros((1, size)))], "parameters": {"binary_data_output": is_binary}}
    answer, sent = plain(zoo, "/v2/models/rows/infer", accept, json=request)
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert len(sent) == int(answer.headers["content-length"])
    body = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[encoding](sent)
    assert (len(body) > len(sent)) == (encoding is not None)
    end = int(answer.headers.get(LENGTH, len(body)))
    (output,) = json.loads(body[:end])["outputs"]
    assert output["shape"] == [1, size]
    if is_binary:
        assert body[end:] == bytes(4 * size)


def test_small_answers_are_not_compressed(client: TestClient) -> None:
    answer, _ = plain(client, INFER, "gzip", json={"inputs": [ONE]})
    assert "content-encoding" not in answer.headers


def test_an_answer_that_can_not_get_smaller_is_not_compressed(zoo: TestClient) -> None:
    raw = np.random.default_rng(5).bytes(40_000)
    answer, sent = plain(zoo, "/v2/models/rows/infer", "gzip", content=raw, headers=RAW_BODY)
    assert "content-encoding" not in answer.headers or len(sent) < 40_000
    assert answer.status_code == 200


# Limits, deadlines, priorities


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


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        ({"x-request-timeout-ms": "0.0001"}, {}),
        ({}, {"timeout": 1}),
        ({"x-request-timeout-ms": "60000"}, {"timeout": 1}),
        ({"x-request-timeout-ms": "0.0001"}, {"timeout": 60_000_000}),
    ],
)
def test_a_request_whose_deadline_can_not_be_met_is_not_run(
    client: TestClient, headers: dict[str, str], parameters: dict[str, int]
) -> None:
    before = metrics(client)
    answer = client.post(INFER, json={"inputs": [ONE], "parameters": parameters}, headers=headers)
    assert answer.status_code == 504
    assert gained(before, metrics(client), "inferd_batch_size_count") == 0


def test_a_deadline_far_away_changes_nothing(client: TestClient) -> None:
    headers = {"x-request-timeout-ms": "60000"}
    for timeout in (0, 60_000_000, 2**63):
        answer = client.post(INFER, json={"inputs": [ONE], "parameters": {"timeout": timeout}}, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize("priority", [0, 1, 3, 4, 2**64])
def test_a_priority_is_any_number(client: TestClient, priority: int) -> None:
    assert infer(client, ONE, parameters={"priority": priority}).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "status", "said"),
    [
        ({"timeout": -1}, 400, "parameter timeout must be a whole number"),
        ({"timeout": "1"}, 400, "parameter timeout must be a whole number"),
        ({"priority": -1}, 400, "parameter priority must be a whole number"),
        ({"priority": 1.5}, 400, "parameter priority must be a whole number"),
        ({"binary_data_output": 1}, 400, "the request: binary_data_output must be true or false"),
        ({"sequence_id": 7}, 501, "sequences are not supported"),
        ({"sequence_id": "a"}, 501, "sequences are not supported"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    client: TestClient, parameters: dict[str, Any], status: int, said: str
) -> None:
    answer = infer(client, ONE, parameters=parameters)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert_it_serves(client)


def test_a_deadline_that_is_no_time_is_refused(client: TestClient) -> None:
    answer = client.post(INFER, json={"inputs": [ONE]}, headers={"x-request-timeout-ms": "soon"})
    assert answer.status_code == 400


def test_methods_that_a_path_has_not_are_refused_with_those_that_it_has(client: TestClient) -> None:
    answer = client.get(INFER)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json() == {"error": f"GET is not allowed at {INFER}; allowed: POST"}
    assert client.get("/v2/repository/index").status_code == 405
    assert client.get("/v2/repository/models/tiny/load").status_code == 403  # control is closed, whatever the method


def test_requests_of_many_sizes_are_run_together_and_each_gets_its_own_rows(models: Path) -> None:
    make_bundle(models)
    batches = [
        golden_inputs(8)[start : start + rows] for start, rows in ((0, 1), (1, 3), (4, 2), (6, 1), (0, 8), (2, 5))
    ]

    async def main() -> None:
        async with running(create_app(Settings(models=models, threads=1, grpc_port=None))) as client:
            bodies = [{"inputs": [tensor(batch)]} for batch in batches]
            answers = await asyncio.gather(*(client.post(INFER, json=body) for body in bodies))
            for batch, answer in zip(batches, answers, strict=True):
                np.testing.assert_allclose(logits_in(answer), logits_of(batch), atol=1e-5)
            assert any(
                int(answer.headers["x-batch-size"]) > len(batch) for batch, answer in zip(batches, answers, strict=True)
            )

    asyncio.run(main())


def test_the_documentation_lists_every_call(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    model = "/v2/models/{model}"
    named = paths[f"{model}/versions/{{version}}/infer"]["post"]["parameters"]
    assert [(one["name"], one["in"]) for one in named] == [("model", "path"), ("version", "path")]
    rests = ("", "/ready", "/config", "/stats", "/infer", "/generate", "/generate_stream")
    assert {path for path in paths if path.startswith("/v2")} == {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/stats",
        *(f"{one}{rest}" for one in (model, f"{model}/versions/{{version}}") for rest in rests),
        "/v2/repository/index",
        "/v2/repository/models/{model}/load",
        "/v2/repository/models/{model}/unload",
    }
