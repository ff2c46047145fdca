"""`huggingface_hub.InferenceClient.translation`, of threads and of asyncio, with a model's address as its model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from tests.clients.serving import Served

TINY = "tiny-en-de"


class Hub:
    """A client, called in one way whichever it is."""

    def __init__(
        self, kind: type[InferenceClient | AsyncInferenceClient], served: Served, runner: asyncio.Runner
    ) -> None:
        self.kind = kind
        self.served = served
        self.runner = runner

    def ask(self, text: str, *, model: str = TINY, headers: dict[str, str] | None = None, **more: Any) -> Any:
        """What `translation` gives."""

        async def awaited() -> Any:
            async with client:
                return await client.translation(text, **more)

        client = self.kind(model=f"{self.served.server.url}/predict/{model}", headers=headers, timeout=60)
        if isinstance(client, AsyncInferenceClient):
            return self.runner.run(awaited())
        return client.translation(text, **more)


@pytest.fixture(scope="session", params=[InferenceClient, AsyncInferenceClient], ids=["sync", "async"])
def hub(request: pytest.FixtureRequest, translations: Served, runner: asyncio.Runner) -> Iterator[Hub]:
    return Hub(request.param, translations, runner)


def test_a_text_is_translated(hub: Hub) -> None:
    assert hub.ask("Hello, world!").translation_text == "Hallo, Welt!"
    assert hub.ask("die Katze", model="tiny-de-en").translation_text == "the cat"


@pytest.mark.parametrize(
    "text", ["", "  \n", "😀", "שלום 123", "  the cat.\n\n\tHello!\r\n", "see https://example.org/the"]
)
def test_what_is_no_sentence_stays_as_it_was(hub: Hub, text: str) -> None:
    expected = text.replace("the cat", "die Katze").replace("Hello", "Hallo")
    assert hub.ask(text).translation_text == expected


def test_everything_that_the_client_may_say_is_taken(hub: Hub) -> None:
    text = "the cat sees the dog"
    for more in (
        {"src_lang": "en", "tgt_lang": "de"},
        {"src_lang": "en_XX", "tgt_lang": "de_DE"},
        {"clean_up_tokenization_spaces": True},
        {"truncation": "only_first"},
        {"generate_parameters": {"num_beams": 4, "length_penalty": 0.5, "max_length": 50, "do_sample": False}},
    ):
        assert hub.ask(text, **more).translation_text == "die Katze sieht die Hund", more
    assert hub.ask(text, generate_parameters={"max_new_tokens": 2}).translation_text == "die Katze"


def test_more_than_the_client_knows_comes_with_its_answer(hub: Hub) -> None:
    answer = hub.ask("the cat", generate_parameters={"num_return_sequences": 3, "return_alignment": True})
    assert answer.translation_text == "die Katze"
    assert len(answer.alternatives) == 2
    assert [piece["text"] for piece in answer.alignment[0]["target"]] == ["die", " Katze", ""]


def test_what_cannot_be_had_is_a_bad_request_that_names_it(hub: Hub) -> None:
    for more, words in (
        ({"src_lang": "fr", "tgt_lang": "de"}, "src_lang may be 'en' alone, not 'fr'"),
        ({"generate_parameters": {"num_beams": 99}}, "num_beams may be at most 8"),
        ({"generate_parameters": {"temperature": 1}}, "temperature"),
    ):
        with pytest.raises(BadRequestError, match=words):
            hub.ask("Hello", **more)
    with pytest.raises(HfHubHTTPError, match="INFERD_MAX_TEXT_CHARACTERS") as caught:
        hub.ask("x" * 2001)
    assert caught.value.response.status_code == 413
