"""The task dialect of texts, as Hugging Face's client asks and reads it; see also `test_streams.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.tasks.text_generation import Parameters
from tests.conftest import Serve
from tests.service.protocols.texts import best_after, events_of, likeliest, scores_of
from tests.service.requests import gained, metrics
from tests.text_bundles import VOCABULARY, decode, encode, make_text_bundle

URL = "/predict/tiny-text"
TIMES = ("queue_ms", "compute_ms", "batch_size", "time_to_first_token_ms")


def ask(client: TestClient, prompt: object = "hello", *, stream: bool | None = None, **parameters: Any) -> Any:
    return client.post(URL, json={"inputs": prompt, "parameters": parameters, "stream": stream})


def answered(client: TestClient, prompt: object = "hello", **parameters: Any) -> dict[str, Any]:
    answer = ask(client, prompt, **parameters)
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()
    return dict(one)


def text_of(client: TestClient, prompt: object = "hello", **parameters: Any) -> str:
    content = answered(client, prompt, **parameters)
    assert content.keys() == {"generated_text"}
    return str(content["generated_text"])


def streamed(client: TestClient, prompt: object = "hello", **parameters: Any) -> list[dict[str, Any]]:
    """The events of a stream, whose form is checked."""
    events = events_of(ask(client, prompt, stream=True, **parameters))
    for index, event in enumerate(events):
        assert event.keys() == {"index", "token", "top_tokens", "generated_text", "details"}
        assert event["token"].keys() == {"id", "text", "logprob", "special"}
        assert event["index"] == index
    assert all(event["generated_text"] is event["details"] is None for event in events[:-1])
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"].removeprefix(
        prompt if parameters.get("return_full_text") else ""
    )
    return events


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    return str(answer.json()["error"])


# Texts


def test_a_text_is_what_the_model_holds_likeliest(writer: TestClient) -> None:
    answer = ask(writer, temperature=0, max_new_tokens=25)
    assert answer.json() == [{"generated_text": likeliest("hello", 25)}]
    assert answer.headers["x-inferd-model"] == "tiny-text"
    assert answer.headers["x-inferd-version"] == "2"
    assert float(answer.headers["x-queue-ms"]) >= 0
    assert float(answer.headers["x-compute-ms"]) > 0
    assert answer.headers["x-batch-size"] == "1"


def test_a_version_can_be_named(writer: TestClient) -> None:
    body = {"inputs": "hello", "parameters": {"do_sample": False, "max_new_tokens": 25}}
    texts = [writer.post(f"{URL}/versions/{version}", json=body).json()[0]["generated_text"] for version in (1, 2)]
    assert texts == [likeliest("hello", 25, seed=4), likeliest("hello", 25)]


def test_who_says_nothing_gets_a_hundred_tokens_by_chance(writer: TestClient) -> None:
    for body in ({"inputs": "a"}, {"inputs": "a", "parameters": None, "stream": None}):
        texts = {writer.post(URL, json=body).json()[0]["generated_text"] for _ in range(3)}
        assert {len(text) for text in texts} == {100}
        assert len(texts) == 3


def test_null_stands_for_the_default(writer: TestClient) -> None:
    nothing: dict[str, Any] = dict.fromkeys(Parameters.model_fields)
    assert text_of(writer, **{**nothing, "seed": 4}) == text_of(writer, seed=4)


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/octet-stream"])
def test_a_prompt_may_come_as_it_is_with_its_parameters_in_the_query(writer: TestClient, kind: str) -> None:
    answer = writer.post(
        f"{URL}?max_new_tokens=9&seed=2&temperature=0.5&details=true",
        content="groß, café".encode(),
        headers={"content-type": kind},
    )
    (one,) = answer.json()
    assert one["generated_text"] == text_of(writer, "groß, café", max_new_tokens=9, seed=2, temperature=0.5)
    assert one["details"]["generated_tokens"] == 9


def test_a_form_may_hold_the_prompt(writer: TestClient) -> None:
    answer = writer.post(f"{URL}?temperature=0&max_new_tokens=9", files={"file": ("a.txt", b"hello")})
    assert answer.json() == [{"generated_text": likeliest("hello", 9)}]


def test_an_empty_prompt_is_the_start_of_a_text(writer: TestClient) -> None:
    assert text_of(writer, "", temperature=0, max_new_tokens=9) == likeliest("\n", 9)
    assert answered(writer, "", details=True)["details"]["input_length"] == 1


def test_similar_characters_are_read_in_place_of_unknown_ones(writer: TestClient) -> None:
    assert text_of(writer, "ä—…", seed=5) == text_of(writer, "a ...", seed=5)
    assert answered(writer, "ä—…", details=True)["details"]["input_length"] == 5


def test_how_tokens_are_chosen_can_be_said(writer: TestClient) -> None:
    wanted = {"max_new_tokens": 30, "seed": 2}
    plain = text_of(writer, **wanted)
    assert text_of(writer, **wanted) == plain
    assert text_of(writer, max_new_tokens=30, seed=3) != plain
    for greedy in ({"temperature": 0}, {"do_sample": False}, {"top_k": 1}, {"top_p": 1e-9}):
        assert text_of(writer, **wanted, **greedy) == likeliest("hello", 30)
    for others in (
        {"temperature": 1.7},
        {"top_k": 3},
        {"top_p": 0.4},
        {"frequency_penalty": 2},
        {"presence_penalty": -2},
        {"repetition_penalty": 3},
    ):
        assert text_of(writer, **wanted, **others) != plain


def test_the_answer_can_begin_with_the_prompt_as_it_came(writer: TestClient) -> None:
    for prompt in ("hello", "ä…", ""):
        text = text_of(writer, prompt, seed=1, max_new_tokens=7)
        assert text_of(writer, prompt, seed=1, max_new_tokens=7, return_full_text=True) == prompt + text
        events = streamed(writer, prompt, seed=1, max_new_tokens=7, return_full_text=True)
        assert events[-1]["generated_text"] == prompt + text
        assert [event["token"]["text"] for event in events] == list(text)


def test_of_a_long_prompt_the_end_alone_can_be_read(writer: TestClient) -> None:
    wanted = {"seed": 1, "max_new_tokens": 20}
    assert text_of(writer, "abc hello", truncate=5, **wanted) == text_of(writer, "hello", **wanted)
    assert text_of(writer, "hello", truncate=50, **wanted) == text_of(writer, "hello", **wanted)
    long = answered(writer, "a" * 20_000 + "hello", truncate=5, details=True, **wanted)
    assert long["details"]["input_length"] == 5


def test_the_best_of_several_is_what_the_model_held_likeliest(writer: TestClient) -> None:
    texts = [
        choice["text"]
        for choice in writer.post(
            "/v1/completions", json={"model": "tiny-text", "prompt": "hello", "n": 8, "max_tokens": 9, "seed": 3}
        ).json()["choices"]
    ]
    best = max(texts, key=lambda text: sum(scores_of("hello" + text)[4:]))
    assert text_of(writer, seed=3, max_new_tokens=9, best_of=8) == best


# Details


def test_details_tell_of_each_token(writer: TestClient) -> None:
    content = answered(writer, seed=3, max_new_tokens=12, temperature=0.7, details=True)
    text, details = content["generated_text"], content["details"]
    assert text == text_of(writer, seed=3, max_new_tokens=12, temperature=0.7)
    assert details.keys() == {
        "finish_reason", "generated_tokens", "input_length", "seed", "prefill", "tokens", "top_tokens", *TIMES,
    }  # fmt: skip
    assert (details["finish_reason"], details["generated_tokens"], details["input_length"]) == ("length", 12, 5)
    assert (details["seed"], details["prefill"], details["top_tokens"]) == (3, [], None)
    assert [token["text"] for token in details["tokens"]] == list(text)
    assert [token["id"] for token in details["tokens"]] == encode(text)
    assert not any(token["special"] for token in details["tokens"])
    scores = [token["logprob"] for token in details["tokens"]]
    assert scores == pytest.approx(scores_of("hello" + text)[4:], abs=1e-4)
    assert details["compute_ms"] > 0
    assert details["queue_ms"] >= 0
    assert details["time_to_first_token_ms"] > 0
    assert details["batch_size"] == 1


def test_a_text_can_be_had_again_by_the_seed_in_its_details(writer: TestClient) -> None:
    content = answered(writer, max_new_tokens=40, details=True)
    assert text_of(writer, max_new_tokens=40, seed=content["details"]["seed"]) == content["generated_text"]


def test_the_prompt_can_be_scored_too(writer: TestClient) -> None:
    details = answered(writer, "hello world", max_new_tokens=1, decoder_input_details=True)["details"]
    prefill = details["prefill"]
    assert all(token.keys() == {"id", "text", "logprob"} for token in prefill)
    assert "".join(token["text"] for token in prefill) == "hello world"
    assert [token["id"] for token in prefill] == encode("hello world")
    assert prefill[0]["logprob"] is None
    assert [token["logprob"] for token in prefill[1:]] == pytest.approx(scores_of("hello world"), abs=1e-4)


@pytest.mark.parametrize("count", [1, 20])
def test_the_likeliest_tokens_of_each_place_can_be_told(writer: TestClient, count: int) -> None:
    content = answered(writer, seed=3, max_new_tokens=6, top_n_tokens=count)
    expected = best_after("hello" + content["generated_text"], count)[4:-1]
    events = streamed(writer, seed=3, max_new_tokens=6, top_n_tokens=count)
    for tops in (content["details"]["top_tokens"], [event["top_tokens"] for event in events]):
        assert len(tops) == 6
        for top, best in zip(tops, expected, strict=True):
            assert {token["text"]: token["logprob"] for token in top} == pytest.approx(best, abs=1e-4)
            assert [token["id"] for token in top] == encode("".join(best))


# Stop strings


def stopped(text: str, stops: list[str]) -> tuple[str, int]:
    """What is left of a text that ends at the first stop string, and how many tokens were made for it."""
    length = next(length for length in range(len(text) + 1) if any(stop in text[:length] for stop in stops))
    return text[: min(text.index(stop) for stop in stops if stop in text[:length])], length


@pytest.mark.parametrize("places", [[(10, 11)], [(20, 24)], [(30, 33), (31, 32)], [(0, 1)], [(0, 4)]])
def test_a_stop_string_ends_the_text_and_is_no_part_of_it(writer: TestClient, places: list[tuple[int, int]]) -> None:
    wanted = {"seed": 9, "max_new_tokens": 60}
    whole = text_of(writer, **wanted)
    stops = [whole[begin:end] for begin, end in places]
    text, made = stopped(whole, stops)
    content = answered(writer, **wanted, stop=[*stops, "nowhere"], details=True)
    assert content["generated_text"] == text
    assert content["details"]["finish_reason"] == "stop_sequence"
    assert content["details"]["generated_tokens"] == made
    assert [token["text"] for token in content["details"]["tokens"]] == list(text)
    if len(stops) == 1:
        assert text_of(writer, **wanted, stop=stops[0]) == text
    *tokens, last = streamed(writer, **wanted, stop=stops)
    assert last["generated_text"] == text
    assert last["details"]["finish_reason"] == "stop_sequence"
    assert last["details"]["generated_tokens"] == made
    assert [event["token"]["text"] for event in tokens] == list(text), "nothing of the stop string is ever told"
    assert last["token"] == {"id": 0, "text": "", "logprob": 0.0, "special": True}


def test_what_only_began_like_a_stop_string_is_told_in_the_end(writer: TestClient) -> None:
    wanted = {"seed": 9, "max_new_tokens": 20}
    whole = text_of(writer, **wanted)
    events = streamed(writer, **wanted, stop=[whole[-3:] + "~", whole[5:8] + "~"])
    assert events[-1]["generated_text"] == whole
    assert events[-1]["details"]["finish_reason"] == "length"
    assert [event["token"]["text"] for event in events] == list(whole)


def test_a_text_that_is_nothing_but_its_stop_string_is_empty(writer: TestClient) -> None:
    stop = text_of(writer, seed=9)[:3]
    assert text_of(writer, seed=9, stop=stop) == ""
    assert text_of(writer, seed=9, stop=stop, return_full_text=True) == "hello"
    (event,) = streamed(writer, seed=9, stop=stop)
    assert (event["generated_text"], event["details"]["generated_tokens"]) == ("", 3)


# Streams


def test_a_stream_is_the_whole_in_an_event_a_token(writer: TestClient) -> None:
    wanted = {"seed": 3, "max_new_tokens": 12, "temperature": 0.7}
    whole = answered(writer, **wanted, details=True)
    events = streamed(writer, **wanted)
    assert [event["token"] for event in events] == whole["details"]["tokens"]
    assert all(event["top_tokens"] is None for event in events)
    last = events[-1]
    assert last["generated_text"] == whole["generated_text"]
    told, same = last["details"], ("finish_reason", "generated_tokens", "input_length", "seed")
    assert told.keys() == {*same, *TIMES}
    assert {name: told[name] for name in same} == {name: whole["details"][name] for name in same}


def test_a_stream_names_the_model_before_it_begins(writer: TestClient) -> None:
    answer = ask(writer, stream=True, max_new_tokens=2)
    assert answer.headers["x-inferd-model"] == "tiny-text"
    assert answer.headers["x-inferd-version"] == "2"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"]


# Errors


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"temperature": -0.1}, "parameter 'temperature'"),
        ({"temperature": "hot"}, "parameter 'temperature'"),
        ({"top_k": -1}, "parameter 'top_k'"),
        ({"top_k": 1.5}, "parameter 'top_k'"),
        ({"top_p": 0}, "parameter 'top_p'"),
        ({"top_p": 1.1}, "parameter 'top_p'"),
        ({"repetition_penalty": 0}, "parameter 'repetition_penalty'"),
        ({"frequency_penalty": 2.1}, "parameter 'frequency_penalty'"),
        ({"presence_penalty": -2.1}, "parameter 'presence_penalty'"),
        ({"seed": 2**64}, "parameter 'seed'"),
        ({"max_new_tokens": 0}, "parameter 'max_new_tokens'"),
        ({"max_new_tokens": 4097}, "max_new_tokens may be at most 4096 (INFERD_MAX_NEW_TOKENS), not 4097"),
        ({"best_of": 21}, "parameter 'best_of'"),
        ({"top_n_tokens": 21}, "parameter 'top_n_tokens'"),
        ({"truncate": 0}, "parameter 'truncate'"),
        ({"stop": ""}, "parameter 'stop'"),
        ({"stop": ["a"] * 17}, "parameter 'stop'"),
        ({"stop": ["a" * 257]}, "parameter 'stop'"),
        ({"watermark": True}, "parameter 'watermark'"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_its_name(
    writer: TestClient, parameters: dict[str, Any], words: str
) -> None:
    for stream in (False, True):
        assert words in refused(ask(writer, stream=stream, **parameters), 400)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_new_tokens", [1, 4096]),
        ("temperature", [0, 1e-9, 100, "0.5"]),
        ("top_k", [0, 1, 10**9]),
        ("top_p", [1e-9, 1]),
        ("repetition_penalty", [0.01, 100]),
        ("frequency_penalty", [-2, 2]),
        ("presence_penalty", [-2, 2]),
        ("seed", [0, 2**64 - 1, -(2**63)]),
        ("stop", [[], ["zq"] * 16, "a" * 256]),
        ("best_of", [1, 20]),
        ("truncate", [1, 10**6]),
        ("top_n_tokens", [1, 20]),
    ],
)
def test_the_bounds_themselves_are_allowed(writer: TestClient, name: str, values: list[object]) -> None:
    for value in values:
        answered(writer, **{name: value})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": "\\ud800"}', b'{"inputs": "a", "sream": true}'])
def test_a_body_that_is_no_request_is_a_bad_one(writer: TestClient, body: bytes) -> None:
    answer = writer.post(URL, content=body, headers={"content-type": "application/json"})
    assert refused(answer, 400).startswith("the body must be JSON")


def test_an_unknown_parameter_is_answered_with_those_that_are(writer: TestClient) -> None:
    message = refused(ask(writer, max_tokens=3), 400)
    assert all(name in message for name in Parameters.model_fields)


def test_best_of_and_a_stream_do_not_go_together(writer: TestClient) -> None:
    assert "best_of" in refused(ask(writer, stream=True, best_of=2), 400)
    assert streamed(writer, best_of=1, max_new_tokens=2)


@pytest.mark.parametrize("prompt", [7, None, ["hello"], {"text": "hello"}])
def test_a_prompt_that_is_no_text_is_refused(writer: TestClient, prompt: object) -> None:
    assert refused(ask(writer, prompt), 400) == "inputs must be the prompt, a text"


def test_bytes_that_are_no_text_are_refused(writer: TestClient) -> None:
    answer = writer.post(URL, content=b"caf\xe9", headers={"content-type": "text/plain"})
    assert "the prompt is no UTF-8 text" in refused(answer, 400)


def test_unknown_characters_are_named_and_so_are_known_ones(writer: TestClient) -> None:
    for stream in (False, True):
        message = refused(ask(writer, "Łódź 🙂", stream=stream), 400)
        assert "'Ł' (U+0141 LATIN CAPITAL LETTER L WITH STROKE)" in message
        assert "'🙂' (U+1F642 SLIGHTLY SMILING FACE)" in message
        assert repr("".join(VOCABULARY)) in message
    many = refused(ask(writer, decode([2, 3]) + "".join(map(chr, range(0x4E00, 0x4E20)))), 400)
    assert "and 22 others" in many


def test_a_prompt_over_the_limit_is_413_and_names_it(models: Path, serve: Serve) -> None:
    make_text_bundle(models)
    client = serve(models=models, max_prompt_tokens=10, max_new_tokens=8, max_batch_rows=5, max_queue_rows=5)
    assert "at most 10 tokens (INFERD_MAX_PROMPT_TOKENS); this one has 11" in refused(ask(client, "a" * 11), 413)
    assert len(text_of(client, "a" * 10)) == 8, "nobody said how long, so no longer than may be"
    assert "INFERD_MAX_NEW_TOKENS" in refused(ask(client, max_new_tokens=9), 400)
    # A replacement may be longer than what it stands for.
    assert "INFERD_MAX_PROMPT_TOKENS" in refused(ask(client, "…" * 4), 413)
    assert "INFERD_MAX_QUEUE_ROWS" in refused(ask(client, best_of=6), 413)


def test_a_text_model_takes_no_picture(writer: TestClient) -> None:
    answer = writer.post(URL, content=b"hello", headers={"content-type": "image/png"})
    assert "text/plain" in refused(answer, 415)


def test_a_model_that_writes_nothing_has_no_stream(writer: TestClient) -> None:
    body = {"inputs": "", "stream": True}
    assert "stream" in refused(writer.post("/predict/tiny", json=body), 400)


# What the server says and counts


def test_the_description_tells_what_may_be_asked(writer: TestClient) -> None:
    described = writer.get(URL).json()
    assert described["task"] == "text-generation"
    assert described["versions"] == [1, 2]
    assert described["parameters"].keys() == Parameters.model_fields.keys()
    assert described["input"] == {
        "characters": "".join(VOCABULARY),
        "replacements": {"ä": "a", "—": " ", "\t": " ", "…": "..."},
        "max_prompt_tokens": 16_384,
        "max_new_tokens": 4096,
    }


def test_requests_and_tokens_are_counted(writer: TestClient) -> None:
    before = metrics(writer)
    ask(writer, max_new_tokens=3)
    ask(writer, max_new_tokens=4, stream=True)
    ask(writer, max_new_tokens=0)
    after = metrics(writer)
    labels = {"model": "tiny-text", "version": "2"}
    assert gained(before, after, "inferd_generated_tokens_total", **labels) == 7
    assert gained(before, after, "inferd_time_to_first_token_seconds_count", **labels) == 2
    assert gained(before, after, "inferd_request_duration_seconds_count", **labels) == 3
    assert gained(before, after, "inferd_request_failures_total", reason="invalid", **labels) == 1
    assert gained(before, after, "inferd_requests_total", protocol="predict", code="200") == 2
