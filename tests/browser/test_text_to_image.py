from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.asking import ask
from tests.browser.browsing import card, opened, shoot

NAME = "fashion-gan"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


def drawn(pictures: Locator) -> list[str]:
    """The files of pictures on the page, as base64."""
    return [str(one.get_attribute("src")).partition(",")[2] for one in pictures.locator("img").all()]


def asked(url: str, inputs: str | None = None, **parameters: object) -> list[dict[str, Any]]:
    content = {"parameters": parameters} | ({"inputs": inputs} if inputs else {})
    answer: list[dict[str, Any]] = ask(url, f"predict/{NAME}", content, accept="application/json")
    return answer


def draw(found: Locator, text: str = "an ankle boot", count: int = 4) -> None:
    found.get_by_label("what to draw").fill(text)
    found.get_by_label("pictures", exact=True).fill(str(count))
    found.get_by_label("seed").fill("7")
    found.get_by_role("button", name="Draw", exact=True).click()
    expect(found.locator(".gallery .picture")).to_have_count(count)


def test_pictures_are_those_of_the_api(page: Page, url: str) -> None:
    found = card(page, NAME)
    draw(found)
    expected = asked(url, "an ankle boot", seed=7, num_images=4, truncation=0.8)
    assert drawn(found.locator(".gallery")) == [one["image"] for one in expected]
    expect(found.locator(".chosen figcaption")).to_contain_text("Ankle boot")
    found.get_by_role("button", name="Sandal", exact=True).click()
    expect(found.locator(".chosen figcaption")).to_contain_text("Sandal")
    assert drawn(found.locator(".gallery")) == [
        one["image"] for one in asked(url, label="Sandal", seed=7, num_images=4, truncation=0.8)
    ]


def test_sliders_of_the_latent_bend_the_picture(page: Page, url: str) -> None:
    found = card(page, NAME)
    draw(found)
    first = asked(url, "an ankle boot", seed=7, num_images=4, truncation=0.8)[0]
    assert drawn(found.locator(".large")) == [first["image"]]
    sliders = found.get_by_label(re.compile("^Number "))
    expect(sliders).to_have_count(64)
    latent = list(first["latent"])
    for index in (3, 11):
        latent[index] = 2.5
        with page.expect_response(lambda response: f"predict/{NAME}" in response.url):
            sliders.nth(index).fill("2.5")
    expected = asked(url, label="Ankle boot", latent=latent)[0]["image"]
    expect(found.locator(".large img")).to_have_attribute("src", f"data:image/png;base64,{expected}")
    assert expected != first["image"]


def test_a_film_strip_goes_from_one_picture_to_another(page: Page, url: str) -> None:
    found = card(page, NAME)
    draw(found)
    pictures = asked(url, "an ankle boot", seed=7, num_images=4, truncation=0.8)
    found.get_by_text("Walk from one picture to another").click()
    found.locator(".gallery .picture").nth(0).click()
    found.get_by_label("Place from").click()
    found.locator(".gallery .picture").nth(2).click()
    found.get_by_label("Place to").click()
    found.get_by_label("steps").fill("6")
    found.get_by_role("button", name="Walk", exact=True).click()
    expect(found.locator(".film .picture")).to_have_count(6)
    strip = drawn(found.locator(".film"))
    assert len(set(strip)) == 6
    assert (strip[0], strip[-1]) == (pictures[0]["image"], pictures[2]["image"])


def test_a_minus_b_plus_c(page: Page, url: str) -> None:
    found = card(page, NAME)
    latents = []
    found.get_by_text("Calculate with pictures").click()
    labels = ("Ankle boot", "Sandal", "Sneaker")
    for place, label in zip("abc", labels, strict=True):
        draw(found, label, 3)
        expect(found.locator(".chosen figcaption")).to_contain_text(label)
        found.locator(".gallery .picture").nth(1).click()
        found.get_by_label(f"Place {place}", exact=False).click()
        latents.append(asked(url, label, seed=7, num_images=3, truncation=0.8)[1]["latent"])
    found.get_by_role("button", name="Calculate").click()
    expect(found.locator(".result .picture")).to_have_count(1)
    terms = [
        {"label": label, "latent": latent, "weight": weight}
        for label, latent, weight in zip(labels, latents, (1, -1, 1), strict=True)
    ]
    assert drawn(found.locator(".result")) == [asked(url, arithmetic=terms)[0]["image"]]
    found.get_by_text("Walk from one picture to another").click()
    found.locator(".gallery .picture").nth(0).click()
    found.get_by_label("Place from").click()
    found.locator(".gallery .picture").nth(2).click()
    found.get_by_label("Place to").click()
    found.get_by_role("button", name="Walk", exact=True).click()
    expect(found.locator(".film .picture")).to_have_count(9)
    shoot(found, "text-to-image")


def test_places_want_pictures_first(page: Page) -> None:
    found = card(page, NAME)
    found.get_by_text("Calculate with pictures").click()
    found.get_by_role("button", name="Calculate").click()
    expect(found.get_by_role("alert")).to_contain_text("Put a picture in each of the three places")


def test_a_picture_goes_to_the_classifier_by_one_click(page: Page, url: str) -> None:
    found = card(page, NAME)
    draw(found)
    found.get_by_role("button", name="Ask fashion-classifier what it is").click()
    other = card(page, "fashion-classifier")
    expect(other.locator(".bars .name").first).to_have_text("Ankle boot")


def test_what_means_nothing_is_refused_in_words(browser: Browser, url: str) -> None:
    with opened(browser, url, told=["status of 4"]) as page:
        found = card(page, NAME)
        found.get_by_label("what to draw").fill("quantum chromodynamics")
        found.get_by_role("button", name="Draw", exact=True).click()
        expect(found.get_by_role("alert")).to_contain_text("Ankle boot")  # what can be drawn is listed
