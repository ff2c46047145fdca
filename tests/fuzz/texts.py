"""Translations, languages and drawn pictures, with odd texts and parameters, in JSON and in forms."""

from __future__ import annotations

from random import Random
from typing import Any, Final
from urllib.parse import quote_plus

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.edits import changed, changes, edited, edits, to_json
from tests.fuzz.playing import Target
from tests.fuzz.wire import Client, post

_CALLS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("/translate", {"q": "Good day. A dog!", "source": "en", "target": "de", "format": "text", "alternatives": 1}),
    ("/translate", {"q": ["<p>A <b>cat</b>&amp;</p>", ""], "source": "auto", "target": "de",
                    "format": "html", "api_key": "x"}),
    ("/detect", {"q": "Guten Tag, wie geht es Ihnen?"}),
    ("/predict/en-de", {"inputs": ["A man.", "Two"], "parameters": {"num_beams": 2}}),
    ("/predict/fashion-gan", {"inputs": "a red shirt", "parameters": {
        "num_images": 2, "seed": 3, "width": 56, "height": 56, "format": "webp", "grid": 2, "strict": False}}),
    ("/predict/fashion-gan", {"parameters": {
        "label": "Bag", "truncation": 0.5, "conditions": {"Bag": 0.5, "Coat": 0.5}, "latent": [0.0] * 64}}),
    ("/v1/images/generations", {"model": "fashion-gan", "prompt": "a bag", "n": 2, "size": "28x28",
                                "output_format": "png", "response_format": "b64_json", "seed": 1, "strict": True}),
)  # fmt: skip
_ODD_TEXTS: Final = st.one_of(
    st.text(max_size=40),
    st.sampled_from(("<" * 50, "<b" * 30, "&#x110000; &#0;", "</p></p>", "a\u202eb\u0300" * 20, "​", "漢字",
                     "word " * 70, "!?." * 60, "<!--", "<![CDATA[", "\x00",
                     "A" * 399, ". ".join("abcdefghij"), "\ud800", "🏳️‍🌈" * 9)),
)  # fmt: skip
_ACCEPT: Final = (
    "*/*",
    "image/png",
    "application/json",
    "text/html",
    "image/*;q=nan",
    ",;q=",
    "image/webp;q=0.5, */*;q=0",
)


@st.composite
def _cases(draw: DrawFn) -> tuple[str, list[tuple[str, str]], bytes]:
    """Path, headers and body."""
    path, document = draw(st.sampled_from(_CALLS))
    document = dict(document)
    text = next((name for name in ("q", "inputs", "prompt") if name in document), None)
    if text and draw(st.booleans()):
        document[text] = draw(_ODD_TEXTS)
    document = changed(document, draw(changes))
    headers = [("accept", draw(st.sampled_from(_ACCEPT)))] if draw(st.booleans()) else []
    how = draw(st.sampled_from(("json", "json", "form", "query")))
    if how == "json" or not isinstance(document, dict):
        body = to_json(document)
        if draw(st.integers(0, 9)) == 0:
            body = edited(body, draw(edits))
        return path, [("content-type", "application/json"), *headers], body
    fields = {**document, **(document["parameters"] if isinstance(document.get("parameters"), dict) else {})}
    form = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in fields.items())
    if how == "query":
        return f"{path}?{form[:2000]}", [("content-type", "text/plain"), *headers], b"a bag"
    body = form.encode()
    if draw(st.integers(0, 3)) == 0:
        body = edited(body, draw(edits))
    return path, [("content-type", "application/x-www-form-urlencoded"), *headers], body


class Texts:
    """Requests to translate, to detect and to draw."""

    def __init__(self, target: Target) -> None:
        self._client = Client(target.port)
        self._name = target.name

    cases = _cases()
    variants = 0

    def vary(self, case: Any, _random: Random) -> Any:
        """There are no variants: drawing cases takes less than answering them."""
        return case

    def attempt(self, case: tuple[str, list[tuple[str, str]], bytes], number: int) -> str:
        """Ask."""
        path, headers, body = case
        return self._client.ask(post(path, body, ("x-request-id", f"{self._name}-{number}"), *headers)).outcome

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _quoted(value: object) -> str:
    return quote_plus(str(value)[:300], errors="replace")
