from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.clients.triton.callers import Caller, array_of

A = np.zeros((2, 3), np.float32)


def test_an_unknown_model_is_not_found(caller: Caller) -> None:
    caller.refused(lambda: caller.ask("nobody", {"x": A}), 404, "'nobody'")


@pytest.mark.parametrize("version", ["3", "0", "one"])
def test_an_unknown_version_is_not_found(caller: Caller, version: str) -> None:
    ask = lambda: caller.ask("swap", {"x": array_of(1)}, model_version=version)  # noqa: E731 - a call to be refused
    caller.refused(ask, 404, "'swap'", f"'{version}'", "1, 2, 10")


def test_inputs_must_be_those_of_the_model(caller: Caller) -> None:
    for inputs in ({"a": A}, {"a": A, "c": A}, {"a": A, "b": A, "c": A}):
        caller.refused(lambda inputs=inputs: caller.ask("sums", inputs), 400, "['a', 'b']", *inputs)
    twice = [caller.input("a", A), caller.input("a", A)]
    caller.refused(lambda: caller.infer("sums", twice), 400, "['a', 'b']")


def test_an_output_must_be_one_of_the_models(caller: Caller) -> None:
    for wrong, words in ((["c"], ("'c'", "sum", "total")), (["sum", "sum"], ("'sum'", "more than once"))):
        outputs = [caller.output(name) for name in wrong]
        caller.refused(lambda outputs=outputs: caller.ask("sums", {"a": A, "b": A}, outputs=outputs), 400, *words)


def test_an_input_must_have_its_datatype(caller: Caller) -> None:
    caller.refused(lambda: caller.ask("sums", {"a": A, "b": A.astype(np.float64)}), 400, "'b'", "FP32", "FP64")


def test_an_input_must_have_its_shape(caller: Caller) -> None:
    for wrong in (A.T, A[0], A[None], A[:0]):
        shape = str(list(wrong.shape))
        caller.refused(lambda wrong=wrong: caller.ask("sums", {"a": wrong, "b": wrong}), 400, "'a'", shape, "[-1, 3]")


def test_inputs_must_have_one_batch_size(caller: Caller) -> None:
    caller.refused(lambda: caller.ask("sums", {"a": A, "b": A[:1]}), 400, "batch size", "[1, 2]")


def test_a_batch_must_not_be_larger_than_the_largest(caller: Caller) -> None:
    rows = np.zeros((65, 3), np.float32)
    caller.refused(lambda: caller.ask("sums", {"a": rows, "b": rows}), 413, "65", "64")


def test_sequences_are_not_supported(caller: Caller) -> None:
    ask = lambda: caller.ask("swap", {"x": array_of(1)}, sequence_id=7, sequence_start=True)  # noqa: E731 - as above
    caller.refused(ask, 501, "sequence")


def test_shared_memory_is_not_supported(caller: Caller) -> None:
    shared = caller.input("x", array_of(1))
    shared.set_shared_memory("region", 4)
    caller.refused(lambda: caller.infer("swap", [shared]), 501, "'x'", "shared memory")
    output = caller.output("y")
    output.set_shared_memory("region", 4)
    caller.refused(lambda: caller.ask("swap", {"x": array_of(1)}, outputs=[output]), 501, "'y'", "shared memory")


def test_after_errors_the_same_client_goes_on(caller: Caller) -> None:
    for number in range(10):
        caller.refused(lambda: caller.ask("nobody", {"x": A}), 404)
        caller.refused(lambda: caller.ask("swap", {"x": A}), 400)
        assert caller.ask("swap", {"x": array_of(number)}).as_numpy("y").tolist() == [[number + 10]]


def test_what_has_no_room_to_wait_is_refused_at_once(visitor: Caller) -> None:
    results = visitor.ask_all("slow", [[visitor.input("x", np.array([200]))] for _ in range(6)])
    refused = [one for one in results if isinstance(one, InferenceServerException)]
    assert {one.status() for one in refused} == {"StatusCode.RESOURCE_EXHAUSTED" if visitor.is_grpc else "429"}
    assert 1 <= len(refused) <= 5
    assert all(one.as_numpy("y") == 200 for one in results if one not in refused)


def test_without_a_key_control_is_closed(visitor: Caller) -> None:
    for key in (None, "Bearer key"):
        visitor.refused(
            lambda key=key: visitor.unload_model("fixed", headers=key and {"authorization": key}),
            403,
            "INFERD_ADMIN_KEY",
        )
        visitor.refused(
            lambda key=key: visitor.load_model("fixed", headers=key and {"authorization": key}), 403, "INFERD_ADMIN_KEY"
        )
    assert visitor.is_model_ready("fixed") is True
