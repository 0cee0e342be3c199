"""Problems of other limiters, most frequent first. Each test shows that one does not happen here: see its name."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_servers import serving, startup_failure
from fastapi import Depends, FastAPI
from flaky_proxy import proxy
from redis_servers import Server, wait_for
from starlette.responses import StreamingResponse

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.frameworks.starlette import RateLimitMiddleware, rate_limit

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"')


def limited(policy: Policy | Path | None = None, **options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, policy, **{"store": MemoryStore(clock=ManualClock()), **options})
    app.add_api_route("/", lambda: "hello")
    return app


def statuses(url: str, *headers: dict[str, str]) -> list[int]:
    with httpx.Client() as client:
        return [client.get(url, headers=one).status_code for one in headers]


# One limit shared by all users by accident


def test_a_limit_without_a_key_is_each_clients_own_not_one_for_all() -> None:
    app = limited(trusted_proxies=1)
    app.add_api_route("/own", lambda: "", dependencies=[Depends(rate_limit("2/minute"))])
    clients = [{"x-forwarded-for": f"192.0.2.{number}"} for number in range(20)]
    with serving(app) as url:
        assert statuses(f"{url}/own", *clients, *clients) == [200] * 40
        assert statuses(f"{url}/own", *clients) == [429] * 20


def test_two_endpoints_with_the_same_limit_do_not_share_it() -> None:
    app = limited()
    for path in ("/a", "/b"):
        app.add_api_route(path, lambda: "", dependencies=[Depends(rate_limit("1/minute"))])
    with serving(app) as url:
        assert [httpx.get(url + path).status_code for path in ("/a", "/a", "/b", "/b")] == [200, 429, 200, 429]


# Limits per tier or user that are hard, or broken


def test_a_tier_and_a_user_are_functions_of_the_request_which_may_ask_a_database() -> None:
    policy = Policy.parse(
        '[attributes]\nuser = "app"\ntier = "app"\n'
        '[[rules]]\nname = "free"\nmatch = { tier = "free" }\nkey = ["user"]\nlimit = "1/minute"\n'
        '[[rules]]\nname = "pro"\nmatch = { tier = "pro" }\nkey = ["user"]\nlimit = "3/minute"\n'
    )
    tiers = {"alice": "pro", "bob": "free", "carol": "pro"}

    async def tier(request: Any) -> str:
        await asyncio.sleep(0)  # as a database is awaited
        return tiers[request.headers["x-user"]]

    asks = {"user": lambda request: request.headers["x-user"], "tier": tier}
    with serving(limited(policy, attributes=asks)) as url:
        seen = {user: statuses(url, *[{"x-user": user}] * 4) for user in tiers}
        tiers["bob"] = "pro"
        assert statuses(url, {"x-user": "bob"}) == [200], "what the database says counts at once"
    assert seen == {"alice": [200] * 3 + [429], "bob": [200] + [429] * 3, "carol": [200] * 3 + [429]}


# A blocking Redis client on the event loop


def test_while_a_decision_waits_for_a_slow_server_other_requests_go_on(server: Server) -> None:
    rules = '[[rules]]\nname = "slow"\nmatch = { path = "/limited" }\nlimit = "1000/minute"\n'
    with proxy(server.port) as slow, ThreadPoolExecutor() as pool:
        # The middleware opens the store, and closes it with the application.
        app = limited(Policy.parse(f'{rules}[store]\nurl = "{slow.url}"\ntimeout = 30'), store=None)
        app.add_api_route("/limited", lambda: "")
        with serving(app) as url:
            assert httpx.get(f"{url}/limited").status_code == 200  # the connection is up, and the script is there
            slow.manner = "hang"
            waiting = pool.submit(httpx.get, f"{url}/limited", timeout=30)
            wait_for(lambda: slow.held == 1)
            meanwhile = statuses(url, *[{}] * 50)
            still_waiting = not waiting.done()
            slow.drop()
            answered = waiting.result().status_code
    assert meanwhile == [200] * 50
    assert still_waiting
    assert answered == 503


# The wrong client behind a proxy, or a spoofed one


def test_a_thousand_forged_addresses_give_one_client_one_bucket() -> None:
    forged = [{"x-forwarded-for": f"10.{number % 250}.{number // 250}.7"} for number in range(1_000)]
    for trusted, told in (
        (0, forged),
        (1, [{"x-forwarded-for": f"{one['x-forwarded-for']}, 203.0.113.9"} for one in forged]),
    ):
        with serving(limited(EACH, trusted_proxies=trusted), proxy_headers=False) as url:
            assert statuses(url, *told) == [200] * 3 + [429] * 997


def test_behind_a_proxy_of_ones_own_each_client_has_a_bucket_and_the_proxy_none() -> None:
    clients = [{"x-forwarded-for": f"203.0.113.{number}"} for number in range(50)]
    with serving(limited(EACH, trusted_proxies=1), proxy_headers=False) as url:
        assert statuses(url, *clients, *clients, *clients) == [200] * 150
        assert statuses(url, *clients) == [429] * 50


# Fragile wiring


def test_an_endpoint_needs_no_argument_and_its_name_and_its_arguments_name_may_be_anything() -> None:
    app = limited()

    @app.get("/one/{request}")
    @rate_limit("1/minute")
    async def endpoint(request: str) -> str:  # a string, not a request
        return request

    def sub_application() -> FastAPI:
        sub = FastAPI()

        @sub.get("/")
        async def endpoint() -> str:  # of the same name as another
            return "sub"

        return sub

    app.mount("/sub", sub_application())
    with serving(app) as url:
        assert httpx.get(f"{url}/one/a").json() == "a"
        assert httpx.get(f"{url}/one/b").status_code == 429
        assert httpx.get(f"{url}/sub/").json() == "sub"


def test_functions_of_one_name_that_would_share_a_limit_by_accident_are_an_error() -> None:
    app = limited()

    def add(path: str) -> None:
        @app.get(path)
        @rate_limit("1/minute")
        async def endpoint() -> str:
            return path

    add("/a")
    add("/b")
    failure = startup_failure(app) or ""
    assert "two limits '1/minute' of " in failure
    assert "would charge the same buckets: give one of them a name=" in failure


# Headers that break streams


@pytest.mark.parametrize("policy", [None, EACH], ids=["bare", "limited"])
def test_a_stream_reaches_the_client_part_by_part_with_headers_and_without(policy: Policy | None) -> None:
    app = limited(policy)
    go_on: list[bool] = []

    async def parts() -> Any:
        yield b"first"
        while not go_on:  # until the client has seen the first part
            await asyncio.sleep(0.001)
        yield b"second"

    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    app.add_api_route("/stream", stream)
    with serving(app) as url, httpx.stream("GET", f"{url}/stream") as answer:
        coming = answer.iter_raw()
        assert next(coming) == b"first"
        go_on.append(True)
        assert list(coming) == [b"second"]
        assert ("ratelimit" in answer.headers) == (policy is not None)


# Limits that cannot be turned off, held or reset in tests, nor changed while they are in use


def test_a_test_turns_limits_off_or_holds_the_clock_or_begins_anew() -> None:
    with serving(limited(EACH, enabled=False)) as url:
        assert statuses(url, *[{}] * 9) == [200] * 9
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    with serving(limited(EACH, store=store)) as url:
        assert statuses(url, *[{}] * 4) == [200] * 3 + [429]
        clock.advance(20)
        assert statuses(url, *[{}] * 2) == [200, 429]
    with serving(limited(EACH)) as url:
        assert statuses(url, {}) == [200], "another application, another store"


def test_a_rate_is_changed_while_requests_come_and_what_was_taken_stays_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ratekeeper")
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"\n')
    with serving(limited(file)) as url:
        assert statuses(url, *[{}] * 2) == [200] * 2  # which will be paid off in 40 s
        file.write_text(file.read_text().replace("3/minute", "6/minute"))
        wait_for(lambda: "is in use: changed 'each'" in caplog.text)
        assert statuses(url, *[{}] * 3) == [200, 200, 429], "40 s of the new rate are 4 of its 6 tokens"
