"""OpenAI's call for pictures, and its list of models where some draw."""

from __future__ import annotations

import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.latents import LARGEST_SEED, latents_of
from tests.conftest import Serve
from tests.image_bundles import LATENT, drawn, make_image_bundle
from tests.service.painting import enlarged, painted, pixels_of
from tests.service.pictures import Pixels
from tests.service.requests import gained, metrics

URL = "/v1/images/generations"
MODEL = "tiny-painter"


def ask(painter: TestClient, prompt: object = "a dark night", **asked: Any) -> dict[str, Any]:
    response = painter.post(URL, json={"model": MODEL, "prompt": prompt, **asked})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def pictures(body: dict[str, Any]) -> Pixels:
    """All pictures of an answer (N, height, width, channels)."""
    kind = f"image/{body['output_format']}"
    return np.stack([pixels_of(b64decode(one["b64_json"]), kind) for one in body["data"]])


def refused(painter: TestClient, status: int = 400, **body: Any) -> dict[str, Any]:
    response = painter.post(URL, json={"model": MODEL, "prompt": "dark", **body})
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


# The answer


def test_an_answer_has_the_fields_that_openais_has(painter: TestClient) -> None:
    before = int(time.time())
    response = painter.post(URL, json={"model": MODEL, "prompt": "a dark night", "seed": 7})
    body = response.json()
    assert body.keys() == {"created", "data", "output_format", "size"}
    assert before <= body["created"] <= time.time()
    assert [one.keys() for one in body["data"]] == [{"b64_json"}]
    assert (body["output_format"], body["size"]) == ("png", "6x4")
    assert (pictures(body) == painted("dark", 7)).all()
    assert (response.headers["x-inferd-model"], response.headers["x-inferd-version"]) == (MODEL, "2")
    assert response.headers["x-inferd-seed"] == "7"
    assert all(float(response.headers[name]) >= 0 for name in ("x-queue-ms", "x-compute-ms", "x-batch-size"))


@pytest.mark.parametrize("n", [1, 3, 10])
def test_so_many_come_as_are_asked_for_and_each_is_as_it_is_among_others(painter: TestClient, n: int) -> None:
    assert (pictures(ask(painter, "left", n=n, seed=3)) == painted("left", 3, n)).all()


def test_without_a_seed_each_is_another(painter: TestClient) -> None:
    assert ask(painter, n=4)["data"] != ask(painter, n=4)["data"]
    assert len({one["b64_json"] for one in ask(painter, n=4)["data"]}) == 4


@pytest.mark.parametrize("seed", [0, LARGEST_SEED])
def test_a_seed_draws_the_same_in_every_dialect(painter: TestClient, seed: int) -> None:
    (one,) = ask(painter, "left", seed=seed)["data"]
    asked = {"inputs": "left", "parameters": {"seed": seed}}
    assert painter.post(f"/predict/{MODEL}", json=asked).content == b64decode(one["b64_json"])


@pytest.mark.parametrize(("size", "factor"), [("auto", 1), ("6x4", 1), ("12x8", 2), ("96x64", 16)])
def test_a_picture_is_of_the_size_that_is_asked_for(painter: TestClient, size: str, factor: int) -> None:
    body = ask(painter, seed=1, size=size, n=2)
    assert (pictures(body)[1] == enlarged(painted("dark", 1, 2)[1], factor)).all()
    assert body["size"] == f"{6 * factor}x{4 * factor}"


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_a_picture_is_of_the_format_that_is_asked_for(painter: TestClient, kind: str) -> None:
    seen = pictures(ask(painter, seed=1, output_format=kind, n=3)).astype(int)
    assert np.abs(seen - painted("dark", 1, 3)).max() <= (12 if kind == "jpeg" else 0)


