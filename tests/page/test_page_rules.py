"""The page of a policy with hundreds of rules, and of a rule that has no name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_fixtures import Site, check, written
from service_process import poll, running

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

MANY = 300
HEAD = '[attributes]\nuser = "header:x-user"\n'
RULE = '\n[[rules]]\nname = "rule {0}"\nkey = ["user"]\nmatch = {{ path = "/{0}/*" }}\nlimit = "2/day"\n'


def test_hundreds_of_rules_are_counted_and_each_is_found_and_tried(chromium: Browser, tmp_path: Path) -> None:
    policy = written(tmp_path, HEAD + "".join(RULE.format(number) for number in range(MANY)))
    with running(policy, "--workers", "2", "--admin-tokens", str(tmp_path / "tokens")) as service:
        for _ in range(3):
            check(service.url, user="u", path="/280/x")
        context = chromium.new_context()
        site = Site(context.new_page(), service.url).open()
        site.page.locator("#rules-note", has_text=f"the first 50 of 256; {MANY - 256} with").wait_for()
        site.page.get_by_placeholder("Find a rule").fill("280")
        site.page.locator("#rules tr", has_text="rule 280").wait_for()

        site.show("policy")
        poll(lambda: site.page.locator("#policy-facts div", has_text="Rules").locator("dd").inner_text() == str(MANY))

        site.show("what-if")
        poll(lambda: site.page.locator("#what-if-name option").count() == MANY)
        site.page.locator("#what-if-name").select_option("rule 280")
        site.page.get_by_label("Capacity, exactly").fill("3")
        tried = site.page.locator("#what-if-figures tr", has_text="rule 280")
        tried.get_by_text("+1").wait_for()
        site.page.get_by_text(f"And {MANY - 50} rules more, whose numbers stay as they are.").wait_for()
        at = site.status()["at"]
        for path in ("/290/x", "/291/x"):  # rules become busier, so a status has others
            check(service.url, user="u", path=path)
        poll(lambda: site.status()["at"] > at + 2)
        assert site.page.get_by_label("Capacity, exactly").input_value() == "3", "it stays as it was typed"
        assert site.complaints == []
        context.close()


def test_requests_without_a_required_attribute_have_a_row_with_words(chromium: Browser, tmp_path: Path) -> None:
    policy = written(tmp_path, HEAD + RULE.format(1) + 'missing = "reject"\n')
    with running(policy, "--admin-tokens", str(tmp_path / "tokens")) as service:
        assert not check(service.url, path="/1/x")
        poll(lambda: [rule["name"] for rule in service.status()["rules"]] == ["rule 1", ""])
        context = chromium.new_context()
        site = Site(context.new_page(), service.url).open()
        row = site.page.locator("#rules tr", has_text="An attribute is missing")
        row.get_by_text("requests without an attribute that a rule requires").wait_for()
        assert site.page.locator("#rules button").all_inner_texts() == ["rule 1", "Pause…"]
        assert site.page.locator("#traffic-rule option").all_inner_texts() == ["All requests", "rule 1"]
        assert site.complaints == []
        context.close()
