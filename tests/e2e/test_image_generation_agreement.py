"""The shipped generator draws over HTTP, and the shipped classifier says over HTTP what it sees."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.e2e.server import ROOT, Server

CLIENTS = 16
BUNDLES = sorted((ROOT / "models" / "fashion-gan").glob("[0-9]*"), key=lambda path: int(path.name))


@pytest.mark.slow
def test_what_is_drawn_is_classified_as_its_prompt_says_as_often_as_the_manifest_claims(server: Server) -> None:
    manifest = json.loads((BUNDLES[-1] / "manifest.json").read_bytes())
    labels = json.loads((BUNDLES[-1] / "labels.json").read_bytes())
    asked = manifest["provenance"]["config"]["export"]
    (claim,) = (
        figure
        for figure in manifest["quality"]
        if (figure["metric"], figure["split"]) == ("label_agreement_shipped_classifier", "seeds 0-999")
    )

    async def agreeing(client: httpx.AsyncClient, seeds: range) -> int:
        found = 0
        for seed in seeds:
            label = labels[seed % len(labels)]
            prompt = asked["caption"].replace("{label}", label)
            drawn = await client.post(
                "/predict/fashion-gan",
                json={"inputs": prompt, "parameters": {"seed": seed}},
                headers={"accept": "image/png"},
            )
            assert drawn.status_code == 200, drawn.text
            assert (drawn.headers["content-type"], drawn.headers["x-inferd-seed"]) == ("image/png", str(seed))
            answer = await client.post(
                f"/predict/{asked['classifier']}?top_k=1", content=drawn.content, headers={"content-type": "image/png"}
            )
            assert answer.status_code == 200, answer.text
            found += answer.json()[0]["label"] == label
        return found

    async def run() -> int:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            shares = [range(first, claim["n"], CLIENTS) for first in range(CLIENTS)]
            return sum(await asyncio.gather(*(agreeing(client, share) for share in shares)))

    assert claim["n"] == 1000
    assert asyncio.run(run()) / claim["n"] == pytest.approx(claim["value"], abs=0.003)
