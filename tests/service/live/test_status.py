"""The status of the real service: equal to its clients' counts, whatever becomes of a worker, the policy or a page."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from event_stream import EventStream
from servers import PATIENCE
from service_process import Running, poll, running
from service_thread import serving_in_thread

from ratekeeper import MemoryStore, Policy, TokenBucket
from ratekeeper.policy.model import Rule
from ratekeeper.service.core import Core
from ratekeeper.service.live.events import MOST_STREAMS
from ratekeeper.service.operator_options import OperatorOptions

pytestmark = pytest.mark.slow

POLICY = """
[attributes]
user = "header:x-user"

[[rules]]
name = "each user"
key = ["user"]
limit = "50/day"

[[rules]]
name = "planned"
shadow = true
limit = "100/day"
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def service(policy: Path) -> Iterator[Running]:
    with running(policy, "--workers", "2", "--grace", "600") as service:
        poll(lambda: service.status()["processes"] == 2)
        yield service


def told(service: Running, claim: Callable[[Any], object]) -> Any:
    """Wait for a status as claimed, and return it: the next one may be of another worker, and a moment older."""
    status: Any = None

    def is_as_claimed() -> object:
        nonlocal status
        status = service.status()
        return claim(status)

    poll(is_as_claimed)
    return status


def load(service: Running, each: int) -> Counter[int]:
    """Ask from several clients at once, and return how often each status came."""

    def ask(client: int) -> Counter[int]:
        statuses: Counter[int] = Counter()
        for n in range(each):
            statuses[service.check(user=f"user {(client + n) % 5}").status_code] += 1
        return statuses

    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(ask, range(4)), Counter())


def counts_of(status: Any, rule: str) -> Any:
    [found] = [one["counts"] for one in status["rules"] if one["name"] == rule]
    return found


def holds(status: Any, statuses: Counter[int]) -> bool:
    """Return whether a status tells the answers that all clients together have got."""
    http = status["requests"]["http"]
    own, planned = counts_of(status, "each user"), counts_of(status, "planned")
    asked = sum(statuses.values())
    return (
        (http["allowed"], http["refused"], http["failed"]) == (statuses[200], statuses[429], 0)
        and (own["allowed"], own["refused"]) == (statuses[200], statuses[429])
        and (planned["allowed"], planned["shadow_refused"]) == (100, asked - 100)
        and sum(key["rejected"] for key in status["limited_keys"]) == statuses[429]
    )


def check_a_killed_worker(service: Running, statuses: Counter[int]) -> None:
    """A worker that is killed takes back no count, and leaves no gauge."""
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(closing(EventStream(service.address)))
        poll(lambda: service.status()["connections"]["http"] >= 20)
        service.kill(min(service.workers()))
        status = told(service, lambda it: it["processes"] == 2)
        assert status["requests"]["http"]["allowed"] == statuses[200]
        assert counts_of(status, "each user")["refused"] == statuses[429]
        poll(lambda: service.status()["connections"]["http"] <= 21)  # a connection may end after its answer
    poll(lambda: service.status()["connections"]["http"] == 1)


def test_all_numbers_are_those_that_clients_saw_whichever_worker_is_asked(service: Running) -> None:
    with closing(EventStream(service.address)) as page:
        statuses = load(service, 100)
        assert statuses == {200: 250, 429: 150}
        while not holds(status := page.next(), statuses):
            pass
    latency = status["latency"]  # of the last 10 s, so of the load
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
    poll(lambda: all(holds(service.status(), statuses) for _ in range(10)))
    scraped = httpx.get(f"{service.url}/metrics", timeout=PATIENCE).text
    assert f'ratekeeper_decisions_total{{outcome="refused",rule="each user"}} {150.0}' in scraped

    def told_past() -> bool:
        with closing(EventStream(service.address)) as page:
            history = page.next("history")
        rules, requests = history["rules"], history["requests"]
        return {
            "each user": (sum(rules.get("each user", {}).get("admitted", [])), sum(requests["refused"])),
            "planned": sum(rules.get("planned", {}).get("admitted", [])),
        } == {"each user": (250, 150), "planned": 400}

    poll(told_past)
    status = told(service, lambda it: holds(it, statuses))
    assert [key["rule"] for key in status["limited_keys"]] == ["each user"] * 5
    assert all(re.fullmatch("#[0-9a-f]{12}", key["key"]) and key["error"] == 0 for key in status["limited_keys"])
    assert "user 0" not in str(status), "no key is shown"
    check_a_killed_worker(service, statuses)


