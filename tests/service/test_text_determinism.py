"""The same request gives the same text, alone and in a crowd: 500 requests of all kinds, through the whole app."""

from __future__ import annotations

import asyncio
import json
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
from tests.text_bundles import VOCABULARY, make_text_bundle

REQUESTS = 500
SHAKESPEARE = Path(__file__).parents[2] / "models" / "shakespeare" / "1"


def requests_of(characters: list[str], longest: int) -> list[dict[str, Any]]:
    """Bodies of requests that differ in everything that may be asked for; their seeds are theirs."""
    draw = random.Random(11)  # noqa: S311 - no secret
    letters = [one for one in characters if one.isalpha()]
    bodies = []
    for number in range(REQUESTS):
        parameters: dict[str, Any] = {"seed": draw.randrange(2**64), "max_new_tokens": draw.randint(1, longest)}
        for name, choices in (
            ("temperature", (0.0, 0.3, 0.8, 1.0, 1.5)),
            ("top_p", (0.5, 0.9, 0.95)),
            ("top_k", (1, 3, 10)),
            ("repetition_penalty", (0.8, 1.2)),
            ("frequency_penalty", (-0.5, 0.5)),
            ("presence_penalty", (0.7,)),
            ("best_of", (2, 3)),
        ):
            if draw.random() < 0.4:
                parameters[name] = draw.choice(choices)
        if draw.random() < 0.3:
            stops = ["".join(draw.choices(letters, k=draw.randint(1, 2))) for _ in range(draw.randint(1, 3))]
            parameters["stop"] = stops
        if draw.random() < 0.3:
            parameters |= {"details": True, "top_n_tokens": draw.randint(1, 5), "decoder_input_details": True}
        prompt = "".join(draw.choices(characters, k=draw.randint(0, 20)))
        stream = "best_of" not in parameters and number % 2 == 0
        bodies.append({"inputs": prompt, "parameters": parameters, "stream": stream})
    return bodies


async def ask(client: httpx.AsyncClient, model: str, body: dict[str, Any]) -> tuple[str, Any]:
    """The text, and everything else that must be the same whenever it is asked for."""
    response = await client.post(f"/predict/{model}", json=body, timeout=120)
    assert response.status_code == 200, response.text
    if body["stream"]:
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
        assert not any("error" in event for event in events)
        told = "".join(event["token"]["text"] for event in events)
        (text,) = (event["generated_text"] for event in events if event["generated_text"] is not None)
        assert told == text
        return text, [[event["token"], event["top_tokens"]] for event in events]
    (answer,) = response.json()
    details = answer.get("details") or {}
    return answer["generated_text"], [details.get(key) for key in ("finish_reason", "prefill", "tokens", "top_tokens")]


def check(models: Path, model: str, characters: list[str], longest: int, count: int = REQUESTS) -> None:
    bodies = requests_of(characters, longest)[:count]

    async def run() -> None:
        settings = Settings(models=models, threads=1, grpc_port=None, max_queue_s=1e6)
        async with running(create_app(settings)) as client:
            alone = [await ask(client, model, body) for body in bodies]
            together = await asyncio.gather(*(ask(client, model, body) for body in bodies))
            series = parsed((await client.get("/metrics")).text)
        others = [number for number in range(count) if alone[number][0] != together[number][0]]
        assert not others, f"{len(others)} texts differ, the first of {bodies[others[0]]}"
        assert alone == together
        assert len({text for text, _ in alone}) > count / 2, "there is not much to tell apart"
        full = f'inferd_batch_size_bucket{{le="32.0",model="{model}",version="1"}}'
        total = f'inferd_batch_size_count{{model="{model}",version="1"}}'
        assert series[total] > series[full], "they never shared their runs"

    asyncio.run(run())


def test_500_requests_get_the_same_texts_and_scores_one_by_one_and_all_at_once(models: Path) -> None:
    make_text_bundle(models)
    check(models, "tiny-text", list(VOCABULARY), longest=40)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_requests_get_the_same_texts_of_the_model_that_ships(models: Path, variant: str) -> None:
    bundle = models / "shakespeare" / "1"
    shutil.copytree(SHAKESPEARE, bundle)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "default_variant": variant}), encoding="utf-8")
    characters = json.loads((bundle / "vocab.json").read_bytes())
    # All of them of what serves; what may have to take its place is as exact by the same means.
    ships = manifest["default_variant"] == variant
    check(models, "shakespeare", characters, longest=15, count=REQUESTS if ships else 100)