def test_null_and_openais_own_defaults_stand_for_nothing(painter: TestClient) -> None:
    expected = ask(painter, seed=4)["data"]
    names = ("n", "size", "quality", "style", "background", "moderation", "response_format", "output_format")
    more = ("output_compression", "partial_images", "stream", "user", "safety_identifier", "strict")
    assert ask(painter, seed=4, **dict.fromkeys([*names, *more]))["data"] == expected
    said = {
        "n": 1,
        "size": "auto",
        "quality": "auto",
        "style": "vivid",
        "background": "auto",
        "moderation": "auto",
        "response_format": "b64_json",
        "output_format": "png",
        "output_compression": 100,
        "partial_images": 0,
        "stream": False,
        "user": "someone",
        "safety_identifier": "someone",
    }
    assert ask(painter, seed=4, **said)["data"] == expected
    assert ask(painter, seed=4, quality="standard", background="opaque", moderation="low")["data"] == expected


def test_what_comes_nearest_is_drawn_if_it_will_do(painter: TestClient) -> None:
    error = refused(painter, prompt="soup")
    assert (error["param"], error["code"]) == ("prompt", "invalid")
    assert "what can be drawn: dark, bright, left" in error["message"]
    assert len(ask(painter, "soup", strict=False)["data"]) == 1


def test_a_model_that_reads_no_texts_takes_a_label_for_a_prompt(painter: TestClient) -> None:
    assert (pictures(ask(painter, "LEFT", model="tiny-labels", seed=4)) == painted("left", 4)).all()
    error = refused(painter, model="tiny-labels", prompt="on the left")
    assert "labels: dark, bright, left" in error["message"]
    assert error["param"] == "prompt"


def test_a_model_without_classes_takes_no_prompt(painter: TestClient) -> None:
    for prompt in ("", None):
        body = ask(painter, prompt, model="tiny-noise", seed=4, n=2)
        assert (pictures(body) == drawn(latents_of(4, 2, LATENT))).all()
    assert refused(painter, model="tiny-noise", prompt="dark")["param"] == "prompt"


def test_pictures_may_have_colours(painter: TestClient) -> None:
    body = ask(painter, "left", model="tiny-colours", seed=4, n=10)
    assert (pictures(body) == painted("left", 4, 10, channels=3)).all()


# Errors


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 11}, "n", "less than or equal to 10"),
        ({"n": 10**6}, "n", "less than or equal to 10"),
        ({"n": "many"}, "n", "integer"),
        ({"size": "1024x1024"}, "size", "6x4, 12x8, 24x16, 48x32, 96x64"),
        ({"size": "12x4"}, "size", "6x4, 12x8, 24x16, 48x32, 96x64"),
        ({"size": "large"}, "size", "width and height in pixels"),
        ({"size": "0x0"}, "size", "width and height in pixels"),
        ({"size": 12}, "size", "string"),
        ({"response_format": "url"}, "response_format", "'b64_json'"),
        ({"output_format": "gif"}, "output_format", "'png', 'webp' or 'jpeg'"),
        ({"output_compression": 50}, "output_compression", "100"),
        ({"quality": "hd"}, "quality", "'auto' or 'standard'"),
        ({"style": "natural"}, "style", "'vivid'"),
        ({"background": "transparent"}, "background", "'auto' or 'opaque'"),
        ({"stream": True}, "stream", "False"),
        ({"partial_images": 2}, "partial_images", "0"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": 2**63}, "seed", "less than or equal to"),
        ({"prompt": ""}, "prompt", "nothing says what to draw"),
        ({"prompt": None}, "prompt", "nothing says what to draw"),
        ({"prompt": ["dark", "bright"]}, "prompt", "prompt must be a text"),
        ({"prompt": 5}, "prompt", "prompt must be a text"),
        ({"svg": {"model": "x"}}, "svg", "'svg'"),
        ({"num_images": 2}, "num_images", "allowed: n, size"),
    ],
)
def test_what_can_not_be_had_is_a_bad_request_that_names_it(
    painter: TestClient, asked: dict[str, Any], param: str, said: str
) -> None:
    error = refused(painter, **asked)
    assert (error["param"], error["type"], error["code"]) == (param, "invalid_request_error", "invalid")
    assert said in error["message"]


