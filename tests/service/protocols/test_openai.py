from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.bundles import make_bundle
from tests.conftest import start
from tests.service.requests import gained, metrics
from tests.text_bundles import VOCABULARY, Reference, decode, encode, make_text_bundle

URL = "/v1/completions"
MODEL = "tiny-text"


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a server with a model that continues texts and one that doesn't."""
    folder = tmp_path_factory.mktemp("models")
    make_text_bundle(folder)
    make_bundle(folder)
    with start(models=folder, max_prompt_tokens=200, max_new_tokens=100, max_queue_rows=300) as client:
        yield client


def ask(writer: TestClient, prompt: object = "hello", **parameters: Any) -> dict[str, Any]:
    response = writer.post(URL, json={"model": MODEL, "prompt": prompt, **parameters})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def one(writer: TestClient, prompt: object = "hello", **parameters: Any) -> dict[str, Any]:
    """The only choice."""
    (choice,) = ask(writer, prompt, **parameters)["choices"]
    found: dict[str, Any] = choice
    return found


def chunks(writer: TestClient, prompt: object = "hello", **parameters: Any) -> list[dict[str, Any]]:
    response = writer.post(URL, json={"model": MODEL, "prompt": prompt, "stream": True, **parameters})
    assert response.status_code == 200, response.text
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def joined(events: Sequence[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """One choice of a stream, as a whole would have it."""
    parts = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    assert all(part["finish_reason"] is None for part in parts[:-1])
    scores: dict[str, list[Any]] | None = None
    for part in parts:
        if part["logprobs"]:
            scores = scores or {name: [] for name in part["logprobs"]}
            for name, values in part["logprobs"].items():
                scores[name] += values
    return {
        "index": index,
        "text": "".join(part["text"] for part in parts),
        "logprobs": scores,
        "finish_reason": parts[-1]["finish_reason"],
    }


def refused(writer: TestClient, status: int = 400, **body: Any) -> dict[str, Any]:
    response = writer.post(URL, json={"model": MODEL, "prompt": "hello", **body})
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


# The answer


def test_a_completion_has_every_field_that_openais_has(writer: TestClient) -> None:
    before = int(time.time())
    response = writer.post(URL, json={"model": MODEL, "prompt": "hello", "seed": 1}, headers={"x-request-id": "mine"})
    body = response.json()
    assert body.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert (body["id"], body["object"], body["model"]) == ("cmpl-mine", "text_completion", MODEL)
    assert before <= body["created"] <= time.time()
    (choice,) = body["choices"]
    assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    assert (response.headers["x-inferd-model"], response.headers["x-inferd-version"]) == (MODEL, "1")
    assert all(float(response.headers[name]) >= 0 for name in ("x-queue-ms", "x-compute-ms", "x-batch-size"))


def test_who_says_nothing_gets_16_tokens_of_one_choice_by_chance(writer: TestClient) -> None:
    body = ask(writer)
    assert [len(choice["text"]) for choice in body["choices"]] == [16]
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21}
    assert ask(writer)["choices"] != body["choices"]


def test_null_stands_for_the_default(writer: TestClient) -> None:
    names = ("max_tokens", "temperature", "top_p", "n", "stream", "logprobs", "echo", "stop", "presence_penalty")
    more = (
        "frequency_penalty",
        "best_of",
        "logit_bias",
        "suffix",
        "user",
        "stream_options",
        "top_k",
        "repetition_penalty",
    )
    nothing = dict.fromkeys([*names, *more])
    assert one(writer, seed=4, **nothing) == one(writer, seed=4)
    assert one(writer, None, seed=4) == one(writer, "", seed=4)
    response = writer.post(URL, json={"model": MODEL, "seed": 4})
    assert response.json()["choices"] == [one(writer, "", seed=4)]


def test_temperature_0_takes_the_likeliest_token_each_time(writer: TestClient) -> None:
    tokens = encode("hello")
    for _ in range(30):
        *_, logits = Reference().logits(tokens)
        tokens.append(int(logits.argmax()))
    assert one(writer, temperature=0, max_tokens=30)["text"] == decode(tokens[5:])


# Scores


def scored(choice: dict[str, Any], prompt: str, top: int, *, begin: int) -> None:
    """Check every score of a choice, whose tokens are those of the text from `begin` on, against the network."""
    scores = choice["logprobs"]
    text = prompt + decode(encode("".join(scores["tokens"]))) if begin else "".join(scores["tokens"])
    expected = [None, *Reference().logprobs(encode(text))]
    assert scores["text_offset"] == list(range(begin, len(text)))
    for place, token, score, tops in zip(
        range(begin, len(text)), scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True
    ):
        row = expected[place]
        assert token == text[place]
        if row is None:
            assert score is tops is None
            continue
        assert score == pytest.approx(row[encode(token)[0]], abs=1e-4)
        if not top:
            assert tops is None
            continue
        best = np.argsort(-row)[:top]
        wanted = {VOCABULARY[one]: pytest.approx(row[one], abs=1e-4) for one in best}
        assert tops == {**wanted, token: pytest.approx(score)}, "the likeliest, and the one that is there"


@pytest.mark.parametrize("top", range(6))
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.3, "top_k": 3, "frequency_penalty": 1}], ids=["plain", "bent"]
)
def test_scores_are_the_models_own_whatever_the_sampling(
    writer: TestClient, top: int, sampling: dict[str, Any]
) -> None:
    choice = one(writer, logprobs=top, seed=3, max_tokens=20, **sampling)
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    scored(choice, "hello", top, begin=5)


