"""A page that is used by keyboard keeps the focus, also while its rows change under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_fixtures import Site, check
from service_process import poll

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Route

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
    assert has_focus(site.page.locator("#main"))
    poll(lambda: site.page.locator("#attributes [value=second]").count() == 1)


@pytest.mark.parametrize(
    ("field", "typed", "names"),
    [
        ("Value", "", ["user", "path"]),  # the row that has the focus gets the first name
        ("Value", "alice", ["", "user", "path"]),  # a typed value is given to no attribute
        ("Attribute", "", ["", "user", "path"]),  # and nobody else writes where a person does
        ("Attribute", "user", ["user"]),
    ],
)
def test_who_is_quicker_than_the_names_of_attributes_loses_nothing(
    site: Site, field: str, typed: str, names: list[str]
) -> None:
    site.open()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    site.page.route("**/v1/admin/rules", hold)
    site.show("request")
    poll(lambda: site.page.evaluate("1") and held)
    begun = site.page.get_by_label(field, exact=True).first
    begun.focus()
    site.page.keyboard.type(typed[:3])
    held.pop().continue_()
    site.page.locator("#attribute-names option").first.wait_for(state="attached")
    site.page.keyboard.type(typed[3:])
    assert has_focus(begun)
    assert begun.input_value() == (typed or (names[0] if field == "Attribute" else ""))
    rows = site.page.get_by_label("Attribute", exact=True).all()
    assert [row.input_value() for row in rows] == names


def test_a_value_without_the_name_of_its_attribute_is_not_asked_about(site: Site) -> None:
    site.open(view="request")
    site.page.locator("#attribute-names option").first.wait_for(state="attached")
    row = site.page.locator("#attributes .row").first
    name, value = row.get_by_label("Attribute", exact=True), row.get_by_label("Value", exact=True)
    name.fill("")
    value.fill("alice")
    site.page.get_by_role("button", name="Ask", exact=True).click()
    assert has_focus(name), "the browser says there that it is missing"
    assert site.page.locator("#verdict strong").count() == 0
    value.fill("")
    site.page.get_by_role("button", name="Ask", exact=True).click()
    site.page.locator("#verdict strong").wait_for()


def test_who_removes_an_attribute_is_led_to_the_next_one(site: Site) -> None:
    site.open(view="request")
    site.page.locator("#attribute-names option").first.wait_for(state="attached")
    remove = site.page.get_by_role("button", name="Remove this attribute")
    left = remove.count()
    assert left >= 2
    remove.first.focus()
    while left:
        assert has_focus(remove.first)
        site.page.keyboard.press("Enter")
        left -= 1
        assert remove.count() == left
    assert has_focus(site.page.get_by_role("button", name="Add an attribute"))


COLOURS = "e => { const s = getComputedStyle(e); return [s.borderBottomColor, s.backgroundColor] }"


@pytest.mark.parametrize("site", [{"forced_colors": "active"}], indirect=True)
def test_with_forced_colours_the_view_and_the_pressed_button_differ_from_the_others(site: Site) -> None:
    site.open(view="what-if")
    this, other = (site.page.locator(f".views a[href='#{view}']").evaluate(COLOURS) for view in ("what-if", "policy"))
    assert this != other
    pressed, free = (site.page.locator(button).evaluate(COLOURS) for button in ("#by-rule", "#by-text"))
    assert pressed != free
