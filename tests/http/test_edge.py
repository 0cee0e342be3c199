"""Tricks of clients, in every framework and behind a gateway: no spelling leaves a rule or buys a bucket."""

from __future__ import annotations

from uuid import UUID

import pytest
from async_memory import AsyncMemoryStore
from edge_sites import MakeSite, Site, memory
from edge_table import ASYNC, FRAMEWORKS, SITES

from ratekeeper import LeakyBucket, ManualClock, MemoryStore, Policy, TokenBucket
from ratekeeper.policy.model import Rule
from ratekeeper.policy.sources import PathSource

INVENTED = [b"X%d" % number for number in range(200)]
ROUTED = {name: SITES[name] for name in ("Starlette", "FastAPI", "aiohttp", "Django", "Django-ASGI")}
TELLS_LINES = {
    name: SITES[name] for name in ("ASGI", "Starlette", "FastAPI", "Litestar", "Quart", "aiohttp", "gateway")
}
"""Where repeated header lines can be seen: a WSGI server has joined them, for the application too."""


def every(table: dict[str, MakeSite]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", table.values(), ids=table)


def rule(what: str, attributes: str = "") -> Policy:
    return Policy.parse(f'{attributes}\n[[rules]]\nname = "r"\nlimit = "2/hour"\n{what}\n')


@every(SITES)
def test_a_dot_segment_leaves_no_rule(make: MakeSite) -> None:
    with make(policy=rule('match = { path = "/graphql/*" }'), store=memory()) as site:
        for target in ("/graphql/../x", "/graphql/%2e%2e/x", "//graphql/../x", "/graphql//../x") * 2:
            site.client.send(target)
        assert len(site.ran("graphql")) <= 2


@every(SITES)
def test_dot_segments_lead_to_no_exemption(make: MakeSite) -> None:
    limited = rule('match = { path = "/files/*" }', '[[exempt]]\npath = "/healthz"')
    with make(policy=limited, store=memory()) as site:
        for target in ("/files/a/../../healthz", "/files/a/%2e%2e/..%2fhealthz", "/files/..;/healthz") * 2:
            site.client.send(target)
        assert len(site.ran("files")) <= 2
        assert site.client.statuses(*["/healthz"] * 5) == [200] * 5


@every(SITES)
def test_a_trailing_slash_or_parameter_or_by_option_case_leaves_no_rule(make: MakeSite) -> None:
    one = Rule("r", TokenBucket(2, 1 / 3600), match={"path": ("/login",)})
    blind = Policy((one,), attributes={"path": PathSource(ignore_case=True)})
    with make(policy=blind, store=memory()) as site:
        assert site.client.statuses("/login", "/Login")[0] == 200
        assert site.client.statuses("/login/", "/login;x=1", "/Login", "/LOGIN/", "//login", "/login%0a") == [429] * 6


@every({name: make for name, make in SITES.items() if name not in ("Litestar", "Quart", "Flask")})
def test_two_hundred_invented_methods_are_one_method(make: MakeSite) -> None:
    with make(policy=rule('match = { path = "/any" }\nkey = ["method"]'), store=memory()) as site:
        for method in INVENTED:
            site.client.send("/any", method=method)
        assert len(site.ran("any")) <= 2


@every(ROUTED)
def test_two_hundred_invented_methods_are_one_endpoint(make: MakeSite) -> None:
    with make(policy=rule('match = { path = "/any" }\nkey = ["endpoint"]'), store=memory()) as site:
        for method in INVENTED:
            site.client.send("/any", method=method)
        assert len(site.ran("any")) <= 2


@every(SITES)
def test_head_counts_as_get(make: MakeSite) -> None:
    with make(policy=rule('match = { path = "/do", method = ["GET", "POST"] }'), store=memory()) as site:
        statuses = [site.client.send("/do", method=b"HEAD").status for _ in range(5)]
        assert statuses[2:] == [429] * 3
        assert len(site.ran("do")) <= 2


@every(TELLS_LINES)
def test_a_repeated_header_that_a_rule_reads_is_a_400_that_names_it(make: MakeSite) -> None:
    for what in ('key = ["key"]\nmissing = "skip"', 'match = { key = "*" }'):
        with make(policy=rule(what, '[attributes]\nkey = "header:x-api-key"'), store=memory()) as site:
            lines = [(b"X-Api-Key", b"k-1"), (b"x-api-key", b"k-1")]
            answers = [site.client.send("/key", *lines) for _ in range(3)]
            assert [answer.status for answer in answers] == [400] * 3
            assert b"x-api-key" in answers[0].body
            assert site.client.send("/key", (b"X_Api_Key", b"k-1")).status == 400
            assert not site.calls


@every(SITES)
def test_a_bearer_token_has_one_bucket_however_it_is_written(make: MakeSite) -> None:
    values = [b"Bearer t", b"bearer t", b"BEARER   t", b"Bearer\tt", b"Bearer t ", b"Bearer\xa0t", b"Bearer t junk"]
    for source in ("bearer", "header:authorization"):
        limited = rule('key = ["token"]\nmissing = "skip"', f'[attributes]\ntoken = "{source}"')
        with make(policy=limited, store=memory()) as site:
            statuses = [site.client.send("/token", (b"Authorization", value)).status for value in values]
            assert statuses.count(200) == 2
            assert len(site.ran("token")) == 2


@every(SITES)
def test_a_key_with_any_spaces_around_it_has_one_bucket(make: MakeSite) -> None:
    limited = rule('key = ["key"]\nmissing = "skip"', '[attributes]\nkey = "header:x-api-key"')
    with make(policy=limited, store=memory()) as site:
        for value in (b"k", b"k ", b"\tk", b"k\xa0", b"\xa0k", b"k\x85\xa0"):
            site.client.send("/key", (b"X-Api-Key", value))
        assert len(site.ran("key")) == 2


@every(SITES)
def test_a_cookie_has_one_bucket_however_it_is_written(make: MakeSite) -> None:
    values = [b"v", b"  v", b"\tv", b'"v"', rb'"\166"', rb'"\v"', b"v ; a=b"]
    limited = rule('key = ["session"]\nmissing = "skip"', '[attributes]\nsession = "cookie:session"')
    with make(policy=limited, store=memory()) as site:
        statuses = [site.client.send("/cookie", (b"Cookie", b"session=" + value)).status for value in values]
        assert statuses == [200, 200, 429, 429, 429, 429, 429]


@every({name: SITES[name] for name in ("ASGI", "Starlette", "FastAPI", "Litestar", "Quart", "aiohttp")})
def test_the_handshake_of_a_websocket_counts(make: MakeSite) -> None:
    handshake = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"),
                 (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")]  # fmt: skip
    with make(policy=rule(""), store=memory()) as site:
        statuses = [site.client.send("/ws", *handshake).status for _ in range(50)]
        assert 429 not in statuses[:2]
        assert statuses[2:] == [429] * 48


def left(site: Site, target: str, name: str) -> int:
    """Return what is left of a limit, as a response tells it."""
    headers = site.client.send(target).headers
    own = next(item for item in headers["ratelimit"].split(", ") if item.startswith(f'"{name}"'))
    return int(own.split(";r=")[1].partition(";")[0])


@every(FRAMEWORKS)
def test_what_an_endpoints_limit_refuses_costs_the_policy_and_outer_limits_nothing(make: MakeSite) -> None:
    with make(policy=Policy.parse('[[rules]]\nname = "all"\nlimit = "5/hour"'), store=memory()) as site:
        assert site.client.statuses(*["/both"] * 9) == [200] + [429] * 8
        assert left(site, "/both", "outer") == 8
        assert site.client.statuses(*["/login"] * 5) == [200] * 4 + [429]


@every(ASYNC)
def test_what_is_refused_costs_nothing_also_on_a_store_that_must_be_awaited(make: MakeSite) -> None:
    limited = Policy.parse('[[rules]]\nname = "all"\nlimit = "5/hour"')
    with make(policy=limited, store=AsyncMemoryStore(memory())) as site:
        assert site.client.statuses(*["/both"] * 9) == [200] + [429] * 8
        assert site.client.statuses(*["/login"] * 5) == [200] * 4 + [429]


@every(FRAMEWORKS)
def test_what_is_refused_costs_a_leaky_rule_nothing(make: MakeSite) -> None:
    leaky = Policy((Rule("all", LeakyBucket(1, 5), max_wait=0),))
    clock = ManualClock()
    with make(policy=leaky, store=MemoryStore(clock=clock)) as site:
        assert site.client.statuses("/inner") == [200]
        clock.advance(60)
        assert site.client.statuses("/inner", "/inner", "/login", "/login") == [429, 429, 200, 429]


@every({name: make for name, make in FRAMEWORKS.items() if name not in ("Litestar", "Quart")})
def test_an_applications_own_limiter_that_refuses_is_a_429_with_its_headers(make: MakeSite) -> None:
    with make(store=memory()) as site:
        answer = site.client.send("/own")
        assert answer.status == 429
        assert answer.headers["ratelimit-policy"].endswith(";q=1;w=3600")
        assert int(answer.headers["retry-after"]) > 3000


@every(FRAMEWORKS)
def test_an_attribute_may_be_a_uuid(make: MakeSite) -> None:
    limited = rule('key = ["user"]', '[attributes]\nuser = "app"')
    with make(policy=limited, store=memory(), attributes={"user": lambda _: UUID(int=7)}) as site:
        assert site.client.statuses(*["/login"] * 3) == [200, 200, 429]


@every(ASYNC)
def test_forty_thousand_cookie_lines_are_refused_before_they_are_joined(make: MakeSite) -> None:
    limited = rule('key = ["session"]', '[attributes]\nsession = "cookie:session"')
    with make(policy=limited, store=memory()) as site:
        answer = site.client.send("/cookie", *[(b"Cookie", b"a=b")] * 40_000)
        assert answer.status != 200
        assert not site.ran("cookie")
        assert site.client.statuses("/cookie") == [200]
