from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, expect

from tests.browser.browsing import card, opened, shoot, until
from tests.e2e.server import Server


def numbers(page: Page, title: str) -> list[str]:
    plot = page.locator(".plot").filter(has_text=title)
    return [str(one) for one in plot.locator("b").all_inner_texts()]


def test_two_hundred_requests_share_runs_and_the_plots_show_it(browser: Browser, server: Server) -> None:
    with opened(browser, server.url) as page:
        card(page, "shakespeare")
        live = page.locator("#live")
        live.scroll_into_view_if_needed()
        expect(live.locator(".columns li").first).to_be_visible()
        name = 'model="fashion-classifier"'
        before = [server.metric(f"inferd_batch_size_{what}", name) for what in ("sum", "count")]
        live.get_by_label("model").select_option("fashion-classifier")
        live.get_by_role("button", name="Send 200 requests").click()
        told = live.locator(".told")
        expect(told).to_contain_text("200 answers in")
        rows, runs = (
            server.metric(f"inferd_batch_size_{what}", name) - was
            for what, was in zip(("sum", "count"), before, strict=True)
        )
        assert rows == 200
        assert runs < 150  # they shared runs, and the page says so
        shared = re.search(r"(\d+) shared a run", told.inner_text())
        assert shared
        assert int(shared[1]) > 50
        expect(live.locator(".dots li")).to_have_count(200)
        until(page, "document.querySelector('.plot path.series-0').getAttribute('d').split('L').length > 2")
        expect(live.locator(".plot").filter(has_text="rows in a run").locator("b")).to_contain_text("runs")
        compute = numbers(page, "time by phase")[2]
        assert re.fullmatch(r"[\d.]+ ms", compute)
        shoot(live, "live")


def test_every_model_can_be_sent_requests(browser: Browser, server: Server) -> None:
    with opened(browser, server.url) as page:
        card(page, "shakespeare")
        live = page.locator("#live")
        names = ["en-de", "fashion-classifier", "fashion-gan", "shakespeare"]
        expect(live.locator("option")).to_have_text(names)
        for name in ("fashion-gan", "shakespeare"):
            live.get_by_label("model").select_option(name)
            live.get_by_role("button", name="Send 200 requests").click()
            expect(live.locator(".told")).to_contain_text("200 answers in")


def test_nothing_is_asked_for_while_nobody_looks(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        card(page, "shakespeare")
        page.locator("#live").scroll_into_view_if_needed()
        expect(page.locator(".columns li").first).to_be_visible()
        hide = """(value) => {
            Object.defineProperty(document, "hidden", { value, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
        page.evaluate(hide, True)
        page.wait_for_timeout(300)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(6000)
        assert asked == []
        page.evaluate(hide, False)
        page.wait_for_timeout(500)
        assert any(one.endswith("/metrics") for one in asked)
        page.evaluate("scrollTo(0, 0)")  # and not while the panel is out of sight
        page.wait_for_timeout(500)
        asked.clear()
        page.wait_for_timeout(3000)
        assert not any(one.endswith("/metrics") for one in asked)
