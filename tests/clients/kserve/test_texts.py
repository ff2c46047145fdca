from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.clients.kserve.callers import CALLERS, Caller
from tests.clients.serving import Served


@pytest.fixture(scope="module", params=CALLERS, ids=lambda kind: kind.__name__.lower())
def writer(request: pytest.FixtureRequest, texts: Served, runner: asyncio.Runner) -> Iterator[Caller]:
    """One of KServe's clients, of the server whose models continue texts."""
    writer: Caller = request.param(texts, runner)
    yield writer
    writer.close()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "plain"])
def test_texts_are_continued_as_the_parameters_say(writer: Caller, binary: bool) -> None:
    def texts_of(**parameters: Any) -> list[str]:
        prompts = {"text_input": np.array(["hello", "a ß, é."], object)}
        (output,) = writer.ask("tiny-text", prompts, binary=binary, parameters=parameters).outputs
        assert output.name == "text_output"
        return [text.decode() if isinstance(text, bytes) else text for text in output.as_numpy().tolist()]

    # KServe's gRPC client has no fractions among its parameters; as a text such a number may come in every dialect.
    texts = texts_of(seed=5, max_tokens=15, temperature="0.8")
    assert [len(text) for text in texts] == [15, 15]
    assert texts_of(seed=5, max_tokens=15, temperature="0.8") == texts
    assert texts_of(seed=6, max_tokens=15, temperature="0.8") != texts
