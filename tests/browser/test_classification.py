from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.asking import ask, fetch, picture
from tests.browser.browsing import card, opened, shoot

NAME = "fashion-classifier"
TOP = "top_k=10"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


def put(page: Page, content: bytes, how: str) -> None:
    """Drop or paste a picture."""
    page.evaluate(
        """([content, how]) => {
            const bytes = Uint8Array.from(atob(content), (sign) => sign.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "it.png", { type: "image/png" }));
            const stage = document.querySelector("article[data-model='fashion-classifier'] .stage");
            const whole = { bubbles: true, cancelable: true };
            if (how === "drop") stage.dispatchEvent(new DragEvent("drop", { dataTransfer: data, ...whole }));
            else document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, ...whole }));
        }""",
        [base64.b64encode(content).decode(), how],
    )


def bars_of(found: Locator) -> list[tuple[str, str]]:
    return [
        (row.locator(".name").inner_text(), row.locator(".number").inner_text())
        for row in found.locator(".bars li").all()
    ]


def expect_answer(found: Locator, answer: list[dict[str, float | str]]) -> None:
    expect(found.locator(".bars .name")).to_have_text([str(one["label"]) for one in answer])
    for (_, written), one in zip(bars_of(found), answer, strict=True):
        assert float(written.removesuffix(" %")) == pytest.approx(100 * float(one["score"]), abs=0.06)


def shown(found: Locator) -> bytes:
    """The file of the picture that the network was given, as the page shows it."""
    content = found.locator(".seen img").evaluate(
        """async (image) => {
            const bytes = new Uint8Array(await new Promise((done, failed) => {
                const canvas = document.createElement("canvas");
                [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
                canvas.getContext("2d").drawImage(image, 0, 0);
                canvas.toBlob((blob) => blob.arrayBuffer().then(done, failed));
            }));
            return btoa(String.fromCharCode(...bytes));
        }"""
    )
    return base64.b64decode(content)


@pytest.mark.parametrize("how", ["choose", "drop", "paste"])
def test_a_picture_is_answered_as_the_api_answers_it(page: Page, url: str, how: str) -> None:
    found = card(page, NAME)
    content = picture(url)
    if how == "choose":
        found.locator("input[type=file]").set_input_files(
            {"name": "it.png", "mimeType": "image/png", "buffer": content}
        )
    else:
        put(page, content, how)
    expect_answer(found, ask(url, f"predict/{NAME}?{TOP}", content, kind="image/png"))
    expect(found.locator(".timings")).to_contain_text("computed")


def test_what_the_network_was_given_is_shown(page: Page, url: str) -> None:

    found = card(page, NAME)
    content = picture(url)
    found.locator("input[type=file]").set_input_files({"name": "it.png", "mimeType": "image/png", "buffer": content})
    image = found.locator(".seen img")
    expect(image).to_be_visible()
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [28, 28]
    given = fetch(url, f"playground/models/{NAME}/versions/1/seen", content, kind="image/png")
    pixels = [np.asarray(Image.open(BytesIO(one)).convert("L")) for one in (given, shown(found), content)]
    assert (pixels[0] == pixels[1]).all()
    assert (pixels[0] == pixels[2]).all()  # it is as small as what the network takes: nothing is changed
    found.get_by_label("turn brightness round").check()
    expect_answer(found, ask(url, f"predict/{NAME}?{TOP}&invert=true", content, kind="image/png"))
    assert (np.asarray(Image.open(BytesIO(shown(found))).convert("L")) == 255 - pixels[0]).all()


def test_bars_move_while_somebody_draws(page: Page, url: str) -> None:
    found = card(page, NAME)
    canvas = found.locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    seen = []
    page.mouse.move(box["x"] + 70, box["y"] + 60)
    page.mouse.down()
    for x, y in ((70, 220), (110, 220), (110, 110), (180, 110), (180, 220), (220, 220), (220, 60), (70, 60)):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=6)
        expect(found.locator(".bars li").first).to_be_visible()
        page.wait_for_timeout(60)
        seen.append(bars_of(found))
    page.mouse.up()
    assert len({str(one) for one in seen}) > 3  # before the pen was lifted
    page.wait_for_load_state("networkidle")
    drawn = canvas.evaluate("canvas => canvas.toDataURL('image/png').split(',')[1]")
    expect_answer(found, ask(url, f"predict/{NAME}?{TOP}", base64.b64decode(drawn), kind="image/png"))


def test_the_keys_draw_too(page: Page) -> None:
    found = card(page, NAME)
    found.locator("canvas").focus()
    page.keyboard.press("Space")
    for _ in range(12):
        page.keyboard.press("ArrowUp")
    expect(found.locator(".bars li")).to_have_count(10)
    found.get_by_role("button", name="Clear").click()
    expect(found.locator(".bars li")).to_have_count(0)


def test_another_card_draws_what_this_one_is_asked(page: Page) -> None:
    found = card(page, NAME)
    found.get_by_role("button", name="Have fashion-gan draw one").click()
    expect(found.locator(".bars li")).to_have_count(10)
    expect(found.locator(".seen img")).to_be_visible()
    shoot(found, "classification")


def test_what_is_no_picture_is_refused_in_words(browser: Browser, url: str) -> None:
    with opened(browser, url, told=["status of 4"]) as page:
        found = card(page, NAME)
        found.locator("input[type=file]").set_input_files(
            {"name": "it.png", "mimeType": "image/png", "buffer": b"no picture"}
        )
        expect(found.get_by_role("alert")).to_contain_text("this is no image that can be read")
        expect(found.locator(".bars li")).to_have_count(0)
        put(page, picture(url), "drop")
        expect(found.get_by_role("alert")).to_be_hidden()
        expect(found.locator(".bars li")).to_have_count(10)
