"""A policy file that changes while an application runs. The promises of a watch by itself are in test_reload."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from pathlib import Path

import httpx
import pytest
from asgi_apps import application
from redis_servers import wait_for
from servers import PATIENCE

from ratekeeper.frameworks.asgi import RateLimitMiddleware, rate_limit
from ratekeeper.http.limiter import AsyncRequestLimiter

RULE = '[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "{}/minute"'


def test_a_changed_policy_file_takes_effect_without_a_restart_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format(3))
    app = RateLimitMiddleware(application, file)

    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return (await client.get("/")).headers["ratelimit-policy"]

    def quota() -> str:
        return asyncio.run(ask())

    assert quota() == '"each";q=3;w=60'
    file.write_text(RULE.format(5))
    wait_for(lambda: quota() == '"each";q=5;w=60')
    file.write_text(RULE.format("many"))
    wait_for(lambda: "is not taken" in caplog.text)
    assert quota() == '"each";q=5;w=60'
    asyncio.run(app.limiter.close())


def test_a_policy_that_lacks_what_nobody_gives_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format(3))
    app = RateLimitMiddleware(application, file)
    file.write_text(RULE.format(4).replace("client", "user"))
    wait_for(lambda: "nothing gives the attribute 'user'" in caplog.text)
    [told] = caplog.records
    assert "policy.toml is not taken: what was in use before stays" in told.getMessage()
    assert told.exc_info is None, "a mistake in a policy is no failure of the program's: there is no traceback"
    asyncio.run(app.limiter.close())


def test_a_policy_with_a_rule_that_is_named_as_an_endpoints_limit_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format(3))
    limits = AsyncRequestLimiter(file)
    own = rate_limit("1/minute", name="own")
    limits.policy_of(own)
    caplog.set_level(logging.INFO, "ratekeeper")
    file.write_text(RULE.format(3).replace("each", "own"))
    wait_for(lambda: "both named 'own'" in caplog.text)
    file.write_text(RULE.format(4))
    wait_for(lambda: "is in use" in caplog.text)
    limits.policy_of(own)
    asyncio.run(limits.close())


def test_the_watch_ends_with_the_application_also_where_nobody_closes_it(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format(3))
    before = {*threading.enumerate()}
    app = RateLimitMiddleware(application, file)
    (watching,) = {*threading.enumerate()} - before
    del app
    gc.collect()
    watching.join(PATIENCE)
    assert not watching.is_alive()
