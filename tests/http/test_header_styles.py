"""The styles of the headers about limits: which headers, with which values, and which choices cannot be."""

from __future__ import annotations

import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from edge_sites import memory
from marked_sites import SITES, MakeSite
from raw_client import Answer, RawClient
from service_thread import serving_in_thread

from ratekeeper import Policy, StoreUnavailable
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.frameworks.grpc import AsyncRateLimitInterceptor, RateLimitInterceptor
from ratekeeper.http.header_styles import HeaderStyles, checked_styles
from ratekeeper.http.limiter import RequestLimiter
from ratekeeper.service.core import Core

POLICY = Policy.parse("""
[[rules]]
name = "each"
key = ["client"]
limit = "2/minute"
[[rules]]
name = "all"
limit = "100/minute"
""")
IETF = {"ratelimit-policy", "ratelimit"}
OLD = {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"}
X = {f"x-{name}" for name in OLD}


@pytest.fixture(params=SITES)
def site_of(request: pytest.FixtureRequest) -> MakeSite:
    return SITES[request.param]


def told(answer: Answer) -> dict[str, str]:
    """Return the headers about limits, with names in lower case."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return {name: value for name, value in headers.items() if "ratelimit" in name or name == "retry-after"}


def answers(client: RawClient) -> list[dict[str, str]]:
    return [told(client.send("/own")) for _ in range(3)]


def as_it_is(function: Any) -> Any:
    return function


@pytest.mark.parametrize(
    ("styles", "names"),
    [("ietf", IETF), ((), set()), ("ietf-06", OLD), (["ietf", "x-epoch"], IETF | X), (("ietf-06", "x-delta"), OLD | X)],
)
def test_a_style_chooses_the_headers_and_a_refusal_always_says_when(site_of: MakeSite, styles: Any, names: Any) -> None:
    with site_of({"own": as_it_is}, policy=POLICY, store=memory(), headers=styles) as client:
        first, _, refused = answers(client)
    assert set(first) == names
    assert set(refused) == names | {"retry-after"}
    assert refused["retry-after"] == "30"
    if names >= OLD:
        assert [first[f"ratelimit-{field}"] for field in ("limit", "remaining", "reset")] == ["2", "1", "30"]
        assert [refused[f"ratelimit-{field}"] for field in ("limit", "remaining", "reset")] == ["2", "0", "60"]
    if "x-epoch" in styles:
        assert abs(int(first["x-ratelimit-reset"]) - time.time() - 30) < 60


def test_retry_after_may_be_a_date_that_is_never_too_early(site_of: MakeSite) -> None:
    options: Any = {"policy": POLICY, "store": memory(), "headers": ("ietf", "retry-after-date")}
    with site_of({"own": as_it_is}, **options) as client:
        before = time.time()
        *_, refused = answers(client)
    date = parsedate_to_datetime(refused["retry-after"])
    assert refused["retry-after"].endswith(" GMT")
    assert before + 30 <= date.timestamp() <= time.time() + 31


@pytest.mark.parametrize("styles", ["ietf", "retry-after-date"])
def test_a_store_that_does_not_answer_says_it_in_the_same_style(styles: HeaderStyles) -> None:
    limiter = RequestLimiter(POLICY, store=memory(), headers=styles)
    response = limiter.response_to(StoreUnavailable("no answer", retry_after=7))
    value = dict(response.headers)["Retry-After"]
    assert value == "7" if styles == "ietf" else value.endswith(" GMT")


def test_the_service_has_the_styles_too() -> None:
    core = Core(POLICY, memory(), headers=("ietf-06", "retry-after-date"))
    with serving_in_thread(core) as server, closing(RawClient(server.url)) as client:
        first, _, refused = (told(client.send("/check")) for _ in range(3))
    assert set(first) == OLD
    assert refused["retry-after"].endswith(" GMT")


@pytest.mark.parametrize(
    ("styles", "error", "says"),
    [
        ("ietf-6", ValueError, "headers has no style 'ietf-6': did you mean 'ietf-06'"),
        (["x-epoch", "x-delta"], ValueError, "give one header two values: choose one of them"),
        ([1], TypeError, "headers must be styles such as 'ietf', not 1"),
        (None, TypeError, "headers must be a style such as 'ietf', or several, not None"),
    ],
)
def test_a_choice_that_cannot_be_is_an_error(styles: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        checked_styles(styles)
    with pytest.raises(error, match=says):
        RateLimits(None, POLICY, headers=styles)


@pytest.mark.parametrize("interceptor", [RateLimitInterceptor, AsyncRateLimitInterceptor])
def test_grpc_has_no_dates(interceptor: Any) -> None:
    with pytest.raises(ValueError, match="whose clients read seconds"):
        interceptor(POLICY, headers="retry-after-date")