@pytest.mark.parametrize("length", [0, 1, 12])
def test_with_echo_the_prompt_is_scored_too(writer: TestClient, length: int) -> None:
    choice = one(writer, "hello world", logprobs=3, echo=True, seed=3, max_tokens=length)
    assert choice["text"].startswith("hello world")
    assert len(choice["text"]) == 11 + length
    assert choice["finish_reason"] == "length"
    scored(choice, "hello world", 3, begin=0)


def test_a_prompt_can_be_scored_without_a_token_more(writer: TestClient) -> None:
    body = ask(writer, ["hello", "a"], logprobs=0, echo=True, max_tokens=0)
    assert [choice["text"] for choice in body["choices"]] == ["hello", "a"]
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 0, "total_tokens": 6}
    for choice, prompt in zip(body["choices"], ("hello", "a"), strict=True):
        scored(choice, prompt, 0, begin=0)
    assert one(writer, max_tokens=0)["text"] == ""
    assert one(writer, max_tokens=0, echo=True)["text"] == "hello"
    assert one(writer, max_tokens=0, echo=True)["logprobs"] is None


# Several


def test_choices_are_numbered_prompt_by_prompt(writer: TestClient) -> None:
    body = ask(writer, ["hello", "world"], n=3, seed=2, max_tokens=9, echo=True)
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert [choice["text"][:5] for choice in body["choices"]] == ["hello"] * 3 + ["world"] * 3
    assert len({choice["text"] for choice in body["choices"]}) == 6
    assert body["usage"] == {"prompt_tokens": 10, "completion_tokens": 54, "total_tokens": 64}


def test_a_choice_is_the_same_however_many_there_are(writer: TestClient) -> None:
    for number in (1, 2, 128):
        choices = ask(writer, n=number, seed=2, max_tokens=9)["choices"]
        assert len(choices) == number
        assert choices[0] == one(writer, seed=2, max_tokens=9)


def test_of_best_of_choices_those_come_back_that_the_model_held_likeliest(writer: TestClient) -> None:
    wanted = {"seed": 8, "max_tokens": 12, "logprobs": 1}
    every = ask(writer, ["a", "b"], n=20, **wanted)["choices"]
    body = ask(writer, ["a", "b"], n=2, best_of=20, **wanted)
    for prompt in (0, 1):
        made = every[20 * prompt : 20 * prompt + 20]
        made.sort(key=lambda choice: float(np.mean(choice["logprobs"]["token_logprobs"])), reverse=True)
        for place, found in enumerate(body["choices"][2 * prompt : 2 * prompt + 2]):
            assert found["index"] == 2 * prompt + place
            assert found["text"] == made[place]["text"]
    quiet = ask(writer, ["a", "b"], n=2, best_of=20, seed=8, max_tokens=12)
    assert [one["text"] for one in quiet["choices"]] == [one["text"] for one in body["choices"]]


