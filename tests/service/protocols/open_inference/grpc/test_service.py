from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.service import SERVICE
from tests.bundles import LABELS, flip_a_byte, logits_of, make_bare, make_bundle, slow_graph
from tests.service.protocols.open_inference.grpc.conftest import Shared
from tests.service.protocols.open_inference.grpc.serving import (
    ADMIN_KEY,
    VERSION,
    infer_request,
    outputs_of,
    pictures,
    serving,
    until,
)
from tests.service.requests import parsed

ADMIN = (("authorization", f"Bearer {ADMIN_KEY}"),)


# The server


def test_every_method_of_the_service_is_answered(shared: Shared) -> None:
    async def code(name: str) -> StatusCode:
        if name == "ModelStreamInfer":
            stream = shared.serving.client.stream()
            await stream.done_writing()
            return await stream.code()
        return await shared.serving.client.call(name).code()

    empty = {name: shared.run(code(name)) for name in SERVICE.methods_by_name}
    assert empty == {
        "ServerLive": StatusCode.OK,
        "ServerReady": StatusCode.OK,
        "ModelReady": StatusCode.OK,
        "ServerMetadata": StatusCode.OK,
        "ModelMetadata": StatusCode.NOT_FOUND,
        "ModelInfer": StatusCode.NOT_FOUND,
        "ModelStreamInfer": StatusCode.OK,
        "ModelConfig": StatusCode.NOT_FOUND,
        "ModelStatistics": StatusCode.OK,
        "RepositoryIndex": StatusCode.OK,
        "RepositoryModelLoad": StatusCode.UNAUTHENTICATED,
        "RepositoryModelUnload": StatusCode.UNAUTHENTICATED,
    }


def test_the_server_says_who_it_is(shared: Shared) -> None:
    answer = shared.ask("ServerMetadata")
    assert (answer.name, answer.version) == ("inferd", VERSION)
    assert {"classification", "statistics", "model_repository", "model_configuration"} <= set(answer.extensions)


def test_the_server_lives_and_is_ready(shared: Shared) -> None:
    assert shared.ask("ServerLive").live is True
    assert shared.ask("ServerReady").ready is True


def test_a_method_that_is_none_is_unimplemented(shared: Shared) -> None:
    async def main() -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shared.serving.client.channel.unary_unary(f"/{SERVICE.full_name}/LogSettings")(b"")
        return caught.value

    assert shared.run(main()).code() is StatusCode.UNIMPLEMENTED


# Models


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("tiny", "", True), ("tiny", "1", True), ("tiny", "2", False), ("tiny", "x", False), ("nobody", "", False)],
)
def test_a_model_is_ready_if_it_serves(shared: Shared, name: str, version: str, ready: bool) -> None:
    assert shared.ask("ModelReady", pb.ModelReadyRequest(name=name, version=version)).ready is ready


def test_a_models_tensors_are_described(shared: Shared) -> None:
    answer = shared.ask("ModelMetadata", pb.ModelMetadataRequest(name="tiny"))
    assert (answer.name, list(answer.versions), answer.platform) == ("tiny", ["1", "3"], "onnxruntime_onnx")
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.inputs] == [("image", "FP32", [-1, 1, 4, 6])]
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [("logits", "FP32", [-1, 3])]


def test_a_shape_of_which_nothing_is_known_is_one_unknown_size(shared: Shared) -> None:
    answer = shared.ask("ModelMetadata", pb.ModelMetadataRequest(name="bytes", version="1"))
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.inputs] == [("x", "BYTES", [-1])]


