"""An admin acts on the page: on the key that is meant, until the time that is meant, and is told of each change."""

from __future__ import annotations

import pytest
from page_fixtures import TOKEN, Site, check

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


def test_a_token_that_is_pasted_into_an_open_page_is_taken_out_of_the_address(site: Site) -> None:
    site.open(signed_in=False)
    site.page.evaluate("token => { location.hash = `token=${token}` }", TOKEN)
    site.page.locator("body.signed").wait_for()
    assert TOKEN not in site.page.url
