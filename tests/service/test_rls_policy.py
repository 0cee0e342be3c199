"""Envoy's questions, decided by a policy: attributes, costs, all or nothing, and what the answer tells."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import rls_messages as real
from async_memory import AsyncMemoryStore
from grpc_in_memory import MemoryClient

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.http.header_styles import checked_styles
from ratekeeper.service.core import Core
from ratekeeper.service.grpc import by_policy

POLICY = """
exempt = [{client = "10.0.0.0/8"}]

[[rules]]
name = "each client"
key = ["client"]
limit = "5/minute"

[[rules]]
name = "search"
match = {path = "/search*"}
limit = "2/s burst 3"

[[rules]]
name = "tenant"
match = {domain = "billing"}
key = ["tenant"]
missing = "reject"
limit = "100/day"

[[rules]]
name = "banned"
match = {tenant = "evil"}
deny = true

[[rules]]
name = "trial"
match = {tenant = "trial"}
limit = "1/hour"
shadow = true
"""


class Service:
    """The service by a policy, asked as Envoy asks."""

    def __init__(self, policy: str = POLICY, store: Any = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.store = store or MemoryStore(1000, clock=self.clock)
        self.core = Core(Policy.parse(policy), self.store, **options)
        self.client = MemoryClient(self.core)

    def raw(self, request: Any) -> Any:
        return self.client.call(request.SerializeToString())

    def ask(self, *descriptors: Any, domain: str = "d", hits: int = 0) -> Any:
        answer = self.raw(real.rls_request(domain, *descriptors, hits=hits))
        assert answer.status == 0, answer.text
        return real.RateLimitResponse.FromString(answer.messages[5:])


def headers(answer: Any) -> dict[str, str]:
    return {one.key: one.value for one in answer.response_headers_to_add}


def client(address: str) -> dict[str, str]:
    return {"remote_address": address}


def test_an_answer_tells_the_limit_what_is_left_and_when_it_is_full_again() -> None:
    answer = Service().ask(client("192.0.2.1"))
    [status] = answer.statuses
    assert (answer.overall_code, status.code, status.limit_remaining) == (1, 1, 4)
    assert (status.current_limit.requests_per_unit, status.current_limit.unit) == (5, 2)
    assert status.current_limit.name == "each client"
    assert status.duration_until_reset.seconds == 12
    assert headers(answer) == {"ratelimit-policy": '"each client";q=5;w=60', "ratelimit": '"each client";r=4;t=12'}
    assert answer.raw_body == b""


def test_a_refusal_has_the_problem_and_retry_after() -> None:
    service = Service()
    answer = [service.ask(client("192.0.2.1")) for _ in range(6)][-1]
    assert (answer.overall_code, answer.statuses[0].code) == (2, 2)
    assert headers(answer)["retry-after"] == "12"
    assert headers(answer)["content-type"] == "application/problem+json"
    problem = json.loads(answer.raw_body)
    assert (problem["status"], problem["violated-policies"]) == (429, ["each client"])
    assert service.ask(client("192.0.2.2")).overall_code == 1


def test_each_refusal_tells_its_own_rules_and_its_own_wait() -> None:
    service = Service()

    def told(descriptor: dict[str, str]) -> tuple[str, str, list[str]]:
        answer = service.ask(descriptor, hits=5)
        problem = json.loads(answer.raw_body)
        return headers(answer)["retry-after"], problem["detail"].rpartition(": ")[2], problem["violated-policies"]

    for address in ("192.0.2.1", "192.0.2.2"):
        service.ask(client(address), hits=5)
    told_first = told(client("192.0.2.1"))
    assert told_first == ("60", "try again in 60 seconds.", ["each client"])
    assert told(client("192.0.2.2")) == told_first
    service.clock.advance(59)
    assert told(client("192.0.2.1")) == ("1", "try again in 1 second.", ["each client"])


def test_a_refusal_that_no_wait_helps_tells_its_own_cost_beside_a_rule_that_refuses_all() -> None:
    closed = '[[rules]]\nname = "closed"\nmatch = { tenant = "a" }\nlimit = "0/s"\nmessage = "Closed."\n'
    service = Service(closed + '[[rules]]\nname = "each"\nmatch = { tenant = "b" }\nlimit = "5/s"\n')
    for hits in (50, 77):
        detail = json.loads(service.ask({"tenant": "a"}, {"tenant": "b"}, hits=hits).raw_body)["detail"]
        assert detail.startswith(f"Closed. The request costs {hits}, and 'each' never admits more than 5 at once")


def test_a_burst_is_shown_by_its_rate() -> None:
    [status] = Service().ask({"PATH": "/search?q=1"}).statuses
    assert (status.current_limit.requests_per_unit, status.current_limit.unit, status.limit_remaining) == (2, 1, 2)


@pytest.mark.parametrize("name", ["PATH", ":path", "path"])
def test_a_path_is_read_as_everywhere(name: str) -> None:
    service = Service()
    for spelling in ("/search", "/x/../search", "//search", "/%73earch"):
        last = service.ask({name: spelling})
    assert last.overall_code == 2


def test_two_entries_for_one_attribute_are_read_alike_in_all_processes() -> None:
    script = (
        "from ratekeeper import MemoryStore, Policy\n"
        "from ratekeeper.service.core import Core\n"
        "from ratekeeper.service.grpc.by_policy import _attributes\n"
        "from ratekeeper.service.grpc.codec import Descriptor, RateLimitRequest\n"
        "entries = (':path', '/b'), ('PATH', '/a'), ('METHOD', 'GET'), (':method', 'PUT')\n"
        "one = Descriptor(entries)\n"
        'core = Core(Policy.parse(\'rules = [{name = "r", limit = "1/s"}]\'), MemoryStore(100))\n'
        "attributes, _ = _attributes(RateLimitRequest('d', (one,)), one, core.policy)\n"
        "print(attributes['path'], attributes['method'])"
    )
    for seed in "1234":  # of the order in which a set has its strings
        env = {**os.environ, "PYTHONHASHSEED": seed}
        assert subprocess.check_output([sys.executable, "-c", script], env=env, text=True) == "/a GET\n"


def test_descriptors_are_charged_all_or_nothing() -> None:
    service = Service()
    both = [client("192.0.2.1"), {"PATH": "/search"}]
    for _ in range(3):
        assert service.ask(*both).overall_code == 1
    refused = service.ask(*both)
    assert refused.overall_code == 2
    assert [status.code for status in refused.statuses] == [1, 2]
    assert [status.limit_remaining for status in refused.statuses] == [2, 0]
    assert headers(refused)["retry-after"] == "1"
    assert "search" in headers(refused)["ratelimit"]
    assert service.ask(client("192.0.2.1")).statuses[0].limit_remaining == 1


async def _awaited_together() -> None:
    memory = MemoryStore(1000, clock=ManualClock())
    service = Service(store=AsyncMemoryStore(memory))
    stream = service.client.begin(real.rls_request("d", client("192.0.2.1"), {"PATH": "/search"}).SerializeToString())
    service.client.exchange()
    await service.client.channel.running[0]
    service.client.read()
    answer = real.RateLimitResponse.FromString(service.client.answers[stream].messages[5:])
    assert [status.limit_remaining for status in answer.statuses] == [4, 2]


def test_descriptors_are_decided_together_on_a_store_that_is_awaited() -> None:
    asyncio.run(_awaited_together())


@pytest.mark.parametrize(("second", "what"), [
    ({"tenant": "evil"}, "Rule 'banned' denies"),
    ({"service": "s"}, "has no 'tenant'"),
])  # fmt: skip
def test_what_is_refused_without_the_store_charges_nothing(second: dict[str, str], what: str) -> None:
    service = Service()
    answer = service.ask(client("192.0.2.1"), second, domain="billing" if "service" in second else "d")
    if "service" in second:
        first = service.ask({**client("192.0.2.9"), "tenant": "t"}, second, domain="billing")
        assert [status.code for status in first.statuses] == [1, 2]
    assert answer.overall_code == 2
    assert what in json.loads(answer.raw_body)["detail"]
    assert service.ask(client("192.0.2.1")).statuses[0].limit_remaining == 4


def test_rules_of_one_name_are_told_by_the_strictest_descriptor() -> None:
    service = Service()
    for _ in range(5):
        service.ask(client("192.0.2.1"))
    answer = service.ask(client("192.0.2.1"), client("192.0.2.2"))
    assert [status.code for status in answer.statuses] == [2, 1]
    assert headers(answer)["ratelimit"] == '"each client";r=0;t=12'
    assert headers(answer)["retry-after"] == "12"


def test_hits_are_tokens_and_no_hits_of_a_descriptor_a_peek() -> None:
    service = Service()
    assert service.ask(client("192.0.2.1"), hits=3).statuses[0].limit_remaining == 2
    request = real.rls_request("d", client("192.0.2.1"), hits=3)
    request.descriptors[0].hits_addend.value = 0
    for _ in range(3):
        peek = real.RateLimitResponse.FromString(service.raw(request).messages[5:])
        assert (peek.overall_code, peek.statuses[0].limit_remaining) == (1, 2)
    request.descriptors[0].hits_addend.value = 2
    assert real.RateLimitResponse.FromString(service.raw(request).messages[5:]).statuses[0].limit_remaining == 0


@pytest.mark.parametrize("hits", [6, 1_000_000, 2**32 - 1])
def test_more_than_a_bucket_holds_is_refused_and_not_charged(hits: int) -> None:
    service = Service()
    assert service.ask(client("192.0.2.1"), hits=hits).overall_code == 2
    assert service.ask(client("192.0.2.1"), {"PATH": "/search"}, hits=hits).overall_code == 2
    assert service.ask(client("192.0.2.1")).statuses[0].limit_remaining == 4


def test_shadow_rules_and_exemptions_refuse_nothing() -> None:
    service = Service()
    for _ in range(3):
        answer = service.ask({"tenant": "trial", "remote_address": "10.1.2.3"})
        assert (answer.overall_code, headers(answer)) == (1, {})
        assert not answer.statuses[0].HasField("current_limit")
    trial = Service('rules = [{name = "t", limit = "1/hour", shadow = true}]')
    for _ in range(3):
        answer = trial.ask({"a": "b"})
        assert (answer.overall_code, answer.statuses[0].HasField("current_limit")) == (1, False)


def test_an_entry_with_two_values_is_an_error() -> None:
    service = Service()
    for entries in ([("generic_key", "a"), ("generic_key", "b")], [("domain", "mine")]):
        answer = service.raw(real.rls_request("d", entries))
        assert answer.status == 3
        assert "two values" in answer.text


def test_an_entry_that_the_policy_does_not_know_is_ignored_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    by_policy._told.clear()
    service = Service(POLICY + '\n[attributes]\ntenant = "header:x-tenant"\ndomain = "app"\n')
    with caplog.at_level(logging.WARNING, "ratekeeper"):
        for _ in range(2):
            assert service.ask({"tenat": "t", "PATH": "/", **client("192.0.2.1")}).overall_code == 1
    assert [record.message for record in caplog.records] == [
        "a descriptor of Envoy: the policy knows no attribute 'tenat': this entry is ignored"
    ]


def test_an_entry_that_envoy_could_send_and_does_not_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A rule for POST never applied: the example did not send the method, and no log said so."""
    by_policy._told.clear()
    service = Service('rules = [{name = "reports", match = {path = "/r", method = "POST"}, limit = "1/h"}]')
    with caplog.at_level(logging.WARNING, "ratekeeper"):
        for code in (1, 1):
            assert service.ask({"PATH": "/r"}).overall_code == code
        assert service.ask({"PATH": "/r", "METHOD": "POST"}).overall_code == 1
        assert service.ask({"PATH": "/r", "METHOD": "POST"}).overall_code == 2
    assert [record.message for record in caplog.records] == [
        "a descriptor of Envoy: it has no entry for 'method', so rules that look at it may not apply"
    ]


