"""Clients of HTTP libraries that pace what they send: each claim on each client, against a real server."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import httpx
import pytest
import requests
from async_memory import AsyncMemoryStore
from limited_api import Answer, LimitedAPI, limited_api, too_many
from paced_clients import CLIENTS, Opener

from ratekeeper import AsyncLimiter, Limiter, ManualClock, MemoryStore, RateLimitExceeded
from ratekeeper.clients.aiohttp import RateLimitClientMiddleware
from ratekeeper.clients.httpx import AsyncRateLimitTransport, RateLimitTransport
from ratekeeper.clients.pacer import Pace
from ratekeeper.clients.requests import RateLimitAdapter
from ratekeeper.limits import TICKS_PER_SECOND


@pytest.fixture(params=CLIENTS)
def client_of(request: pytest.FixtureRequest) -> Iterator[Opener]:
    with ExitStack() as closing:
        yield Opener(request.param, closing)


@pytest.fixture
def api() -> Iterator[LimitedAPI]:
    with limited_api() as server:
        yield server


class Stopwatch:
    """A manual clock, which waiting moves, and a store on it."""

    def __init__(self) -> None:
        self.clock = ManualClock(start=1000)
        self.store = MemoryStore(clock=self.clock)

    @property
    def seconds(self) -> float:
        return round(self.clock.ticks() / TICKS_PER_SECOND - 1000, 3)


@pytest.fixture
def watch() -> Stopwatch:
    return Stopwatch()


def test_a_function_that_returns_no_key_is_named(client_of: Opener, api: LimitedAPI) -> None:
    client = client_of("10/s", key=lambda request: None)
    with pytest.raises(TypeError, match=r"the key function .*<lambda>\(\) must return str or bytes, not NoneType"):
        client.send(api.url)


def test_requests_leave_at_the_pace_of_the_limit(client_of: Opener, api: LimitedAPI, watch: Stopwatch) -> None:
    client = client_of(Limiter("10/s burst 2", store=watch.store))
    left = []
    for _ in range(5):
        assert client.send(api.url).body == b"here you are"
        left.append(watch.seconds)
    assert left == [0, 0, 0.1, 0.2, 0.3]


def test_a_turn_after_the_timeout_is_refused_at_once_and_nothing_is_sent(
    client_of: Opener, api: LimitedAPI, watch: Stopwatch
) -> None:
    client = client_of(Limiter("1/minute", store=watch.store), timeout=59)
    client.send(api.url)
    with pytest.raises(RateLimitExceeded) as refused:
        client.send(api.url)
    assert refused.value.decision.retry_after == 1  # to wait 59 s for the rest would do
    assert len(api.got) == 1
    assert watch.seconds == 0


def test_each_host_has_its_own_pace(client_of: Opener, api: LimitedAPI, watch: Stopwatch) -> None:
    client = client_of(Limiter("1/minute", store=watch.store))
    client.send(api.url)
    client.send(api.other_url)
    assert watch.seconds == 0
    client.send(api.url)
    assert watch.seconds == 60


def test_key_and_cost_may_be_functions_of_the_request(client_of: Opener, api: LimitedAPI, watch: Stopwatch) -> None:
    client = client_of(
        Limiter("10/s", store=watch.store), key=lambda request: request.method, cost=lambda request: len(request.method)
    )
    client.send(api.url)
    client.send(api.url)
    client.send(api.url)
    assert watch.seconds == 0
    client.send(api.other_url)  # 3 each: 12 in all
    assert watch.seconds == 0.2


@pytest.mark.parametrize(
    "answer",
    [
        too_many(30),
        Answer(503, {"Retry-After": "30"}),
        Answer(200, {"RateLimit": '"default";r=0;t=30'}),
        Answer(200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}),
    ],
)
def test_an_answer_that_says_so_holds_back_further_requests_which_then_go_one_by_one(
    client_of: Opener, api: LimitedAPI, watch: Stopwatch, answer: Answer
) -> None:
    api.answers = [answer]
    client = client_of(Limiter("10/s burst 5", store=watch.store))
    assert client.send(api.url).status == answer.status
    assert watch.seconds == 0
    client.send(api.other_url)
    assert watch.seconds == 0  # another host
    left = []
    for _ in range(3):
        client.send(api.url)
        left.append(watch.seconds)
    assert left == [30, 30.1, 30.2]


def test_a_pause_longer_than_the_timeout_is_refused_at_once(
    client_of: Opener, api: LimitedAPI, watch: Stopwatch
) -> None:
    api.answers = [too_many(30)]
    client = client_of(Limiter("10/s", store=watch.store), timeout=5)
    client.send(api.url)
    with pytest.raises(RateLimitExceeded) as refused:
        client.send(api.url)
    assert refused.value.decision.retry_after == pytest.approx(25)
    assert len(api.got) == 1


def test_a_pause_is_no_longer_than_we_are_willing_to_keep(client_of: Opener, api: LimitedAPI, watch: Stopwatch) -> None:
    api.answers = [too_many(10**9)]
    client = client_of(Limiter("10/s", store=watch.store), longest_pause=20)
    client.send(api.url)
    client.send(api.url)
    assert watch.seconds == 20


def test_a_429_is_handed_on_with_its_body_unless_it_may_be_sent_again(client_of: Opener, api: LimitedAPI) -> None:
    api.answers = [too_many(30)]
    reply = client_of("10/s").send(api.url, b"data")
    assert reply == (429, b"asked too much")
    assert len(api.got) == 1


def test_a_429_is_sent_again_in_its_turn_with_the_same_body(
    client_of: Opener, api: LimitedAPI, watch: Stopwatch
) -> None:
    api.answers = [too_many(30), Answer(429, {}), Answer(200, {})]
    reply = client_of(Limiter("10/s burst 1", store=watch.store), retries=2).send(api.url, b"data")
    assert reply == (200, b"here you are")
    assert [got.body for got in api.got] == [b"data"] * 3
    assert watch.seconds == 30.1


def test_a_429_is_sent_again_no_more_often_than_retries(client_of: Opener, api: LimitedAPI) -> None:
    api.answers = [Answer(429, {})] * 3
    assert client_of("100/s", retries=1).send(api.url).status == 429
    assert len(api.got) == 2


def test_a_503_is_not_sent_again_as_it_may_have_been_done(client_of: Opener, api: LimitedAPI) -> None:
    api.answers = [Answer(503, {"Retry-After": "0.01"})]
    assert client_of("100/s", retries=3).send(api.url).status == 503


def test_a_body_that_can_be_read_only_once_is_not_sent_again(client_of: Opener, api: LimitedAPI) -> None:
    api.answers = [too_many(0.01)]
    reply = client_of("100/s", retries=3).send(api.url, iter([b"on", b"ce"]))
    assert reply.status == 429
    assert [got.body for got in api.got] == [b"once"]


def test_an_answer_in_parts_is_handed_on_as_it_comes(client_of: Opener, api: LimitedAPI) -> None:
    parts = client_of("100/s").parts(f"{api.url}/parts", api.go_on.set)
    assert parts[0] == b"first"
    assert b"".join(parts) == b"firstlater"


def test_those_already_in_line_are_held_back_too_and_do_not_rush_in_afterwards(
    client_of: Opener, api: LimitedAPI
) -> None:
    pause, interval = 1.2, 0.5

    def held_back() -> bool:
        api.got.clear()
        api.answers = [too_many(pause)]
        replies = client_of("2/s burst 1").together([api.url] * 4)
        assert sorted(reply.status for reply in replies) == [200, 200, 200, 429]
        first, *others = [got.at for got in api.got]
        never_at_one_instant = all(later - earlier >= interval / 2 for earlier, later in pairwise(others))
        return others[0] - first >= pause and never_at_one_instant

    # On a machine that stands still, the second leaves before the answer to the first is read. It does not each time.
    assert any(held_back() for _ in range(20))


def test_a_limiter_may_be_shared_between_clients_of_all_kinds(api: LimitedAPI, watch: Stopwatch) -> None:
    with ExitStack() as closing:
        store, name = watch.store, "one"
        shared: list[Pace] = [
            Limiter("1/minute", store=store, name=name), AsyncLimiter("1/minute", store=store, name=name)
        ]  # fmt: skip
        for number, (kind, limiter) in enumerate((kind, limiter) for kind in CLIENTS for limiter in shared):
            Opener(kind, closing)(limiter).send(api.url)
            assert watch.seconds == 60 * number


@pytest.mark.parametrize("kind", ["httpx", "requests"])
def test_a_client_that_blocks_refuses_a_store_that_must_be_awaited(kind: str, watch: Stopwatch) -> None:
    with pytest.raises(TypeError, match="must be awaited, which Limiter cannot: use AsyncLimiter"):
        CLIENTS[kind](AsyncLimiter("1/s", store=AsyncMemoryStore(watch.store)))


def test_every_client_takes_several_limits_of_which_each_request_is_charged_by_all(
    client_of: Opener, api: LimitedAPI
) -> None:
    client = client_of("1000/s", "2/hour", timeout=0)
    assert [client.send(api.url).status for _ in range(2)] == [200, 200]
    with pytest.raises(RateLimitExceeded, match=r"retry after \d+"):
        client.send(api.url)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ((), "give limits, such as '5/s' and '100/minute', or one Limiter"),
        ((5,), "a limit must be a string such as '5/s', a TokenBucket, a LeakyBucket, or one Limiter, not 5"),
        (("5/s", None), "a limit must be a string .* not None"),
        ((Limiter("5/s"), "9/m"), "give limits, such as '5/s' and '100/minute', or one Limiter"),
    ],
)
@pytest.mark.parametrize(
    "kind", [RateLimitTransport, AsyncRateLimitTransport, RateLimitAdapter, RateLimitClientMiddleware]
)
def test_what_is_not_a_limit_is_an_error_that_says_what_to_write(
    kind: Callable[..., object], limits: tuple[object, ...], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        kind(*limits)


def test_a_transport_in_the_wrong_place_or_of_the_wrong_kind_is_an_error_that_says_what_to_write() -> None:
    with httpx.HTTPTransport() as sending:
        for kind in (RateLimitTransport, AsyncRateLimitTransport):
            with pytest.raises(TypeError, match="a HTTPTransport is not a limit: write transport=HTTPTransport"):
                kind("5/s", sending)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must have a method handle_async_request, as AsyncRate"):
            AsyncRateLimitTransport("5/s", transport=sending)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match=r"for httpx\.AsyncClient write AsyncRateLimitTransport"):
        asyncio.run(httpx.AsyncClient(transport=RateLimitTransport("5/s")).get("http://localhost"))  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match=r"for httpx\.Client write RateLimitTransport"):
        httpx.Client(transport=AsyncRateLimitTransport("5/s")).get("http://localhost")  # type: ignore[arg-type]


def test_requests_through_the_proxy_of_the_inner_transport_are_limited(api: LimitedAPI, watch: Stopwatch) -> None:
    limiter = Limiter("1/minute", store=watch.store)
    with httpx.Client(transport=RateLimitTransport(limiter, transport=httpx.HTTPTransport(proxy=api.url))) as client:
        for _ in range(3):
            client.get("http://api.example.com/")
    assert [got.path for got in api.got] == ["http://api.example.com/"] * 3
    assert watch.seconds == 120


def test_an_adapter_is_not_copied_without_its_limiter() -> None:
    with requests.Session() as session:
        session.mount("https://", RateLimitAdapter("5/s"))
        for copied in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied: mount a new one"):
                copied(session)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": -1}, "timeout must be 0 or more seconds"),
        ({"retries": -1}, "retries must be a number of times that a 429 is sent again, 0 or more, not -1"),
        ({"longest_pause": float("inf")}, "longest_pause must be a number of seconds, 0 or more, not inf"),
        ({"longest_pause": "30"}, "longest_pause must be a number of seconds, 0 or more, not '30'"),
        ({"cost": -1}, "cost must be 0 or more"),
        ({"key": 5}, "key must be str, bytes, or a function of the request"),
        ({"key": asyncio.sleep}, "the key function must not be async: nothing awaits it"),
        ({"cost": asyncio.sleep}, "the cost function must not be async: nothing awaits it"),
    ],
)
@pytest.mark.parametrize(
    "kind", [RateLimitTransport, AsyncRateLimitTransport, RateLimitAdapter, RateLimitClientMiddleware]
)
def test_bad_options_are_errors_when_the_client_is_made(
    kind: Callable[..., object], options: dict[str, object], words: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        kind("1/s", **options)
