"""The service over real HTTP: each question's answer, and what it says of a question that is none."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from async_memory import AsyncMemoryStore
from needs import need
from servers import PATIENCE, ratekeeper_service
from service_process import poll
from service_thread import serving_in_thread
from virtual_time import VirtualLoop
from wire_client import WireClient, answers_in

from ratekeeper import IMPLEMENTATION, LeakyBucket, ManualClock, MemoryStore, Policy
from ratekeeper.decision import Charge
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.service.make_core import make_core

POLICY = """
[attributes]
api_key = "header:x-api-key"

[[rules]]
name = "each key"
match = { path = "/api/*" }
key = ["api_key"]
limit = "3/hour"
missing = "reject"
cost = "header:x-cost"

[[rules]]
name = "tried out"
match = { path = "/api/*" }
limit = "1/hour"
shadow = true

[[rules]]
name = "one by one"
match = { path = "/reports" }
algorithm = "leaky_bucket"
capacity = 2
leak_rate = 2

[[rules]]
name = "slow"
match = { path = "/slow" }
algorithm = "leaky_bucket"
capacity = 2
leak_rate = "1/minute"
"""

QUESTION = b"POST /v1/check HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b"


@contextmanager
def serving(make_store: Callable[[], MemoryStore]) -> Iterator[httpx.Client]:
    served = make_core(Policy.parse(POLICY), make_store)
    with serving_in_thread(served) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def service() -> Iterator[httpx.Client]:
    """The service, whose time stands still: no stall of this machine refills a bucket."""
    with serving(lambda: MemoryStore(clock=ManualClock())) as client:
        yield client


@pytest.fixture
def timed_service() -> Iterator[httpx.Client]:
    """The service, whose time is the real one."""
    with serving(MemoryStore) as client:
        yield client


def check(service: httpx.Client, path: str, at: str = "/check", **headers: str) -> httpx.Response:
    forwarded = {"X-Forwarded-Uri": path, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return service.get(at, headers=forwarded)


def test_preflights_are_exempt_by_the_policy_of_the_page_and_nothing_else_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gateways.md").read_text()
    exempt = 'exempt = [{ method = "OPTIONS" }]\n'
    assert exempt in page
    policy = Policy.parse(exempt + '[[rules]]\nname = "all"\nlimit = "1/hour"')
    methods = ["OPTIONS", "options", "GET", "OPTIONS", "HEAD", "OPTION", "OPTIONSX"]
    with serving_in_thread(make_core(policy, MemoryStore)) as server, httpx.Client(base_url=server.url) as client:
        statuses = [check(client, "/x", X_Forwarded_Method=method).status_code for method in methods]
    assert statuses == [200, 200, 200, 200, 429, 429, 429]


def test_it_answers_200_and_429_with_headers(service: httpx.Client) -> None:
    answers = [check(service, "/api/x", x_api_key="k") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit"] == '"each key";r=2;t=1200'
    assert "retry-after" not in answers[0].headers
    assert answers[3].headers["retry-after"] == "1200"


def test_nginx_gets_the_403_that_it_asks_for(service: httpx.Client) -> None:
    answers = [check(service, "/api/x", "/check/403", x_api_key="k") for _ in range(4)]
    assert answers[3].status_code == 403
    assert answers[3].json()["status"] == 403
    assert answers[3].headers["retry-after"] == "1200"


def test_a_gateway_that_does_not_say_what_is_asked_for_is_told_so_not_let_through(service: httpx.Client) -> None:
    answer = service.get("/check", headers={"X-Api-Key": "k"})
    assert answer.status_code == 400
    assert "sent no x-forwarded-uri" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["endpoint", "user"])
def test_a_gateway_is_told_of_an_attribute_that_it_cannot_give_and_a_program_gives_it(
    tmp_path: Path, name: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[[rules]]\nname = "one"\nmatch = {{ {name} = "*x" }}\nlimit = "1/day"\n')
    announced: list[str] = []
    with ratekeeper_service(policy, announced) as url, httpx.Client(base_url=url) as client:
        assert f"Gateways cannot ask /check: nothing in their requests tells {name!r}" in "".join(announced)
        answer = check(client, "/x")
        assert (answer.status_code, f"looks at {name!r}" in answer.json()["detail"]) == (500, True)
        asked = {"attributes": {name: "x"}}
        assert [client.post("/v1/check", json=asked).json()["allowed"] for _ in range(2)] == [True, False]


def test_json_attributes_have_one_spelling_and_known_names(service: httpx.Client) -> None:
    spellings = ["/api/x", "//api/x", "/%61pi/x", "/y/../api/x"]
    bodies = [{"attributes": {"api_key": "k", "path": path, "method": "get"}} for path in spellings]
    assert [service.post("/v1/check", json=body).json()["allowed"] for body in bodies] == [True, True, True, False]
    answer = service.post("/v1/check", json={"attributes": {"api_kye": "k", "path": "/api/x"}})
    assert answer.status_code == 400
    assert "did you mean 'api_key'?" in answer.json()["detail"]


@pytest.mark.parametrize("status", [400, 403, 451])
def test_a_gateway_may_say_with_which_status_to_deny(service: httpx.Client, status: int) -> None:
    answers = [check(service, "/api/x", f"/check/{status}", x_api_key="k") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, status]
    assert answers[-1].json()["status"] == status


@pytest.mark.parametrize("status", ["200", "399", "abc", "500", "4030", "-403", "٤٠٣", "418418"])
def test_a_status_that_cannot_deny_is_refused_loudly(service: httpx.Client, status: str) -> None:
    answer = service.get(f"/check/{status}")
    assert answer.status_code == 404
    assert "a request can be denied with a status from 400 to 499" in answer.json()["detail"]


@pytest.mark.parametrize("query", ["?deny_status=404", "?deny_status=403", "?/check/404", "?deny_status=200"])
def test_a_clients_own_query_that_a_gateway_hands_on_changes_no_answer(service: httpx.Client, query: str) -> None:
    answers = [check(service, "/api/x", f"/check{query}", x_api_key="k") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]


def test_a_missing_key_is_refused_if_the_rule_says_so(service: httpx.Client) -> None:
    answer = check(service, "/api/x")
    assert answer.status_code == 403
    assert "'api_key'" in answer.json()["detail"]
    assert "retry-after" not in answer.headers


def test_the_cost_comes_from_its_header(service: httpx.Client) -> None:
    assert check(service, "/api/x", x_api_key="k", x_cost="3").status_code == 200
    assert check(service, "/api/x", x_api_key="k").status_code == 429
    too_much = check(service, "/api/x", x_api_key="k2", x_cost="4")
    assert too_much.status_code == 429
    assert "retry-after" not in too_much.headers
    assert "never admits more than 3" in too_much.json()["detail"]
    for cost in ("-1", "1.5", "a lot", "9" * 30):
        bad = check(service, "/api/x", x_api_key="k3", x_cost=cost)
        assert bad.status_code == 400
        assert "must be a whole number" in bad.json()["detail"]


def test_a_shadow_rule_refuses_nothing_and_shows_only_in_json(service: httpx.Client) -> None:
    body = {"attributes": {"api_key": "k", "path": "/api/x"}}
    reports = [service.post("/v1/check", json=body).json() for _ in range(2)]
    assert [report["allowed"] for report in reports] == [True, True]
    assert [[rule["allowed"] for rule in report["rules"]] for report in reports] == [[True, True], [True, False]]
    assert "tried out" not in check(service, "/api/x", x_api_key="k").headers["ratelimit-policy"]


def test_json_says_all_about_a_decision(service: httpx.Client) -> None:
    body = {"attributes": {"api_key": "k", "path": "/api/x"}, "cost": 3}
    first = service.post("/v1/check", json=body).json()
    assert (first["remaining"], first["retry_after"]) == (0, 0)
    report = service.post("/v1/check", json=body).json()
    assert report["allowed"] is False
    assert report["rule"] == "each key"
    assert 3590 < report["retry_after"] <= 3600
    assert report["rules"][0]["limit"] == "token_bucket of 3 at 3/hour"
    never = service.post("/v1/check", json={**body, "cost": 4}).json()
    assert never["retry_after"] is None
    unlimited = service.post("/v1/check", json={"attributes": {}}).json()
    assert unlimited["allowed"] is True
    assert unlimited["rules"] == []


def test_a_list_of_questions_gets_a_list_of_answers_each_decided_by_itself_in_order(service: httpx.Client) -> None:
    asked = [{"attributes": {"api_key": key, "path": "/api/x", "method": "GET"}, "cost": cost} for key, cost in
             (("a", 2), ("b", 3), ("a", 2), ("a", 1), ("b", 1))]  # fmt: skip
    answer = service.post("/v1/check", json=asked)
    assert [one["allowed"] for one in answer.json()] == [True, True, False, True, False]
    assert [one["remaining"] for one in answer.json()] == [1, 0, 1, 0, 0]
    assert answer.json()[3].keys() == service.post("/v1/check", json=asked[3]).json().keys()
    assert "ratelimit" not in answer.headers, "its limits would be those of one question"


def test_a_list_with_a_mistake_decides_nothing_and_says_where(service: httpx.Client) -> None:
    good = {"attributes": {"api_key": "k", "path": "/api/x"}}
    for bad, says in (
        ([good, 5], "question 2 of the list: the body must be an object"),
        ([good, good, {**good, "cost": -1}], "question 3 of the list: cost must be"),
        ([good] * 101, "1 to 100 questions, not 101"),
        ([[good]], "question 1 of the list: the body must be"),
    ):
        answer = service.post("/v1/check", json=bad)
        assert (answer.status_code, says in answer.json()["detail"]) == (400, True)
    assert [one["allowed"] for one in service.post("/v1/check", json=[good] * 4).json()] == [True, True, True, False]


def test_a_question_of_a_list_that_cannot_be_decided_leaves_the_others_alone() -> None:
    policy = Policy.parse('rules = [{name = "r", key = ["user"], limit = "1/day", cost = "weight"}]')
    client = connection(Core(policy, MemoryStore(100)))
    body = json.dumps([{"attributes": {"user": user, "weight": cost}} for user, cost in (("a", "x"), ("a", "1"))])
    [answer] = answers_in(client.send(QUESTION % (len(body), body.encode())))
    problem, report = json.loads(answer.body)
    assert (answer.status, problem["status"], report["allowed"]) == (200, 400, True)
    assert "must be a whole number" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"[]", "1 to 100 questions, not 0"),
        (b"{}", "'attributes'"),
        (b'{"attributes": []}', "'attributes'"),
        (b'{"attributes": {"path": 5}}', "'path' must be a string"),
        (b'{"attributes": {}, "cots": 1}', "'cots'"),
        (b'{"attributes": {}, "cost": -1}', "cost"),
        (b'{"attributes": {}, "cost": 1.5}', "cost"),
        (b'{"attributes": {}, "cost": true}', "cost"),
    ],
)
def test_a_bad_body_is_a_400_that_says_what_is_right(service: httpx.Client, body: bytes, says: str) -> None:
    answer = service.post("/v1/check", content=body)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


def test_a_lone_surrogate_is_as_good_a_key_as_any(service: httpx.Client) -> None:
    body = json.dumps({"attributes": {"api_key": "\ud800", "path": "/api/x"}})
    assert service.post("/v1/check", content=body).json()["allowed"] is True


def test_a_long_body_and_a_wrong_method_or_path_are_told_so(service: httpx.Client) -> None:
    assert service.post("/v1/check", content=b" " * 65_537).status_code == 413
    wrong = service.get("/v1/check")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "/healthz" in service.get("/nowhere").json()["detail"]
    assert service.get("/healthz").text == "ok\n"


class Held(ManualClock):
    """A clock that stands still also for those that wait, until it is told to go on."""

    async def wait_async(self, woken: asyncio.Future[None], until: int) -> None:
        while self.ticks() < until and not woken.done():
            await asyncio.sleep(0.005)


def test_a_leaky_rule_holds_its_answers_until_their_turn() -> None:
    clock = Held()
    core = make_core(Policy.parse(POLICY), lambda: MemoryStore(clock=clock))
    with (
        serving_in_thread(core) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE) as client,
        ThreadPoolExecutor(5) as pool,
    ):
        asked = [pool.submit(check, client, "/reports") for _ in range(5)]
        for answered in (3, 4, 5):
            poll(lambda: sum(one.done() for one in asked) >= answered)  # noqa: B023
            assert core.limiter.waiting == 5 - answered
            server.call(lambda: clock.advance(0.5))  # the next turn of two a second
        assert sorted(one.result().status_code for one in asked) == [200, 200, 200, 429, 429]


def test_a_gateway_that_would_give_up_before_the_turn_is_refused_at_once(service: httpx.Client) -> None:
    assert check(service, "/slow").status_code == 200
    assert check(service, "/slow", X_Ratekeeper_Timeout="0.5").status_code == 429
    assert check(service, "/slow", X_Ratekeeper_Timeout="0").status_code == 429
    for wrong in ("soon", "-1", "nan", "1e3", "1" * 10, "1."):
        told = check(service, "/slow", X_Ratekeeper_Timeout=wrong)
        assert (told.status_code, "must be a number of seconds, such as 0.5" in told.text) == (400, True)
    assert check(service, "/slow", X_Ratekeeper_Timeout="0").status_code == 429, "no refused request has kept a turn"
    assert check(service, "/reports", X_Ratekeeper_Timeout="0").status_code == 200
    assert check(service, "/reports", X_Ratekeeper_Timeout="30").status_code == 200, "within half a second"


def ask_json(service: httpx.Client, path: str = "/slow", **more: object) -> dict[str, Any]:
    answer = service.post("/v1/check", json={"attributes": {"path": path}, **more})
    assert answer.status_code == 200
    report: dict[str, Any] = answer.json()
    return report


def test_a_program_is_answered_now_or_with_the_delay_of_a_turn_that_it_has_taken(service: httpx.Client) -> None:
    assert [ask_json(service)["allowed"] for _ in range(2)] == [True, False], "true is now, on every kind of limit"
    for timeout, turn in ((100, 60), (None, 120)):
        reserved = ask_json(service, timeout=timeout, wait=False)
        assert reserved["allowed"]
        assert turn - 60 < reserved["delay"] <= turn
    assert not ask_json(service, timeout=None, wait=False)["allowed"], "the queue is full"


def test_a_program_is_held_until_its_turn_if_it_may_wait(timed_service: httpx.Client) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: ask_json(timed_service, "/reports", timeout=60), range(3)))
    assert [(answer["allowed"], answer["delay"]) for answer in answers] == [(True, 0.0)] * 3
    assert time.monotonic() - began >= 1, "the third of two a second"


def test_a_program_that_would_wait_longer_than_its_timeout_is_refused_at_once(service: httpx.Client) -> None:
    ask_json(service)
    for wait in (True, False):
        refused = ask_json(service, timeout=0.5, wait=wait)
        assert not refused["allowed"]
        assert 0 < refused["retry_after"] <= 59.5
    assert ask_json(service, timeout=60, wait=False)["allowed"], "neither of them has taken the turn"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"timeout": -1}, "timeout must be 0 or more seconds, or null"),
        ({"timeout": "5"}, "timeout must be 0 or more seconds, or null"),
        ({"timeout": True}, "timeout must be 0 or more seconds, or null"),
        ({"wait": 1}, "wait must be true, to be answered at the turn, or false"),
        ({"verb": "acquire"}, "unknown key 'verb'"),
    ],
)
def test_a_verb_that_means_nothing_is_a_400_that_says_what_would_be_right(
    service: httpx.Client, more: dict[str, object], says: str
) -> None:
    answer = service.post("/v1/check", json={"attributes": {"path": "/reports"}, **more})
    assert (answer.status_code, says in answer.json()["detail"]) == (400, True)
    nan = service.post("/v1/check", content=b'{"attributes": {"path": "/reports"}, "timeout": NaN}')
    assert nan.status_code == 400


@pytest.mark.parametrize("wrap", [lambda store: store, AsyncMemoryStore], ids=["local", "awaited"])
def test_turns_that_programs_reserve_are_bounded_until_they_come(wrap: Any) -> None:
    policy = replace(ONE_BY_ONE, rules=(replace(ONE_BY_ONE.rules[0], limit=LeakyBucket(50, 20)),))

    async def use() -> None:
        clock = ManualClock()
        core = Core(policy, wrap(MemoryStore(100, clock=clock)), max_waiting=2)
        answers = [await post_json(core, timeout=9, wait=False) for _ in range(5)]
        assert [answer["allowed"] for answer in answers] == [True, True, True, False, False]
        assert [answer["delay"] for answer in answers[:3]] == [0.0, 0.05, 0.1]
        while not (await post_json(core, timeout=9, wait=False))["allowed"]:
            await asyncio.sleep(0.01)  # until the event loop has come to a turn

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(use())


def connection(core: Core, address: str = "192.0.2.1") -> WireClient:
    """A client of the service, without a server between: it may hang up whenever it likes."""
    return WireClient(lambda channel: HttpWire(core, channel, Bounds()), address)


async def post_json(core: Core, **more: object) -> dict[str, Any]:
    client, body = connection(core), json.dumps({"attributes": {}, **more}).encode()
    client.send(QUESTION % (len(body), body))
    await client.answered()
    [answer] = answers_in(client.sent)
    report: dict[str, Any] = json.loads(answer.body)
    return report


ONE_BY_ONE = Policy.parse("""
[[rules]]
name = "one by one"
algorithm = "leaky_bucket"
capacity = 5
leak_rate = "1/hour"
""")
CHECK = b"GET /check HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("wrap", [lambda store: store, AsyncMemoryStore], ids=["local", "awaited"])
def test_a_client_that_hangs_up_gives_its_place_back_and_is_sent_nothing(wrap: Any) -> None:
    async def use() -> None:
        store = MemoryStore(100)
        asked = wrap(store)
        core = Core(ONE_BY_ONE, asked)
        first = connection(core)
        first.send(CHECK)
        await first.answered()
        assert [answer.status for answer in answers_in(first.sent)] == [200]
        [before] = store.decide([Charge.of("one by one/0", "", ONE_BY_ONE.rules[0].limit, 0)], commit=False)
        waiting = [connection(core) for _ in range(3)]
        for client in waiting:
            client.send(CHECK)
        while len(asked.wait_queue) < 3:
            await asyncio.sleep(0)
        for client in waiting:
            await client.hang_up()
            assert not client.sent
        if asked is not store:
            await asked.wait_queue.settle()
        [after] = store.decide([Charge.of("one by one/0", "", ONE_BY_ONE.rules[0].limit, 0)], commit=False)
        assert after.debt_ticks < before.debt_ticks
        assert not len(asked.wait_queue)

    asyncio.run(use())


@pytest.mark.parametrize("wrap", [lambda store: store, AsyncMemoryStore], ids=["local", "awaited"])
def test_no_more_requests_are_held_than_the_service_allows(wrap: Any) -> None:
    async def use() -> None:
        store = wrap(MemoryStore(100))
        core = Core(ONE_BY_ONE, store, max_waiting=2)
        first, *held = (connection(core, f"192.0.2.{number}") for number in range(3))
        first.send(CHECK)
        await first.answered()
        for client in held:
            client.send(CHECK)
        while len(store.wait_queue) < 2:
            await asyncio.sleep(0)
        refused = connection(core, "192.0.2.7")
        refused.send(CHECK)
        await refused.answered()
        assert [answer.status for answer in answers_in(refused.sent)] == [429]
        for client in held:
            assert not client.sent
            await client.hang_up()

    asyncio.run(use())


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ratekeeper.cli.main", *args], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--workers", "4", "--store", "memory"], "admit 4 times"),
        (["--store", "shared:"], "there is none called 'shared'"),
        (["--store", "shard:x"], "there is none called 'shard': did you mean 'shared'?"),
        (["--store", "reddis://127.0.0.1"], "there is none called 'reddis': did you mean 'redis'?"),
        (["--workers", "2", "--store", "shared:/etc/passwd"], "/etc/passwd: "),
        (["--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(tmp_path: Path, args: list[str], says: str) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    done = run("serve", str(policy), "--port", "0", *args)
    assert done.returncode == 2
    assert done.stderr.startswith("ratekeeper: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_several_workers_share_one_limit_also_when_one_is_killed(tmp_path: Path) -> None:
    need("the C core", IMPLEMENTATION == "c")
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    announced: list[str] = []
    with ratekeeper_service(policy, announced, "--workers", "3") as url:
        assert announced[0] == f"Page: {url}/\n"
        assert " from 3 processes" in announced[1]
        [table] = [Path(line.split()[1]) for line in announced if line.startswith("Table: ")]
        seen = run("table", str(table))
        assert "for 1,000,000 live buckets" in seen.stdout

        def check_once(number: int) -> int:
            headers = {"X-Forwarded-Uri": "/api/x", "X-Api-Key": f"k-{number % 10}"}
            return httpx.get(f"{url}/check", headers=headers).status_code

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(check_once, range(100)))
        assert sorted(set(answers)) == [200, 429]
        assert answers.count(200) == 10 * 3
    assert not table.exists()


def test_a_shared_store_of_a_name_lives_on_when_the_service_stops(tmp_path: Path) -> None:
    need("the C core", IMPLEMENTATION == "c")
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    statuses = []
    for _ in range(2):
        with ratekeeper_service(policy, None, "--store", f"shared:{tmp_path}/table") as url:
            headers = {"X-Forwarded-Uri": "/api/x", "X-Api-Key": "k", "X-Cost": "2"}
            statuses.append(httpx.get(f"{url}/check", headers=headers).status_code)
    assert statuses == [200, 429]


def test_a_service_that_is_told_to_stop_stops(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    with ratekeeper_service(policy) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
