"""The page of a policy with hundreds of rules, and of a rule that has no name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_fixtures import Site, check, written
from service_process import running

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

HEAD = '[attributes]\nuser = "header:x-user"\n'
RULE = '\n[[rules]]\nname = "rule {0}"\nkey = ["user"]\nmatch = {{ path = "/{0}/*" }}\nlimit = "2/day"\n'


def test_requests_without_a_required_attribute_have_a_row_with_words(chromium: Browser, tmp_path: Path) -> None:
    policy = written(tmp_path, HEAD + RULE.format(1) + 'missing = "reject"\n')
    with running(policy, "--admin-tokens", str(tmp_path / "tokens")) as service:
        assert not check(service.url, path="/1/x")
        assert [rule["name"] for rule in service.status()["rules"]] == ["rule 1", ""]
        context = chromium.new_context()
        site = Site(context.new_page(), service.url).open()
        row = site.page.locator("#rules tr", has_text="An attribute is missing")
        row.get_by_text("requests without an attribute that a rule requires").wait_for()
        assert site.page.locator("#rules button").all_inner_texts() == ["rule 1", "Pause…"]
        assert site.page.locator("#traffic-rule option").all_inner_texts() == ["All requests", "rule 1"]
        assert site.complaints == []
        context.close()
