"""PolicyNews: the text of a policy as admins see it, without the secrets of a store's URL."""

from __future__ import annotations

import asyncio

import pytest

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.admin.policies import policy as told
from ratekeeper.service.core import Core
from ratekeeper.service.policy_news import PolicyNews, PolicyReporter, PolicyText

RULES = 'rules = [{name = "all", limit = "5/day"}]\n'


def with_store(url: str, rest: str = "") -> str:
    return f"{RULES}{rest}\n[store]\nurl = {url}\n"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ('"redis://host:6379/0"', '"redis://host:6379/0"'),
        ('"redis://me:s3cret@host:6379/0"', '"redis://***@host:6379/0"'),
        ("'rediss+sentinel://:s3cret@host,other/main'", "'rediss+sentinel://***@host,other/main'"),
        ('"""valkey://host?password=s3cret"""', '"""valkey://host"""'),
        ('"redis://host" # was REDIS://:s3cret@old/0', '"redis://host" # was REDIS://***@old/0'),
    ],
)
def test_the_secrets_of_a_stores_url_are_hidden(written: str, shown: str) -> None:
    policy = Policy.parse(with_store(written))
    assert PolicyText.of(policy).text == with_store(shown)


@pytest.mark.parametrize("written", ['"redis:\\u002f/:s3cret@host"', "'redis://:s3cret\"s3cret@host'"])
def test_a_text_whose_secret_is_written_in_another_way_is_not_shown(written: str) -> None:
    policy = Policy.parse(with_store(written))
    assert policy.store is not None
    assert "s3cret" in policy.store.url
    assert PolicyText.of(policy).text.startswith("(not shown: ")


def test_neither_the_policy_before_nor_the_difference_has_a_secret() -> None:
    before = Policy.parse(with_store('"redis://:s3cret-1@host"'))
    now = Policy.parse(with_store('"redis://:s3cret-2@other"', rest="# new\n"))
    core = Core(before, MemoryStore(100))
    assert "s3cret" not in str(core.news)

    def tell(news: PolicyNews) -> None:
        core.news = news

    reporter = PolicyReporter(before, tell)
    reporter.taken(now)
    reporter.judged(None)
    answer = asyncio.run(told(core, {}))
    assert '-url = "redis://***@host"\n+url = "redis://***@other"\n' in answer["diff"]
    assert "s3cret" not in str(answer)
