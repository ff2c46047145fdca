from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import Serve
from tests.service.protocols.texts import events_of, likeliest, scores_of
from tests.service.requests import gained, metrics
from tests.text_bundles import VOCABULARY, encode, make_text_bundle

URL = "/v2/models/tiny-text"


def generate(writer: TestClient, prompt: object = "hello", *, url: str = URL, **parameters: Any) -> dict[str, Any]:
    response = writer.post(f"{url}/generate", json={"text_input": prompt, "parameters": parameters})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def stream(writer: TestClient, prompt: object = "hello", **parameters: Any) -> list[dict[str, Any]]:
    body = {"text_input": prompt, "parameters": parameters}
    return events_of(writer.post(f"{URL}/generate_stream", json=body))


def joined(events: Sequence[dict[str, Any]]) -> str:
    return "".join(event["text_output"] for event in events)


def refused(writer: TestClient, body: object, status: int = 422) -> str:
    """The message, which is the same of both calls."""
    messages = set()
    for call in ("generate", "generate_stream"):
        response = writer.post(f"{URL}/{call}", content=body if isinstance(body, bytes) else json.dumps(body))
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        content = response.json()
        assert content.keys() == {"error"}
        messages.add(content["error"])
    (message,) = messages
    return str(message)


# The answer


def test_a_text_is_continued_and_says_by_whom(writer: TestClient) -> None:
    response = writer.post(f"{URL}/generate", json={"text_input": "hello", "parameters": {"temperature": 0}})
    text = likeliest("hello", 20)
    assert response.json() == {"text_output": text, "model_name": "tiny-text", "model_version": "2"}
    assert response.headers["content-type"] == "application/json"
    assert (response.headers["x-inferd-model"], response.headers["x-inferd-version"]) == ("tiny-text", "2")
    assert all(float(response.headers[name]) >= 0 for name in ("x-queue-ms", "x-compute-ms", "x-batch-size"))


def test_a_version_can_be_named(writer: TestClient) -> None:
    older = generate(writer, url=f"{URL}/versions/1", temperature=0)
    assert older == {"text_output": likeliest("hello", 20, seed=4), "model_name": "tiny-text", "model_version": "1"}
    assert writer.post(f"{URL}/versions/3/generate", json={"text_input": "a"}).status_code == 404


def test_a_stream_has_an_event_a_token(writer: TestClient) -> None:
    events = stream(writer, temperature=0, max_tokens=12)
    assert [event["text_output"] for event in events] == list(likeliest("hello", 12))
    assert all(event.keys() == {"text_output", "model_name", "model_version"} for event in events)
    assert {(event["model_name"], event["model_version"]) for event in events} == {("tiny-text", "2")}


def test_an_id_comes_back(writer: TestClient) -> None:
    body = {"text_input": "hello", "id": "mine"}
    assert writer.post(f"{URL}/generate", json=body).json()["id"] == "mine"
    events = events_of(writer.post(f"{URL}/generate_stream", json=body))
    assert {event["id"] for event in events} == {"mine"}
    body["parameters"] = {"details": True}
    assert {event["id"] for event in events_of(writer.post(f"{URL}/generate_stream", json=body))} == {"mine"}


def test_parameters_may_stand_beside_the_text(writer: TestClient) -> None:
    inside = {"temperature": 0.5, "seed": 3, "max_tokens": 30}
    beside = writer.post(f"{URL}/generate", json={"text_input": "hello", **inside}).json()
    assert beside == generate(writer, **inside)
    both = {"text_input": "hello", "seed": 4, "max_tokens": 30, "parameters": {"seed": 3, "temperature": 0.5}}
    assert writer.post(f"{URL}/generate", json=both).json() == beside


def test_a_call_may_be_told_what_it_does_but_not_to_do_otherwise(writer: TestClient) -> None:
    assert generate(writer, seed=1, stream=False) == generate(writer, seed=1)
    assert stream(writer, seed=1, stream=True) == stream(writer, seed=1)
    for call, said in (("generate", True), ("generate_stream", False), ("generate", "no")):
        response = writer.post(f"{URL}/{call}", json={"text_input": "a", "parameters": {"stream": said}})
        assert response.status_code == 422
        assert "generate answers as a whole (false), generate_stream in events (true)" in response.json()["error"]


