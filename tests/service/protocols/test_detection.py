from __future__ import annotations

import subprocess
import sys

import pytest

from service.protocols.detection import Detector
from service.protocols.languages import name_of

ENGLISH = [
    "The red cat sleeps on the sofa.",
    "Where is the station?",
    "He bought a new car last week.",
    "What time is it?",
    "THE WEATHER IS NICE TODAY",
]
GERMAN = [
    "Die rote Katze schläft auf dem Sofa.",
    "Wo ist der Bahnhof?",
    "Er hat letzte Woche ein neues Auto gekauft.",
    "Wie spät ist es?",
    "DAS WETTER IST HEUTE SCHÖN",
]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


@pytest.mark.parametrize(("texts", "language"), [(ENGLISH, "en"), (GERMAN, "de")])
def test_languages_are_told_apart(detector: Detector, texts: list[str], language: str) -> None:
    for text in texts:
        best, other = detector.rank([text], ["en", "de"])
        assert best.language == language
        assert best.likelihood > 0.7 > 0.1 > other.likelihood


def test_a_language_that_is_not_asked_about_makes_none_of_the_others_likely(detector: Detector) -> None:
    for text in ("Où est la gare ?", "¿Qué hora es?", "Где вокзал?", "駅はどこですか。"):
        assert all(one.likelihood < 0.05 for one in detector.rank([text], ["en", "de"]))


def test_several_texts_are_taken_together(detector: Detector) -> None:
    assert detector.rank(["Stop!", "Where is the station?"], ["en", "de"])[0].language == "en"
    assert detector.rank(["Stop!", "Wo ist der Bahnhof?"], ["en", "de"])[0].language == "de"


@pytest.mark.parametrize("texts", [[], [""], ["123", " \n"], ["😀 !?"]])
def test_without_letters_there_is_nothing_to_tell(detector: Detector, texts: list[str]) -> None:
    assert detector.rank(texts, ["en", "de"]) == []


def test_a_language_that_it_does_not_know_is_left_out(detector: Detector) -> None:
    assert [one.language for one in detector.rank(ENGLISH, ["qqq", "en"])] == ["en"]
    assert detector.rank(ENGLISH, ["qqq"]) == []


def test_what_takes_long_is_slow(detector: Detector) -> None:
    assert Detector().is_slow(["a"]), "it has not read what it knows"
    detector.rank(["a"], ["en"])
    assert not detector.is_slow(["a" * 1000])
    assert detector.is_slow(["a" * 500, "b" * 501])


def test_nothing_is_read_before_a_language_is_asked_for() -> None:
    code = "import sys, service.app; sys.exit(any(name in sys.modules for name in ('py3langid', 'tokenizers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_languages_have_names() -> None:
    names = {"aa": "Afar", "de": "German", "nb": "Norwegian Bokmål", "fy": "Western Frisian", "zu": "Zulu"}
    assert {code: name_of(code) for code in names} == names
    assert name_of("qqq") == "qqq"
