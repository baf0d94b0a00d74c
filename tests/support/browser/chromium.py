"""A real browser, and what a page did in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Playwright

PATIENCE_MS = 20_000
"""Before a test gives up waiting for what must come: the machine may be busy."""
POLL_MS = 30
SMALLEST_PAGE = "/static/icon.svg"
"""An address of the dashboard that has storage and runs nothing."""
SERIOUS = {"serious", "critical"}
CHART = "document.getElementById('chart')"
"""In a page's script: the chart over steps."""


def trace(name: str, mode: str = "lines") -> str:
    """In a page's script: what the chart over steps draws by that name."""
    return f"{CHART}.data.find(trace => trace.name === '{name}' && trace.mode === '{mode}')"


def launch(playwright: Playwright) -> Browser:
    """Headless Chromium, as the system has it. Playwright's own would have to be downloaded."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "the browser tests need Chromium: apt-get install chromium"
    # Chromium refuses to run as root inside its sandbox, and containers run tests as root.
    return playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)


class Watched:
    """A page, and what it asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._said(message.type, message.text))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)


@contextlib.contextmanager
def window(browser: Browser, base_url: str, **options: Any) -> Iterator[BrowserContext]:
    """Cookies, storage and a cache, with none of them filled yet."""
    with contextlib.closing(browser.new_context(base_url=base_url, **options)) as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context


@contextlib.contextmanager
def watching(page: Page, base_url: str) -> Iterator[None]:
    """Watches a page. At the end: it was content, and asked nobody else.

    Raises:
        AssertionError: there were errors or warnings in its console, or requests to another host.
    """
    watch = Watched(page)
    yield
    # Images that a page makes of itself, to be saved, have no host.
    assert watch.hosts - {""} <= {urlsplit(base_url).netloc}
    assert watch.complaints == []


@contextlib.contextmanager
def watched(context: BrowserContext, base_url: str) -> Iterator[Page]:
    """A page that is watched. Raises: AssertionError: as `watching`."""
    with contextlib.closing(context.new_page()) as page, watching(page, base_url):
        yield page


class SharedWindows:
    """Windows on one server, one for each set of options, which many tests use in turn.

    What a page costs is mostly a new process, and the scripts that this compiles. Here a page that stays opens the
    others, which are then drawn by its process. Cookies and storage are emptied before each.
    """

    def __init__(self, browser: Browser, base_url: str) -> None:
        self._browser, self._base_url = browser, base_url
        self._stack = contextlib.ExitStack()
        self._openers: dict[str, Page] = {}

    @contextlib.contextmanager
    def page(self, **options: Any) -> Iterator[Page]:
        """A page that is watched, in a window with these options. Raises: AssertionError: as `watching`."""
        with self.unwatched_page(**options) as page, watching(page, self._base_url):
            yield page

    @contextlib.contextmanager
    def unwatched_page(self, **options: Any) -> Iterator[Page]:
        """A page that may complain: Chromium itself reports answers that are errors."""
        opener = self._openers.get(repr(options)) or self._open(options)
        opener.context.clear_cookies()
        opener.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        with opener.expect_popup() as popup:
            opener.evaluate("() => { window.open('about:blank'); }")
        with contextlib.closing(popup.value) as page:
            yield page

    def close(self) -> None:
        """Closes all windows."""
        self._stack.close()

    def _open(self, options: dict[str, Any]) -> Page:
        context = self._stack.enter_context(window(self._browser, self._base_url, **options))
        opener = context.new_page()
        opener.goto(SMALLEST_PAGE)
        self._openers[repr(options)] = opener
        return opener


def until(page: Page, condition: str) -> None:
    """Waits for a condition. Playwright's own way is an `eval` in the page, which the page's policy forbids.

    Raises:
        AssertionError: it does not come true.
    """
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never came true: {condition}"
        page.wait_for_timeout(POLL_MS)


def show(page: Page, *, visible: bool = True) -> None:
    """Brings a page to the front, or sends it to the back. Headless, Chromium holds all pages to be in front."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        not visible,
    )


def axe_findings(page: Page) -> list[str]:
    """What axe-core finds serious in a page as it is now."""
    # What a chart draws is one image to whoever listens, and thousands of elements to axe. The script comes through the
    # protocol: the page's own policy would not let it in.
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    result: dict[str, Any] = page.evaluate("axe.run({exclude: ['.main-svg']}, {resultTypes: ['violations']})")
    return [
        f"{found['id']}: {node['html'][:200]} {node['failureSummary']}"
        for found in result["violations"]
        if found["impact"] in SERIOUS
        for node in found["nodes"]
    ]
