"""The service's page in trouble: names that attack it, a service that is gone, a policy with a mistake."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from page_fixtures import VIEWS, Site, check, killed_after, written
from redis_servers import redis_server
from servers import PATIENCE, free_port
from service_process import poll, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

NAMES = [
    "<img src=x onerror=attack()>",
    "</script><script>attack()</script>",
    '"><svg onload=attack()>',
    "\u202edlrow olleh\u2066",
    "bell\u0007 and escape\u001b[31m",
    "חשבון של משתמש",
    "long " * 2000,
    "{{attack()}} ${attack()} javascript:attack()",
]
HIDDEN = "\u202e\u2066\u0007\u001b"
ATTACKED = "window.attacked === true || document.querySelector('img, main script, svg[onload]') !== null"


RULES = [name.strip() for name in NAMES if name.strip().isprintable()]
"""A policy refuses other names of rules."""

TOLD = """
async (names) => {
  const { take } = await import("/page/main.js");
  const status = await (await fetch("/v1/status")).json();
  status.policy.source = names[3];
  status.store.where = names[0];
  status.rules = names.map((name) => ({ ...status.rules[0], name, limit: name, algorithm: name }));
  status.limited_keys = names.map((name) => ({ rule: name, key: name, rejected: 1, error: 0 }));
  take.status(status);
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return document.querySelector("#rules").innerText;
}
"""


def test_a_page_that_hangs_fails_its_test_and_leaves_a_browser_to_the_next(launched: Callable[[], Browser]) -> None:
    from playwright.sync_api import Error  # noqa: PLC0415

    browser = launched()
    page = browser.new_page()
    with killed_after(browser, 1.0), pytest.raises(Error, match="closed"):
        page.evaluate("() => { while (true); }")
    assert launched().new_page().evaluate("() => 7") == 7


def hostile_policy() -> str:
    rules = [
        f'[[rules]]\nname = {json.dumps(name)}\nkey = ["user"]\nlimit = "{place + 1}/hour"\n'
        for place, name in enumerate(RULES)
    ]
    return '[attributes]\nuser = "header:x-user"\n\n' + "\n".join(rules)


def test_hostile_names_of_rules_and_keys_are_only_text(chromium: Browser, tmp_path: Path) -> None:
    with running(written(tmp_path, hostile_policy()), "--admin-tokens", str(tmp_path / "tokens")) as service:
        for name in NAMES:
            for _ in range(2):
                check(service.url, user=name)
        context = chromium.new_context(viewport={"width": 360, "height": 740})
        context.add_init_script("window.attack = () => { window.attacked = true }")
        site = Site(context.new_page(), service.url).open()
        site.page.locator("#rules tr").nth(len(RULES) - 1).wait_for()
        long_one = site.page.locator("#rules tr").nth(max(range(len(RULES)), key=lambda place: len(RULES[place])))
        long_one.get_by_role("button", name="Pause").click()
        site.confirm("Pause the rule")
        long_one.get_by_text("paused until").wait_for()
        site.page.get_by_role("button", name="Why is this key limited?").first.wait_for()
        for name in NAMES:
            site.ask(user=name)
            site.page.locator(".bucket").nth(len(RULES) - 1).wait_for()
            assert not site.is_wider_than_its_window()
        site.page.evaluate(TOLD, NAMES)
        for view in VIEWS:
            site.show(view)
            text = site.page.locator("body").inner_text()
            assert not [character for character in HIDDEN if character in text], view
            assert not site.is_wider_than_its_window(), view
            assert not site.page.evaluate(ATTACKED), view
        site.show("overview")
        rules = ""

        def told() -> bool:
            nonlocal rules
            rules = site.page.evaluate(TOLD, NAMES)  # until the service's next status, which comes each second
            return "bell" in rules

        poll(told)
        assert not site.is_wider_than_its_window()
        assert "\\u202edlrow olleh" in rules, "it is shown as an escape"
        assert site.complaints == []
        context.close()


def test_a_service_that_is_gone_is_told_and_comes_back(chromium: Browser, tmp_path: Path) -> None:
    policy, port = written(tmp_path), str(free_port())
    context = chromium.new_context()
    options = ["--port", port, "--admin-tokens", str(tmp_path / "tokens")]
    with running(policy, *options) as service:
        for _ in range(3):
            check(service.url, user="alice", path="/api/x")
        site = Site(context.new_page(), service.url).open()
        total = site.page.locator("#rules tr").first.locator("[data-total=admitted]")
        poll(lambda: total.inner_text() == "3")
        before = site.page.locator("#rules").bounding_box()
        service.signal(signal.SIGKILL)
        site.page.locator("#state[data-state=lost]").wait_for()
        assert "reconnecting" in site.page.locator("#state").inner_text()
        assert site.page.locator("#lost").is_visible()
        assert total.inner_text() == "3", "the last numbers stay, greyed"
        assert site.page.locator("#rules").bounding_box() == before, "nothing moves"
    with running(policy, *options) as service:
        site.page.locator("#state[data-state=live]").wait_for()
        poll(lambda: total.inner_text() == "0")
        check(service.url, user="alice", path="/api/x")
        poll(lambda: total.inner_text() == "1")
        assert not site.page.locator("#lost").is_visible()
        assert site.page.locator("body.signed").count() == 1
        assert site.complaints == []
    context.close()


def test_a_policys_changes_and_mistakes_are_told(chromium: Browser, tmp_path: Path) -> None:
    policy = written(tmp_path)
    with running(policy, "--admin-tokens", str(tmp_path / "tokens")) as service:
        context = chromium.new_context()
        site = Site(context.new_page(), service.url).open(view="policy")
        site.page.locator("#diff-empty", has_text="first policy").wait_for()
        policy.write_text(policy.read_text().replace("capacity = 5", "capacity = 6"))
        site.page.locator("#diff .removed", has_text="capacity = 5").wait_for()
        assert site.page.locator("#diff .added").inner_text() == "+capacity = 6"
        policy.write_text(policy.read_text().replace("capacity = 6", "capasity = 6"))
        site.page.locator("#reload-error", has_text="did you mean 'capacity'").wait_for()
        site.page.get_by_role("button", name="Read the file again…").click()
        site.page.locator("dialog").get_by_role("button", name="Read it").click()
        site.page.locator("dialog .error", has_text="capasity").wait_for()
        context.close()


FAST = """
async (rate) => {
  const { take } = await import("/page/main.js");
  const status = await (await fetch("/v1/status")).json();
  for (let second = 1; second <= 30; second++) {
    status.at += 1;
    status.requests.http.allowed += rate;
    take.status(structuredClone(status));
  }
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  const big = document.querySelector("[data-tile=admitted] .big");
  return [big.scrollWidth <= big.clientWidth, big.textContent];
}
"""


def test_a_high_rate_is_shown_whole_also_in_a_narrow_window(chromium: Browser, tmp_path: Path) -> None:
    with running(written(tmp_path)) as service:
        context = chromium.new_context(viewport={"width": 320, "height": 740})
        site = Site(context.new_page(), service.url).open(signed_in=False)
        for rate, text in ((999_999, "999,999/s"), (1_250_000, "1.25M/s"), (4_554_514_299, "4.55B/s")):
            shown = [True, text]
            poll(lambda: site.page.evaluate(FAST, rate) == shown)  # noqa: B023  a real status may come between
        context.close()


def test_requests_that_nobody_decided_are_told_while_they_come(chromium: Browser, tmp_path: Path) -> None:
    with redis_server() as store, running(written(tmp_path), "--store", store.url) as service:
        context = chromium.new_context()
        site = Site(context.new_page(), service.url).open(signed_in=False)
        fact = site.page.locator("#health [data-fact='Not decided']")
        fact.get_by_text("0/s; 0 since the start").wait_for()
        store.process.kill()
        sent = 0

        def told() -> bool:
            nonlocal sent
            sent += 1  # the mark goes five seconds after the last one, so they go on coming
            httpx.post(f"{service.url}/v1/check", json={"attributes": {"path": "/api/x"}}, timeout=PATIENCE)
            return fact.locator(".bad", has_text="since the start").count() == 1

        poll(told)
        fact.get_by_text(f" {sent} since the start").wait_for()
        poll(lambda: fact.locator(".bad, .icon").count() == 0)  # the mark goes when no more come
        assert f"0/s; {sent} since the start" in fact.inner_text()
        context.close()
