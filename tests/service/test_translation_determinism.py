"""The same sentence gets the same translation, alone and among 63 others, through the whole app."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import running
from tests.service.requests import parsed
from tests.translation_bundles import WILD, make_translation_bundle

ROOT = Path(__file__).parents[2]
SENTENCES = (ROOT / "loadtests" / "sentences.txt").read_text(encoding="utf-8").splitlines()
REQUESTS = 64


def requests_of(sentences: list[str]) -> list[dict[str, Any]]:
    """Bodies of requests, of a sentence each, that differ in everything that may be asked for."""
    draw = random.Random(7)  # noqa: S311 - no secret
    bodies = []
    for number in range(REQUESTS):
        sentence = sentences[number] if number < len(sentences) else " and ".join(draw.sample(sentences, 2))
        parameters: dict[str, Any] = {"return_alignment": number % 3 == 0}
        if draw.random() < 0.5:
            parameters["num_beams"] = draw.randint(1, 8)
            parameters["num_return_sequences"] = draw.randint(1, parameters["num_beams"])
        if draw.random() < 0.3:
            parameters["length_penalty"] = draw.choice((0.0, 0.6, 2.0))
        bodies.append({"inputs": sentence, "parameters": parameters})
    return bodies


async def ask(client: httpx.AsyncClient, model: str, body: dict[str, Any]) -> Any:
    response = await client.post(f"/predict/{model}", json=body, timeout=120)
    assert response.status_code == 200, response.text
    return response.json()


def check(models: Path, model: str, sentences: list[str]) -> None:
    bodies = requests_of(sentences)

    async def run() -> None:
        settings = Settings(models=models, threads=1, grpc_port=None, max_queue_s=1e6)
        async with running(create_app(settings)) as client:
            alone = [await ask(client, model, body) for body in bodies]
            together = await asyncio.gather(*(ask(client, model, body) for body in bodies))
            series = parsed((await client.get("/metrics")).text)
        others = [number for number in range(REQUESTS) if alone[number] != together[number]]
        assert not others, f"{len(others)} translations differ, the first of {bodies[others[0]]}"
        assert len({one[0]["translation_text"] for one in alone}) > REQUESTS / 2, "there is not much to tell apart"
        full = f'inferd_batch_size_bucket{{le="32.0",model="{model}",version="1"}}'
        total = f'inferd_batch_size_count{{model="{model}",version="1"}}'
        assert series[total] > series[full], "they never shared their runs"

    asyncio.run(run())


def test_a_sentence_gets_the_same_translation_alone_and_among_63_others(models: Path) -> None:
    make_translation_bundle(models, character=WILD)
    check(models, "tiny-en-de", SENTENCES)


@pytest.mark.slow
def test_a_sentence_gets_the_same_translation_of_the_model_that_ships(models: Path) -> None:
    shutil.copytree(ROOT / "models" / "en-de" / "1", models / "en-de" / "1")
    check(models, "en-de", SENTENCES)
