"""Take the pictures of the service's page with a real browser: python docs/pictures/page.py [FOLDER]

The service makes its demo traffic for a minute and a half. FOLDER gets pictures of each view: light, dark and on a
phone. Without it, docs/pictures gets the two views that README shows, light and dark.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).parent
POLICY = HERE.parents[1] / "examples" / "policy.toml"
SECONDS = 90.0
PROGRAM = "/usr/bin/chromium"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


class Window(NamedTuple):
    """A browser's window, by the name of its pictures."""

    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int
    scale: int = 1


WINDOWS = [
    Window("page-light", "light", 1280, 1060),
    Window("page-dark", "dark", 1280, 1060),
    Window("page-phone", "light", 360, 740, 2),
]


def take(page: Page, url: str, folder: Path, name: str) -> None:
    """Take a picture of the overview and of one request, and for another folder than this one, of each view."""
    page.goto(url)
    page.locator("body.signed").wait_for()
    why = page.get_by_role("button", name="Why is this key limited?").first
    why.wait_for()
    page.wait_for_timeout(1500)  # some events of the stream
    page.screenshot(path=folder / f"{name}.png", full_page=folder != HERE)
    why.click()
    page.locator("#verdict strong").wait_for()
    if folder == HERE:
        page.set_viewport_size({"width": 1280, "height": 840})
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / f"{name}-request.png")
        return
    for view in ("request", "what-if", "policy"):
        page.evaluate("view => { location.hash = view }", view)
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / f"{name}-{view}.png", full_page=True)


def take_all(browser: Browser, url: str, folder: Path) -> None:
    for window in WINDOWS if folder != HERE else WINDOWS[:2]:
        context = browser.new_context(
            viewport={"width": window.width, "height": window.height},
            color_scheme=window.scheme,
            device_scale_factor=window.scale,
        )
        take(context.new_page(), url, folder, window.name)
        context.close()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    serve = [
        sys.executable,
        "-m",
        "ratekeeper.cli.main",
        "serve",
        str(POLICY),
        "--port",
        "0",
        "--workers",
        "2",
        "--demo",
    ]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        assert service.stdout is not None
        urls = (re.search(r"http://\S+#token=\S+", line) for line in service.stdout)
        url = next(found[0] for found in urls if found is not None)
        time.sleep(SECONDS)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=PROGRAM, args=OPTIONS)
            take_all(browser, url, folder)
            browser.close()
        service.terminate()


if __name__ == "__main__":
    main()