@pytest.mark.parametrize("model", [None, 5, ["tiny-painter"]])
def test_a_model_must_be_named(painter: TestClient, model: object) -> None:
    error = refused(painter, model=model)
    assert (error["param"], error["message"]) == ("model", "model must be the name of a model")


def test_an_unknown_model_is_not_found(painter: TestClient) -> None:
    error = refused(painter, 404, model="nobody")
    assert (error["param"], error["type"], error["code"]) == ("model", "invalid_request_error", "not_found")


@pytest.mark.parametrize("model", ["tiny", "tiny-text"])
def test_a_model_that_draws_nothing_is_not_found_here_and_says_how_it_is_asked(painter: TestClient, model: str) -> None:
    error = refused(painter, 404, model=model)
    assert (error["param"], error["code"]) == ("model", "not_found")
    assert error["message"] == f"model {model!r} draws no pictures: POST /predict/{model} asks it"
    body = {"model": MODEL, "prompt": "dark"}
    told = painter.post("/v1/completions", json=body).json()["error"]["message"]
    assert told == f"model {MODEL!r} generates no text: POST /predict/{MODEL} asks it"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff"])
def test_a_body_that_is_no_request_is_a_bad_one(painter: TestClient, body: bytes) -> None:
    response = painter.post(URL, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_other_methods_answer_in_this_dialect(painter: TestClient) -> None:
    response = painter.get(URL)
    assert response.status_code == 405
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_too_much_is_too_large_and_names_the_limit(models: Path, serve: Serve) -> None:
    make_image_bundle(models)
    client = serve(models=models, max_pixels=96 * 64, max_text_characters=20, max_body_bytes=1000)
    error = refused(client, 413, prompt="x" * 21)
    assert (error["param"], error["type"]) == ("prompt", "invalid_request_error")
    assert "INFERD_MAX_TEXT_CHARACTERS" in error["message"]
    assert "INFERD_MAX_PIXELS" in refused(client, 413, n=2, size="96x64")["message"]
    assert "INFERD_MAX_BODY_BYTES" in refused(client, 413, prompt="x" * 1000)["message"]


def test_a_deadline_that_has_passed_is_told_by_the_status(painter: TestClient) -> None:
    body = {"model": MODEL, "prompt": "dark"}
    response = painter.post(URL, json=body, headers={"x-request-timeout-ms": "0.0001"})
    assert response.status_code == 504
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "deadline", None)


# Models


def test_models_that_draw_and_models_that_write_are_listed(painter: TestClient) -> None:
    body = painter.get("/v1/models").json()
    assert body["object"] == "list"
    names = [model["id"] for model in body["data"]]
    assert names == ["tiny-colours", "tiny-labels", "tiny-noise", "tiny-painter", "tiny-text"]
    for model in body["data"]:
        assert model.keys() == {"id", "object", "created", "owned_by"}
        assert painter.get(f"/v1/models/{model['id']}").json() == model


def test_a_model_that_does_neither_is_not_found_and_says_how_it_is_asked(painter: TestClient) -> None:
    response = painter.get("/v1/models/tiny")
    assert response.status_code == 404
    told = response.json()["error"]["message"]
    assert told == "model 'tiny' generates no text and draws no pictures: POST /predict/tiny asks it"


# Counting


def test_requests_are_counted(models: Path, serve: Serve) -> None:
    make_image_bundle(models)
    client = serve(models=models)
    before = metrics(client)
    ask(client, n=10)
    ask(client)
    refused(client, n=0)
    refused(client, prompt="soup")
    refused(client, 404, model="nobody")
    after = metrics(client)
    counted = {
        code: gained(before, after, "inferd_requests_total", protocol="openai", code=code)
        for code in ("200", "400", "404")
    }
    assert counted == {"200": 2, "400": 2, "404": 1}
    assert gained(before, after, "inferd_batch_size_sum", model=MODEL) == 11
    assert gained(before, after, "inferd_request_duration_seconds_count", model=MODEL) == 4
    assert gained(before, after, "inferd_request_failures_total", reason="invalid", model=MODEL) == 2