def test_a_cost_that_is_not_a_number_is_refused() -> None:
    service = Service('rules = [{name = "r", limit = "5/s", cost = "tokens"}]')
    assert service.ask({"tokens": "3"}).statuses[0].limit_remaining == 2
    for others in ([], [{"a": "b"}]):
        answer = service.ask({"tokens": "many"}, *others)
        assert (answer.overall_code, b"tokens must be a whole number" in answer.raw_body) == (2, True)


def test_headers_have_the_style_of_the_service() -> None:
    service = Service(headers=checked_styles("x-delta"))
    assert headers(service.ask(client("192.0.2.1")))["x-ratelimit-remaining"] == "4"
    both = headers(service.ask(client("192.0.2.1"), {"PATH": "/search"}))
    assert both["x-ratelimit-remaining"] == "2"


def test_a_looked_up_limit_is_awaited() -> None:
    async def plan(tenant: str | None) -> str:
        return "7/minute"

    async def ask() -> None:
        policy = '[[rules]]\nname = "r"\nkey = ["tenant"]\nlimit = "app:plan"\ndefault = "1/hour"'
        service = Service(policy, limits={"plan": plan})
        for descriptors in ([{"tenant": "a"}], [{"tenant": "b"}, {"tenant": "c"}]):
            stream = service.client.begin(real.rls_request("d", *descriptors).SerializeToString())
            service.client.exchange()
            await service.client.channel.running[-1]
            service.client.read()
            answer = real.RateLimitResponse.FromString(service.client.answers[stream].messages[5:])
            assert [status.limit_remaining for status in answer.statuses] == [6] * len(descriptors)

    asyncio.run(ask())
