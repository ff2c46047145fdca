from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.browser.browsing import card, opened, until

CLOSED = ["status of 40[13]"]


def test_a_server_with_keys_asks_for_one_and_all_is_there_once_it_has_it(browser: Browser, locked: str) -> None:
    with opened(browser, locked, told=CLOSED) as page:
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        expect(page.locator("#key-message")).to_contain_text("needs a key")
        expect(page.locator("#state")).to_have_text("this server asks for a key")
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-message")).to_have_text("this key is not known here")
        field.fill("seer")
        page.get_by_role("button", name="Use it").click()
        found = card(page, "fashion-classifier")
        expect(page.locator("#key")).to_be_hidden()
        found.locator("canvas").focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowUp")
        expect(found.locator(".bars li")).to_have_count(10)
        page.reload()  # the tab keeps it
        card(page, "fashion-classifier")
        page.get_by_role("button", name="Key").click()
        page.get_by_role("button", name="Forget it").click()
        expect(page.locator("#state")).to_have_text("this server asks for a key")
        expect(page.locator("article")).to_have_count(0)


def test_a_key_goes_into_a_header_and_nowhere_else(browser: Browser, locked: str) -> None:
    with opened(browser, locked, key="seer", told=CLOSED) as page:
        with page.expect_request(lambda request: "/predict/" in request.url) as sent:
            page.reload()
        assert sent.value.headers["x-api-key"] == "seer"
        assert "seer" not in sent.value.url
        found = card(page, "fashion-classifier")
        found.get_by_text("Call it yourself").click()
        code = found.locator(".snippets pre")
        expect(code).to_contain_text("$INFERD_KEY")
        expect(code).not_to_contain_text("seer")


def test_a_key_that_opens_too_little_is_told_so(browser: Browser, locked: str) -> None:
    with opened(browser, locked, key="meter", told=CLOSED) as page:
        expect(page.locator("#key-message")).to_contain_text("this call needs predict")


def test_without_the_scope_of_metrics_the_live_panel_says_so_in_words(browser: Browser, locked: str) -> None:
    with opened(browser, locked, key="seer", told=CLOSED) as page:
        card(page, "fashion-classifier")
        live = page.locator("#live")
        live.scroll_into_view_if_needed()
        expect(live.locator(".notice")).to_contain_text("Metrics can't be shown")
        expect(live.locator(".notice")).to_contain_text("needs metrics")
        expect(live.locator(".plots")).to_be_hidden()
    with opened(browser, locked, key="watcher", told=CLOSED) as page:
        live = page.locator("#live")
        live.scroll_into_view_if_needed()
        expect(live.locator(".plots")).to_be_visible()


def test_pictures_of_the_card_come_with_the_key(browser: Browser, locked: str) -> None:
    with opened(browser, f"{locked}/#/models/fashion-classifier", key="seer", told=CLOSED) as page:
        until(page, "[...document.querySelectorAll('.prose img')].filter(one => one.naturalWidth > 100).length === 2")