def test_usage_counts_what_comes_back(writer: TestClient) -> None:
    usage = ask(writer, n=2, best_of=5, max_tokens=7)["usage"]
    assert usage == {"prompt_tokens": 5, "completion_tokens": 14, "total_tokens": 19}


@pytest.mark.parametrize(
    ("tokens", "texts"),
    [
        (encode("hello"), ["hello"]),
        ([encode("hello"), encode("a")], ["hello", "a"]),
        ([], [""]),
        ([[], [1]], ["", " "]),
        (["hello", ""], ["hello", ""]),
    ],
)
def test_prompts_may_be_texts_or_tokens_one_or_many(writer: TestClient, tokens: object, texts: list[str]) -> None:
    assert ask(writer, tokens, seed=1)["choices"] == ask(writer, texts, seed=1)["choices"]


def test_an_empty_prompt_is_the_start_of_a_text(writer: TestClient) -> None:
    assert one(writer, "", seed=1) == one(writer, "\n", seed=1)
    assert ask(writer, "")["usage"]["prompt_tokens"] == 1


def test_similar_characters_are_read_in_place_of_unknown_ones(writer: TestClient) -> None:
    choice = one(writer, "ä—\t…", seed=1, echo=True, max_tokens=4)
    assert choice == one(writer, "a  ...", seed=1, echo=True, max_tokens=4)
    assert choice["text"].startswith("a  ...")


# Stops


def test_a_stop_string_across_tokens_ends_a_text_and_is_no_part_of_it(writer: TestClient) -> None:
    whole = one(writer, seed=9, max_tokens=40, logprobs=0)
    for length in (1, 2, 5):
        stop = whole["text"][10 : 10 + length]
        place = whole["text"].index(stop)
        body = ask(writer, seed=9, max_tokens=40, logprobs=0, stop=["no such", stop])
        (choice,) = body["choices"]
        assert (choice["text"], choice["finish_reason"]) == (whole["text"][:place], "stop")
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        assert choice["logprobs"]["token_logprobs"] == whole["logprobs"]["token_logprobs"][:place]
        assert body["usage"]["completion_tokens"] == place + length
        assert joined(chunks(writer, seed=9, max_tokens=40, logprobs=0, stop=stop)) == choice


def test_what_may_begin_a_stop_string_is_held_back_until_it_cannot(writer: TestClient) -> None:
    whole = one(writer, seed=9, max_tokens=40)["text"]
    almost = whole[5:8] + ("a" if whole[8] != "a" else "b")
    assert almost not in whole
    events = chunks(writer, seed=9, max_tokens=40, stop=almost)
    assert joined(events)["text"] == whole
    at_end = whole[-3:] + "a"
    assert joined(chunks(writer, seed=9, max_tokens=40, stop=at_end)) == {
        "index": 0,
        "text": whole,
        "logprobs": None,
        "finish_reason": "length",
    }


# Streams


def test_a_stream_is_the_whole_in_an_event_a_token(writer: TestClient) -> None:
    for parameters in (
        {"seed": 1},
        {"seed": 2, "n": 3, "logprobs": 2},
        {"seed": 3, "echo": True, "logprobs": 0, "max_tokens": 3},
        {"seed": 4, "echo": True, "max_tokens": 0, "logprobs": 1},
        {"seed": 5, "stop": ["e", "st"], "logprobs": 1, "n": 4, "max_tokens": 60},
    ):
        whole = ask(writer, ["hello", "b"], **parameters)
        events = chunks(writer, ["hello", "b"], **parameters, stream_options={"include_usage": True})
        assert [joined(events, one["index"]) for one in whole["choices"]] == whole["choices"]
        assert events[-1]["choices"] == []
        assert events[-1]["usage"] == whole["usage"]
        assert all(event["usage"] is None and len(event["choices"]) == 1 for event in events[:-1])
        assert len({(event["id"], event["object"], event["model"]) for event in events}) == 1