def check_the_end(service: Running) -> None:
    with ExitStack() as stack:
        pages = [stack.enter_context(closing(EventStream(service.address))) for _ in range(20)]
        for page in pages:
            assert page.next("history") is not None
        service.signal(signal.SIGTERM)
        assert service.wait() == 0, "and not after the grace, which is ten minutes"
        for page in pages:
            while page.next() is not None:
                pass
    assert "unanswered" not in service.log


def test_a_reload_is_told_and_open_pages_do_not_hold_up_the_end(service: Running, policy: Path) -> None:
    service.check()
    before = service.status()["policy"]
    assert before["version"] == Policy.load(policy).version
    assert (before["source"], before["last_reload_ok"]) == ("policy.toml", True)
    policy.write_text(POLICY.replace("planned", "renamed").replace("50/day", "70/day"))
    version = Policy.load(policy).version
    told(service, lambda it: it["policy"]["loaded_at"] > before["loaded_at"])  # when all workers have the policy
    poll(lambda: all(service.status()["policy"]["reloads"]["success"] == 2 for _ in range(10)))
    after = told(service, lambda it: it["policy"]["reloads"]["success"] == 2)
    assert after["policy"]["version"] == version
    by_name = {rule["name"]: rule for rule in after["rules"]}
    assert [*by_name] == ["each user", "renamed", "planned"], "rules with counts come behind those of the policy"
    assert by_name["each user"]["capacity"] == 70
    assert by_name["each user"]["counts"]["allowed"] == 1
    assert by_name["renamed"]["shadow"] is True
    assert by_name["planned"]["limit"] is None
    policy.write_text("rules = 5")
    poll(lambda: all(not service.status()["policy"]["last_reload_ok"] for _ in range(10)))
    failed = told(service, lambda it: it["policy"]["reloads"]["failure"] and not it["policy"]["last_reload_ok"])[
        "policy"
    ]
    assert failed["reloads"]["failure"] == 1
    assert (failed["version"], failed["loaded_at"]) == (after["policy"]["version"], after["policy"]["loaded_at"])
    check_the_end(service)


def test_many_pages_take_no_place_from_decisions() -> None:
    core = Core(Policy.parse("rules = [{name = 'all', limit = '1000/day'}]"), MemoryStore(100))
    core.operate(OperatorOptions(recording_bytes=0))
    with serving_in_thread(core) as server, ExitStack() as stack:
        pages = [stack.enter_context(closing(EventStream(server.address))) for _ in range(MOST_STREAMS + 50)]
        assert Counter(page.status for page in pages) == {200: MOST_STREAMS, 503: 50}
        assert httpx.get(f"{server.url}/check", timeout=PATIENCE).status_code == 200
        assert all(page.next() for page in pages[:MOST_STREAMS])


def test_a_page_that_does_not_read_is_cut_off() -> None:
    policy = Policy(tuple(Rule(f"{n} " + "x" * 100, TokenBucket(5, "1/s")) for n in range(300)))
    core = Core(policy, MemoryStore(100))
    core.operate(OperatorOptions(recording_bytes=0))
    with serving_in_thread(core, write_time=1.0) as server, ExitStack() as stack:
        pages = [stack.enter_context(closing(EventStream(server.address))) for _ in range(3)]
        pages[0].next()

        while server.open > 1:
            server.call(core.live.tick)
            assert pages[0].next() is not None, "a page that reads goes on"
        poll(lambda: len(core.live._pages) == 1)


def test_the_page_can_be_off(policy: Path) -> None:
    with running(policy, "--no-page") as service:
        for path in ("/v1/status", "/v1/status/events", "/page/icon.svg", "/"):
            assert httpx.get(f"{service.url}{path}", timeout=PATIENCE).status_code == 404
        assert service.check().status_code == 200
