"""An admin acts on the page: on the key that is meant, until the time that is meant, and is told of each change."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from page_fixtures import TOKEN, Site, check
from service_process import poll

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.slow


def test_a_limited_key_that_no_field_can_hold_is_asked_about_as_it_is(site: Site) -> None:
    for _ in range(40):
        check(site.url, user="two\nlines", path="/api/x")
    site.open()
    site.page.locator("#keys li", has_text=r"two\x0alines").get_by_role("button", name="Why").click()
    site.page.locator(".verdict.rejected").wait_for()
    field = site.page.locator("#attributes .row", has=site.page.locator("[value=user]")).get_by_label("Value")
    assert field.input_value() == r"two\x0alines"
    field.fill("twolines")
    site.page.get_by_role("button", name="Ask", exact=True).click()
    site.page.locator(".verdict.admitted").wait_for()


def test_an_answer_is_told_again_after_signing_out_and_in(site: Site) -> None:
    site.open()
    site.ask(user="heidi", path="/api/x")
    site.page.get_by_role("button", name="Sign out").click()
    sign_in(site)
    site.ask(user="heidi", path="/api/x")
    site.page.locator("#verdict", has_text="Each rule that applies has room.").wait_for()


def sign_in(site: Site) -> None:
    site.page.get_by_role("button", name="Sign in").click()
    site.page.get_by_label("An admin's token").fill(TOKEN)
    site.confirm("Sign in")


OPENED_AS_ANOTHER_CLOSES = """async () => {
  document.querySelector("dialog [type=button]").click();
  document.querySelector("#rules .act button").click();
  await new Promise((done) => setTimeout(done, 100));
}"""
"""As two keys do that were pressed while the page stood still."""


def test_a_dialog_that_is_opened_as_another_one_closes_is_whole(site: Site) -> None:
    """The event of the first one's end came later, and emptied the second one."""
    site.open()
    site.page.locator("#rules .act button").first.click()
    site.page.evaluate(OPENED_AS_ANOTHER_CLOSES)
    site.page.locator("dialog").get_by_role("button", name="Cancel").click()
    site.page.locator("dialog").wait_for(state="hidden")
    site.page.locator("#rules .act button").first.click()
    site.page.get_by_label("For how many minutes").wait_for()


def test_the_end_of_a_long_block_or_pause_has_its_day(site: Site) -> None:
    site.open()
    pause = site.page.locator("#rules tr", has_text="reports")
    pause.get_by_role("button", name="Pause…").click()
    site.page.get_by_label("For how many minutes").fill("4000")
    site.confirm("Pause the rule")
    pause.get_by_text(re.compile(r"paused until \d+ \w+ \d{4}, \d\d:\d\d:\d\d")).wait_for()
    pause.get_by_role("button", name="Resume…").click()
    site.confirm("Resume the rule")
    site.ask(user="ivan", path="/api/x")
    site.page.get_by_role("button", name="Block…", exact=True).click()
    site.page.get_by_label("For how many minutes").fill("600000")
    site.confirm("Block")
    until = re.compile(r"\d+ \w+ \d{4}, \d\d:\d\d:\d\d")
    site.page.locator(".bucket .why", has_text=until).wait_for()
    site.page.locator(".bucket dd", has_text=until).wait_for()


def left_while_blocking(site: Site) -> Route:
    """Block, and close the dialog before the request is sent on. Return the request."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    site.page.route("**/v1/admin/block", hold, times=1)
    site.page.get_by_role("button", name="Block…", exact=True).click()
    site.page.locator("dialog").get_by_role("button", name="Block", exact=True).click()
    poll(lambda: site.page.evaluate("1") and held)
    site.page.keyboard.press("Escape")
    return held[0]


def test_a_change_whose_dialog_was_closed_is_told_and_closes_no_other(site: Site) -> None:
    site.open()
    site.ask(user="judy", path="/api/x")
    held = left_while_blocking(site)
    site.page.get_by_role("button", name="Reset…").click()
    held.continue_()
    site.page.locator("#notice.on", has_text="It is blocked.").wait_for()
    assert site.page.locator("dialog").is_visible()
    site.confirm("Reset")
    site.page.locator("#notice.on", has_text="The buckets are full.").wait_for()


def test_a_change_whose_dialog_was_closed_is_told_if_it_fails(site: Site) -> None:
    site.open()
    site.ask(user="judy", path="/api/x")
    held = left_while_blocking(site)
    held.fulfill(status=503, json={"detail": "not now"})
    site.page.locator("#notice.bad.on", has_text="not now").wait_for()


def test_a_page_signs_in_once_although_its_stream_begins_meanwhile(site: Site) -> None:
    """It did twice. The second answer began all views anew: a row whose button had the focus was gone for a second."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    site.page.route("**/v1/admin/rules", hold)
    site.page.goto(f"{site.url}/#token={TOKEN}")
    site.page.locator("#state[data-state=live]").wait_for()
    poll(lambda: site.page.evaluate("1") and held)
    held[0].continue_()
    site.page.locator("#keys-note", has_text="as they are").wait_for()
    assert site.asked.count("/v1/admin/rules") == 1


def test_a_token_that_is_pasted_into_an_open_page_is_taken_out_of_the_address(site: Site) -> None:
    site.open(signed_in=False)
    site.page.evaluate("token => { location.hash = `token=${token}` }", TOKEN)
    site.page.locator("body.signed").wait_for()
    assert TOKEN not in site.page.url


def test_an_answer_is_not_shown_beside_an_error_as_it_is_of_another_moment_or_question(site: Site) -> None:
    site.open()
    site.ask(user="judy", path="/api/x")
    down = {"status": 503, "body": '{"detail": "the store does not answer"}'}
    site.page.route("**/v1/admin/explain", lambda route: route.fulfill(**down))
    error = site.page.locator("#request-error", has_text="the store does not answer")
    error.wait_for()
    assert "Admitted" not in site.page.locator("#verdict").inner_text()
    assert site.page.locator(".bucket").count() == 0
    assert not site.page.locator("#request-actions").is_visible()
    site.page.unroute("**/v1/admin/explain")
    site.page.locator("#verdict", has_text="Admitted").wait_for()
    assert not error.is_visible()
    site.page.locator("#attributes .row input").first.fill("no-such-attribute")
    site.page.get_by_role("button", name="Ask", exact=True).click()
    site.page.locator("#request-error", has_text="no-such-attribute").wait_for()
    assert "Admitted" not in site.page.locator("#verdict").inner_text()


def test_a_token_that_the_service_does_not_know_any_more_is_told(site: Site) -> None:
    told = site.page.locator("#notice.on", has_text="does not know your token")
    site.open(view="policy")
    refused = {"status": 401, "body": '{"detail": "send the token of an admin"}'}
    site.page.route("**/v1/admin/*", lambda route: route.fulfill(**refused))
    site.show("overview")
    told.wait_for()
    assert site.page.locator("#sign").inner_text() == "Sign in"
    site.page.unroute("**/v1/admin/*")
    site.page.evaluate("document.querySelector('#notice').replaceChildren()")
    site.page.evaluate("location.hash = 'token=not-the-token-of-anybody'")
    told.wait_for()
