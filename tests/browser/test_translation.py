from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.asking import ask
from tests.browser.browsing import card, opened, shoot

NAME = "en-de"
TEXT = "I have never seen such a big dog. Where is it?"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


def asked(url: str, text: str = TEXT, **parameters: object) -> dict[str, object]:
    given = {"num_beams": 5, "num_return_sequences": 4, "return_alignment": True, **parameters}
    (answer,) = ask(url, f"predict/{NAME}", {"inputs": text, "parameters": given})
    found: dict[str, object] = answer
    return found


def test_the_second_pane_follows_the_first_as_the_api_has_it(page: Page, url: str) -> None:
    found = card(page, NAME)
    expect(found.locator(".translated")).not_to_be_empty()  # of the example
    sent = []
    page.on("request", lambda request: sent.append(request.url) if f"predict/{NAME}" in request.url else None)
    found.get_by_label("English").fill("")
    expect(found.locator(".translated")).to_be_empty()
    found.get_by_label("English").press_sequentially(TEXT, delay=15)
    expect(found.locator(".translated")).to_have_text(str(asked(url)["translation_text"]))
    assert len(sent) < len(TEXT) / 4  # not one for each letter


def test_beams_and_their_results_are_there_to_choose_from(page: Page, url: str) -> None:
    found = card(page, NAME)
    found.get_by_label("English").fill(TEXT)
    answer = asked(url)
    alternatives = answer["alternatives"]
    assert isinstance(alternatives, list)
    choices = found.locator(".others button")
    expect(choices).to_have_text([answer["translation_text"], *alternatives])
    choices.nth(2).click()
    expect(found.locator(".translated")).to_have_text(alternatives[1])
    expect(choices.nth(2)).to_have_attribute("aria-pressed", "true")
    found.get_by_label("beams").select_option("1")
    greedy = asked(url, num_beams=1, num_return_sequences=1)["translation_text"]
    expect(found.locator(".translated")).to_have_text(str(greedy))
    expect(choices).to_have_count(0)


def test_attention_is_drawn_between_the_words_that_are_pointed_at(page: Page, url: str) -> None:
    found = card(page, NAME)
    found.get_by_label("English").fill(TEXT)
    expect(found.locator(".translated")).to_have_text(str(asked(url)["translation_text"]))
    expect(found.locator(".alignment")).to_have_count(2)
    first = found.locator(".alignment").first
    words = first.locator(".words").nth(1).locator(".word")
    word = words.filter(has_text="Hund")
    word.hover()
    expect(first.locator(".told")).to_contain_text("it looked at: dog")
    assert first.locator("path.chosen").count() >= 1
    weights = (
        first.locator(".words")
        .first.locator(".word")
        .evaluate_all("all => all.map(one => [Number(one.style.getPropertyValue('--weight')), one.textContent])")
    )
    strongest = max(weights)[1]
    assert strongest.startswith("dog")
    # A link begins under its word and ends above the other.
    ends = first.locator("path.chosen").last.evaluate("one => one.getBoundingClientRect().bottom")
    assert ends == pytest.approx(word.evaluate("one => one.getBoundingClientRect().top"), abs=1)
    shoot(found, "translation")
    words.first.focus()
    expect(first.locator(".told")).to_contain_text("it looked at")


def test_what_is_too_long_is_refused_in_words(browser: Browser, url: str) -> None:
    with opened(browser, url, told=["status of 4"]) as page:
        found = card(page, NAME)
        expect(found.locator(".translated")).not_to_be_empty()
        # The field itself takes no more than the server does: so it is told that it may.
        found.get_by_label("English").evaluate("one => one.removeAttribute('maxlength')")
        found.get_by_label("English").fill("dog " * 3000)
        expect(found.get_by_role("alert")).to_contain_text("INFERD_MAX_TEXT_CHARACTERS")
        expect(found.locator(".translated")).to_be_empty()
