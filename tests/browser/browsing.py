"""A page that is watched while a test uses it: what it says in the console, whom it asks, what it looks like."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from tests.browser.asking import ask

ROOT: Final = Path(__file__).resolve().parents[2]
SCREENSHOTS: Final = ROOT / "build" / "screenshots"
CHROMIUM: Final = os.environ.get("INFERD_CHROMIUM", "/usr/bin/chromium")
FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
WIDE: Final = (1280, 900)
PHONE: Final = (390, 844)
ANSWER_MS: Final = 20_000
"""How long a test waits for anything, on a machine that does other things too."""

expect.set_options(timeout=ANSWER_MS)


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = WIDE,
    dark: bool = False,
    key: str = "",
    told: Sequence[str] = (),
    before: Callable[[Page], None] | None = None,
    **options: Any,
) -> Iterator[Page]:
    """A page of its own at `url`; at its end nothing may have been wrong with it.

    Args:
        browser: which opens it.
        url: of the server.
        size: of the window.
        dark: whether the system says so.
        key: that somebody has given already.
        told: patterns of what the console may say: a browser reports each answer of a bad status there.
        before: done before the page is opened.
        options: of the browser's context.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light", **options
    )
    context.set_default_timeout(ANSWER_MS)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(re.search(one, message.text) for one in told):
            said.append(f"{message.text} ({message.location.get('url')})")

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("console", listen)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", note)
    if key:
        page.add_init_script(f"sessionStorage.setItem('inferd-key', '{key}')")
    if before:
        before(page)
    try:
        page.goto(url)
        yield page
        assert not said, said
        assert strangers(asked, url) == []
    finally:
        page.unroute_all(behavior="ignoreErrors")  # what is on its way through a test would fail in the next one
        context.close()


def strangers(asked: Sequence[str], url: str) -> list[str]:
    """Those of the addresses that were asked for that are not the server's own."""
    own = urlsplit(url).netloc
    return [one for one in asked if urlsplit(one).scheme not in ("data", "blob") and urlsplit(one).netloc != own]


def card(page: Page, name: str) -> Locator:
    """The card of a model, once it is there."""
    found = page.locator(f"article[data-model='{name}']")
    found.wait_for()
    return found


def withdraw(folder: Path, name: str, url: str) -> None:
    """Take a model out of a folder that a server watches, and wait until it has let go of it: the next test's page
    asks for each model that is listed."""
    shutil.rmtree(folder / name)
    for _ in range(ANSWER_MS // 100):
        if all(entry["name"] != name for entry in ask(url, "v2/repository/index", {})):
            return
        time.sleep(0.1)
    raise AssertionError(f"the server still lists {name}")


def until(page: Page, expression: str) -> None:
    """Wait until something is true. Playwright's own way would have a text become a script, which the page forbids."""
    for _ in range(ANSWER_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"this did not become true: {expression}")


def shoot(what: Page | Locator, name: str) -> None:
    """Keep a picture of a page or a part of it, for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    if isinstance(what, Locator):
        what.page.evaluate("scrollTo(0, 0)")
        box = what.page.viewport_size
        assert box
        # As high as it is: else what sticks to the window's edge lies over it.
        height = int(what.evaluate("element => element.getBoundingClientRect().height")) + 400
        what.page.set_viewport_size({"width": box["width"], "height": max(box["height"], height)})
        what.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")
        what.page.set_viewport_size(box)
    else:
        what.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")
