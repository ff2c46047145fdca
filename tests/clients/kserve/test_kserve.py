from __future__ import annotations

import asyncio

import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.errors import InferenceError, InvalidInput
from kserve.protocol.infer_type import RequestedOutput

from tests.clients.kserve.callers import Caller, Grpc, Rest, request_of
from tests.clients.serving import Served, alone_and_with_two_workers
from tests.clients.tensors import DTYPES, TEXTS, Array, content, extremes, random

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = 10 * A
ROUNDS = 4

BINARY = [datatype for datatype in DTYPES if datatype != "BF16"]
"""What the clients have: there is no BF16 in them."""
TYPED = [datatype for datatype in BINARY if datatype != "FP16"]
"""What they have in JSON and in typed contents: FP16 they refuse to send so."""

rest = pytest.mark.parametrize("caller", [Rest], indirect=True, ids=["rest"])


@alone_and_with_two_workers
def test_server_and_models_say_whether_they_are_ready(caller: Caller) -> None:
    assert caller.told("is_server_live") is True
    assert caller.told("is_server_ready") is True
    assert caller.told("is_model_ready", "sums") is True
    assert caller.told("is_model_ready", "nobody") is False


@alone_and_with_two_workers
@pytest.mark.parametrize("binary", [True, False])
def test_several_inputs_give_several_outputs(caller: Caller, binary: bool) -> None:
    answer = caller.ask("sums", {"b": B, "a": A}, binary=binary, request_id="42")
    assert (answer.id, answer.model_name) == ("42", "sums")
    assert [output.name for output in answer.outputs] == ["sum", "total"]
    assert answer.outputs[0].as_numpy().tolist() == (A + B).tolist()
    assert answer.outputs[1].as_numpy().tolist() == A.sum(1).tolist()


def test_only_outputs_that_are_asked_for_are_answered(caller: Caller) -> None:
    wanted = (
        [RequestedOutput("total", {"binary_data": True})] if isinstance(caller, Rest) else [RequestedOutput("total")]
    )
    (output,) = caller.ask("sums", {"a": A, "b": B}, request_outputs=wanted).outputs
    assert (output.name, output.as_numpy().tolist()) == ("total", A.sum(1).tolist())


@pytest.mark.parametrize("datatype", BINARY)
def test_random_tensors_come_back_as_they_were(caller: Caller, datatype: str) -> None:
    # REST's client makes Python numbers of an answer, in which NaNs have no more bits of their own.
    generator = np.random.default_rng(4)
    for _ in range(ROUNDS):
        shape = (generator.integers(1, 9), generator.integers(1, 40))
        array = random(datatype, shape, generator, any_bits=isinstance(caller, Grpc))
        assert content(caller.echo(array)) == content(array)


@rest
@pytest.mark.parametrize("answer", [True, False], ids=["to binary", "to JSON"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("datatype", TYPED)
def test_json_and_binary_data_can_be_combined(caller: Caller, datatype: str, binary: bool, answer: bool) -> None:
    for array in finite(datatype):
        assert content(caller.echo(array, binary=binary, answer=answer)) == content(array)


@pytest.mark.parametrize("caller", [Grpc], indirect=True, ids=["grpc"])
@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_come_back_as_they_were(caller: Caller, datatype: str) -> None:
    for array in (*finite(datatype), extremes(datatype)):
        assert content(caller.echo(array, binary=False)) == content(array)


def finite(datatype: str) -> list[Array]:
    """Tensors without NaN and infinities: REST's client knows them not in JSON, in which it writes null for them."""
    array = random(datatype, (3, 7), np.random.default_rng(5))
    if array.dtype.kind != "f":
        return [array, extremes(datatype)]
    return [np.where(np.isfinite(one), one, one.dtype.type(0.5)) for one in (array, extremes(datatype))]


def test_what_the_clients_themselves_cannot_do(caller: Caller) -> None:
    with pytest.raises(InferenceError, match="unexpected datatype None"):
        InferInput("x", [1, 10], "BF16").set_data_from_numpy(extremes("BF16"))
    with pytest.raises(InvalidInput, match=r"FP16|invalid input datatype"):
        caller.echo(extremes("FP16"), binary=False)


@rest
def test_null_is_no_number(caller: Caller) -> None:
    array = np.array([[np.nan]], np.float32)
    caller.refused(request_of("identity-fp32", {"x": array}, binary=False), 400, "'x'", "must be numbers; found: null")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "BYTES"])
def test_a_tensor_may_be_empty(caller: Caller, datatype: str, binary: bool) -> None:
    array = np.empty((2, 0), DTYPES[datatype])
    assert content(caller.echo(array, binary=binary)) == content(array)


@pytest.mark.parametrize("binary", [True, False])
def test_strings_may_be_any_text(caller: Caller, binary: bool) -> None:
    for array in (np.array([TEXTS], object), np.array([[text.encode() for text in TEXTS]], object)):
        assert content(caller.echo(array, binary=binary)) == content(array)


@pytest.mark.parametrize("binary", [True, False])
def test_a_scalar_has_no_axes(caller: Caller, binary: bool) -> None:
    array = np.array(1.25, np.float32)
    assert content(caller.echo(array, model="scalar", binary=binary)) == content(array)


@alone_and_with_two_workers
def test_errors_have_their_status_and_say_what_is_wrong(caller: Caller) -> None:
    caller.refused(request_of("nobody", {"a": A}), 404, "'nobody'")
    caller.refused(request_of("sums", {"a": A}), 400, "['a', 'b']")
    caller.refused(request_of("sums", {"a": A.T, "b": A}), 400, "'a'", "[3, 2]", "[-1, 3]")
    caller.refused(request_of("sums", {"a": A, "b": A.astype(np.float64)}), 400, "'b'", "FP32", "FP64")
    outputs = [RequestedOutput("product")]
    caller.refused(request_of("sums", {"a": A, "b": A}, request_outputs=outputs), 400, "'product'", "total")
    caller.refused(request_of("sums", {"a": A, "b": A}, parameters={"sequence_id": 1}), 501, "sequence")
    assert caller.ask("sums", {"a": A, "b": A}).outputs[1].as_numpy().tolist() == A.sum(1).tolist()


def test_requests_at_once_are_not_mixed_up(caller: Caller) -> None:
    async def ask() -> list[object]:
        return await asyncio.gather(*(send(number) for number in range(40)))

    async def send(number: int) -> object:
        request: InferRequest = request_of("swap", {"x": np.array([[number]], np.float32)}, request_id=str(number))
        if isinstance(caller, Rest):
            answer = await caller.client.infer(caller.served.server.url, request, model_name="swap")
        else:
            answer = await caller.client.infer(request)
        return answer.id, answer.outputs[0].as_numpy().tolist()

    assert caller.runner.run(ask()) == [(str(number), [[number + 10]]) for number in range(40)]


@alone_and_with_two_workers
def test_both_clients_reach_every_worker(caller: Caller, served: Served, runner: asyncio.Runner) -> None:
    def once() -> None:
        own = type(caller)(served, runner)
        assert own.ask("swap", {"x": np.array([[5]], np.float32)}).outputs[0].as_numpy().tolist() == [[15]]
        own.close()

    served.reach_every_worker(once)
