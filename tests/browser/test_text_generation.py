from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.asking import ask
from tests.browser.browsing import card, opened, shoot
from tests.e2e.server import Server

NAME = "shakespeare"
PROMPT = "ROMEO:\nO gentle"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


def fill(found: Locator, *, length: int, seed: int = 7, prompt: str = PROMPT) -> None:
    found.get_by_label("prompt").fill(prompt)
    found.get_by_label("characters").fill(str(length))
    found.get_by_label("seed").fill(str(seed))


def written(found: Locator) -> str:
    return str(
        found.locator(".written").evaluate(
            "one => [...one.querySelectorAll('.token')].map(t => t.textContent).join('')"
        )
    )


def finished(found: Locator) -> None:
    expect(found.get_by_role("button", name="Write", exact=True)).to_be_enabled()
    expect(found.get_by_role("button", name="Stop")).to_be_disabled()


def asked(url: str, length: int, prompt: str = PROMPT, seed: int = 7, temperature: float = 0.8) -> dict[str, object]:
    parameters = {
        "max_new_tokens": length,
        "temperature": temperature,
        "seed": seed,
        "details": True,
        "top_n_tokens": 6,
    }
    (answer,) = ask(url, f"predict/{NAME}", {"inputs": prompt, "parameters": parameters})
    found: dict[str, object] = answer
    return found


def test_a_text_grows_while_it_is_written_and_is_what_the_api_writes(page: Page, url: str) -> None:
    found = card(page, NAME)
    fill(found, length=1500)
    lengths = page.evaluate_handle(
        """() => {
            const lengths = [];
            const text = document.querySelector(".written");
            const note = () => lengths.push(text.querySelectorAll(".token").length);
            new MutationObserver(note).observe(text, { childList: true });
            return lengths;
        }"""
    )
    found.get_by_role("button", name="Write", exact=True).click()
    finished(found)
    grown = [length for length in lengths.json_value() if length]
    assert len(grown) > 5
    assert grown == sorted(grown)
    assert grown[-1] == 1500
    assert written(found) == asked(url, 1500)["generated_text"]
    told = re.search(r"([\d,]+) tokens/s .* ([\d.,]+) ms in all", found.locator(".numbers").inner_text())
    assert told
    rate, taken = (float(one.replace(",", "")) for one in told.groups())
    assert rate * taken / 1000 == pytest.approx(1500, rel=0.05)
    expect(found.locator(".timings")).to_contain_text("seed 7")


def test_characters_are_tinted_by_how_likely_they_were_and_tell_their_alternatives(page: Page, url: str) -> None:
    found = card(page, NAME)
    fill(found, length=60)
    found.get_by_role("button", name="Write", exact=True).click()
    finished(found)
    details = asked(url, 60)["details"]
    assert isinstance(details, dict)
    tints = found.locator(".token").evaluate_all(
        "all => all.map(one => Number(one.style.getPropertyValue('--surprise')))"
    )
    expected = [min(1, -token["logprob"] / math.log(1000)) for token in details["tokens"]]
    assert tints == pytest.approx(expected, abs=0.001)
    place = max(range(60), key=lambda index: expected[index])
    found.locator(".token").nth(place).hover()
    top = details["top_tokens"][place]
    if all(one["text"] != details["tokens"][place]["text"] for one in top):
        top = [*top, details["tokens"][place]]
    names = [one["text"].replace(" ", "\u2423").replace("\n", "\u21b5") for one in top]
    bars = found.locator(".alternatives .bars li")
    expect(bars.locator(".name")).to_have_text(names)
    shares = [float(one.removesuffix(" %")) for one in bars.locator(".number").all_inner_texts()]
    assert shares == pytest.approx([100 * math.exp(one["logprob"]) for one in top], rel=0.02, abs=0.06)
    shoot(found, "text-generation")


def test_the_arrow_keys_go_through_the_text(page: Page) -> None:
    found = card(page, NAME)
    fill(found, length=20)
    found.get_by_role("button", name="Write", exact=True).click()
    finished(found)
    found.locator(".written").focus()
    for index in range(3):
        page.keyboard.press("ArrowRight")
        expect(found.locator(".token.here")).to_have_attribute("data-index", str(index))
    page.keyboard.press("End")
    expect(found.locator(".token.here")).to_have_attribute("data-index", "19")
    expect(found.locator(".alternatives .bars li").first).to_be_visible()


def test_an_alternative_can_be_taken(page: Page, url: str) -> None:
    found = card(page, NAME)
    fill(found, length=30)
    found.get_by_role("button", name="Write", exact=True).click()
    finished(found)
    before = written(found)
    found.locator(".token").nth(10).hover()
    other = found.locator(".choices button").first
    sign = other.inner_text().replace("\u2423", " ").replace("\u21b5", "\n")
    other.click()
    finished(found)
    beginning = PROMPT + before[:10] + sign
    assert found.locator(".prompt").text_content() == beginning
    assert written(found) == asked(url, 30, beginning)["generated_text"]


def test_stop_stops_it_here_and_there(page: Page, server: Server) -> None:
    found = card(page, NAME)
    fill(found, length=4096)
    found.get_by_role("button", name="Write", exact=True).click()
    found.locator(".token").nth(50).wait_for(state="attached")
    found.get_by_role("button", name="Stop").click()
    finished(found)
    length = found.locator(".token").count()
    assert 50 < length < 4096
    page.wait_for_timeout(300)
    assert found.locator(".token").count() == length
    assert server.metric("inferd_live_slots", f'model="{NAME}"') == 0
    expect(found.get_by_role("alert")).to_be_hidden()
    expect(found.get_by_role("status").filter(has_text="after")).to_contain_text("Stopped after")


def test_temperature_and_top_p_are_asked_for(page: Page) -> None:
    found = card(page, NAME)
    fill(found, length=5)
    found.get_by_label("temperature").fill("0")
    found.get_by_label("top-p").fill("0.5")
    with page.expect_request(lambda request: f"predict/{NAME}" in request.url) as sent:
        found.get_by_role("button", name="Write", exact=True).click()
    body = sent.value.post_data_json
    assert (body["parameters"]["temperature"], body["parameters"]["top_p"]) == (0, 0.5)
    finished(found)


def test_what_it_can_not_read_is_refused_in_words(browser: Browser, url: str) -> None:
    with opened(browser, url, told=["status of 4"]) as page:
        found = card(page, NAME)
        fill(found, length=20, prompt="\u65e5\u672c")
        found.get_by_role("button", name="Write", exact=True).click()
        expect(found.get_by_role("alert")).to_contain_text("\u65e5")
        finished(found)
        fill(found, length=20)
        found.get_by_role("button", name="Write", exact=True).click()
        finished(found)
        expect(found.get_by_role("alert")).to_be_hidden()
        assert len(written(found)) == 20
