"""`libretranslatepy`, LibreTranslate's own client."""

from __future__ import annotations

import json
from urllib.error import HTTPError

import pytest
from libretranslatepy import LibreTranslateAPI

from tests.clients.serving import Served

ENGLISH = "Where is the station, and what time is it now?"
GERMAN = "Wo ist der Bahnhof, und wie spät ist es jetzt?"


@pytest.fixture(params=[None, "key"], ids=["no key", "a key"])
def api(request: pytest.FixtureRequest, translations: Served) -> LibreTranslateAPI:
    return LibreTranslateAPI(translations.server.url, request.param)


def test_a_text_is_translated_there_and_back(api: LibreTranslateAPI) -> None:
    assert (
        api.translate("Hello, world!\n\n  the cat & the dog = 2", "en", "de")
        == "Hallo, Welt!\n\n  die Katze & die Hund = 2"
    )
    assert api.translate("die Katze sieht", "de", "en") == "the cat sees"


@pytest.mark.parametrize("text", ["😀", " ", "שלום עולם", "123\n"])
def test_what_can_not_be_translated_comes_back(api: LibreTranslateAPI, text: str) -> None:
    assert api.translate(text, "en", "de") == text


def test_a_source_that_is_not_said_is_detected(api: LibreTranslateAPI) -> None:
    assert api.translate(GERMAN, "auto", "de") == GERMAN
    assert api.translate(GERMAN, "auto", "en") != GERMAN


def test_a_language_is_detected(api: LibreTranslateAPI) -> None:
    for text, language in ((ENGLISH, "en"), (GERMAN, "de")):
        first, *_ = api.detect(text)
        assert first["language"] == language
        assert 90 < first["confidence"] <= 100


def test_languages_are_listed(api: LibreTranslateAPI) -> None:
    assert api.languages() == [
        {"code": "de", "name": "German", "targets": ["de", "en"]},
        {"code": "en", "name": "English", "targets": ["de", "en"]},
    ]


@pytest.mark.parametrize(
    ("text", "languages", "status", "words"),
    [
        ("Hello", ("en", "zz"), 400, "zz is not supported"),
        ("", ("en", "de"), 400, "missing q parameter"),
        ("x" * 2001, ("en", "de"), 413, "INFERD_MAX_TEXT_CHARACTERS"),
    ],
)
def test_what_cannot_be_had_is_an_error_that_says_why(
    api: LibreTranslateAPI, text: str, languages: tuple[str, str], status: int, words: str
) -> None:
    with pytest.raises(HTTPError) as caught:
        api.translate(text, *languages)
    with caught.value as error:
        assert error.code == status
        assert words in json.load(error)["error"]