def test_a_models_configuration_counts_no_batch_axis(shared: Shared) -> None:
    config = shared.ask("ModelConfig", pb.ModelConfigRequest(name="sum")).config
    assert (config.name, config.platform, config.backend) == ("sum", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 64
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [
        ("a", pb.TYPE_FP32, [3]),
        ("b", pb.TYPE_FP32, [3]),
    ]
    assert list(config.output[1].dims) == [1]
    assert config.output[1].HasField("reshape")
    assert list(config.output[1].reshape.shape) == []
    assert config.HasField("dynamic_batching")
    assert list(config.version_policy.specific.versions) == [1]
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU


def test_a_model_without_a_batch_axis_has_a_configuration_without_batches(shared: Shared) -> None:
    config = shared.ask("ModelConfig", pb.ModelConfigRequest(name="bytes")).config
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert config.input[0].data_type == pb.TYPE_STRING


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("ModelMetadata", pb.ModelMetadataRequest),
        ("ModelConfig", pb.ModelConfigRequest),
        ("ModelStatistics", pb.ModelStatisticsRequest),
    ],
)
@pytest.mark.parametrize(
    ("name", "version", "details"),
    [
        ("nobody", "", "there is no model 'nobody'; models: "),
        ("tiny", "2", "model 'tiny' has no version '2'; versions: 1, 3"),
        ("tiny", "one", "model 'tiny' has no version 'one'; versions: 1, 3"),
    ],
    ids=["name", "version", "no_version"],
)
def test_an_unknown_model_or_version_is_not_found(
    shared: Shared, method: str, request_type: type, name: str, version: str, details: str
) -> None:
    error = shared.refused(method, request_type(name=name, version=version))
    assert error.code() is StatusCode.NOT_FOUND
    assert error.details().startswith(details)


def test_statistics_count_requests_rows_and_runs(models: Path) -> None:
    make_bundle(models, "tiny", 1)
    make_bundle(models, "tiny", 2)
    make_bundle(models, "other")

    async def main() -> None:
        async with serving(models) as running:
            client = running.client
            before = time.time_ns() // 1_000_000
            await client.ask("ModelInfer", pictures(2))
            await client.ask("ModelInfer", pictures(3))
            await client.refused("ModelInfer", pictures(9))
            everything = (await client.ask("ModelStatistics")).model_stats
            assert [(one.name, one.version) for one in everything] == [("other", "1"), ("tiny", "1"), ("tiny", "2")]
            by_name = await client.ask("ModelStatistics", pb.ModelStatisticsRequest(name="tiny"))
            assert [one.version for one in by_name.model_stats] == ["1", "2"]
            (one,) = (
                await client.ask("ModelStatistics", pb.ModelStatisticsRequest(name="tiny", version="2"))
            ).model_stats
            assert (one.inference_count, one.execution_count) == (5, 2)
            assert before <= one.last_inference <= time.time_ns() // 1_000_000
            stats = one.inference_stats
            assert (stats.success.count, stats.fail.count, stats.queue.count) == (2, 1, 2)
            assert stats.compute_infer.count == 2
            assert 0 < stats.compute_infer.ns < stats.success.ns
            assert stats.cache_hit.count == stats.cache_miss.count == 0
            assert [batch.batch_size for batch in one.batch_stats] == [2, 3]
            assert all(batch.compute_infer.count == 1 and batch.compute_infer.ns > 0 for batch in one.batch_stats)

    asyncio.run(main())


# The repository


def test_the_index_lists_what_there_is_and_why_it_does_not_serve(models: Path) -> None:
    make_bundle(models, "good", 2)
    flip_a_byte(make_bundle(models, "bad") / "model.onnx")

    async def main() -> None:
        async with serving(models) as running:
            listed = (await running.client.ask("RepositoryIndex")).models
            assert [(one.name, one.version, one.state) for one in listed] == [
                ("bad", "1", "UNAVAILABLE"),
                ("good", "2", "READY"),
            ]
            assert "model.onnx: has sha256" in listed[0].reason
            assert listed[1].reason == ""
            ready = await running.client.ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
            assert [one.name for one in ready.models] == ["good"]
            error = await running.client.refused("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x"))
            assert error.code() is StatusCode.UNIMPLEMENTED
            assert error.details() == "there is no repository 'x': the only one has no name"

    asyncio.run(main())


