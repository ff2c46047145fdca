"""Whatever comes is answered in every dialect of texts: by a text, or by what is wrong with it; never by a defect."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 130),
    st.floats(),
    st.floats(0, 3),
    st.text(max_size=5),
    st.sampled_from(["NaN", "inf", "1e400", "0x1", "\uff11", "\ud800"]),
    st.lists(st.integers(-2, 40), max_size=3),
    st.lists(st.text(max_size=3), max_size=6),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
NAMES = (
    *("temperature", "top_k", "top_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed", "stop"),
    *("n", "best_of", "logprobs", "echo", "stream", "stream_options", "user", "suffix", "logit_bias"),
    *(
        "do_sample",
        "return_full_text",
        "details",
        "decoder_input_details",
        "top_n_tokens",
        "truncate",
        "id",
        "priority",
    ),
)
PARAMETERS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)
LENGTHS = st.one_of(st.integers(0, 6), VALUES)
PROMPTS = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="abc xyz.\u00df\u00e4", max_size=20),
    st.lists(st.text(alphabet="ab", max_size=3), max_size=3),
    st.lists(st.lists(st.integers(-1, 33), max_size=3), max_size=3),
    VALUES,
)
STREAMS = st.sampled_from([{}, {"stream": True}])

anything = given(prompt=PROMPTS, parameters=PARAMETERS, length=LENGTHS, stream=STREAMS)


def status(writer: TestClient, path: str, body: dict[str, Any]) -> int:
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    response = writer.post(path, content=content, headers={"content-type": "application/json"})
    if response.status_code != 200:
        assert response.json().keys() == {"error"}
    return response.status_code


@settings(max_examples=200)
@anything
def test_a_completion(writer: TestClient, prompt: Any, parameters: Any, length: Any, stream: Any) -> None:
    body = {"model": "tiny-text", "prompt": prompt, "max_tokens": length, **parameters, **stream}
    assert status(writer, "/v1/completions", body) in (200, 400, 413)


@settings(max_examples=200)
@anything
def test_a_prediction(writer: TestClient, prompt: Any, parameters: Any, length: Any, stream: Any) -> None:
    body = {"inputs": prompt, "parameters": {"max_new_tokens": length, **parameters}, **stream}
    assert status(writer, "/predict/tiny-text", body) in (200, 400, 413)


@settings(max_examples=200)
@anything
def test_a_generation(writer: TestClient, prompt: Any, parameters: Any, length: Any, stream: Any) -> None:
    path = "/v2/models/tiny-text/generate" + ("_stream" if stream else "")
    body = {"text_input": prompt, "parameters": {"max_tokens": length, **parameters}}
    assert status(writer, path, body) in (200, 400, 413, 422)


@settings(max_examples=200)
@anything
def test_an_inference(writer: TestClient, prompt: Any, parameters: Any, length: Any, stream: Any) -> None:
    data = prompt if isinstance(prompt, list) else [prompt]
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [len(data)], "data": data}
    body = {"inputs": [tensor], "parameters": {"max_tokens": length, **parameters, **stream}}
    assert status(writer, "/v2/models/tiny-text/infer", body) in (200, 400, 413)
