"""One seed gives one text, in whichever dialect it is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.repository.bundle import LoadOptions, load_bundle
from service.repository.scan import BundleFolder
from service.settings import Settings
from tests.conftest import start
from tests.service.protocols.open_inference.grpc.serving import infer_request, outputs_of, serving
from tests.service.protocols.texts import events_of
from tests.text_bundles import encode, make_text_bundle

COMPLETIONS = "/v1/completions"
PREDICT = "/predict/tiny-text"
TENSORS = "/v2/models/tiny-text"
LENGTH = 40
SAMPLINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0},
    "cold": {"temperature": 0.6, "top_p": 0.8},
    "few": {"top_k": 4, "repetition_penalty": 1.4},
    "penalties": {"frequency_penalty": 0.7, "presence_penalty": -0.3},
    "stop": {"stop": "mkl"},
}


@pytest.fixture(params=SAMPLINGS)
def sampling(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"seed": 2**63 - 25, **SAMPLINGS[request.param]}


def over_http(client: TestClient, prompt: str, sampling: dict[str, Any]) -> dict[str, str]:
    """The text, by each way to ask for one over HTTP."""

    def post(path: str, **body: Any) -> Any:
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer

    theirs = {**sampling, "max_tokens": LENGTH}
    inputs = {"inputs": prompt, "parameters": {**sampling, "max_new_tokens": LENGTH}}
    completion = {"model": "tiny-text", "prompt": prompt, **theirs}
    generate = {"text_input": prompt, "parameters": theirs}
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [prompt]}
    infer = {"inputs": [tensor], "parameters": theirs}
    raw = client.post(PREDICT, params=inputs["parameters"], content=prompt, headers={"content-type": "text/plain"})
    chunks = events_of(post(COMPLETIONS, **completion, stream=True))[:-1]
    pieces = events_of(post(f"{TENSORS}/generate_stream", **generate))
    tokens = {**completion, "prompt": encode(prompt)}
    return {
        "predict": post(PREDICT, **inputs).json()[0]["generated_text"],
        "predict, raw": raw.json()[0]["generated_text"],
        "predict, stream": events_of(post(PREDICT, **inputs, stream=True))[-1]["generated_text"],
        "completions": post(COMPLETIONS, **completion).json()["choices"][0]["text"],
        "completions, tokens": post(COMPLETIONS, **tokens).json()["choices"][0]["text"],
        "completions, stream": "".join(chunk["choices"][0]["text"] for chunk in chunks),
        "generate": post(f"{TENSORS}/generate", **generate).json()["text_output"],
        "generate, stream": "".join(piece["text_output"] for piece in pieces),
        "infer": post(f"{TENSORS}/infer", **infer).json()["outputs"][0]["data"][0],
    }


def over_grpc(models: Path, prompts: list[str], sampling: dict[str, Any]) -> list[str]:
    """The texts, as tensors by gRPC, which has no list and no fraction for a parameter that is not a double."""
    request = infer_request("tiny-text", ("text_input", "BYTES", np.array(prompts, object)))
    for name, value in {**sampling, "max_tokens": LENGTH}.items():
        kind = {int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)

    async def main() -> list[str]:
        async with serving(models) as server:
            texts = outputs_of(await server.client.ask("ModelInfer", request))["text_output"]
            return [str(text) for text in texts]

    return asyncio.run(main())


def with_no_server(models: Path, prompt: str, sampling: dict[str, Any]) -> str:
    """The text, as the command makes it with no server at all."""
    bundle = load_bundle(BundleFolder("tiny-text", 1, models / "tiny-text" / "1"), LoadOptions.of(Settings(threads=1)))
    return "".join(bundle.generate(prompt, {**sampling, "max_new_tokens": LENGTH}))


@pytest.mark.parametrize("prompt", ["hello", "a"])
def test_all_dialects_give_the_same_text(models: Path, prompt: str, sampling: dict[str, Any]) -> None:
    make_text_bundle(models)
    with start(models=models) as client:
        texts = over_http(client, prompt, sampling)
    (texts["infer, gRPC"],) = over_grpc(models, [prompt], sampling)
    texts["no server"] = with_no_server(models, prompt, sampling)
    assert set(texts.values()) == {texts["predict"]}, texts
    assert texts["predict"]


def test_several_prompts_of_a_request_get_the_same_texts_in_every_dialect_that_takes_them(models: Path) -> None:
    make_text_bundle(models)
    prompts, sampling = ["hello", "hello", "abc"], {"seed": 5}
    with start(models=models) as client:
        completion = {"model": "tiny-text", "prompt": prompts, **sampling, "max_tokens": LENGTH}
        texts = [choice["text"] for choice in client.post(COMPLETIONS, json=completion).json()["choices"]]
        tensor = {"name": "text_input", "datatype": "BYTES", "shape": [3], "data": prompts}
        infer = {"inputs": [tensor], "parameters": {**sampling, "max_tokens": LENGTH}}
        inferred = client.post(f"{TENSORS}/infer", json=infer).json()["outputs"][0]["data"]
    assert texts == inferred == over_grpc(models, prompts, sampling)
    assert len(set(texts)) == 3, "the place of a prompt counts"