def test_a_model_is_loaded_and_unloaded_by_who_has_the_key(models: Path) -> None:
    make_bundle(models, "tiny", 1)

    async def main() -> None:
        async with serving(models) as running:
            client = running.client
            make_bundle(models, "tiny", 2)
            load = pb.RepositoryModelLoadRequest(model_name="tiny")
            answer = await client.ask("RepositoryModelLoad", load, metadata=ADMIN)
            assert (answer.model_name, answer.isLoaded) == ("tiny", True)
            assert running.repository.versions("tiny") == [1, 2]

            load.parameters["config"].string_param = '{"version_policy": {"specific": {"versions": [1]}}}'
            await client.ask("RepositoryModelLoad", load, metadata=ADMIN)
            assert running.repository.versions("tiny") == [1]

            unload = pb.RepositoryModelUnloadRequest(repository_name="tiny")  # as KServe's client names it
            unload.parameters["unload_dependents"].bool_param = False
            gone = await client.ask("RepositoryModelUnload", unload, metadata=ADMIN)
            assert (gone.model_name, gone.isUnloaded) == ("tiny", True)
            assert running.repository.versions("tiny") == []
            error = await client.refused("ModelInfer", pictures())
            assert error.code() is StatusCode.UNAVAILABLE
            assert "is not loaded" in error.details()

    asyncio.run(main())


CONTROL = [
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest),
    ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest),
]


@pytest.mark.parametrize(("method", "request_type"), CONTROL)
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", ADMIN_KEY),)])
def test_control_is_closed_without_the_key(
    shared: Shared, method: str, request_type: type, metadata: tuple[tuple[str, str], ...]
) -> None:
    for name in ("tiny", "nobody"):  # nobody learns here which models there are
        error = shared.refused(method, request_type(model_name=name), metadata=metadata)
        assert error.code() is StatusCode.UNAUTHENTICATED
    assert shared.serving.repository.versions("tiny") == [1, 3]


def test_control_is_closed_where_the_server_has_no_key_or_another_way_of_control(models: Path) -> None:
    make_bundle(models)

    async def main() -> None:
        for admin_key, mode, details in (
            ("", "explicit", "has no key for it"),
            (ADMIN_KEY, "none", "only with INFERD_MODEL_CONTROL=explicit"),
        ):
            async with serving(models, admin_key=admin_key, model_control=mode) as running:
                for method, request_type in CONTROL:
                    error = await running.client.refused(method, request_type(model_name="tiny"), metadata=ADMIN)
                    assert error.code() is StatusCode.PERMISSION_DENIED
                    assert details in error.details()
                assert running.repository.versions("tiny") == [1]

    asyncio.run(main())


@pytest.mark.parametrize(("method", "request_type"), CONTROL)
def test_what_is_to_be_controlled_must_be_there(shared: Shared, method: str, request_type: type) -> None:
    error = shared.refused(method, request_type(model_name="nobody"), metadata=ADMIN)
    assert (error.code(), error.details()) == (
        StatusCode.NOT_FOUND,
        "there is no model 'nobody' in the models folder",
    )
    error = shared.refused(method, request_type(model_name="tiny", repository_name="other"), metadata=ADMIN)
    assert error.code() is StatusCode.UNIMPLEMENTED


def test_a_model_that_is_refused_says_why(models: Path) -> None:
    make_bundle(models)

    async def main() -> None:
        async with serving(models) as running:
            flip_a_byte(make_bundle(models, "bad") / "model.onnx")
            load = pb.RepositoryModelLoadRequest(model_name="bad")
            error = await running.client.refused("RepositoryModelLoad", load, metadata=ADMIN)
            assert error.code() is StatusCode.FAILED_PRECONDITION
            assert error.details().startswith("model.onnx: has sha256")

    asyncio.run(main())


