"""A page that is used by keyboard keeps the focus, also while its rows change under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_fixtures import Site, check
from service_process import poll

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = pytest.mark.slow


def has_focus(button: Locator) -> bool:
    return bool(button.evaluate("button => button === document.activeElement"))


def test_the_focus_stays_on_the_button_that_pauses_and_resumes(site: Site) -> None:
    site.open()
    row = site.page.locator("#rules tr", has_text="planned")
    for verb, next_verb in (("Pause…", "Resume…"), ("Resume…", "Pause…")):
        row.get_by_role("button", name=verb).focus()
        site.page.keyboard.press("Enter")
        site.page.keyboard.press("Enter")  # the field or the button of the dialog has the focus
        row.get_by_role("button", name=next_verb).wait_for()
        site.page.locator("dialog").wait_for(state="hidden")
        assert has_focus(row.get_by_role("button", name=next_verb))


def test_the_focus_stays_on_a_limited_key_while_the_keys_change_places(site: Site) -> None:
    for _ in range(7):
        check(site.url, user="first", path="/api/x")
    site.open()
    why = site.page.locator("#keys li").first.get_by_role("button", name="Why")
    why.focus()
    for _ in range(60):
        check(site.url, user="second", path="/api/x")
    site.page.locator("#keys li").first.get_by_text("second").wait_for()
    assert has_focus(why)
    why.click()
    site.page.locator("#attributes").wait_for()
    poll(lambda: site.page.locator("#attributes [value=second]").count() == 1)


COLOURS = "e => { const s = getComputedStyle(e); return [s.borderBottomColor, s.backgroundColor] }"


@pytest.mark.parametrize("site", [{"forced_colors": "active"}], indirect=True)
def test_with_forced_colours_the_view_and_the_pressed_button_differ_from_the_others(site: Site) -> None:
    site.open(view="what-if")
    this, other = (site.page.locator(f".views a[href='#{view}']").evaluate(COLOURS) for view in ("what-if", "policy"))
    assert this != other
    pressed, free = (site.page.locator(button).evaluate(COLOURS) for button in ("#by-rule", "#by-text"))
    assert pressed != free
