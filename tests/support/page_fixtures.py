"""The service's page in a real Chromium, as a fixture. Each test also asserts that the browser complains of nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from needs import need, need_program
from servers import PATIENCE
from service_process import Running, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TOKEN = "a-token-of-the-tests-0123456789"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
LONGEST = 120.0
"""Seconds for one test of the page."""
VIEWS = ("overview", "request", "what-if", "policy")

POLICY = """
[attributes]
user = "header:x-user"

[[rules]]
name = "each user"
key = ["user"]
match = { path = "/api/*" }
capacity = 5
refill_rate = "1/hour"

[[rules]]
name = "reports"
match = { path = "/reports/*" }
algorithm = "leaky_bucket"
capacity = 8
leak_rate = 4

[[rules]]
name = "planned"
shadow = true
limit = "2/hour"
"""

OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
_VIOLATIONS = "addEventListener('securitypolicyviolation', (event) => console.error('CSP', event.violatedDirective))"
_LOST_FOCUS = """
  let focused = null;
  const lost = () => { console.error('the focus was lost with', focused.outerHTML); focused = null; };
  addEventListener('focusin', ({ target }) => (focused = target));
  addEventListener('focusout', ({ target, relatedTarget }) => queueMicrotask(() => {
    if (relatedTarget || target !== focused || !target.isConnected) return;
    if (target.disabled || !target.checkVisibility()) lost();
    else focused = null;
  }));
  new MutationObserver(() => {
    if (focused && !focused.isConnected && document.activeElement === document.body) lost();
  }).observe(document, { childList: true, subtree: true });
"""
"""A person at the keyboard would have to begin again at the top of the page."""
_ANSWER = "Failed to load resource"
"""Chromium says so of each answer that is not a success, such as 401, and of a service that is stopped."""


class Site:
    """The service's page, opened in a browser, and the service behind it."""

    def __init__(self, page: Page, url: str) -> None:
        page.set_default_timeout(1000 * PATIENCE)
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("request", lambda request: self.asked.append(request.url.removeprefix(url)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith(_ANSWER):
            self.complaints.append(text)

    def open(self, signed_in: bool = True, view: str = "overview") -> Site:
        """Open a view, and wait until the first status is shown."""
        self.page.goto(f"{self.url}/#token={TOKEN}" if signed_in else self.url)
        self.page.locator("#state[data-state=live]").wait_for()
        if signed_in:
            self.page.locator("body.signed").wait_for()
        self.show(view)
        return self

    def show(self, view: str) -> None:
        if not self.page.locator(f"#{view}").is_visible():
            self.page.evaluate("view => { location.hash = view }", view)
        self.page.locator(f"#{view}").wait_for()

    def ask(self, **attributes: str) -> None:
        """Type a request in, and ask about it."""
        self.show("request")
        rows = self.page.locator("#attributes .row")
        self.page.locator("#attribute-names option").first.wait_for(state="attached")
        for place, pair in enumerate(attributes.items()):
            if rows.count() <= place:
                self.page.locator("#add-attribute").click()
            for field, text in enumerate(pair):
                rows.nth(place).locator("input").nth(field).fill(text)
        self.page.get_by_role("button", name="Ask", exact=True).click()
        self.page.locator("#verdict strong").wait_for()

    def confirm(self, verb: str) -> None:
        """Press the button of the open dialog, and wait until it is closed."""
        self.page.locator("dialog").get_by_role("button", name=verb, exact=True).click()
        self.page.locator("dialog").wait_for(state="hidden")

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = httpx.get(f"{self.url}/v1/status", timeout=PATIENCE).json()
        return told

    def is_wider_than_its_window(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def check(url: str, **attributes: str) -> bool:
    """Ask the service about one request of a program; return whether it is allowed."""
    body = {"attributes": attributes, "wait": False}
    return bool(httpx.post(f"{url}/v1/check", content=json.dumps(body), timeout=PATIENCE).json()["allowed"])


def admin(url: str, verb: str, **body: object) -> dict[str, Any]:
    """Ask the admin API something that changes nothing."""
    answer = httpx.request(
        "POST" if body else "GET", f"{url}/v1/admin/{verb}", headers=ADMIN, json=body or None, timeout=PATIENCE
    )
    told: dict[str, Any] = answer.raise_for_status().json()
    return told


@contextmanager
def killed_after(browser: Browser, seconds: float = LONGEST) -> Iterator[None]:
    """Meanwhile a browser may take so long. Then it is killed, and what it was asked for is an error.

    Not each call of playwright has a bound: a page that is in an endless loop never ends an `evaluate`.
    """
    asked = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    [pid] = [one["id"] for one in asked if one["type"] == "browser"]
    killer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    killer.start()
    try:
        yield
    finally:
        killer.cancel()


@pytest.fixture(scope="module")
def launched() -> Iterator[Callable[[], Browser]]:
    """A function that returns the module's browser, launched anew if it was killed.

    One for all tests would not do: playwright's event loop runs until it is stopped.
    """
    need("playwright", importlib.util.find_spec("playwright") is not None)
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    program = need_program("chromium")
    browsers: list[Browser] = []
    with sync_playwright() as playwright:

        def launch() -> Browser:
            if not browsers or not browsers[-1].is_connected():
                browsers.append(playwright.chromium.launch(executable_path=program, args=OPTIONS))
            return browsers[-1]

        yield launch
        for browser in browsers:
            browser.close()


@pytest.fixture
def chromium(launched: Callable[[], Browser]) -> Iterator[Browser]:
    """A browser for one test, which it is killed in if the test hangs."""
    browser = launched()
    with killed_after(browser):
        yield browser


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of two workers, with an admin."""
    folder = tmp_path_factory.mktemp("operated")
    with running(written(folder), "--workers", "2", "--admin-tokens", str(folder / "tokens")) as service:
        yield service


def written(folder: Path, policy: str = POLICY) -> Path:
    """Write a policy's file and an admin's token; return the policy's."""
    (folder / "tokens").write_text(f"tester {TOKEN}\n")
    file = folder / "policy.toml"
    file.write_text(policy)
    return file


@pytest.fixture
def site(chromium: Browser, operated: Running, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The page of `operated` in its own window. A parameter has the options of the window."""
    context = chromium.new_context(**getattr(request, "param", {}))
    context.add_init_script(_VIOLATIONS)
    context.add_init_script(_LOST_FOCUS)
    opened = Site(context.new_page(), operated.url)
    yield opened
    assert opened.complaints == []
    context.close()
