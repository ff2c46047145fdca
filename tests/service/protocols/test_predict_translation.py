"""The task dialect of translation, as Hugging Face's client asks and reads it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import Serve, loaded
from tests.service.protocols.texts import PATIENCE_S, visiting
from tests.service.requests import gained, metrics
from tests.translation_bundles import WILD, Reference, decode, encode, make_translation_bundle, translated

URL = "/predict/tiny-en-de"
SENTENCE = "Hello, world! the cat sees the dog."


def ask(client: TestClient, inputs: object = SENTENCE, **parameters: Any) -> Any:
    return client.post(URL, json={"inputs": inputs, "parameters": parameters})


def text_of(client: TestClient, inputs: object = SENTENCE, **parameters: Any) -> str:
    answer = ask(client, inputs, **parameters)
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()
    assert one.keys() == {"translation_text"}
    return str(one["translation_text"])


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    return str(answer.json()["error"])


# Translations


def test_a_text_is_translated_and_headers_say_who_did_it_in_what_time(translator: TestClient) -> None:
    answer = ask(translator)
    assert answer.json() == [{"translation_text": "Hallo, Welt! die Katze sieht die Hund."}]
    assert (answer.headers["x-inferd-model"], answer.headers["x-inferd-version"]) == ("tiny-en-de", "2")
    assert float(answer.headers["x-queue-ms"]) >= 0
    assert float(answer.headers["x-compute-ms"]) > 0
    assert int(answer.headers["x-batch-size"]) >= 1


def test_several_texts_are_answered_in_their_order(translator: TestClient) -> None:
    inputs = ["the cat", "", "we go home.\n\nYes!", "  ", "😀"]
    answer = ask(translator, inputs)
    expected = ["die Katze", "", "wir gehen heim.\n\nJa!", "  ", "😀"]
    assert [one["translation_text"] for one in answer.json()] == expected
    assert ask(translator, []).json() == []


def test_a_version_can_be_named(translator: TestClient) -> None:
    body = {"inputs": SENTENCE, "parameters": {"num_beams": 1}}
    one, two = (translator.post(f"{URL}/versions/{version}", json=body).json() for version in (1, 2))
    assert one != two
    assert two == ask(translator).json()


@pytest.mark.parametrize("body", [{}, {"parameters": None}, {"parameters": {}, "stream": False}, {"stream": None}])
def test_nothing_needs_to_be_said_but_the_text(translator: TestClient, body: dict[str, Any]) -> None:
    answer = translator.post(URL, json={"inputs": "the cat", **body})
    assert answer.json() == [{"translation_text": "die Katze"}]


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/octet-stream"])
def test_a_text_may_come_as_it_is_with_its_parameters_in_the_query(translator: TestClient, kind: str) -> None:
    answer = translator.post(
        f"{URL}?num_beams=4&num_return_sequences=2&return_alignment=true",
        content="the red cat, café".encode(),
        headers={"content-type": kind},
    )
    (one,) = answer.json()
    assert one["translation_text"] == "die rotes Katze, café"
    assert len(one["alternatives"]) == 1
    assert len(one["alignment"]) == 1


def test_a_form_may_hold_the_text(translator: TestClient) -> None:
    answer = translator.post(URL, files={"file": ("a.txt", b"the cat\nthe dog\n")})
    assert answer.json() == [{"translation_text": "die Katze\ndie Hund\n"}]


def test_what_hugging_face_sends_is_taken(translator: TestClient) -> None:
    said = {
        "src_lang": "en_XX",
        "tgt_lang": "de_DE",
        "clean_up_tokenization_spaces": True,
        "truncation": "do_not_truncate",
        "generate_parameters": {"num_beams": 2, "max_length": 3},
    }
    assert text_of(translator, "the cat sees the dog", **said) == "die Katze sieht"


def test_a_translation_is_cut_off_where_it_is_said(translator: TestClient) -> None:
    assert text_of(translator, "the cat sees.\nthe dog sees", max_new_tokens=2) == "die Katze\ndie Hund"


def test_one_beam_takes_the_likeliest_token_after_token(translator: TestClient) -> None:
    for text in ("the cat sees", "Yes", "we go home now"):
        body = {"inputs": text, "parameters": {"num_beams": 1}}
        (one,) = translator.post(f"{URL}/versions/1", json=body).json()
        tokens = encode(text)
        likeliest = Reference(tokens, WILD).likeliest(2 * (len(tokens) - 1) + 10)
        assert one["translation_text"] == decode(likeliest)


def test_alternatives_come_after_the_best(translator: TestClient) -> None:
    (one,) = ask(translator, num_return_sequences=4).json()
    assert one.keys() == {"translation_text", "alternatives"}
    assert one["translation_text"] == text_of(translator)
    assert len({one["translation_text"], *one["alternatives"]}) == 4


def test_an_alignment_says_where_the_model_looked(translator: TestClient) -> None:
    (one,) = ask(translator, "Yes.\nthe cat", return_alignment=True).json()
    assert one.keys() == {"translation_text", "alignment"}
    first, second = one["alignment"]
    assert first["weights"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert second["source"] == [
        {"text": "the", "start": 5, "end": 8},
        {"text": " cat", "start": 8, "end": 12},
        {"text": "", "start": 12, "end": 12},
    ]
    assert second["target"] == [
        {"text": "die", "start": 4, "end": 7},
        {"text": " Katze", "start": 7, "end": 13},
        {"text": "", "start": 13, "end": 13},
    ]


def test_weights_of_an_alignment_add_up_to_one(translator: TestClient) -> None:
    body = {"inputs": "the red cat sees 😀 the dog now", "parameters": {"return_alignment": True}}
    (one,) = translator.post(f"{URL}/versions/1", json=body).json()
    (sentence,) = one["alignment"]
    assert "".join(piece["text"] for piece in sentence["source"]) == body["inputs"]
    assert "".join(piece["text"] for piece in sentence["target"]) == one["translation_text"]
    assert len(sentence["weights"]) == len(sentence["target"])
    for row in sentence["weights"]:
        assert len(row) == len(sentence["source"])
        assert sum(row) == pytest.approx(1, abs=0.01)


def test_a_sentence_is_translated_as_it_is_alone(translator: TestClient) -> None:
    path = f"{URL}/versions/1"
    sentences = [
        f"{first} {second} {last}."
        for first in ("the cat", "we", "hello")
        for second in ("sees", "go")
        for last in ("home", "x y z", "now")
    ]
    alone = [translator.post(path, json={"inputs": one}).json()[0]["translation_text"] for one in sentences]
    together = [one["translation_text"] for one in translator.post(path, json={"inputs": sentences}).json()]
    joined = translator.post(path, json={"inputs": "\n".join(sentences)}).json()[0]["translation_text"]
    assert together == alone
    assert joined == "\n".join(alone)


def test_a_long_text_is_translated_in_full(translator: TestClient) -> None:
    text = ("the cat sees the dog and we go home. " * 20 + "\n\n") * 13
    assert 9000 < len(text) < 10_000
    expected = (f"{translated('the cat sees the dog and we go home.')} " * 20 + "\n\n") * 13
    assert text_of(translator, text) == expected


# Errors


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"src_lang": "fr"}, "src_lang may be 'en' alone, not 'fr'"),
        ({"num_beams": 9}, "num_beams may be at most 8, not 9"),
        ({"num_beams": 0}, "parameter 'num_beams'"),
        ({"num_return_sequences": 9}, "num_return_sequences may be at most 8, not 9"),
        ({"temperature": 1}, "parameter 'temperature'"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_its_name(
    translator: TestClient, parameters: dict[str, Any], words: str
) -> None:
    assert words in refused(ask(translator, **parameters), 400)


@pytest.mark.parametrize("inputs", [None, 3, {"q": "Hello"}, ["Hello", 3]])
def test_what_is_no_text_is_refused(translator: TestClient, inputs: object) -> None:
    assert "a text or a list of texts" in refused(ask(translator, inputs), 400)


def test_a_stream_is_refused_with_the_reason(translator: TestClient) -> None:
    answer = translator.post(URL, json={"inputs": "Hello", "stream": True})
    assert "a translation comes as a whole" in refused(answer, 400)


def test_too_much_is_too_large_and_names_the_limit(translator: TestClient) -> None:
    assert text_of(translator, "x" * 100 + " " * 9900).startswith("x")
    assert "10000 characters (INFERD_MAX_TEXT_CHARACTERS)" in refused(ask(translator, "x" * 10_001), 413)
    assert "at most 128 texts" in refused(ask(translator, ["x"] * 129), 413)
    assert "at most 1024 sentences" in refused(ask(translator, ["So. " * 300] * 4), 413)


def test_a_picture_is_no_text(translator: TestClient) -> None:
    answer = translator.post(URL, content=b"\x89PNG", headers={"content-type": "image/png"})
    assert "allowed: text/plain" in refused(answer, 415)
    assert "no UTF-8" in refused(translator.post(URL, content=b"\x89PNG", headers={"content-type": "text/plain"}), 400)


def test_the_setting_says_how_long_a_text_may_be(models: Path, serve: Serve) -> None:
    make_translation_bundle(models)
    client = serve(models=models, max_text_characters=20)
    assert text_of(client, "the cat, the dog") == "die Katze, die Hund"
    assert "20 characters" in refused(ask(client), 413)
    assert client.get(URL).json()["input"]["max_text_characters"] == 20


def test_a_deadline_that_can_not_be_met_is_told(models: Path, serve: Serve) -> None:
    make_translation_bundle(models, idle_steps=100)
    client = serve(models=models)
    for text in ("the cat sees the dog", "So. " * 100):
        answer = client.post(URL, json={"inputs": text}, headers={"x-request-timeout-ms": "1"})
        assert "deadline" in refused(answer, 504)


def test_who_goes_away_leaves_nothing_behind(models: Path) -> None:
    make_translation_bundle(models, idle_steps=400)

    async def main() -> None:
        app = create_app(Settings(models=models, threads=1, grpc_port=None))
        async with asyncio.timeout(PATIENCE_S), app.router.lifespan_context(app):
            await loaded(app)
            model = app.state.repository.get("tiny-en-de")
            async with visiting(app, URL, {"inputs": "So. " * 200}) as visit:
                while not model.queued_rows() and not model._stepper.statistics().live:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
            assert visit.status in (None, 499)
            while model.queued_rows() or model._stepper.statistics().live:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    asyncio.run(main())


# Descriptions and metrics


def test_the_model_describes_itself(translator: TestClient) -> None:
    described = translator.get(URL).json()
    assert (described["task"], described["version"], described["versions"]) == ("translation", 2, [1, 2])
    assert (described["source"], described["target"]) == ("en", "de")
    assert described["search"]["most_beams"] == 8
    assert described["input"]["max_text_characters"] == 10_000


def test_translations_and_failures_are_counted(models: Path, serve: Serve) -> None:
    make_translation_bundle(models)
    client = serve(models=models)
    labels = {"model": "tiny-en-de", "version": "1"}
    before = metrics(client)
    text_of(client)
    text_of(client, "")
    refused(ask(client, num_beams=9), 400)
    after = metrics(client)
    assert gained(before, after, "inferd_request_duration_seconds_count", **labels) == 3
    assert gained(before, after, "inferd_request_failures_total", reason="invalid", **labels) == 1
    assert gained(before, after, "inferd_generated_tokens_total", **labels) > 0
    assert gained(before, after, "inferd_requests_total", protocol="predict", code="200") == 2
