"""The service's page in a real browser, beside a service of two workers: numbers, views, actions of an admin."""

from __future__ import annotations

import os
from importlib import resources
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx
import pytest
from page_fixtures import TOKEN, VIEWS, Site, admin, check
from prometheus_client.parser import text_string_to_metric_families
from service_process import poll

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Route

pytestmark = pytest.mark.slow

IS_LIGHT = "Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]) > 127"
FOCUSED = """() => {
  const e = document.activeElement;
  if (e === document.body) return [null, null];
  const said = e.getAttribute('aria-label') ?? e.labels?.[0]?.textContent ?? e.textContent;
  return [said, getComputedStyle(e).outlineStyle];
}"""
"""The words and the outline of the element that has the focus, at one moment."""


def totals_shown(site: Site) -> dict[str, list[int]]:
    """Return the numbers of admitted, delayed and rejected requests in each row of the page."""
    rows = site.page.locator("#rules tr").all()
    return {
        row.locator("bdi").first.inner_text(): [
            int(total.replace(",", "")) for total in row.locator(".total").all_inner_texts()
        ]
        for row in rows
    }


def counted(site: Site) -> dict[str, list[int]]:
    """Return the same numbers from a scrape of the metrics."""
    found: dict[str, list[int]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{site.url}/metrics").text):
        for sample in family.samples:
            if sample.name == "ratekeeper_decisions_total":
                place = {"allowed": 0, "shadow_refused": 0, "delayed": 1, "refused": 2}[sample.labels["outcome"]]
                found.setdefault(sample.labels["rule"], [0, 0, 0])[place] += int(sample.value)
    return found


def test_the_numbers_are_those_of_the_service(site: Site) -> None:
    site.open(signed_in=False)
    allowed = sum(check(site.url, user=f"load-{n % 10}", path="/api/x") for n in range(80))
    assert allowed == 50
    poll(lambda: {name: counts for name, counts in totals_shown(site).items() if any(counts)} == counted(site))
    status: dict[str, Any] = {}

    def told() -> dict[str, list[int]]:
        status.update(site.status())  # of a worker that may have told an older one a moment ago
        return {
            rule["name"]: [
                rule["counts"]["allowed"] + rule["counts"]["shadow_refused"],
                rule["counts"]["delayed"],
                rule["counts"]["refused"],
            ]
            for rule in status["rules"]
        }

    poll(lambda: totals_shown(site) == told())
    assert totals_shown(site)["each user"][2] >= 30
    all_allowed = sum(one["allowed"] for one in status["requests"].values())
    assert site.page.locator("[data-tile=admitted] .more").inner_text() == f"{all_allowed:,} since the start"

    def rejects() -> bool:
        check(site.url, user="load-0", path="/api/x")  # the rate is that of the last five seconds
        return site.page.locator("[data-tile=rejected] .big").inner_text() != "0 /s"

    poll(rejects)


def test_an_admin_sees_keys_at_once_and_is_not_told_to_sign_in(site: Site) -> None:
    site.page.add_init_script("performance.now = () => 0")  # a page's own clock begins at 0
    site.open()
    site.page.locator("#keys-note").get_by_text("as they are", exact=True).wait_for()


def test_without_a_token_it_shows_no_key_and_asks_no_admin_route(site: Site) -> None:
    for _ in range(7):
        check(site.url, user="a-secret-user", path="/api/x")
    site.open(signed_in=False)
    for view in VIEWS:
        site.show(view)
        assert "a-secret-user" not in site.page.content()
        assert site.page.locator("#main button:visible").filter(has_text="…").count() == 0, "no action is offered"
    assert not [path for path in site.asked if "admin" in path]


def test_a_token_in_the_address_is_taken_out_of_it_and_kept_in_the_tab_alone(site: Site) -> None:
    site.open()
    assert TOKEN not in site.page.url
    assert not [path for path in site.asked if TOKEN in path and not path.startswith("/#")]
    site.page.reload()
    site.page.locator("body.signed").wait_for()
    site.page.get_by_role("button", name="Sign out").click()
    site.page.reload()
    site.page.locator("#state[data-state=live]").wait_for()
    assert site.page.locator("#sign").inner_text() == "Sign in"
    assert site.page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0


def test_a_wrong_token_is_told_and_changes_nothing(site: Site) -> None:
    site.open(signed_in=False)
    site.page.get_by_role("button", name="Sign in").click()
    site.page.get_by_label("An admin's token").fill("not-the-token-of-anybody")
    site.page.locator("dialog button.main").click()
    site.page.locator("dialog .error", has_text="token").wait_for()
    assert site.page.locator("body.signed").count() == 0


def test_all_of_it_works_by_keyboard_alone(site: Site) -> None:
    site.open(signed_in=False)
    press, focused = site.page.keyboard.press, site.page.locator(":focus")

    def tab_to(words: str) -> None:
        for _ in range(60):
            press("Tab")
            said, outline = site.page.evaluate(FOCUSED)
            if said is None:  # it is behind the last element: the next step is the first
                continue
            assert outline != "none", f"{said}: no visible focus"
            if words in said:
                return
        raise AssertionError(f"nothing with {words!r} is reached by the tabulator")

    def press_and_confirm() -> None:
        press("Enter")
        press("Enter")  # the field or the button of the dialog has the focus
        site.page.locator("dialog").wait_for(state="hidden")  # later, maybe, than a status that tells of the change

    press("Tab")
    assert focused.inner_text() == "Skip to content"
    tab_to("Sign in")
    press("Enter")
    site.page.keyboard.type(TOKEN)
    press("Enter")
    site.page.locator("body.signed").wait_for()
    site.page.locator("#rules button", has_text="Pause").first.wait_for()
    tab_to("Requests a second")
    press("ArrowLeft")
    assert "admitted" in str(focused.get_attribute("aria-valuetext"))
    tab_to("Pause")
    press_and_confirm()
    site.page.locator("#rules .tag", has_text="paused until").wait_for()
    site.page.locator("#rules button", has_text="Resume").wait_for()
    assert admin(site.url, "rules")["rules"][0]["paused_until"] is not None
    site.page.locator("#rules button", has_text="Resume").focus()
    press_and_confirm()
    site.page.locator("#rules .tag", has_text="paused until").wait_for(state="detached")
    site.page.locator("#main").focus()
    press("Shift+Tab")  # the last view
    for _ in range(2):
        press("Shift+Tab")
    press("Enter")
    site.page.locator("#request").wait_for()
    site.page.locator("#attribute-names option").first.wait_for(state="attached")
    tab_to("Value")
    site.page.keyboard.type("keyboard-user")
    press("Enter")
    site.page.locator("#verdict strong").wait_for()


def test_one_request_is_told_by_its_rules_live(site: Site) -> None:
    site.open()
    site.ask(user="alice", path="/api/x")
    bucket = site.page.locator(".bucket", has_text="each user")
    bucket.get_by_text("5 of 5").wait_for()
    for _ in range(6):
        check(site.url, user="alice", path="/api/x")
    bucket.get_by_text("0 of 5").wait_for()  # nobody asked again
    site.page.locator("#verdict", has_text="Rejected").wait_for()
    assert float(bucket.locator(".water").get_attribute("height") or 100) < 5, "of 100"
    assert "rejects" in bucket.inner_text()
    assert "does not apply" in site.page.locator(".bucket", has_text="reports").inner_text()
    site.ask(user="alice", path="/reports/q")
    site.page.locator(".bucket.leaky", has_text="4/second").wait_for()


def test_an_admin_resets_grants_and_blocks(site: Site) -> None:
    bucket = empty_bucket(site, "bob")
    for action, verb, shows in (
        ("Grant tokens…", "Grant", "5 of 5"),
        ("Block…", "Block", "Blocked until"),
        ("Unblock…", "Unblock", "5 of 5"),
        ("Reset…", "Reset", "5 of 5"),
    ):
        site.page.get_by_role("button", name=action, exact=True).click()
        site.confirm(verb)
        bucket.get_by_text(shows).wait_for()
        if action == "Block…":
            assert not check(site.url, user="bob", path="/api/x")
    assert check(site.url, user="bob", path="/api/x")


def empty_bucket(site: Site, user: str) -> Locator:
    """Open the view of a user's request, whose bucket has no token left. Return the bucket."""
    for _ in range(5):
        check(site.url, user=user, path="/api/x")
    site.open()
    site.ask(user=user, path="/api/x")
    return site.page.locator(".bucket", has_text="each user")


def grant_that_fails(site: Site, tokens: int, why: str) -> None:
    """Grant tokens, and wait until the dialog tells why they are not granted."""
    site.page.get_by_role("button", name="Grant tokens…").click()
    site.page.get_by_label("Tokens", exact=True).fill(str(tokens))
    site.page.locator("dialog").get_by_role("button", name="Grant").click()
    site.page.locator("dialog .error", has_text=why).wait_for()


def test_a_change_whose_answer_was_lost_is_made_once(site: Site) -> None:
    bucket = empty_bucket(site, "carol")
    lost: list[int] = []

    def lose(route: Route) -> None:
        lost.append(route.fetch().status)
        route.abort()

    site.page.route("**/v1/admin/grant", lose, times=1)
    grant_that_fails(site, 2, "does not answer")
    site.confirm("Grant")
    assert lost == [200]
    bucket.get_by_text("2 of 5").wait_for()


def test_a_change_that_was_refused_is_made_by_the_next_try(site: Site) -> None:
    bucket = empty_bucket(site, "dave")
    sent: list[str] = []

    def refuse(route: Route) -> None:
        sent.append(route.request.headers["idempotency-key"])
        if len(sent) == 1:  # the service gets it, so its key is used up, and the page gets a refusal
            route.fetch()
            route.fulfill(status=503, json={"detail": "not now"})
        else:
            route.continue_()

    site.page.route("**/v1/admin/grant", refuse)
    grant_that_fails(site, 1, "not now")
    site.confirm("Grant")
    assert len(set(sent)) == 2, "an answer has used the first key up"
    bucket.get_by_text("2 of 5").wait_for()


def test_axe_finds_nothing_in_light_and_in_dark(site: Site) -> None:
    site.open()
    site.ask(user="dora", path="/api/x")
    site.page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    schemes: list[Literal["light", "dark"]] = ["light", "dark"]
    for view, scheme in product(VIEWS, schemes):
        site.page.emulate_media(color_scheme=scheme)
        site.show(view)
        site.page.locator("#compare:not(.busy)").wait_for(state="attached")  # what is computed anew is greyed meanwhile
        found = site.page.evaluate("axe.run({ resultTypes: ['violations'] }).then(({ violations }) => violations)")
        told = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]]) for one in found]
        assert not told, f"{view}, {scheme}: {told}"
        assert site.page.evaluate(IS_LIGHT) is (scheme == "light")


