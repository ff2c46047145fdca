"""OpenAI's clients, of threads and of asyncio, have pictures drawn."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.clients.serving import Served
from tests.clients.text.callers import Caller

PAINTER = "tiny-painter"


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest, pictures: Served, runner: asyncio.Runner) -> Iterator[Caller]:
    caller = Caller(request.param, pictures, runner)
    yield caller
    caller.close()


def ask(caller: Caller, prompt: str = "a dark night", *, model: str = PAINTER, **more: Any) -> Any:
    return caller.wait(caller.client.images.generate(model=model, prompt=prompt, **more))


def files(answer: Any) -> list[bytes]:
    assert all(one.url is None for one in answer.data)
    return [b64decode(one.b64_json) for one in answer.data]


def opened(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content))
    image.load()
    return image


def test_a_picture_is_drawn(caller: Caller) -> None:
    before = int(time.time())
    answer = ask(caller)
    assert before <= answer.created <= time.time()
    assert (answer.output_format, answer.size) == ("png", "6x4")
    (content,) = files(answer)
    image = opened(content)
    assert (image.format, image.size, image.mode) == ("PNG", (6, 4), "L")
    assert opened(files(ask(caller, model="tiny-colours"))[0]).mode == "RGB"


@pytest.mark.parametrize("label", ["dark", "bright", "left"])
def test_what_is_drawn_is_seen_by_a_model_that_knows_it(pictures: Served, caller: Caller, label: str) -> None:
    for content in files(ask(caller, label, n=10, extra_body={"seed": 1})):
        seen = httpx.post(f"{pictures.server.url}/predict/tiny", content=content).json()
        assert seen[0]["label"] == label


def test_the_same_seed_draws_the_same_whatever_else_is_drawn(caller: Caller) -> None:
    ten = files(ask(caller, n=10, extra_body={"seed": 5}))
    assert len(set(ten)) == 10
    assert files(ask(caller, n=3, extra_body={"seed": 5})) == ten[:3]
    assert files(ask(caller, n=3)) != ten[:3]


def test_sizes_and_formats_are_what_is_asked_for(caller: Caller) -> None:
    for kind in ("png", "webp", "jpeg"):
        answer = ask(caller, size="96x64", output_format=kind)
        assert (answer.size, answer.output_format) == ("96x64", kind)
        image = opened(files(answer)[0])
        assert (image.format, image.size) == (kind.upper(), (96, 64))


def test_everything_that_the_client_may_say_and_means_nothing_is_taken(caller: Caller) -> None:
    expected = files(ask(caller, extra_body={"seed": 4}))
    for more in (
        {"n": 1, "size": "auto", "response_format": "b64_json", "user": "someone"},
        {"quality": "auto", "background": "auto", "moderation": "auto"},
        {"quality": "standard", "style": "vivid", "background": "opaque", "moderation": "low"},
        {"output_compression": 100, "partial_images": 0, "stream": False, "safety_identifier": "someone"},
    ):
        assert files(ask(caller, extra_body={"seed": 4}, **more)) == expected, more


@pytest.mark.parametrize(
    ("asked", "name", "words"),
    [
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 11}, "n", "less than or equal to 10"),
        ({"size": "1024x1024"}, "size", "6x4, 12x8, 24x16, 48x32, 96x64"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_format": "svg"}, "output_format", "png"),
        ({"background": "transparent"}, "background", "opaque"),
        ({"quality": "hd"}, "quality", "standard"),
        ({"prompt": "soup"}, "prompt", "what can be drawn: dark, bright, left"),
        ({"prompt": ""}, "prompt", "nothing says what to draw"),
        ({"extra_body": {"seed": -1}}, "seed", "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_had_is_a_bad_request_that_names_it(
    caller: Caller, asked: dict[str, Any], name: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        ask(caller, **asked)
    assert (caught.value.status_code, caught.value.param, caught.value.type) == (400, name, "invalid_request_error")


def test_a_stream_is_refused(caller: Caller) -> None:
    with pytest.raises(openai.BadRequestError, match="stream") as caught:
        ask(caller, stream=True, partial_images=2)
    assert caught.value.status_code == 400


def test_other_statuses_reach_their_exceptions(caller: Caller) -> None:
    for model, words in (("nobody", "there is no model"), ("tiny", "draws no pictures"), ("tiny-text", "draws no")):
        with pytest.raises(openai.NotFoundError, match=words) as caught:
            ask(caller, model=model)
        assert (caught.value.status_code, caught.value.param) == (404, "model")
    with pytest.raises(openai.InternalServerError, match="deadline") as failed:
        ask(caller, extra_headers={"x-request-timeout-ms": "0.0001"})
    assert failed.value.status_code == 504


def test_models_that_draw_are_listed_beside_those_that_write(caller: Caller) -> None:
    listed = caller.models()
    assert [model.id for model in listed] == ["tiny-colours", PAINTER, "tiny-text"]
    for model in listed:
        assert caller.wait(caller.client.models.retrieve(model.id)) == model