def test_without_being_asked_a_stream_does_not_speak_of_usage(writer: TestClient) -> None:
    for more in ({}, {"stream_options": {}}, {"stream_options": {"include_usage": False}}):
        assert not any("usage" in event for event in chunks(writer, **more))


def test_a_stream_is_sent_as_events_that_nobody_gathers(writer: TestClient) -> None:
    response = writer.post(URL, json={"model": MODEL, "stream": True})
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert (response.headers["x-inferd-model"], response.headers["x-inferd-version"]) == (MODEL, "1")
    assert "content-length" not in response.headers


# Refusals


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, 2.1, "hot", [1], {}]),
        ("top_p", [0, -1, 1.1]),
        ("top_k", [-1, 1.5]),
        ("max_tokens", [-1, 101, 1.5, "many", 10**30]),
        ("n", [0, -1, 129, 1.5]),
        ("best_of", [0, 21]),
        ("logprobs", [-1, 6]),
        ("seed", [2**64, -(2**63) - 1, 1.5, "x"]),
        ("frequency_penalty", [-2.1, 2.1]),
        ("presence_penalty", [-2.1, 2.1]),
        ("repetition_penalty", [0, -1, 101]),
        ("echo", ["perhaps", 2]),
        ("stream", ["perhaps"]),
        ("stop", ["", [""], ["a", 3], list("abcde"), "a" * 257, 3]),
        ("user", [3]),
        ("suffix", ["end"]),
        ("logit_bias", [{"3": 1}]),
        ("prompt", [3, [1.5], [True], ["a", [1]], [["a"]], {}, [None], [-1], [32], [[1], [99]]]),
    ],
)
def test_a_value_out_of_bounds_is_refused_and_named(writer: TestClient, name: str, values: list[object]) -> None:
    for value in values:
        error = refused(writer, **{name: value})
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid")
        assert error["param"].partition(".")[0] == name, value
        assert name in error["message"] or name == "prompt", value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [0, 2, "0.5"]),
        ("top_p", [1e-9, 1]),
        ("top_k", [0, 1, 10**9]),
        ("max_tokens", [0, 1, 100]),
        ("n", [1, 128]),
        ("best_of", [1, 20]),
        ("logprobs", [0, 5]),
        ("seed", [0, 2**64 - 1, -(2**63)]),
        ("frequency_penalty", [-2, 2]),
        ("presence_penalty", [-2, 2]),
        ("repetition_penalty", [0.01, 100]),
        ("stop", [[], "a" * 256, list("abcd")]),
        ("user", ["somebody"]),
        ("suffix", [""]),
        ("logit_bias", [{}]),
    ],
)
def test_the_bounds_themselves_are_allowed(writer: TestClient, name: str, values: list[object]) -> None:
    for value in values:
        ask(writer, **{name: value})


