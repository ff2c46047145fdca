from __future__ import annotations

import asyncio
import gzip
import json
import os
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.pictures import png
from tests.e2e.server import ROOT, Server

CLIENTS = 32
FOLDER = Path(os.environ.get("INFERD_DATA_DIR", "/nonexistent")) / "fashion_mnist"


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="INFERD_DATA_DIR has no fashion_mnist/")
def test_the_whole_test_part_over_http_has_the_accuracy_that_the_manifest_claims(server: Server) -> None:
    pixels = np.frombuffer(gzip.decompress((FOLDER / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    truth = np.frombuffer(gzip.decompress((FOLDER / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    images = pixels.reshape(-1, 28, 28)
    bundle = ROOT / "models" / "fashion-classifier" / "1"
    labels = json.loads((bundle / "labels.json").read_bytes())
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    claimed = next(
        figure["value"]
        for figure in manifest["quality"]
        if (figure["metric"], figure["split"], figure["variant"]) == ("accuracy", "test", manifest["default_variant"])
    )

    async def classify(client: httpx.AsyncClient, numbers: range) -> int:
        right = 0
        for number in numbers:
            content = png(Image.fromarray(images[number]))
            response = await client.post(
                "/predict/fashion-classifier?top_k=1", content=content, headers={"content-type": "image/png"}
            )
            assert response.status_code == 200, response.text
            right += response.json()[0]["label"] == labels[truth[number]]
        return right

    async def run() -> int:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            shares = [range(first, len(images), CLIENTS) for first in range(CLIENTS)]
            return sum(await asyncio.gather(*(classify(client, share) for share in shares)))

    assert len(images) == 10_000
    assert asyncio.run(run()) / len(images) == pytest.approx(claimed, abs=0.001)
