"""LibreTranslate's dialect; what its own tests ask for is asked here too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.protocols.requests import TEXTS
from tests.bundles import flip_a_byte
from tests.conftest import Serve
from tests.service.requests import gained, metrics
from tests.translation_bundles import make_translation_bundle

EN_DE = {"source": "en", "target": "de"}


def translate(client: TestClient, q: object = "the cat sees the dog.", **fields: Any) -> Any:
    """The answer to JSON."""
    answer = client.post("/translate", json={"q": q, **EN_DE, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    return str(answer.json()["error"])


def refusal(client: TestClient, status: int = 400, **fields: Any) -> str:
    """The message, which is the same for JSON and for a form where a form can say it."""
    asked = {"q": "the cat", **EN_DE, **fields}
    asked = {name: value for name, value in asked.items() if value is not None}
    message = refused(client.post("/translate", json=asked), status)
    if all(isinstance(value, str) for value in asked.values()):
        assert refused(client.post("/translate", data=asked), status) == message
    return message


# Translating


def test_a_text_is_translated(translator: TestClient) -> None:
    answer = translator.post("/translate", json={"q": "the cat", **EN_DE})
    assert answer.json() == {"translatedText": "die Katze"}
    assert (answer.headers["x-inferd-model"], answer.headers["x-inferd-version"]) == ("tiny-en-de", "2")
    assert float(answer.headers["x-compute-ms"]) > 0


def test_the_languages_say_which_model_translates(translator: TestClient) -> None:
    assert translate(translator, "die Katze", source="de", target="en") == {"translatedText": "the cat"}
    answer = translator.post("/translate", json={"q": "the cat", "source": "en", "target": "fr"})
    assert answer.headers["x-inferd-model"] == "tiny-en-fr"


def test_several_texts_are_answered_as_several(translator: TestClient) -> None:
    assert translate(translator, ["the cat", "", "Hello.\nYes!"]) == {
        "translatedText": ["die Katze", "", "Hallo.\nJa!"]
    }
    assert translate(translator, ["the cat"]) == {"translatedText": ["die Katze"]}


@pytest.mark.parametrize("form", ["urlencoded", "multipart", "query"])
def test_a_form_may_ask_too(translator: TestClient, form: str) -> None:
    fields = {"q": "the café:\n the dog", **EN_DE, "format": "text", "api_key": "none", "alternatives": "1"}
    if form == "urlencoded":
        answer = translator.post("/translate", data=fields)
    elif form == "multipart":
        answer = translator.post("/translate", files={name: (None, value) for name, value in fields.items()})
    else:
        answer = translator.post("/translate", params=fields)
    assert answer.json()["translatedText"] == "die café:\n die Hund"
    assert len(answer.json()["alternatives"]) == 1


def test_of_a_field_that_comes_twice_the_first_counts(translator: TestClient) -> None:
    answer = translator.post("/translate", data={"q": ["the cat", "the dog"], **EN_DE})
    assert answer.json() == {"translatedText": "die Katze"}


@pytest.mark.parametrize("text", ["😀", " ", "\n", "123", "...", "😀\n\n!"])
def test_what_can_not_be_translated_comes_back(translator: TestClient, text: str) -> None:
    assert translate(translator, text) == {"translatedText": text}
    assert translate(translator, [text, text]) == {"translatedText": [text, text]}


def test_white_space_and_lines_are_kept(translator: TestClient) -> None:
    text = "  the cat.\r\n\r\n\tthe dog  \n"
    assert translate(translator, text) == {"translatedText": "  die Katze.\r\n\r\n\tdie Hund  \n"}


def test_a_text_that_is_in_the_language_comes_back(translator: TestClient) -> None:
    for language in ("en", "de", "fr"):
        fields = {"source": language, "target": language}
        assert translate(translator, "the cat", **fields) == {"translatedText": "the cat"}
        assert translate(translator, ["the cat"], **fields, alternatives=2) == {
            "translatedText": ["the cat"],
            "alternatives": [[]],
        }


def test_alternatives_are_others_than_the_best(translator: TestClient) -> None:
    answer = translate(translator, alternatives=3)
    assert answer.keys() == {"translatedText", "alternatives"}
    assert answer["translatedText"] == "die Katze sieht die Hund."
    assert len({answer["translatedText"], *answer["alternatives"]}) == 4
    several = translate(translator, ["the cat sees the dog.", "😀"], alternatives="3")
    assert several["alternatives"] == [answer["alternatives"], []]
    for none in (0, "0", -1, None, ""):
        assert translate(translator, alternatives=none).keys() == {"translatedText"}


def test_of_html_the_tags_stay(translator: TestClient) -> None:
    document = '<p title="the cat">the <b>dog</b> &amp; the house<br>&nbsp;<code>the cat</code></p>'
    expected = '<p title="the cat">die <b>Hund</b> &amp; die Haus<br>&nbsp;<code>the cat</code></p>'
    assert translate(translator, document, format="html") == {"translatedText": expected}
    assert translate(translator, [document, "the"], format="html") == {"translatedText": [expected, "die"]}
    assert translate(translator, "1 < 2 &amp; the cat") == {"translatedText": "1 < 2 &amp; die Katze"}


# Languages


def test_every_language_is_listed_with_what_can_be_had_from_it(translator: TestClient) -> None:
    assert translator.get("/languages").json() == [
        {"code": "de", "name": "German", "targets": ["de", "en"]},
        {"code": "en", "name": "English", "targets": ["de", "en", "fr"]},
        {"code": "fr", "name": "French", "targets": ["fr"]},
    ]


def test_of_two_models_for_the_same_languages_the_first_by_name_answers(models: Path, serve: Serve) -> None:
    make_translation_bundle(models, "b-model")
    make_translation_bundle(models, "a-model")
    client = serve(models=models)
    answer = client.post("/translate", json={"q": "the cat", **EN_DE})
    assert answer.headers["x-inferd-model"] == "a-model"


# Detection

ENGLISH = "Where is the station, and what time is it now?"
GERMAN = "Wo ist der Bahnhof, und wie spät ist es jetzt?"


def test_the_language_of_a_text_is_detected(translator: TestClient) -> None:
    for text, language in ((ENGLISH, "en"), (GERMAN, "de")):
        for answer in (
            translator.post("/detect", json={"q": text}),
            translator.post("/detect", json={"q": [text, text]}),
            translator.post("/detect", data={"q": text, "api_key": "none"}),
        ):
            first, *others = answer.json()
            assert first["language"] == language
            assert 90 < first["confidence"] <= 100
            assert {one["language"] for one in others} < {"en", "de", "fr"}
            assert all(one["confidence"] < 5 for one in others)


def test_where_nothing_tells_there_is_no_confidence(translator: TestClient) -> None:
    assert translator.post("/detect", json={"q": "123"}).json() == [{"confidence": 0.0, "language": "de"}]


def test_a_source_that_is_not_said_is_detected(translator: TestClient) -> None:
    answer = translate(translator, ENGLISH, source="auto")
    assert answer["detectedLanguage"]["language"] == "en"
    assert answer["detectedLanguage"]["confidence"] > 90
    assert answer["translatedText"].startswith("Where ist die station")
    several = translate(translator, [ENGLISH, "the cat"], source="auto", alternatives=1)
    assert several["detectedLanguage"] == [several["detectedLanguage"][0]] * 2
    assert several["translatedText"][1] == "die Katze"
    assert len(several["alternatives"]) == 2


def test_what_is_in_the_target_already_comes_back(translator: TestClient) -> None:
    answer = translate(translator, GERMAN, source="auto")
    assert answer["translatedText"] == GERMAN
    assert answer["detectedLanguage"]["language"] == "de"


def test_what_nothing_tells_is_taken_for_what_can_be_translated(translator: TestClient) -> None:
    for target, expected in (("de", "en"), ("fr", "en"), ("en", "de")):
        answer = translate(translator, "😀", source="auto", target=target)
        assert answer == {"translatedText": "😀", "detectedLanguage": {"confidence": 0.0, "language": expected}}


def test_tags_are_no_language(translator: TestClient) -> None:
    document = f'<div class="where is the what time"><script>where is the station and what</script>{GERMAN}</div>'
    answer = translate(translator, document, source="auto", format="html")
    assert answer["detectedLanguage"]["language"] == "de"
    assert answer["translatedText"] == document


# Errors, in LibreTranslate's words


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"q": None}, "Invalid request: missing q parameter"),
        ({"q": ""}, "Invalid request: missing q parameter"),
        ({"q": []}, "Invalid request: missing q parameter"),
        ({"q": 3}, "Invalid request: q must be a text or a list of texts"),
        ({"q": ["a", None]}, "Invalid request: q must be a text or a list of texts"),
        ({"source": None}, "Invalid request: missing source parameter"),
        ({"target": None}, "Invalid request: missing target parameter"),
        ({"source": ""}, "Invalid request: missing source parameter"),
        ({"source": "zz"}, "zz is not supported (supported: de, en, fr)"),
        ({"target": "zz"}, "zz is not supported (supported: de, en, fr)"),
        ({"source": "zz", "target": "zz"}, "zz is not supported (supported: de, en, fr)"),
        ({"target": "auto"}, "auto is not supported (supported: de, en, fr)"),
        ({"source": "fr"}, "German (de) is not available as a target language from French (fr)"),
        ({"format": "xml"}, "xml format is not supported"),
        ({"alternatives": "abc"}, "Invalid request: alternatives parameter is not a number"),
        ({"alternatives": [1]}, "Invalid request: alternatives parameter is not a number"),
        ({"alternatives": 8}, "Invalid request: alternatives parameter must be <= 7"),
        ({"alternatives": "8"}, "Invalid request: alternatives parameter must be <= 7"),
    ],
)
def test_what_can_not_be_had_is_a_bad_request(translator: TestClient, fields: dict[str, Any], message: str) -> None:
    assert refusal(translator, **fields) == message


@pytest.mark.parametrize("path", ["/translate", "/detect"])
def test_more_arrays_than_may_be_are_refused_before_they_are_read(translator: TestClient, path: str) -> None:
    body = b'{"q": [' + b"[]," * TEXTS.containers + b"1]}"
    answer = translator.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert f"may have {TEXTS.containers} arrays and objects" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"q"', b'{"q": "\xff"}', b'{"q": "\\ud800"}'])
@pytest.mark.parametrize("path", ["/translate", "/detect"])
def test_a_body_that_is_no_json_object_is_a_bad_request(translator: TestClient, path: str, body: bytes) -> None:
    answer = translator.post(path, content=body, headers={"content-type": "application/json"})
    assert refused(answer) == "Invalid JSON format"


def test_a_body_of_no_kind_has_no_text(translator: TestClient) -> None:
    assert refused(translator.post("/detect")) == "Invalid request: missing q parameter"
    answer = translator.post("/translate", content=b"the cat", headers={"content-type": "text/plain"})
    assert refused(answer) == "Invalid request: missing q parameter"
    broken = translator.post("/translate", content=b"x", headers={"content-type": "multipart/form-data"})
    assert "the form can't be read" in refused(broken)


def test_other_methods_are_not_allowed(translator: TestClient) -> None:
    for path in ("/translate", "/detect"):
        answer = translator.get(path)
        assert "allowed: POST" in refused(answer, 405)
        assert answer.headers["allow"] == "POST"
    assert "allowed: GET" in refused(translator.post("/languages"), 405)


def test_too_much_is_too_large_and_names_the_limit(translator: TestClient) -> None:
    for fields in ({}, {"source": "auto"}, {"source": "de"}):
        assert "INFERD_MAX_TEXT_CHARACTERS" in refusal(translator, 413, q="a" * 10_001, **fields)
        assert "128 texts" in refusal(translator, 413, q=["a"] * 129, **fields)
    assert "INFERD_MAX_TEXT_CHARACTERS" in refused(translator.post("/detect", data={"q": "a" * 10_001}), 413)


def test_where_nothing_translates_that_is_said(client: TestClient) -> None:
    assert client.get("/languages").json() == []
    for answer in (client.post("/translate", json={"q": "a", **EN_DE}), client.post("/detect", json={"q": "a"})):
        assert refused(answer, 404) == "no model that translates is loaded here"


def test_where_what_would_translate_is_refused_the_server_is_not_ready(models: Path, serve: Serve) -> None:
    flip_a_byte(make_translation_bundle(models) / "tokenizer.json")
    client = serve(models=models)
    answer = client.post("/translate", json={"q": "a", **EN_DE})
    assert refused(answer, 503) == "no model that translates is ready; /health/ready says why"


def test_a_deadline_is_kept(models: Path, serve: Serve) -> None:
    make_translation_bundle(models, idle_steps=100)
    client = serve(models=models)
    answer = client.post("/translate", json={"q": "the cat", **EN_DE}, headers={"x-request-timeout-ms": "1"})
    assert "deadline" in refused(answer, 504)


def test_requests_are_counted_under_their_protocol(models: Path, serve: Serve) -> None:
    make_translation_bundle(models)
    client = serve(models=models)
    before = metrics(client)
    translate(client)
    client.get("/languages")
    client.post("/detect", json={"q": "the cat"})
    refusal(client, source="zz")
    after = metrics(client)
    assert gained(before, after, "inferd_requests_total", protocol="libretranslate", code="200") == 3
    assert gained(before, after, "inferd_requests_total", protocol="libretranslate", code="400") == 2
    labels = {"model": "tiny-en-de", "version": "1"}
    assert gained(before, after, "inferd_request_duration_seconds_count", **labels) == 1