def test_null_stands_for_what_is_not_said(writer: TestClient) -> None:
    names = ("temperature", "top_p", "top_k", "max_tokens", "stop", "details", "repetition_penalty", "presence_penalty")
    assert generate(writer, seed=1, **dict.fromkeys(names)) == generate(writer, seed=1)
    body = {"text_input": "hello", "parameters": None, "seed": 1, "id": None}
    assert writer.post(f"{URL}/generate", json=body).json() == generate(writer, seed=1)


def test_without_a_seed_each_text_is_another(writer: TestClient) -> None:
    assert generate(writer) != generate(writer)
    assert stream(writer) != stream(writer)


def test_details_are_the_tokens_with_the_models_own_scores_and_why_it_ended(writer: TestClient) -> None:
    wanted = {"seed": 3, "temperature": 0.4, "top_k": 5, "details": True, "max_tokens": 15}
    body = generate(writer, **wanted)
    details = body["details"]
    assert details["finish_reason"] == "length"
    tokens = details["logprobs"]
    assert "".join(token["text"] for token in tokens) == body["text_output"]
    assert [token["id"] for token in tokens] == encode(body["text_output"])
    assert {token["special"] for token in tokens} == {False}
    expected = scores_of("hello" + body["text_output"])[4:]
    assert [token["logprob"] for token in tokens] == pytest.approx(expected, abs=1e-4)
    events = stream(writer, **wanted)
    assert [event["details"]["finish_reason"] for event in events] == [None] * 14 + ["length"]
    assert [token for event in events for token in event["details"]["logprobs"]] == tokens
    assert [event["text_output"] for event in events] == list(body["text_output"])


def test_an_empty_text_is_a_start_and_similar_characters_are_read(writer: TestClient) -> None:
    assert generate(writer, "", seed=1) == generate(writer, "\n", seed=1)
    assert generate(writer, "ä…", seed=1) == generate(writer, "a...", seed=1)


# Stops


@pytest.mark.parametrize("length", [1, 2, 6])
def test_a_stop_string_ends_the_text_and_is_no_part_of_it(writer: TestClient, length: int) -> None:
    whole = generate(writer, seed=9, max_tokens=40)["text_output"]
    stop = whole[10 : 10 + length]
    expected = whole[: whole.index(stop)]
    wanted = {"seed": 9, "max_tokens": 40, "stop": ["no such", stop]}
    assert generate(writer, **wanted)["text_output"] == expected
    assert joined(stream(writer, **wanted)) == expected
    body = generate(writer, **wanted, details=True)
    assert (body["text_output"], body["details"]["finish_reason"]) == (expected, "stop_sequence")
    assert "".join(token["text"] for token in body["details"]["logprobs"]) == expected
    *events, last = stream(writer, **wanted, details=True)
    assert joined([*events, last]) == expected
    assert all(event["details"]["finish_reason"] is None for event in events)
    assert last["details"]["finish_reason"] == "stop_sequence"


def test_a_text_that_is_all_stop_string_is_empty(writer: TestClient) -> None:
    stop = generate(writer, seed=9)["text_output"][:3]
    assert generate(writer, seed=9, stop=stop)["text_output"] == ""
    (event,) = stream(writer, seed=9, stop=stop)
    assert event == {"text_output": "", "model_name": "tiny-text", "model_version": "2"}
    (event,) = stream(writer, seed=9, stop=stop, details=True)
    assert (event["text_output"], event["details"]) == ("", {"finish_reason": "stop_sequence", "logprobs": []})


# Refusals


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, 101, "hot", []]),
        ("top_p", [0, 1.1]),
        ("top_k", [-1, 1.5]),
        ("max_tokens", [0, -1, 4097, 1.5]),
        ("seed", [2**64, 1.5]),
        ("repetition_penalty", [0, 101]),
        ("frequency_penalty", [-2.1, 2.1]),
        ("presence_penalty", [-2.1, 2.1]),
        ("stop", ["", ["a"] * 17, "a" * 257, 3]),
        ("details", ["perhaps"]),
        ("best_of", [2]),
        ("max_new_tokens", [3]),
    ],
)
def test_a_value_out_of_bounds_is_invalid_and_named(writer: TestClient, name: str, values: list[object]) -> None:
    for value in values:
        assert name in refused(writer, {"text_input": "a", "parameters": {name: value}})
        assert name in refused(writer, {"text_input": "a", name: value})


def test_what_may_be_said_is_told_to_who_says_something_else(writer: TestClient) -> None:
    message = refused(writer, {"text_input": "a", "watermark": True})
    assert "allowed: temperature, top_k, top_p" in message
    assert "max_tokens" in message


