from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from tests.clients.models import IMAGES, ROOT
from tests.clients.triton.callers import Caller, array_of

BUNDLE = ROOT / "models" / IMAGES / "1"
A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = 10 * A

rest = pytest.mark.parametrize("caller", ["http", "http.aio"], indirect=True)


def golden() -> tuple[np.ndarray, np.ndarray]:
    """Pictures, and what the shipped classifier answers for them."""
    with np.load(BUNDLE / "golden.npz") as arrays:
        return arrays["inputs/model/image"], arrays["runtime/int8/model/logits"]


def test_several_inputs_give_several_outputs(caller: Caller) -> None:
    result = caller.ask("sums", {"a": A, "b": B})
    assert result.as_numpy("sum").tolist() == (A + B).tolist()
    assert result.as_numpy("total").tolist() == A.sum(1).tolist()


def test_inputs_may_come_in_any_order(caller: Caller) -> None:
    result = caller.ask("sums", {"b": B, "a": A})
    assert result.as_numpy("total").tolist() == A.sum(1).tolist()


@rest
def test_an_input_may_be_binary_beside_one_that_is_json(caller: Caller) -> None:
    for first, second in itertools.product((True, False), repeat=2):
        inputs = [caller.input("a", A, binary=first), caller.input("b", B, binary=second)]
        outputs = [caller.output("sum", binary=second), caller.output("total", binary=first)]
        result = caller.infer("sums", inputs, outputs=outputs)
        assert result.as_numpy("sum").tolist() == (A + B).tolist()
        assert result.as_numpy("total").tolist() == A.sum(1).tolist()
        assert ("data" in result.get_output("sum")) is not second
        assert ("data" in result.get_output("total")) is not first


def test_only_outputs_that_are_asked_for_are_answered_in_the_order_asked_for(caller: Caller) -> None:
    result = caller.ask("sums", {"a": A, "b": B}, outputs=[caller.output("total")])
    assert result.as_numpy("sum") is None
    assert result.as_numpy("total").tolist() == A.sum(1).tolist()
    result = caller.ask("sums", {"a": A, "b": B}, outputs=[caller.output("total"), caller.output("sum")])
    assert names(result.get_response()) == ["total", "sum"]
    assert result.as_numpy("sum").tolist() == (A + B).tolist()


def names(response: Any) -> list[str]:
    outputs = response["outputs"] if isinstance(response, dict) else response.outputs
    return [one["name"] if isinstance(one, dict) else one.name for one in outputs]


def test_the_answer_says_which_version_gave_it(caller: Caller) -> None:
    for version, expected in (("", 10), ("1", 1), ("2", 2)):
        result = caller.ask("swap", {"x": array_of(5)}, model_version=version)
        assert result.as_numpy("y").tolist() == [[5 + expected]]
        response = result.get_response()
        told = response["model_version"] if isinstance(response, dict) else response.model_version
        assert told == str(expected)


def test_the_id_of_a_request_comes_back(caller: Caller) -> None:
    for given in ("42", "a/b c", "zażółć", ""):
        response = caller.ask("swap", {"x": array_of(1)}, request_id=given).get_response()
        assert (response.get("id", "") if isinstance(response, dict) else response.id) == given


def test_the_answer_says_what_it_took(caller: Caller) -> None:
    response = caller.ask("sums", {"a": A, "b": B}).get_response()
    if isinstance(response, dict):
        told = response["parameters"]
    else:
        told = {name: one.int64_param for name, one in response.parameters.items()}
    assert set(told) == {"queue_us", "compute_us", "batch_size"}
    assert told["batch_size"] >= 2
    assert told["compute_us"] >= 0


def test_an_input_can_be_used_again_with_other_data_and_another_shape(caller: Caller) -> None:
    one = caller.input("x", array_of(1, 2, 3))
    for number in range(20):
        array = np.full((1 + number % 3, 2 + number % 5), number, np.float32)
        one.set_shape(list(array.shape))
        caller.fill(one, array)
        for _ in range(2):  # and again as it is
            assert caller.infer("identity-fp32", [one]).as_numpy("y").tolist() == array.tolist()


@rest
def test_an_input_can_go_from_binary_to_json_and_back(caller: Caller) -> None:
    one = caller.input("x", array_of(1, 2))
    for binary in (False, True, False):
        caller.fill(one, array_of(3, 4), binary=binary)
        assert caller.infer("identity-fp32", [one]).as_numpy("y").tolist() == [[3, 4]]


