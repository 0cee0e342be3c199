"""Endpoints whose limits are the answer of the application's function of the request, in each framework."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from asgi_servers import serving
from edge_sites import memory
from fastapi import Depends, FastAPI, Request
from marked_sites import SITES, MakeSite
from raw_client import RawClient
from starlette_apps import limited

from ratekeeper import LimitError, Policy, TokenBucket
from ratekeeper.frameworks.fastapi import rate_limit
from ratekeeper.http.rate_limit import MOST_LIMITS

PLANS: dict[str, Any] = {"free": None, "pro": "5/hour", "both": ["5/hour", TokenBucket(3, "3/day")], "none": "0/s"}


@pytest.fixture(params=SITES)
def site_of(request: pytest.FixtureRequest) -> MakeSite:
    return SITES[request.param]


def plan_of(request: Any) -> Any:
    return PLANS[request.headers.get("x-plan", "free")]


def statuses(client: RawClient, plan: str, times: int, path: str = "/page") -> list[int]:
    return [client.send(path, (b"X-Plan", plan.encode())).status for _ in range(times)]


def test_each_request_has_the_limits_of_its_plan_and_debts_stay_when_it_changes(site_of: MakeSite) -> None:
    own = rate_limit("2/hour", limit=plan_of)
    with site_of({"page": own}, store=memory()) as client:
        assert statuses(client, "free", 1) == [200], "half an hour of debt"
        assert statuses(client, "pro", 3) == [200, 200, 429], "the other half, at 12 minutes each"
        assert statuses(client, "free", 1) == [429]
        assert statuses(client, "none", 1) == [429]
        told = {name.lower(): value for name, value in client.send("/page", (b"X-Plan", b"pro")).headers.items()}
    assert told["ratelimit-policy"] == '"limit";q=5;w=3600'


def test_several_limits_count_together_and_each_has_its_bucket(site_of: MakeSite) -> None:
    with site_of({"page": rate_limit("9/hour", limit=plan_of, name="plan")}, store=memory()) as client:
        assert statuses(client, "both", 4) == [200, 200, 200, 429]
        assert statuses(client, "pro", 3) == [200, 200, 429], "the first limit alone"


def test_limits_of_a_plan_may_take_the_place_of_a_rule(site_of: MakeSite) -> None:
    policy = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "1/hour"')
    own = rate_limit("2/hour", limit=plan_of, replaces=["each"])
    with site_of({"page": own}, policy=policy, store=memory()) as client:
        assert statuses(client, "pro", 6) == [200] * 5 + [429]


def test_endpoints_have_their_own_buckets_and_those_of_one_name_share_them(site_of: MakeSite) -> None:
    own = {name: rate_limit("2/hour", limit=plan_of, endpoint=name) for name in ("page", "other")}
    shared = rate_limit("2/hour", limit=plan_of, name="plan")
    with site_of({**own, "one": shared, "two": shared}, store=memory()) as client:
        for path in ("/page", "/other"):
            assert statuses(client, "pro", 6, path) == [200] * 5 + [429]
        assert statuses(client, "pro", 3, "/one") + statuses(client, "pro", 3, "/two") == [200] * 5 + [429]


def test_a_dependency_may_ask_an_async_function_by_its_own_key() -> None:
    async def plan(request: Request) -> Any:
        return plan_of(request)

    app = limited(FastAPI())
    limit = rate_limit("1/hour", limit=plan, key=lambda request: request.headers["x-user"])

    async def page() -> str:
        return "ok"

    app.add_api_route("/", page, dependencies=[Depends(limit)])
    with serving(app) as url, closing(RawClient(url)) as client:
        for user in (b"alice", b"bob"):
            answers = [client.send("/", (b"X-User", user), (b"X-Plan", b"pro")).status for _ in range(6)]
            assert answers == [200] * 5 + [429], user


@pytest.mark.parametrize("answer", [5, [], ["5/hour", 5], object(), b"5/hour"])
def test_another_answer_is_an_error_that_names_the_function(answer: object) -> None:
    with pytest.raises(TypeError, match=r"plan_of .* must return a limit, such as '10/second', a list of limits, or"):
        rate_limit("1/hour", limit=plan_of).by_answer(answer)


def test_a_text_that_is_not_a_limit_is_an_error_and_never_no_limit() -> None:
    with pytest.raises(LimitError, match="did you mean 'minute'"):
        rate_limit("1/hour", limit=plan_of).by_answer("5/minuet")


@pytest.mark.parametrize("limit", ["5/hour", 5])
def test_limits_by_name_are_an_error_that_says_where_they_go(limit: Any) -> None:
    with pytest.raises(TypeError, match=r"limit must be a function of the request, not .*: give limits by position"):
        rate_limit("1/hour", limit=limit)


def test_the_answers_that_are_kept_are_bounded() -> None:
    limit = rate_limit("1/hour", limit=plan_of)
    for number in range(3 * MOST_LIMITS):
        limit.by_answer(f"{number + 1}/hour")
    assert len(limit._others) <= MOST_LIMITS
    assert limit.by_answer("7/hour") is limit.by_answer("7/hour")
