"""OpenAI's two clients, called in one way whichever it is."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Final

import openai

from tests.clients.serving import Served

TINY: Final = "tiny-text"
SLOW: Final = "slow-text"
"""Takes about 14 ms a token."""


class Caller:
    """A client that never tries again.

    Args:
        kind: of OpenAI's client.
        served: what it calls.
        runner: where the client of asyncio runs.
    """

    def __init__(self, kind: type[openai.OpenAI | openai.AsyncOpenAI], served: Served, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.client = kind(base_url=f"{served.server.url}/v1", api_key="none", max_retries=0, timeout=60)

    def complete(self, prompt: object = "hello", *, model: str = TINY, **parameters: Any) -> Any:
        """A completion, as a whole."""
        return self.wait(self.client.completions.create(model=model, prompt=prompt, **parameters))

    def stream(self, prompt: object = "hello", *, model: str = TINY, **parameters: Any) -> list[Any]:
        """All chunks of a completion that comes in such."""

        async def gather() -> list[Any]:
            async with await created as chunks:
                return [chunk async for chunk in chunks]

        created = self.client.completions.create(model=model, prompt=prompt, stream=True, **parameters)
        return self.runner.run(gather()) if inspect.isawaitable(created) else list(created)

    def models(self) -> list[Any]:
        """The list of models."""

        async def gather() -> list[Any]:
            return [model async for model in listed]

        listed: Any = self.client.models.list()
        return self.runner.run(gather()) if hasattr(listed, "__aiter__") else list(listed)

    def wait(self, result: Any) -> Any:
        """What a call of the client gives; one of asyncio's is run to its end."""

        async def awaited() -> Any:
            return await result

        return self.runner.run(awaited()) if inspect.isawaitable(result) else result

    def close(self) -> None:
        """End the connections."""
        self.wait(self.client.close())