def test_parameters_of_control_that_mean_something_else_are_refused(shared: Shared) -> None:
    load = pb.RepositoryModelLoadRequest(model_name="tiny")
    load.parameters["file:1/model.onnx"].bytes_param = b"graph"
    assert shared.refused("RepositoryModelLoad", load, metadata=ADMIN).code() is StatusCode.UNIMPLEMENTED
    load = pb.RepositoryModelLoadRequest(model_name="tiny")
    load.parameters["config"].string_param = "{"
    assert shared.refused("RepositoryModelLoad", load, metadata=ADMIN).code() is StatusCode.INVALID_ARGUMENT
    unload = pb.RepositoryModelUnloadRequest(model_name="tiny")
    unload.parameters["unload_dependents"].int64_param = 1
    assert shared.refused("RepositoryModelUnload", unload, metadata=ADMIN).code() is StatusCode.INVALID_ARGUMENT
    load = pb.RepositoryModelLoadRequest(model_name="tiny")
    load.parameters["config"].SetInParent()
    error = shared.refused("RepositoryModelLoad", load, metadata=ADMIN)
    assert (error.code(), error.details()) == (StatusCode.INVALID_ARGUMENT, "parameter 'config' has no value")


# Inference


def test_a_model_answers_with_its_names_its_version_and_the_requests_id(shared: Shared) -> None:
    request = pictures(2, brightness=0.75, id="seven")
    answer = shared.ask("ModelInfer", request)
    assert (answer.model_name, answer.model_version, answer.id) == ("tiny", "3", "seven")
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [("logits", "FP32", [2, 3])]
    assert not answer.outputs[0].HasField("contents")
    expected = logits_of(np.full((2, 1, 4, 6), 0.75))
    np.testing.assert_allclose(outputs_of(answer)["logits"], expected, atol=1e-5)
    assert shared.ask("ModelInfer", pictures(model_version="1")).model_version == "1"


def test_an_answer_says_how_long_it_took(shared: Shared) -> None:
    async def main() -> tuple[dict[str, str], pb.ModelInferResponse]:
        call = shared.serving.client.call("ModelInfer", pictures(2), metadata=(("x-request-id", "seven"),))
        return dict(await call.trailing_metadata()), await call

    trailers, answer = shared.run(main())
    assert trailers["x-request-id"] == "seven"
    assert (trailers["x-inferd-model"], trailers["x-inferd-version"]) == ("tiny", "3")
    assert trailers["x-batch-size"] == "2"
    assert answer.parameters["batch_size"].int64_param == 2
    assert float(trailers["x-compute-ms"]) > 0
    assert float(trailers["x-queue-ms"]) >= 0
    assert answer.parameters["compute_us"].int64_param > 0
    assert answer.parameters["queue_us"].int64_param >= 0


def test_outputs_that_are_asked_for_are_answered_in_that_order(shared: Shared) -> None:
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    request = infer_request("sum", ("b", "FP32", b), ("a", "FP32", a))  # in any order
    answer = shared.ask("ModelInfer", request)
    assert [one.name for one in answer.outputs] == ["sum", "total"]
    np.testing.assert_array_equal(outputs_of(answer)["sum"], a + b)
    np.testing.assert_array_equal(outputs_of(answer)["total"], [3, 3])
    request.outputs.add(name="total")
    assert [one.name for one in shared.ask("ModelInfer", request).outputs] == ["total"]
    request.outputs.add(name="sum")
    assert [one.name for one in shared.ask("ModelInfer", request).outputs] == ["total", "sum"]


def test_classes_are_answered_with_their_labels(shared: Shared) -> None:
    request = pictures(2, brightness=1.0)
    request.outputs.add(name="logits").parameters["classification"].int64_param = 2
    answer = shared.ask("ModelInfer", request)
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [("logits", "BYTES", [2, 2])]
    logits = logits_of(np.ones((1, 1, 4, 6)))[0]
    best = np.argsort(-logits)[:2]
    for row in outputs_of(answer)["logits"]:
        assert [text.split(":")[1:] for text in row] == [[str(index), LABELS[index]] for index in best]
        assert [float(text.split(":")[0]) for text in row] == pytest.approx(logits[best], abs=1e-5)


