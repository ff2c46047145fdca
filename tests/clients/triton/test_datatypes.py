from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from tests.clients.tensors import DTYPES, TEXTS, Array, content, extremes, random
from tests.clients.triton.callers import Caller

ROUNDS = 8

rest = pytest.mark.parametrize("caller", ["http", "http.aio"], indirect=True)
forms = pytest.mark.parametrize(
    ("binary", "answer"),
    [(True, True), (True, False), (False, True), (False, False)],
    ids=["binary", "binary to JSON", "JSON to binary", "JSON"],
)
in_json = pytest.mark.parametrize("datatype", [datatype for datatype in DTYPES if datatype != "BF16"])


@pytest.mark.parametrize("datatype", DTYPES)
def test_random_tensors_come_back_as_they_were(caller: Caller, datatype: str) -> None:
    generator = np.random.default_rng(1)
    for _ in range(ROUNDS):
        array = random(datatype, (generator.integers(1, 9), generator.integers(1, 40)), generator)
        assert content(caller.echo(array)) == content(array)


@pytest.mark.parametrize("datatype", DTYPES)
def test_the_least_usual_values_come_back_as_they_were(caller: Caller, datatype: str) -> None:
    array = extremes(datatype)
    assert content(caller.echo(array)) == content(array)


@rest
@forms
@in_json
def test_json_and_binary_data_can_be_combined(caller: Caller, datatype: str, binary: bool, answer: bool) -> None:
    generator = np.random.default_rng(2)
    for array in (random(datatype, (3, 7), generator, any_bits=False), extremes(datatype)):
        assert content(caller.echo(array, binary=binary, answer=answer)) == content(array)


@rest
def test_bf16_has_no_form_in_json(caller: Caller) -> None:
    array = extremes("BF16")
    with pytest.raises(InferenceServerException, match="must be sent as binary"):  # the client's own error
        caller.echo(array, binary=False)
    caller.refused(lambda: caller.echo(array, answer=False), 400, "'y'", "BF16", "binary_data")


@rest
@forms
@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "BYTES"])
def test_a_tensor_may_be_empty(caller: Caller, datatype: str, binary: bool, answer: bool) -> None:
    array = np.empty((2, 0), DTYPES[datatype])
    assert content(caller.echo(array, binary=binary, answer=answer)) == content(array)


@pytest.mark.parametrize("datatype", DTYPES)
def test_an_empty_tensor_of_any_datatype_comes_back(caller: Caller, datatype: str) -> None:
    array = np.empty((2, 0), DTYPES[datatype])
    assert content(caller.echo(array)) == content(array)


def test_a_scalar_has_no_axes(caller: Caller) -> None:
    array = np.array(1.25, np.float32)
    assert content(caller.echo(array, model="scalar")) == content(array)


@rest
def test_a_scalar_may_be_json(caller: Caller) -> None:
    array = np.array(1.25, np.float32)
    assert content(caller.echo(array, model="scalar", binary=False, answer=False)) == content(array)


def test_a_model_without_a_batch_axis_takes_its_own_shape(caller: Caller) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert content(caller.echo(array, model="fixed")) == content(array)
    caller.refused(lambda: caller.echo(array.reshape(3, 2), model="fixed"), 400, "'x'", "[3, 2]", "[2, 3]")


@pytest.mark.parametrize(
    "array",
    [
        np.array([TEXTS], object),
        np.array([[text.encode() for text in TEXTS]], object),
        np.array([[b"fixed", b"width"]]),
    ],
    ids=["texts", "bytes", "fixed width"],
)
def test_strings_travel_as_the_client_writes_them(caller: Caller, array: Array) -> None:
    result = caller.ask("identity-bytes", {"x": array})
    if caller.is_grpc:
        (raw,) = result.get_response().raw_output_contents
    else:
        raw = result._buffer
    assert raw == serialize_byte_tensor(array).item()
    assert result.as_numpy("y").tolist() == [
        [one.encode() if isinstance(one, str) else one for one in array.reshape(-1).tolist()]
    ]


@rest
@pytest.mark.parametrize("answer", [True, False], ids=["to binary", "to JSON"])
def test_strings_may_be_json_as_kserve_has_them(caller: Caller, answer: bool) -> None:
    outputs = [caller.output("y", binary=answer)]
    result = caller.ask("identity-bytes", {"x": np.array([TEXTS], object)}, binary=False, outputs=outputs)
    assert result.get_output("y").get("data") == (None if answer else list(TEXTS))
    assert content(result.as_numpy("y")) == content(np.array([TEXTS], object))


def test_bytes_that_are_no_text_are_refused(caller: Caller) -> None:
    array = np.array([[b"fine", b"\xff\xfe"]], object)
    caller.refused(lambda: caller.echo(array), 400, "'x'", "UTF-8")