def test_the_image_model_answers_as_its_golden_outputs(caller: Caller) -> None:
    images, logits = golden()
    assert np.abs(caller.ask(IMAGES, {"image": images}).as_numpy("logits") - logits).max() <= 1e-3


@pytest.mark.parametrize("count", [1, 3, 10, 99])
def test_classes_come_with_their_labels_best_first(caller: Caller, count: int) -> None:
    images, logits = golden()
    labels = json.loads((BUNDLE / "labels.json").read_bytes())
    result = caller.ask(IMAGES, {"image": images}, outputs=[caller.output("logits", class_count=count)])
    classes = result.as_numpy("logits")
    assert classes.shape == (len(images), min(count, len(labels)))
    for row, expected in zip(classes, logits, strict=True):
        told = [one.decode().split(":", 2) for one in row]
        values = [float(value) for value, _, _ in told]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx(sorted(expected, reverse=True)[:count], abs=1e-3)
        assert [label for _, _, label in told] == [labels[int(index)] for _, index, _ in told]
        assert all(abs(expected[int(index)] - float(value)) <= 1e-3 for value, index, _ in told)


@rest
def test_classes_may_be_json(caller: Caller) -> None:
    outputs = [caller.output("y", binary=False, class_count=2)]
    result = caller.ask("identity-fp32", {"x": np.array([[0.5, 3, -1], [7, 8, 9]], np.float32)}, outputs=outputs)
    described = result.get_output("y")
    assert (described["datatype"], described["shape"]) == ("BYTES", [2, 2])
    assert described["data"] == ["3.0:1", "0.5:0", "9.0:2", "8.0:1"]


def test_classes_without_labels_are_values_and_indices(caller: Caller) -> None:
    array = np.array([[4, 9, 9]], np.int64)
    result = caller.ask("identity-int64", {"x": array}, outputs=[caller.output("y", class_count=3)])
    assert result.as_numpy("y").tolist() == [[b"9:1", b"9:2", b"4:0"]]
    caller.refused(
        lambda: caller.ask(
            "identity-bytes", {"x": np.array([["a"]], object)}, outputs=[caller.output("y", class_count=1)]
        ),
        400,
        "'y'",
        "classification",
    )


@pytest.mark.parametrize("request_compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@rest
def test_bodies_may_be_compressed_both_ways(
    monkeypatch: pytest.MonkeyPatch,
    caller: Caller,
    request_compression: str | None,
    response_compression: str | None,
    binary: bool,
) -> None:
    array = np.arange(4000, dtype=np.float32).reshape(2, 2000) % 7
    seen: list[tuple[str | None, str | None, int]] = []
    post = caller.client._post

    def watched(*args: Any, **kwargs: Any) -> Any:
        def saw(response: Any) -> Any:
            headers = response if caller.kind == "http" else response.headers
            sent = (kwargs["headers"] or {}).get("Content-Encoding")
            seen.append((sent, headers.get("Content-Encoding"), len(kwargs["request_body"])))
            return response

        async def saw_later(awaitable: Any) -> Any:
            return saw(await awaitable)

        response = post(*args, **kwargs)
        return saw_later(response) if caller.is_async else saw(response)

    monkeypatch.setattr(caller.client, "_post", watched)
    result = caller.ask(
        "identity-fp32",
        {"x": array},
        binary=binary,
        outputs=[caller.output("y", binary=binary)],
        request_compression_algorithm=request_compression,
        response_compression_algorithm=response_compression,
    )
    assert result.as_numpy("y").tolist() == array.tolist()
    ((sent, answered, size),) = seen
    unasked = "gzip" if caller.is_async else None  # aiohttp itself says that it takes gzip
    assert (sent, answered) == (request_compression, response_compression or unasked)
    assert (size < array.nbytes / 2) is (request_compression is not None)


@pytest.mark.parametrize("caller", ["grpc", "grpc.aio"], indirect=True)
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_messages_may_be_compressed(caller: Caller, algorithm: str) -> None:
    array = np.arange(4000, dtype=np.float32).reshape(2, 2000) % 7
    result = caller.ask("identity-fp32", {"x": array}, compression_algorithm=algorithm)
    assert result.as_numpy("y").tolist() == array.tolist()