@pytest.mark.parametrize("site", [{"viewport": {"width": 320, "height": 700}, "has_touch": True}], indirect=True)
def test_a_phone_shows_all_of_it_without_scrolling_sideways(site: Site) -> None:
    site.open()
    site.ask(user="erin" * 40, path="/api/x")
    for view in VIEWS:
        site.show(view)
        assert not site.is_wider_than_its_window(), view
    site.show("request")
    site.page.get_by_role("button", name="Block…", exact=True).click()
    box = site.page.locator("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320


HOUR = """
async (seconds) => {
  const { take } = await import("/page/main.js");
  const status = await (await fetch("/v1/status")).json();
  for (let second = 0; second < seconds; second += 1) {
    status.at += 1;
    for (const rule of status.rules) rule.counts.allowed += second % 50;
    status.latency.p50 = 1e-5 * (1 + (second % 7));
    take.status(structuredClone(status));
    if (second % 30 === 0) await new Promise(requestAnimationFrame);
  }
}
"""


def resident_bytes(pid: int) -> int:
    """Return what a process has in RAM: nothing if it has ended since it was listed, as that of an earlier page."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_an_hour_of_events_keeps_its_memory(site: Site, chromium: Browser) -> None:
    site.open()
    session, browser = site.page.context.new_cdp_session(site.page), chromium.new_browser_cdp_session()

    def used() -> tuple[float, int, int]:
        """Return the bytes of the heap, those of the browser's processes in RAM, and the elements of the page."""
        session.send("HeapProfiler.collectGarbage")
        processes = browser.send("SystemInfo.getProcessInfo")["processInfo"]
        heap = session.send("Runtime.getHeapUsage")["usedSize"]
        return heap, sum(resident_bytes(one["id"]) for one in processes), site.page.locator("*").count()

    site.page.evaluate(HOUR, 300)
    heap, resident, elements = used()
    site.page.evaluate(HOUR, 3600)
    heap_then, resident_then, elements_then = used()
    assert heap_then - heap < 1_000_000, "3,600 statuses that are kept would be more than this"
    assert resident_then - resident < 200_000_000, "and what a chart draws is in no heap"
    assert elements_then < elements + 100, "a row more of a key is well, but not one for each status"