@pytest.mark.parametrize("prompt", [None, 3, ["a"], {}, True])
def test_an_input_that_is_no_text_is_invalid(writer: TestClient, prompt: object) -> None:
    assert refused(writer, {"text_input": prompt}) == "text_input must be a text"
    assert refused(writer, {"prompt": "a"}) == "text_input must be a text"


@pytest.mark.parametrize("parameters", [3, "a", [], [1]])
def test_parameters_that_are_no_object_are_invalid(writer: TestClient, parameters: object) -> None:
    assert refused(writer, {"text_input": "a", "parameters": parameters}) == "parameters must be an object"


def test_an_unknown_character_is_invalid_and_named(writer: TestClient) -> None:
    message = refused(writer, {"text_input": "zażółć"})
    assert "'ż' (U+017C LATIN SMALL LETTER Z WITH DOT ABOVE)" in message
    assert "".join(VOCABULARY[1:]) in message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"text_input": "\\ud800"}'])
def test_a_body_that_is_no_request_is_a_bad_one(writer: TestClient, body: bytes) -> None:
    assert "the body must be JSON" in refused(writer, body, 400)


def test_what_passes_a_limit_is_too_large(writer: TestClient, models: Path, serve: Serve) -> None:
    assert "INFERD_MAX_PROMPT_TOKENS" in refused(writer, {"text_input": "a" * 16_385}, 413)
    make_text_bundle(models)
    client = serve(models=models, max_body_bytes=100, max_new_tokens=10)
    assert "INFERD_MAX_BODY_BYTES" in refused(client, {"text_input": "a" * 100}, 413)
    assert "at most 10 (INFERD_MAX_NEW_TOKENS), not 11" in refused(client, {"text_input": "a", "max_tokens": 11})
    assert len(generate(client)["text_output"]) == 10, "who does not say how many gets what there is"


def test_a_request_of_texts_may_have_less_than_others(writer: TestClient) -> None:
    assert "2097152 bytes, which is what a request of texts may have" in refused(
        writer, {"text_input": "a" * 2**21}, 413
    )


def test_an_unknown_model_is_not_found(writer: TestClient) -> None:
    for call in ("generate", "generate_stream"):
        response = writer.post(f"/v2/models/nobody/{call}", json={"text_input": "a"})
        assert (response.status_code, response.json().keys()) == (404, {"error"})
        assert "there is no model 'nobody'" in response.json()["error"]


def test_a_model_that_writes_no_text_says_how_it_is_asked(writer: TestClient) -> None:
    for call in ("generate", "generate_stream"):
        response = writer.post(f"/v2/models/tiny/{call}", json={"text_input": "a"})
        assert response.status_code == 400
        assert response.json() == {"error": "model 'tiny' generates no text: it is asked by infer"}


def test_a_deadline_that_has_passed_is_told_by_the_status(writer: TestClient) -> None:
    for call in ("generate", "generate_stream"):
        body = {"text_input": "a", "max_tokens": 4000}
        response = writer.post(f"{URL}/{call}", json=body, headers={"x-request-timeout-ms": "0.0001"})
        assert (response.status_code, response.json().keys()) == (504, {"error"})
        response = writer.post(f"{URL}/{call}", json=body, headers={"x-request-timeout-ms": "soon"})
        assert response.status_code == 400


def test_requests_and_tokens_are_counted(writer: TestClient) -> None:
    before = metrics(writer)
    generate(writer, max_tokens=5)
    stream(writer, max_tokens=4)
    refused(writer, {"text_input": 3})
    after = metrics(writer)
    for code in ("200", "422"):
        assert gained(before, after, "inferd_requests_total", protocol="open_inference", code=code) == 2
    assert gained(before, after, "inferd_generated_tokens_total", model="tiny-text") == 9
    assert gained(before, after, "inferd_time_to_first_token_seconds_count", model="tiny-text") == 2
    assert gained(before, after, "inferd_request_failures_total", model="tiny-text", reason="invalid") == 2


def test_the_protocols_statistics_count_them_too(writer: TestClient) -> None:
    def successes() -> int:
        (one,) = writer.get(f"{URL}/versions/2/stats").json()["model_stats"]
        return int(one["inference_stats"]["success"]["count"])

    before = successes()
    generate(writer, max_tokens=5)
    stream(writer, max_tokens=4)
    assert successes() == before + 2
