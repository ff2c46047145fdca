from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.asking import fetch
from tests.browser.browsing import PHONE, WIDE, card, opened, shoot

MOST_BYTES = 150_000
LONGEST_PAINT_MS = 3000
"""On a machine that does other things too; docs/playground.md says what it takes on one that doesn't."""
TASKS = {
    "en-de": "translation",
    "fashion-classifier": "image-classification",
    "fashion-gan": "text-to-image",
    "shakespeare": "text-generation",
}


def use_everything(page: Page) -> None:
    """Have every card of the shipped bundles show an answer, and every panel open."""
    gan = card(page, "fashion-gan")
    gan.get_by_role("button", name="Draw", exact=True).click()
    expect(gan.locator(".chosen")).to_be_visible()
    card(page, "fashion-classifier").get_by_role("button", name="Have fashion-gan draw one").click()
    expect(card(page, "fashion-classifier").locator(".bars li")).to_have_count(10)
    text = card(page, "shakespeare")
    text.get_by_role("button", name="Write", exact=True).click()
    expect(text.get_by_role("button", name="Write", exact=True)).to_be_enabled()
    # Not any: a line's end, and a space that it swallows, have no width.
    text.locator(".token").filter(has_text=re.compile(r"\S")).nth(20).click()
    expect(card(page, "en-de").locator(".alignment").first).to_be_visible()
    for summary in page.locator("summary").all():
        summary.click()


def test_each_model_has_a_card_of_its_task(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        for name, task in TASKS.items():
            assert card(page, name).get_attribute("data-task") == task
        expect(page.locator("#state")).to_have_text("4 models ready")
        expect(page.locator("#contents a")).to_have_text([*TASKS, "Live"])


def test_the_page_is_light_and_painted_soon(browser: Browser, url: str) -> None:
    paints = []
    for _ in range(5):
        with opened(browser, url) as page:
            for name in TASKS:
                card(page, name)
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            if len(paints) == 5:
                page.goto(f"{url}/#/models/shakespeare")
                page.get_by_role("heading", name="The card").wait_for()
            sizes: list[tuple[str, int, int]] = page.evaluate(
                """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
                    .filter((one) => /^.(playground.static.*)?$/.test(new URL(one.name).pathname))
                    .map((one) => [one.name, one.decodedBodySize, one.encodedBodySize])"""
            )
    assert any(name.endswith("text-generation.js") for name, _, _ in sizes)
    whole, sent = (sum(one[place] for one in sizes) for place in (1, 2))
    print(f"\nweight: {whole} bytes, {sent} as sent; first paint after {[round(one) for one in sorted(paints)]} ms")
    assert 0 < sent < whole < MOST_BYTES
    assert min(paints) < LONGEST_PAINT_MS


def test_nothing_of_the_page_is_missing_from_its_weight(url: str) -> None:
    """What no server of these tests makes the page load counts as well: here is all that there is."""
    seen: set[str] = set()
    waiting = {"", "playground/static/main.js"}
    total = 0
    while waiting:
        path = waiting.pop()
        seen.add(path)
        content = fetch(url, path)
        total += len(content)
        text = content.decode()
        found = {f"playground/static/{one}" for one in re.findall(r'(?:src|href)="playground/static/([^"#]+)"', text)}
        if path.endswith(".js"):
            base = path.rpartition("/")[0]
            for one in re.findall(r'(?:from |import\()"(\.[^"]+)"', text):
                found.add(normal(f"{base}/{one}"))
        waiting |= found - seen
    assert total < MOST_BYTES
    assert "playground/static/cards/tensors.js" in seen


def normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing(browser: Browser, url: str, *, dark: bool, size: tuple[int, int]) -> None:
    # axe-core brings its script along, which the page's policy rightly keeps out.
    with opened(browser, url, dark=dark, size=size, bypass_csp=True, reduced_motion="reduce") as page:
        use_everything(page)
        assert findings(page) == []
        page.evaluate("document.querySelectorAll('details[open]').forEach((one) => (one.open = false))")
        page.evaluate(
            "document.querySelector(innerWidth > 500 ? '#card-fashion-classifier' : '.grown').scrollIntoView()"
        )
        shoot(page, f"page-{'dark' if dark else 'light'}-{size[0]}")
        page.goto(f"{url}/#/models/fashion-classifier")
        page.get_by_role("heading", name="The card").wait_for()
        assert findings(page) == []


def test_axe_finds_nothing_on_the_page_of_a_bare_graph(browser: Browser, bare: str) -> None:
    with opened(browser, bare, bypass_csp=True, reduced_motion="reduce") as page:
        card(page, "wine").get_by_role("button", name="Run").click()
        expect(page.locator(".output")).to_have_count(3)
        page.get_by_role("button", name="Key").click()
        assert findings(page) == []


def findings(page: Page) -> list[str]:
    result: dict[str, Any] = Axe().run(page).response
    return [
        f"{one['impact']} {one['id']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in result["violations"]
    ]


def test_colours_follow_the_system_and_then_the_switch(browser: Browser, url: str) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, url) as page:
        light = page.evaluate(ground)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(ground)
        assert light != dark
        page.get_by_role("button", name="Switch to light colours").click()
        assert page.evaluate(ground) == light
        page.reload()
        assert page.evaluate(ground) == light
        page.get_by_role("button", name="Switch to dark colours").click()
        assert page.evaluate(ground) == dark


@pytest.mark.parametrize("width", [320, 390, 768, 1920])
def test_it_fits_from_a_phone_to_a_wide_screen(browser: Browser, url: str, width: int) -> None:
    with opened(browser, url, size=(width, 800)) as page:
        use_everything(page)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        page.goto(f"{url}/#/models/en-de")
        page.get_by_role("heading", name="The card").wait_for()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_all_can_be_reached_by_keys(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        for name in TASKS:
            card(page, name)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the models"
        reached = set()
        for _ in range(250):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "(document.activeElement.closest('[data-model]')?.dataset.model"
                    " ?? document.activeElement.closest('section')?.id)"
                )
            )
        assert {*TASKS, "live"} <= reached


def test_the_page_may_lie_below_a_path_of_a_proxy(browser: Browser, url: str) -> None:
    def forward(page: Page) -> None:
        page.route(
            "**/ml/**", lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/ml/", "/")))
        )

    with opened(browser, f"{url}/ml/", before=forward) as page:
        for name in TASKS:
            card(page, name)


def test_a_server_that_is_gone_is_told_in_words(browser: Browser, url: str) -> None:
    with opened(browser, url, told=["ERR_INTERNET_DISCONNECTED"]) as page:
        card(page, "shakespeare")
        page.context.set_offline(True)
        expect(page.locator("#state")).to_contain_text("can't be reached")
        found = card(page, "shakespeare")
        found.get_by_role("button", name="Write", exact=True).click()
        expect(found.get_by_role("alert")).to_contain_text("can't be reached")
        page.context.set_offline(False)
        expect(page.locator("#state")).to_have_text("4 models ready")
