"""Texts as tensors, by Triton's clients; and one text in all dialects, by everybody's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

from tests.clients.serving import Served
from tests.clients.triton.callers import KINDS, Caller, Loop

MODEL = "tiny-text"


@pytest.fixture(scope="module", params=KINDS)
def writer(request: pytest.FixtureRequest, texts: Served, loop: Loop) -> Iterator[Caller]:
    """A client of the server whose models continue texts."""
    caller = Caller(request.param, texts, loop)
    yield caller
    caller.close()


def texts_of(writer: Caller, *prompts: str, **parameters: Any) -> list[str]:
    result = writer.ask(MODEL, {"text_input": np.array(prompts, object)}, parameters=parameters)
    return [text.decode() for text in result.as_numpy("text_output").tolist()]


def test_every_prompt_of_a_tensor_is_continued(writer: Caller) -> None:
    wanted = {"seed": 5, "max_tokens": 15, "temperature": 0.8}
    prompts = ["hello", "", "a ß, é."]
    together = texts_of(writer, *prompts, **wanted)
    assert [len(text) for text in together] == [15, 15, 15]
    assert len(set(together)) == 3
    assert texts_of(writer, "hello", **wanted) == together[:1]


def test_parameters_ride_among_those_of_the_request(writer: Caller) -> None:
    assert [len(text) for text in texts_of(writer, "hello")] == [20]
    plain = texts_of(writer, "hello", seed=5, max_tokens=30)
    assert texts_of(writer, "hello", seed=5, max_tokens=30) == plain
    for parameters in ({"seed": 6}, {"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.2}, {"repetition_penalty": 3.0}):
        assert texts_of(writer, "hello", **{"seed": 5, "max_tokens": 30, **parameters}) != plain, parameters
    stop = plain[0][10:12]
    assert texts_of(writer, "hello", seed=5, max_tokens=30, stop=stop) == [plain[0][: plain[0].index(stop)]]


def test_what_cannot_be_had_is_refused_by_name(writer: Caller) -> None:
    for parameters, words in (
        ({"temperature": -1.0}, ["temperature", "greater than or equal to 0"]),
        ({"max_tokens": 5000}, ["max_tokens", "INFERD_MAX_NEW_TOKENS"]),
        ({"seed": "many"}, ["seed"]),
    ):
        writer.refused(lambda parameters=parameters: texts_of(writer, "a", **parameters), 400, *words)
    writer.refused(lambda: texts_of(writer, "żółć"), 400, "U+017C")
    writer.refused(lambda: texts_of(writer, "a" * 20_000), 413, "INFERD_MAX_PROMPT_TOKENS")
    # Microseconds, as Triton has them: less than any text takes.
    prompt = {"text_input": np.array(["a"], object)}
    writer.refused(lambda: writer.ask("slow-text", prompt, timeout=1), 504)


def test_the_model_says_that_it_takes_texts(writer: Caller) -> None:
    told = writer.told("get_model_metadata", MODEL)
    assert [(one["name"], one["datatype"], one["shape"]) for one in told["inputs"]] == [("text_input", "BYTES", [-1])]
    assert [(one["name"], one["datatype"], one["shape"]) for one in told["outputs"]] == [("text_output", "BYTES", [-1])]


def events_of(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"seed": 1},
        {"seed": 2**63 - 1, "temperature": 0.6, "top_p": 0.9},
        {"seed": 3, "temperature": 1.4, "top_k": 9, "repetition_penalty": 1.2},
        {"seed": 4, "frequency_penalty": 0.5, "presence_penalty": -0.5},
        {"seed": 5, "temperature": 0.0},
        {"seed": 6, "stop": "e"},
    ],
    ids=["seed", "nucleus", "top-k", "penalties", "greedy", "stop"],
)
def test_one_seed_gives_one_text_in_all_dialects(texts: Served, loop: Loop, parameters: dict[str, Any]) -> None:
    url, prompt, length = texts.server.url, "hello, world", 60
    native = {"inputs": prompt, "parameters": {**parameters, "max_new_tokens": length}}
    generate = {"text_input": prompt, "parameters": {**parameters, "max_tokens": length}}
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [prompt]}
    infer = {"inputs": [tensor], "parameters": {**parameters, "max_tokens": length}}
    # What a client's call has no name for rides in its body.
    ours = {name: value for name, value in parameters.items() if name in ("top_k", "repetition_penalty")}
    theirs = {name: value for name, value in parameters.items() if name not in ours}
    completion = {"model": MODEL, "prompt": prompt, "max_tokens": length, "extra_body": ours, **theirs}
    hub = InferenceClient(model=f"{url}/predict/{MODEL}")
    hubs = {key: value for key, value in parameters.items() if key not in ("presence_penalty", "stop")}
    hubs |= {"stop": [parameters["stop"]]} if "stop" in parameters else {}

    def by_triton(kind: str) -> str:
        caller = Caller(kind, texts, loop)
        (text,) = texts_of(caller, prompt, **parameters, max_tokens=length)
        caller.close()
        return text

    with httpx.Client(base_url=url) as http, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        dialects: dict[str, Callable[[], str]] = {
            "predict": lambda: http.post(f"/predict/{MODEL}", json=native).json()[0]["generated_text"],
            "predict, a stream": lambda: "".join(
                event["token"]["text"]
                for event in events_of(http.post(f"/predict/{MODEL}", json={**native, "stream": True}))
            ),
            "completions": lambda: client.completions.create(**completion).choices[0].text,
            "completions, a stream": lambda: "".join(
                chunk.choices[0].text for chunk in client.completions.create(**completion, stream=True)
            ),
            "generate": lambda: http.post(f"/v2/models/{MODEL}/generate", json=generate).json()["text_output"],
            "generate_stream": lambda: "".join(
                event["text_output"]
                for event in events_of(http.post(f"/v2/models/{MODEL}/generate_stream", json=generate))
            ),
            "infer": lambda: http.post(f"/v2/models/{MODEL}/infer", json=infer).json()["outputs"][0]["data"][0],
            **{f"infer by {kind}": lambda kind=kind: by_triton(kind) for kind in KINDS},
        }
        if "presence_penalty" not in parameters:  # which this client has not
            dialects["Hugging Face"] = lambda: hub.text_generation(prompt, max_new_tokens=length, **hubs)
            dialects["Hugging Face, a stream"] = lambda: "".join(
                hub.text_generation(prompt, max_new_tokens=length, stream=True, **hubs)
            )
        found = {name: ask() for name, ask in dialects.items()}
    assert found == dict.fromkeys(found, found["predict"])
    assert len(found["predict"]) == length or "stop" in parameters
