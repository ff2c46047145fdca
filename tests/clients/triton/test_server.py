from __future__ import annotations

from tests.clients.tensors import DTYPES
from tests.clients.triton.callers import Caller


def test_the_server_is_live_and_ready(caller: Caller) -> None:
    assert caller.is_server_live() is True
    assert caller.is_server_ready() is True


def test_the_server_says_what_it_is(caller: Caller) -> None:
    told = caller.told("get_server_metadata")
    assert told["name"] == "inferd"
    assert told["version"].count(".") == 2
    extensions = {"classification", "model_repository", "model_configuration", "schedule_policy", "statistics"}
    assert extensions <= set(told["extensions"])
    assert ("binary_tensor_data" in told["extensions"]) is not caller.is_grpc


def test_a_model_is_ready_in_the_versions_that_serve(caller: Caller) -> None:
    assert caller.is_model_ready("sums") is True
    assert caller.is_model_ready("swap", "10") is True
    assert caller.is_model_ready("swap", "3") is False
    assert caller.is_model_ready("nobody") is False


def test_metadata_describe_every_tensor(caller: Caller) -> None:
    told = caller.told("get_model_metadata", "sums")
    assert told == {
        "name": "sums",
        "versions": [1],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in ("a", "b")],
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "total", "datatype": "FP32", "shape": [-1]},
        ],
    }


def test_metadata_have_every_datatype_and_version(caller: Caller) -> None:
    for datatype in DTYPES:
        told = caller.told("get_model_metadata", f"identity-{datatype.lower()}")
        assert told["inputs"] == [{"name": "x", "datatype": datatype, "shape": [-1, -1]}]
        assert told["outputs"] == [{"name": "y", "datatype": datatype, "shape": [-1, -1]}]
    assert caller.told("get_model_metadata", "swap")["versions"] == [1, 2, 10]
    assert caller.told("get_model_metadata", "swap", "2")["versions"] == [1, 2, 10]
    caller.refused(lambda: caller.get_model_metadata("swap", "3"), 404, "'swap'", "'3'", "1, 2, 10")
    caller.refused(lambda: caller.get_model_metadata("nobody"), 404, "'nobody'")


def test_a_scalar_has_an_empty_shape(caller: Caller) -> None:
    (described,) = caller.told("get_model_metadata", "scalar")["inputs"]
    assert described.get("shape", []) == []


def config(caller: Caller, model: str) -> dict[str, object]:
    told: dict[str, object] = caller.told("get_model_config", model)
    return told["config"] if caller.is_grpc else told  # type: ignore[return-value]


def test_the_config_says_how_a_model_is_batched(caller: Caller) -> None:
    told = config(caller, "sums")
    assert (told["name"], told["platform"], told["backend"]) == ("sums", "onnxruntime_onnx", "onnxruntime")
    assert told["max_batch_size"] == 64
    assert told["input"] == [{"name": name, "data_type": "TYPE_FP32", "dims": [3]} for name in ("a", "b")]
    assert told["output"][0] == {"name": "sum", "data_type": "TYPE_FP32", "dims": [3]}
    assert told["version_policy"] == {"specific": {"versions": [1]}}
    assert "dynamic_batching" in told


def test_the_config_of_a_model_without_a_batch_axis_says_so(caller: Caller) -> None:
    told = config(caller, "fixed")
    assert told.get("max_batch_size", 0) == 0
    assert told["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2, 3]}]
    assert "dynamic_batching" not in told
    assert config(caller, "identity-bytes")["input"][0]["data_type"] == "TYPE_STRING"


def test_what_the_server_has_not_is_refused_by_name(caller: Caller) -> None:
    # Neither traces nor its log can be changed from outside, and no memory is shared.
    status = 501 if caller.is_grpc else 404
    caller.refused(lambda: caller.get_trace_settings(), status)
    caller.refused(lambda: caller.get_log_settings(), status)
    caller.refused(lambda: caller.get_system_shared_memory_status(), status)