def test_requests_that_come_together_run_together(shared: Shared) -> None:
    async def main() -> list[int]:
        client = shared.serving.client
        request = infer_request("slow", ("image", "FP32", np.ones((1, 1, 4, 6), np.float32)))
        answers = await asyncio.gather(*(client.ask("ModelInfer", request) for _ in range(12)))
        return [answer.parameters["batch_size"].int64_param for answer in answers]

    assert max(shared.run(main())) > 1


def wrong(model: str = "tiny", **changes: object) -> pb.ModelInferRequest:
    request = pictures()
    request.model_name = model
    for name, value in changes.items():
        if name in ("name", "datatype", "shape"):
            request.inputs[0].ClearField(name)
            request.inputs[0].MergeFrom(pb.ModelInferRequest.InferInputTensor(**{name: value}))
        elif name == "raw":
            request.ClearField("raw_input_contents")
            request.raw_input_contents.extend(value)  # type: ignore[arg-type]
        else:
            setattr(request, name, value)
    return request


def with_parameter(name: str, **value: object) -> pb.ModelInferRequest:
    request = pictures()
    request.parameters[name].MergeFrom(pb.InferParameter(**value))
    return request


def with_output(name: str, **parameters: pb.InferParameter) -> pb.ModelInferRequest:
    request = pictures()
    output = request.outputs.add(name=name)
    for key, value in parameters.items():
        output.parameters[key].CopyFrom(value)
    return request


def twice() -> pb.ModelInferRequest:
    request = pictures()
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    return request


def raw_and_typed() -> pb.ModelInferRequest:
    request = pictures()
    request.inputs[0].contents.fp32_contents.append(1)
    return request


def in_shared_memory() -> pb.ModelInferRequest:
    request = pictures()
    request.ClearField("raw_input_contents")
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return request


RAW = b"\0" * 96

WRONG = {
    "unknown model": (wrong("nobody"), StatusCode.NOT_FOUND, "there is no model 'nobody'; models: "),
    "unknown version": (wrong(model_version="9"), StatusCode.NOT_FOUND, "model 'tiny' has no version '9'"),
    "unknown input": (wrong(name="picture"), StatusCode.INVALID_ARGUMENT, "inputs must be ['image'], once each"),
    "no input": (pb.ModelInferRequest(model_name="tiny"), StatusCode.INVALID_ARGUMENT, "inputs must be ['image']"),
    "input given twice": (twice(), StatusCode.INVALID_ARGUMENT, "inputs must be ['image'], once each"),
    "unknown output": (with_output("x"), StatusCode.INVALID_ARGUMENT, "there is no output 'x'; outputs: ['logits']"),
    "wrong datatype": (wrong(datatype="INT32"), StatusCode.INVALID_ARGUMENT, "input 'image' must be FP32, not INT32"),
    "no datatype": (
        wrong(datatype="FLOAT"),
        StatusCode.INVALID_ARGUMENT,
        "input 'image': there is no datatype 'FLOAT'",
    ),
    "wrong shape": (wrong(shape=[1, 24]), StatusCode.INVALID_ARGUMENT, "input 'image' has shape [1, 24]; expected"),
    "negative size": (wrong(shape=[-1, 1, 4, 6]), StatusCode.INVALID_ARGUMENT, "input 'image' has shape [-1, 1, 4, 6]"),
    "no rows": (wrong(shape=[0, 1, 4, 6], raw=[b""]), StatusCode.INVALID_ARGUMENT, "input 'image' has shape [0"),
    "short raw contents": (wrong(raw=[RAW[1:]]), StatusCode.INVALID_ARGUMENT, "input 'image' has 95 bytes of data"),
    "long raw contents": (wrong(raw=[RAW + b"\0"]), StatusCode.INVALID_ARGUMENT, "input 'image' has 97 bytes of data"),
    "too many raw contents": (
        wrong(raw=[RAW, RAW]),
        StatusCode.INVALID_ARGUMENT,
        "there are 2 raw_input_contents for 1 inputs; each input has one",
    ),
    "no contents at all": (wrong(raw=[]), StatusCode.INVALID_ARGUMENT, "input 'image': data have 0 elements"),
    "raw and typed": (
        raw_and_typed(),
        StatusCode.INVALID_ARGUMENT,
        "input 'image' has typed contents, and the request has raw_input_contents: a request has one or the other",
    ),
    "too many rows": (pictures(9), StatusCode.INVALID_ARGUMENT, "a request may have at most 8 rows; this one has 9"),
    "sequence": (with_parameter("sequence_id", int64_param=1), StatusCode.UNIMPLEMENTED, "sequences are not supported"),
    "named sequence": (with_parameter("sequence_id", string_param="s"), StatusCode.UNIMPLEMENTED, "sequences are"),
    "shared memory": (in_shared_memory(), StatusCode.UNIMPLEMENTED, "input 'image': shared memory is not supported"),
    "shared memory of an output": (
        with_output("logits", shared_memory_region=pb.InferParameter(string_param="r")),
        StatusCode.UNIMPLEMENTED,
        "output 'logits': shared memory is not supported",
    ),
    "timeout that is none": (
        with_parameter("timeout", string_param="soon"),
        StatusCode.INVALID_ARGUMENT,
        "parameter timeout must be a whole number",
    ),
    "parameter without a value": (
        with_parameter("timeout"),
        StatusCode.INVALID_ARGUMENT,
        "parameter 'timeout' has no value",
    ),
    "classification that is none": (
        with_output("logits", classification=pb.InferParameter(int64_param=0)),
        StatusCode.INVALID_ARGUMENT,
        "output 'logits': classification must be a whole number, 1 or more",
    ),
}


