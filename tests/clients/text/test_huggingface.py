"""`huggingface_hub.InferenceClient`, of threads and of asyncio, with a model's address as its model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, TextGenerationError

from tests.clients.serving import Served
from tests.clients.text.callers import SLOW, TINY


class Hub:
    """A client, called in one way whichever it is."""

    def __init__(
        self, kind: type[InferenceClient | AsyncInferenceClient], served: Served, runner: asyncio.Runner
    ) -> None:
        self.kind = kind
        self.served = served
        self.runner = runner

    def ask(
        self, prompt: str = "hello", *, model: str = TINY, headers: dict[str, str] | None = None, **more: Any
    ) -> Any:
        """What `text_generation` gives; a stream as a list."""

        async def awaited() -> Any:
            async with client:
                answer = await client.text_generation(prompt, **more)
                return [one async for one in answer] if more.get("stream") else answer

        client = self.kind(model=f"{self.served.server.url}/predict/{model}", headers=headers, timeout=60)
        if isinstance(client, AsyncInferenceClient):
            return self.runner.run(awaited())
        answer = client.text_generation(prompt, **more)
        return list(answer) if more.get("stream") else answer


@pytest.fixture(scope="session", params=[InferenceClient, AsyncInferenceClient], ids=["sync", "async"])
def hub(request: pytest.FixtureRequest, texts: Served, runner: asyncio.Runner) -> Iterator[Hub]:
    return Hub(request.param, texts, runner)


def test_a_text_comes_alone(hub: Hub) -> None:
    text = hub.ask(seed=1, max_new_tokens=20)
    assert isinstance(text, str)
    assert len(text) == 20
    assert hub.ask(seed=1, max_new_tokens=20, return_full_text=True) == "hello" + text
    assert hub.ask(max_new_tokens=20) != hub.ask(max_new_tokens=20), "without a seed each is another"
    assert len(hub.ask()) == 100


def test_a_stream_is_its_texts(hub: Hub) -> None:
    texts = hub.ask(seed=1, max_new_tokens=20, stream=True)
    assert len(texts) == 20
    assert "".join(texts) == hub.ask(seed=1, max_new_tokens=20)


def test_details_say_what_was_read_and_written(hub: Hub) -> None:
    asked = {"seed": 1, "max_new_tokens": 20, "details": True, "decoder_input_details": True, "top_n_tokens": 3}
    answer = hub.ask(**asked)
    details = answer.details
    assert (details.finish_reason, details.generated_tokens, details.seed) == ("length", 20, 1)
    assert "".join(token.text for token in details.tokens) == answer.generated_text
    assert [token.text for token in details.prefill] == list("hello")
    assert details.prefill[0].logprob is None
    assert all(token.logprob < 0 for token in [*details.prefill[1:], *details.tokens])
    assert [len(top) for top in details.top_tokens] == [3] * 20


def test_a_stream_with_details_ends_with_the_whole_text(hub: Hub) -> None:
    whole = hub.ask(seed=1, max_new_tokens=20, details=True)
    *events, last = hub.ask(seed=1, max_new_tokens=20, details=True, stream=True)
    assert all(event.generated_text is None and event.details is None for event in events)
    assert last.generated_text == whole.generated_text
    assert (last.details.finish_reason, last.details.generated_tokens, last.details.seed) == ("length", 20, 1)
    told = [(event.token.id, event.token.text, event.token.logprob) for event in [*events, last]]
    assert told == [(token.id, token.text, token.logprob) for token in whole.details.tokens]


def test_a_stop_string_ends_the_text(hub: Hub) -> None:
    text = hub.ask(seed=1, max_new_tokens=40)
    stop = text[10:12]
    for more in ({}, {"stream": True}):
        answer = hub.ask(seed=1, max_new_tokens=40, stop=[stop], details=True, **more)
        if isinstance(answer, list):
            assert "".join(event.token.text for event in answer) == answer[-1].generated_text
            answer = answer[-1]
        assert answer.generated_text == text[: text.index(stop)]
        assert answer.details.finish_reason == "stop_sequence"
        assert answer.details.generated_tokens == text.index(stop) + 2


def test_everything_else_that_the_client_may_say_is_taken(hub: Hub) -> None:
    plain = hub.ask(seed=1)
    for parameters in (
        {"do_sample": False},
        {"temperature": 0.3},
        {"top_k": 2},
        {"top_p": 0.2},
        {"repetition_penalty": 1.5},
        {"frequency_penalty": 1.5},
        {"best_of": 8},
        {"truncate": 2},
    ):
        assert hub.ask(seed=1, **parameters) != plain, parameters
    assert hub.ask(seed=1, truncate=2) == hub.ask("lo", seed=1)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_cannot_be_had_is_a_bad_request_that_names_it(hub: Hub, stream: bool) -> None:
    for parameters, words in (
        ({"max_new_tokens": 5000}, "INFERD_MAX_NEW_TOKENS"),
        ({"temperature": -1}, "temperature"),
        ({"watermark": True}, "watermark"),
        ({"prompt": "żółć"}, "U\\+017C"),
    ):
        with pytest.raises(BadRequestError, match=words):
            hub.ask(stream=stream, **parameters)
    with pytest.raises(HfHubHTTPError, match="there is no model 'nobody'") as caught:
        hub.ask(model="nobody", stream=stream)
    assert caught.value.response.status_code == 404


def test_a_deadline_in_mid_stream_is_an_error_of_the_stream(hub: Hub) -> None:
    with pytest.raises(TextGenerationError, match="deadline"):
        hub.ask(model=SLOW, headers={"x-request-timeout-ms": "700"}, max_new_tokens=4000, stream=True)
