"""What-if on the page is what `ratekeeper replay` says of a log of the same requests, and enforces nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_fixtures import POLICY, Site, admin, check, written
from servers import PATIENCE
from service_process import poll, running

from ratekeeper import Policy

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

REQUESTS = [{"user": f"u-{number % 5}", "path": "/api/x" if number % 3 else "/other"} for number in range(60)]


def replayed(policy: str, times: list[float], folder: Path) -> dict[str, tuple[int, int]]:
    """Return what `ratekeeper replay` admits at once and rejects by each rule, of the requests at these times."""
    log, file = folder / "access.log", folder / "replayed.toml"
    lines = [{"time": at, "method": "GET", **one} for at, one in zip(times, REQUESTS, strict=True)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    file.write_text(policy)
    command = [sys.executable, "-m", "ratekeeper.cli.main", "replay", str(file), str(log), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    rules = json.loads(done.stdout)["rules"]
    return {rule["rule"]: (rule["admitted"] - rule["delayed"], rule["rejected"]) for rule in rules if rule["requests"]}


ROWS = """
() => [...document.querySelectorAll("#what-if-figures tr")].map(
  (row) => [row.querySelector("th").textContent, ...[...row.querySelectorAll("td b")].map((cell) => cell.textContent)])
"""


def shown(site: Site) -> dict[str, tuple[int, int]]:
    """Return what the page says would be admitted and rejected by each rule."""
    found = {}
    for name, *cells in site.page.evaluate(ROWS):
        admitted, delayed, rejected = (int(cell.replace(",", "")) for cell in cells)
        if admitted + delayed + rejected:
            found[name] = admitted, rejected
    return found


def test_what_if_is_what_replay_says_of_the_same_requests(chromium: Browser, tmp_path: Path) -> None:
    policy = written(tmp_path)
    with running(policy, "--workers", "2", "--admin-tokens", str(tmp_path / "tokens")) as service:
        times = []
        for one in REQUESTS:
            times.append(time.time())
            check(service.url, **one)
        context = chromium.new_context()
        site = Site(context.new_page(), service.url).open(view="what-if")
        before = replayed(POLICY, times, tmp_path)
        poll(lambda: shown(site) == before)
        assert site.page.locator("#what-if-span").inner_text().startswith("60 requests")

        site.page.get_by_label("Capacity, exactly").fill("2")
        edited = POLICY.replace("capacity = 5", "capacity = 2")
        after = replayed(edited, times, tmp_path)
        assert after != before
        poll(lambda: shown(site) == after)
        to_copy = site.page.locator("#toml").inner_text()
        assert [rule.limit.capacity for rule in Policy.parse(to_copy).rules] == [2]

        site.page.locator("#by-text").click()
        site.page.locator("#what-if-policy").fill(POLICY.replace("capacity = 5", "capacity = 7"))
        site.page.locator("#what-if-try").click()
        widened = replayed(POLICY.replace("capacity = 5", "capacity = 7"), times, tmp_path)
        poll(lambda: shown(site) == widened)
        site.page.locator("#what-if-policy").fill("rules = 3")
        site.page.locator("#what-if-try").click()
        poll(lambda: site.page.locator("#what-if-error").inner_text() != "")

        assert site.complaints == []
        assert admin(service.url, "policy")["now"]["text"] == POLICY, "nothing is enforced"
        assert not check(service.url, user="u-1", path="/api/x")
        context.close()


def test_what_if_is_asked_again_by_itself_and_tells_no_error_that_is_over(chromium: Browser, tmp_path: Path) -> None:
    policy = written(tmp_path)
    with running(policy, "--admin-tokens", str(tmp_path / "tokens")) as service:
        check(service.url, user="u", path="/api/x")
        context = chromium.new_context()
        site = Site(context.new_page(), service.url).open()
        busy = {"status": 503, "headers": {"Retry-After": "1"}, "body": '{"detail": "another what-if"}'}
        site.page.route("**/v1/admin/what-if", lambda route: route.fulfill(**busy))
        site.show("what-if")
        error = site.page.locator("#what-if-error")
        error.get_by_text("another what-if").wait_for()
        site.page.unroute("**/v1/admin/what-if")  # only now: else the error is gone before this machine has looked
        poll(lambda: shown(site).get("each user") == (1, 0))
        assert error.inner_text() == ""
        site.page.route("**/v1/admin/rules", lambda route: route.abort())
        policy.write_text(f"{POLICY}# the rules are the same")
        error.get_by_text("does not answer").wait_for()
        site.page.unroute("**/v1/admin/rules")
        poll(lambda: error.inner_text() == "")
        context.close()