@pytest.mark.parametrize(("request_", "code", "details"), WRONG.values(), ids=WRONG)
def test_a_wrong_request_is_refused_and_says_what_was_wrong(
    shared: Shared, request_: pb.ModelInferRequest, code: StatusCode, details: str
) -> None:
    error = shared.refused("ModelInfer", request_)
    assert (error.code(), error.details()[: len(details)]) == (code, details)
    assert shared.ask("ModelInfer", pictures()).model_name == "tiny"


def test_a_million_inputs_are_refused_in_reasonable_time(shared: Shared) -> None:
    request = pb.ModelInferRequest(model_name="tiny")
    request.inputs.extend([pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32")] * 1_000_000)
    started = time.monotonic()
    error = shared.refused("ModelInfer", request)
    assert time.monotonic() - started < 20
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert error.details() == "inputs must be ['image'], once each; given: [" + "'x', " * 10 + "...]"
    assert shared.ask("ServerReady").ready


def test_a_model_that_fails_on_good_tensors_is_an_internal_error(shared: Shared) -> None:
    error = shared.refused("ModelInfer", infer_request("lookup", ("index", "INT64", np.array([99]))))
    assert error.code() is StatusCode.INTERNAL
    assert "ONNX Runtime failed" in error.details()
    answer = shared.ask("ModelInfer", infer_request("lookup", ("index", "INT64", np.array([1]))))
    np.testing.assert_array_equal(outputs_of(answer)["row"], [[3, 4, 5]])


def slow(rows: int = 1, **changes: object) -> pb.ModelInferRequest:
    return infer_request("slow", ("image", "FP32", np.ones((rows, 1, 4, 6), np.float32)), **changes)


def test_a_deadline_that_cannot_be_met_is_said_so_without_a_run(shared: Shared) -> None:
    async def main(request: pb.ModelInferRequest, timeout_s: float | None) -> tuple[grpc.aio.AioRpcError, int]:
        client, model = shared.serving.client, shared.serving.repository.get("slow")
        busy = [asyncio.create_task(client.ask("ModelInfer", slow(8))) for _ in range(3)]
        await until(lambda: model.queued_rows() > 0)
        error = await client.refused("ModelInfer", request, timeout=timeout_s)
        await asyncio.gather(*busy)
        return error, model.queued_rows()

    for request, timeout in ((slow(), 0.01), (slow(), None)):
        if timeout is None:
            request.parameters["timeout"].int64_param = 10_000
        error, left = shared.run(main(request, timeout))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        assert left == 0


def test_a_cancelled_call_leaves_the_queue(shared: Shared) -> None:
    async def main() -> None:
        client, model = shared.serving.client, shared.serving.repository.get("slow")
        busy = [asyncio.create_task(client.ask("ModelInfer", slow(8))) for _ in range(8)]
        await until(lambda: model.queued_rows() >= 32)
        waiting = client.call("ModelInfer", slow(3))
        await until(lambda: model.queued_rows() % 8 == 3)
        waiting.cancel()
        await until(lambda: model.queued_rows() % 8 == 0)
        assert await waiting.code() is StatusCode.CANCELLED
        await asyncio.gather(*busy)

    shared.run(asyncio.wait_for(main(), 30))


def test_a_full_queue_says_when_to_try_again(models: Path) -> None:
    make_bundle(models, "slow", graph=slow_graph())

    async def main() -> None:
        async with serving(models, max_queue_rows=8) as running:
            client = running.client

            async def attempt() -> grpc.aio.AioRpcError | None:
                try:
                    await client.ask("ModelInfer", slow(4))
                except grpc.aio.AioRpcError as error:
                    return error
                return None

            outcomes = await asyncio.gather(*(attempt() for _ in range(12)))
            refused = [error for error in outcomes if error]
            assert 0 < len(refused) < 12
            for error in refused:
                assert error.code() is StatusCode.RESOURCE_EXHAUSTED
                trailers = dict(error.trailing_metadata())
                assert int(trailers["retry-after"]) >= 1
                assert int(trailers["grpc-retry-pushback-ms"]) >= 1

    asyncio.run(main())


# Streams


def test_a_stream_answers_a_thousand_requests_each_with_its_id(shared: Shared) -> None:
    async def main() -> list[pb.ModelStreamInferResponse]:
        stream = shared.serving.client.stream()

        async def send() -> None:
            for number in range(1000):
                x = np.full((1, 1 + number % 7), number, np.float32)
                await stream.write(infer_request("rows", ("x", "FP32", x), id=str(number)))
            await stream.done_writing()

        sending = asyncio.create_task(send())
        answers = [answer async for answer in stream]
        await sending
        assert await stream.code() is StatusCode.OK
        return answers

    answers = shared.run(main())
    assert all(not answer.error_message for answer in answers)
    inferred = [answer.infer_response for answer in answers]
    assert sorted(int(one.id) for one in inferred) == list(range(1000))
    for one in inferred:
        number = int(one.id)
        np.testing.assert_array_equal(outputs_of(one)["y"], np.full((1, 1 + number % 7), number, np.float32))
        assert one.parameters["triton_final_response"].bool_param is True
        assert one.parameters["batch_size"].int64_param >= 1


def test_a_stream_answers_what_is_finished_first_first(shared: Shared) -> None:
    async def main() -> list[str]:
        stream = shared.serving.client.stream()
        await stream.write(slow(8, id="slow"))
        await stream.write(pictures(id="fast"))
        await stream.done_writing()
        return [answer.infer_response.id async for answer in stream]

    assert shared.run(main()) == ["fast", "slow"]


def test_a_request_that_fails_says_so_in_the_stream_and_the_stream_goes_on(shared: Shared) -> None:
    async def main() -> dict[str, pb.ModelStreamInferResponse]:
        stream = shared.serving.client.stream()
        answers = {}
        for request in (
            pictures(id="good"),
            wrong("nobody", id="unknown"),
            wrong(shape=[1, 2], id="misshapen"),
            pictures(9, id="long"),
            with_parameter("sequence_id", int64_param=4),
            infer_request("lookup", ("index", "INT64", np.array([99])), id="failing"),
            pictures(id="good again"),
        ):
            await stream.write(request)
            answers[request.id] = await stream.read()
        await stream.done_writing()
        assert await stream.code() is StatusCode.OK
        return answers

    answers = shared.run(main())
    assert {id_: answer.error_message.partition(";")[0] for id_, answer in answers.items()} == {
        "good": "",
        "unknown": "there is no model 'nobody'",
        "misshapen": "input 'image' has shape [1, 2]",
        "long": "a request may have at most 8 rows",
        "": "sequences are not supported: no model here keeps state between requests (sequence_id)",
        "failing": answers["failing"].error_message.partition(";")[0],
        "good again": "",
    }
    assert "ONNX Runtime failed" in answers["failing"].error_message
    for id_, answer in answers.items():
        assert answer.infer_response.id == id_
        assert bool(answer.infer_response.outputs) == (not answer.error_message)


def test_a_message_of_a_stream_that_is_none_is_refused_alone(shared: Shared) -> None:
    async def main() -> tuple[str, str]:
        stream = shared.serving.client.channel.stream_stream(f"/{SERVICE.full_name}/ModelStreamInfer")()
        messages = []
        for body in (b"\xff\xff", pictures().SerializeToString()):
            await stream.write(body)
            messages.append(pb.ModelStreamInferResponse.FromString(await stream.read()).error_message)
        stream.cancel()
        return messages[0], messages[1]

    first, second = shared.run(main())
    assert first.startswith("the message must be an inference.ModelInferRequest: ")
    assert second == ""


def test_a_defect_in_a_stream_is_told_without_details(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(shared.serving.repository.get("tiny"), "submit", defect)

    async def main() -> pb.ModelStreamInferResponse:
        stream = shared.serving.client.stream()
        await stream.write(pictures(id="seven"))
        answer = await stream.read()
        await stream.done_writing()
        assert await stream.code() is StatusCode.OK
        return answer

    answer = shared.run(main())
    assert answer.error_message == "an unexpected error; the server's log has it under this request's id"
    assert answer.infer_response.id == "seven"
    (record,) = caplog.records
    assert record.exc_info
    assert "secret" in str(record.exc_info[1])


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_stream_that_is_cancelled_takes_its_requests_out_of_the_queue(
    models: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(models, "slow", graph=slow_graph())

    async def main() -> None:
        async with serving(models) as running:
            model = running.repository.get("slow")
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{running.port}")
            stream = type(running.client)(channel).stream()
            for _ in range(6):
                await stream.write(slow(8))
            await until(lambda: model.queued_rows() >= 24)
            if how == "cancel":
                stream.cancel()
            else:
                await channel.close()
            await until(lambda: model.queued_rows() == 0)
            (statistics,) = running.repository.statistics()
            assert statistics.execution_count <= 3  # of six: the others never ran
            await channel.close()
            await running.client.ask("ModelInfer", slow())
            await until(lambda: "CANCELLED" in running.metrics.render().decode())
            series = parsed(running.metrics.render().decode())
            assert series['inferd_requests_total{code="CANCELLED",protocol="grpc"}'] == 1

    asyncio.run(asyncio.wait_for(main(), 30))
    assert caplog.records == []


def test_a_client_that_goes_while_it_is_answered_is_no_error_of_ours(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bare(models)

    async def main() -> None:
        async with serving(models) as running:
            for _ in range(20):
                stream = running.client.stream()
                for _ in range(20):
                    await stream.write(infer_request("bare", ("x", "FP32", np.ones((1, 3), np.float32))))
                await stream.read()
                stream.cancel()
            await running.client.ask("ServerLive")
            await asyncio.sleep(0.1)

    asyncio.run(main())
    assert caplog.records == []


def test_the_deadline_of_a_stream_is_that_of_its_requests(shared: Shared) -> None:
    async def main() -> StatusCode:
        stream = shared.serving.client.stream(timeout=0.05)
        for _ in range(6):
            await stream.write(slow(8))
        try:
            while await stream.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code()
        return await stream.code()

    assert shared.run(main()) is StatusCode.DEADLINE_EXCEEDED
    shared.ask("ModelInfer", slow())
    assert shared.serving.repository.get("slow").queued_rows() == 0
