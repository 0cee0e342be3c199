"""The options of limits in an ASGI application, and their effects behind a real uvicorn."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from asgi_apps import USERS, asked, asked_later, limited, statuses
from asgi_servers import serving
from redis_servers import wait_for

from ratekeeper import ManualClock, MemoryStore, Policy, PolicyError
from ratekeeper.frameworks import wsgi
from ratekeeper.frameworks.asgi import rate_limit
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.policy.decision import PolicyDecision

# The options


@pytest.mark.parametrize("ask", [asked, asked_later], ids=["plain", "awaited"])
def test_tier_and_cost_and_exemption_may_be_functions_also_async_ones(ask: Callable[[Any], Any]) -> None:
    policy = (
        '[attributes]\ntier = "app"\n[[rules]]\nname = "free"\nmatch = { tier = "free" }\nlimit = "4/minute"\n'
        '[[rules]]\nname = "pro"\nmatch = { tier = "pro" }\nlimit = "10/minute"\n'
    )

    async def cost(scope: Any) -> int:
        await asyncio.sleep(0)
        return 2

    async def exempt(scope: Any) -> bool:
        return await asked_later(scope) == "boss"

    with serving(limited(policy, attributes={"tier": ask}, cost=cost, exempt=exempt)) as url:
        assert (
            statuses(url, *["free"] * 3, *["pro"] * 6, *["boss"] * 9)
            == [200] * 2 + [429] + [200] * 5 + [429] + [200] * 9
        )


def test_a_rejection_of_ones_own_has_the_headers_about_limits_and_may_leave_it_to_the_usual_one() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 420, "headers": []})
        await send({"type": "http.response.body", "body": b"calm down"})

    async def rejection(scope: Any, decision: PolicyDecision) -> Any:
        assert decision.rule is not None
        return page if scope["path"] == "/own" else None

    with serving(limited(rejection=rejection)) as url:
        *_, own, usual = [httpx.get(url + path) for path in ("/", "/", "/", "/own", "/usual")]
    assert (own.status_code, own.text, own.headers["retry-after"]) == (420, "calm down", "20")
    assert usual.status_code == 429


def test_on_decision_is_told_of_each_decision_and_must_not_be_async() -> None:
    told: list[tuple[str, bool]] = []
    with serving(limited(on_decision=lambda scope, made: told.append((scope["path"], made.allowed)))) as url:
        for path in ("/a", "/b", "/c", "/d"):
            httpx.get(url + path)
    assert told == [("/a", True), ("/b", True), ("/c", True), ("/d", False)]

    async def never_awaited(scope: Any, made: PolicyDecision) -> None:
        pass

    class NeverAwaited:
        async def __call__(self, scope: Any, made: PolicyDecision) -> None:
            pass

    for observer in (never_awaited, NeverAwaited()):
        with pytest.raises(TypeError, match="must not be async"):
            limited(on_decision=observer)


def test_not_enabled_nothing_is_limited_and_nothing_told() -> None:
    with serving(limited(enabled=False)) as url:
        answers = [httpx.get(url) for _ in range(9)]
    assert {one.status_code for one in answers} == {200}
    assert not any("ratelimit" in one.headers for one in answers)


def test_a_cookie_can_tell_who_it_is() -> None:
    policy = '[attributes]\nsession = "cookie:sid"\n[[rules]]\nname = "s"\nkey = ["session"]\nlimit = "1/minute"'
    with serving(limited(policy)) as url:
        seen = [httpx.get(url, headers={"cookie": f"a=b; sid={sid}"}).status_code for sid in ("x", "x", "y")]
    assert seen == [200, 429, 200]


def test_the_header_that_an_error_proposes_has_no_underscore_as_servers_drop_it() -> None:
    with pytest.raises(PolicyError, match="api_key = 'header:x-api-key'"):
        limited('[[rules]]\nname = "r"\nkey = ["api_key"]\nlimit = "1/s"')


@pytest.mark.parametrize(
    "policy",
    [
        USERS,
        '[[rules]]\nname = "r"\nmatch = { route = "/x" }\nlimit = "1/s"',
        '[attributes]\ntier = "app"\n[[rules]]\nname = "r"\nmatch = { tier = "pro" }\nlimit = "1/s"',
    ],
    ids=["a key", "a route", "a tier"],
)
def test_a_policy_that_looks_at_what_nobody_gives_is_an_error_at_once(policy: str) -> None:
    with pytest.raises(PolicyError, match="nothing gives the attribute"):
        limited(policy)


@pytest.mark.parametrize(
    ("client", "trusted", "is_right"),
    [
        ('{ from = "client_ip", ipv6_prefix = 56 }', 1, False),
        ('{ from = "client_ip", trusted_proxies = 1 }', 2, False),
        ('{ from = "client_ip", trusted_proxies = 1 }', 0, False),
        ('"header:x-real-ip"', 1, False),
        ('{ from = "client_ip", trusted_proxies = 2 }', 2, True),
        ('"header:x-real-ip"', 0, True),
    ],
)
def test_proxies_that_the_policy_would_not_count_are_an_error_also_at_a_reload(
    client: str, trusted: int, is_right: bool
) -> None:
    rule = '[[rules]]\nname = "r"\nkey = ["client"]\nlimit = "1/s"'
    with_client = f"[attributes]\nclient = {client}\n{rule}"
    app = limited(rule, trusted_proxies=trusted)
    if is_right:
        limited(with_client, trusted_proxies=trusted)
        app.limiter.replace(Policy.parse(with_client))
        return
    words = f"the option trusted_proxies={trusted} would mean nothing"
    with pytest.raises(PolicyError, match=words):
        limited(with_client, trusted_proxies=trusted)
    with pytest.raises(PolicyError, match=words):
        app.limiter.replace(Policy.parse(with_client))


def test_a_function_is_not_asked_for_what_no_rule_looks_at() -> None:
    def fails(scope: Any) -> str:
        raise AssertionError("nobody wants it")

    with serving(limited(attributes={"user": fails})) as url:
        assert httpx.get(url).status_code == 200


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: limited(polcy=""), "unknown option 'polcy': did you mean 'policy'?"),
        (lambda: limited(exemt=None), "unknown option 'exemt': did you mean 'exempt'?"),
        (lambda: wsgi.RateLimitMiddleware(lambda *_: [], stor="x"), "unknown option 'stor': did you mean 'store'?"),  # type: ignore[call-arg]
        (lambda: RateLimits(on_decisions=print), "unknown option 'on_decisions': did you mean 'on_decision'?"),  # type: ignore[call-arg]
        (lambda: rate_limit("1/s", kee="x"), "rate_limit has no option 'kee': did you mean 'key'?"),  # type: ignore[call-arg]
        (lambda: rate_limit("1/s", max_wate=1), "rate_limit has no option 'max_wate': did you mean 'max_wait'?"),  # type: ignore[call-arg]
        (lambda: limited(cost=True), "cost must be a whole number, 1 or more, or a function of the request, not True"),
        (lambda: limited(on_decision=iter([print])), "or a list of such functions, not <"),
        (
            lambda: limited(on_decision=[None]),
            "on_decision must be a function of the request and the decision, not N",
        ),
        (lambda: limited(headers=1), "headers must be a style such as 'ietf', or several, not 1"),
        (lambda: limited(attributes={"user": 5}), "the attribute 'user' must be a function of the request"),
    ],
)
def test_an_unknown_or_bad_option_is_an_error_that_says_what_is_right(make: Callable[[], object], words: str) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        make()


class HeldClock(ManualClock):
    """A manual clock that only the test moves, and that counts who waits for it."""

    waiting = 0

    async def wait_async(self, woken: asyncio.Future[None], until: int) -> None:
        self.waiting += 1
        while self.ticks() < until and not woken.done():
            await asyncio.sleep(0.001)
        self.waiting -= 1


def test_requests_that_must_wait_go_ahead_in_order_each_at_its_turn() -> None:
    clock, order = HeldClock(), list[str]()
    queue = '[[rules]]\nname = "queue"\nalgorithm = "leaky_bucket"\ncapacity = 5\nleak_rate = "1/minute"\n'
    store = MemoryStore(clock=clock)

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        order.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    with serving(limited(queue, noting, store=store), lifespan="off") as url, ThreadPoolExecutor() as pool:
        assert httpx.get(f"{url}/0").status_code == 200
        asking = []
        for number in range(1, 4):
            asking.append(pool.submit(httpx.get, f"{url}/{number}", timeout=30))
            wait_for(lambda: clock.waiting == len(asking))
        assert order == ["/0"]
        for number in range(1, 4):
            clock.advance(60)  # which is the next one's turn, and nobody else's
            assert asking[number - 1].result().status_code == 200
            assert order == [f"/{n}" for n in range(number + 1)]