@pytest.mark.parametrize(
    ("body", "name", "words"),
    [
        ({"best_of": 2, "n": 3}, "best_of", "at least n, which is 3"),
        ({"best_of": 2, "stream": True}, "best_of", "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
        ({"stream": True, "stream_options": {"what": 1}}, "stream_options.what", "not permitted"),
        ({"max_new_tokens": 3}, "max_new_tokens", "allowed: temperature"),
        ({"messages": []}, "messages", "allowed: temperature"),
        ({"max_tokens": 101}, "max_tokens", "at most 100 (INFERD_MAX_NEW_TOKENS)"),
        ({"model": 3}, "model", "the name of a model"),
        ({"model": None}, "model", "the name of a model"),
        ({"prompt": "żółć"}, "prompt", "'ż' (U+017C LATIN SMALL LETTER Z WITH DOT ABOVE)"),
    ],
)
def test_what_does_not_go_together_is_refused_and_named(
    writer: TestClient, body: dict[str, Any], name: str, words: str
) -> None:
    error = refused(writer, **body)
    assert (error["param"], error["type"]) == (name, "invalid_request_error")
    assert words in error["message"]


def test_a_prompt_over_the_limit_is_too_large(writer: TestClient) -> None:
    for prompt in ("a" * 201, [2] * 201, ["a", "b" * 201], "…" * 67):
        error = refused(writer, 413, prompt=prompt)
        assert (error["param"], error["type"], error["code"]) == ("prompt", "invalid_request_error", "invalid")
        assert "at most 200 tokens (INFERD_MAX_PROMPT_TOKENS)" in error["message"]
    ask(writer, "a" * 200)


def test_more_texts_than_may_wait_are_too_many(writer: TestClient) -> None:
    assert "INFERD_MAX_QUEUE_ROWS" in refused(writer, 413, prompt=["a", "b", "c"], n=101)["message"]
    assert len(ask(writer, ["a", "b", "c"], n=100, max_tokens=1)["choices"]) == 300


def test_an_unknown_model_is_not_found(writer: TestClient) -> None:
    for error in (refused(writer, 404, model="nobody"), writer.get("/v1/models/nobody").json()["error"]):
        assert error == {
            "message": "there is no model 'nobody'; models: tiny, tiny-text",
            "type": "invalid_request_error",
            "param": "model",
            "code": "not_found",
        }


def test_a_model_that_writes_no_text_is_not_found_here_and_says_how_it_is_asked(writer: TestClient) -> None:
    error = refused(writer, 404, model="tiny")
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "not_found")
    assert "POST /predict/tiny" in error["message"]
    assert writer.get("/v1/models/tiny").status_code == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b'{"model": "tiny-text", "prompt": "\\ud800"}'])
def test_a_body_that_is_no_request_is_a_bad_one(writer: TestClient, body: bytes) -> None:
    response = writer.post(URL, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_other_paths_and_methods_answer_in_this_dialect(writer: TestClient) -> None:
    for response, status in ((writer.post("/v1/chat/completions"), 404), (writer.get(URL), 405)):
        assert response.status_code == status
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_deadline_that_has_passed_is_told_by_the_status(writer: TestClient) -> None:
    for stream in (False, True):
        body = {"model": MODEL, "prompt": "a", "stream": stream, "max_tokens": 100}
        response = writer.post(URL, json=body, headers={"x-request-timeout-ms": "0.0001"})
        assert response.status_code == 504
        error = response.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("server_error", "deadline", None)
    assert writer.post(URL, json={"model": MODEL}, headers={"x-request-timeout-ms": "soon"}).status_code == 400


# Models


def test_only_models_that_write_texts_are_listed(writer: TestClient) -> None:
    body = writer.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert model.keys() == {"id", "object", "created", "owned_by"}
    assert (model["id"], model["object"], model["owned_by"]) == (MODEL, "model", "inferd")
    assert isinstance(model["created"], int)
    assert writer.get(f"/v1/models/{MODEL}").json() == model


# Counting


def test_requests_and_tokens_are_counted(writer: TestClient) -> None:
    before = metrics(writer)
    ask(writer, ["a", "b"], n=2, max_tokens=5)
    chunks(writer, max_tokens=4)
    refused(writer, n=0)
    refused(writer, 404, model="nobody")
    after = metrics(writer)
    counted = {
        code: gained(before, after, "inferd_requests_total", protocol="openai", code=code)
        for code in ("200", "400", "404")
    }
    assert counted == {"200": 2, "400": 1, "404": 1}
    assert gained(before, after, "inferd_generated_tokens_total", model=MODEL) == 24
    assert gained(before, after, "inferd_time_to_first_token_seconds_count", model=MODEL) == 2
    assert gained(before, after, "inferd_request_duration_seconds_count", model=MODEL) == 3
    assert gained(before, after, "inferd_request_failures_total", reason="invalid", model=MODEL) == 1
    assert gained(before, after, "inferd_request_failures_total", reason="not_found", model="") == 1
