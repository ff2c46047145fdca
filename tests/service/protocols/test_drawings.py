"""What every dialect of pictures does: what is checked in the event loop, and what in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.errors import BadInput, Overloaded
from service.protocols.drawings import parse
from service.repository.image_model import ImageModel
from tests.image_bundles import LATENT, make_image_bundle
from tests.service.repository.serving import replica, serve

PATIENCE_S = 60


@asynccontextmanager
async def without_threads(models: Path) -> AsyncIterator[ImageModel]:
    """A model whose threads are all at something else."""
    async with asyncio.timeout(PATIENCE_S), replica() as repository:
        await serve(repository, make_image_bundle(models))
        model = repository.get("tiny-painter")
        assert isinstance(model, ImageModel)
        gate = threading.Event()
        busy = [asyncio.create_task(model.offload(gate.wait)) for _ in range(4)]  # as many as may be
        await asyncio.sleep(0)
        try:
            yield model
        finally:
            gate.set()
            await asyncio.gather(*busy)


def test_a_latent_or_a_few_are_checked_at_once(models: Path) -> None:
    async def main() -> None:
        async with without_threads(models) as model:
            for latent in ([0.5] * LATENT, [[0.5] * LATENT] * 8):
                assert (await parse(model, None, {"label": "dark", "latent": latent})).seed is None
            with pytest.raises(BadInput, match="it has 500"):
                await parse(model, None, {"label": "dark", "latent": [0.5] * 500})

    asyncio.run(main())


def test_many_latents_and_long_texts_are_checked_in_a_thread(models: Path) -> None:
    async def main() -> None:
        async with without_threads(models) as model:
            for inputs, parameters in (
                (None, {"label": "dark", "latent": [[0.5] * LATENT] * 9}),
                ("dark ".ljust(9000, "x"), {}),
            ):
                with pytest.raises(Overloaded):
                    await parse(model, inputs, parameters)

    asyncio.run(main())
