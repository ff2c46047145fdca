"""`huggingface_hub.InferenceClient.text_to_image`, of threads and of asyncio, with a model's address as its model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from PIL import Image, ImageChops

from tests.clients.serving import Served

PAINTER = "tiny-painter"


class Hub:
    """A client, called in one way whichever it is."""

    def __init__(
        self, kind: type[InferenceClient | AsyncInferenceClient], served: Served, runner: asyncio.Runner
    ) -> None:
        self.kind = kind
        self.served = served
        self.runner = runner

    def draw(
        self, prompt: str = "a dark night", *, model: str = PAINTER, headers: dict[str, str] | None = None, **more: Any
    ) -> Image.Image:
        """What `text_to_image` gives."""

        async def awaited() -> Image.Image:
            async with client:
                return await client.text_to_image(prompt, **more)

        client = self.kind(model=f"{self.served.server.url}/predict/{model}", headers=headers, timeout=60)
        is_async = isinstance(client, AsyncInferenceClient)
        image: Image.Image = self.runner.run(awaited()) if is_async else client.text_to_image(prompt, **more)
        image.load()
        return image


@pytest.fixture(scope="session", params=[InferenceClient, AsyncInferenceClient], ids=["sync", "async"])
def hub(request: pytest.FixtureRequest, pictures: Served, runner: asyncio.Runner) -> Iterator[Hub]:
    return Hub(request.param, pictures, runner)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def test_a_picture_is_drawn(hub: Hub) -> None:
    image = hub.draw()
    assert (image.format, image.size, image.mode) == ("PNG", (6, 4), "L")
    assert hub.draw(model="tiny-colours").mode == "RGB"


@pytest.mark.parametrize("label", ["dark", "bright", "left"])
def test_what_is_drawn_is_seen_by_a_model_that_knows_it(hub: Hub, label: str) -> None:
    for seed in range(5):
        content = BytesIO()
        hub.draw(f"what is {label}", seed=seed).save(content, "PNG")
        # By another client: Hugging Face's of asyncio sends pictures in a way that its own library deprecates.
        seen = httpx.post(f"{hub.served.server.url}/predict/tiny", content=content.getvalue()).json()
        assert seen[0]["label"] == label


def test_the_same_seed_draws_the_same(hub: Hub) -> None:
    assert same(hub.draw(seed=3), hub.draw(seed=3))
    assert not same(hub.draw(seed=3), hub.draw(seed=4))
    assert not same(hub.draw(), hub.draw()), "without a seed each is another"


def test_a_picture_is_as_large_as_is_asked_for(hub: Hub) -> None:
    large = hub.draw(seed=3, width=24, height=16)
    assert large.size == (24, 16)
    assert same(large.resize((6, 4), Image.Resampling.NEAREST), hub.draw(seed=3))


def test_more_than_the_client_knows_may_be_said(hub: Hub) -> None:
    grid = hub.draw(seed=3, extra_body={"num_images": 6, "grid": 3})
    assert grid.size == (18, 8)
    assert same(grid.crop((0, 0, 6, 4)), hub.draw(seed=3))
    assert hub.draw(extra_body={"format": "webp"}).format == "WEBP"
    assert same(hub.draw("", seed=3, extra_body={"label": "dark"}), hub.draw("dark", seed=3))
    assert not same(hub.draw(seed=3, extra_body={"truncation": 0.1}), hub.draw(seed=3))
    assert hub.draw("soup", extra_body={"strict": False}).size == (6, 4)
    # The client itself says image/png, beside whatever else is said in a header.
    assert hub.draw(extra_body={"format": "jpeg"}).format == "JPEG"


def test_what_cannot_be_had_is_a_bad_request_that_names_it(hub: Hub) -> None:
    for asked, words in (
        ({"prompt": "soup"}, "what can be drawn: dark, bright, left"),
        ({"width": 1024, "height": 1024}, "6x4, 12x8, 24x16, 48x32, 96x64"),
        ({"negative_prompt": "bright"}, "negative_prompt"),
        ({"num_inference_steps": 20}, "num_inference_steps"),
        ({"guidance_scale": 7.5}, "guidance_scale"),
        ({"scheduler": "any"}, "scheduler"),
        ({"seed": -1}, "seed"),
        ({"extra_body": {"num_images": 4}}, "ask for a grid"),
        ({"extra_body": {"latent": [0.0] * 7}}, "8 numbers from -10 to 10"),
    ):
        with pytest.raises(BadRequestError, match=words):
            hub.draw(**asked)
    with pytest.raises(HfHubHTTPError, match="there is no model 'nobody'") as caught:
        hub.draw(model="nobody")
    assert caught.value.response.status_code == 404
