"""Envoy's questions, decided by envoyproxy/ratelimit's files: the examples of its README, and what differs."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import rls_messages as real
from async_memory import AsyncMemoryStore
from grpc_in_memory import MemoryClient

from ratekeeper import ManualClock, MemoryStore, Policy, core
from ratekeeper.service.core import Core
from ratekeeper.service.envoy.load import load_envoy_config
from ratekeeper.service.grpc import config_question
from ratekeeper.service.metrics.cells import histogram_cells

FILES = {
    "basic": """
domain: mongo_cps
descriptors:
  - key: database
    value: users
    rate_limit: {unit: second, requests_per_unit: 500}
""",
    "nested": """
domain: messaging
descriptors:
  - key: message_type
    value: marketing
    descriptors:
      - key: to_number
        rate_limit: {unit: day, requests_per_unit: 5}
  - key: to_number
    rate_limit: {unit: day, requests_per_unit: 100}
""",
    "ban": """
domain: edge_proxy_per_ip
descriptors:
  - key: remote_address
    rate_limit: {unit: second, requests_per_unit: 10}
  - key: remote_address
    value: 50.0.0.5
    rate_limit: {unit: second, requests_per_unit: 0}
""",
    "unlimited": """
domain: internal
descriptors:
  - key: ldap
    rate_limit: {unlimited: true}
  - key: azure
    rate_limit: {unit: minute, requests_per_unit: 100}
""",
    "shadow": """
domain: example6
descriptors:
  - key: service
    descriptors:
      - key: user
        value: user-a
        rate_limit: {requests_per_unit: 1, unit: second}
        shadow_mode: true
      - key: user
        value: user-b
        rate_limit: {requests_per_unit: 2, unit: second}
""",
    "replaces": """
domain: example7
descriptors:
  - key: key_1
    value: value_1
    descriptors:
      - key: user
        value: bkthomps
        rate_limit: {name: specific_limit, requests_per_unit: 5, unit: second}
  - key: key_2
    value: value_2
    descriptors:
      - key: user
        value: bkthomps
        rate_limit:
          replaces: [{name: specific_limit}]
          requests_per_unit: 10
          unit: second
""",
    "share": """
domain: share
descriptors:
  - key: path
    value: files/*
    share_threshold: true
    rate_limit: {unit: hour, requests_per_unit: 2}
  - key: path
    value: each/*
    rate_limit: {unit: hour, requests_per_unit: 2}
""",
    "quota": """
domain: quota
descriptors:
  - key: service
    quota_mode: true
    rate_limit: {unit: minute, requests_per_unit: 1}
""",
}


class Service:
    """The service by these files, asked as Envoy asks."""

    def __init__(self, folder: Path, store: Any = None) -> None:
        for name, text in FILES.items():
            (folder / f"{name}.yaml").write_text(text)
        self.clock = ManualClock()
        policy = Policy.parse('rules = [{name = "none", limit = "0/s"}]')
        self.core = Core(policy, store or MemoryStore(1000, clock=self.clock), envoy=load_envoy_config(folder))
        self.client = MemoryClient(self.core)

    def send(self, request: Any) -> Any:
        answer = self.client.call(request.SerializeToString())
        assert answer.status == 0, answer.text
        return real.RateLimitResponse.FromString(answer.messages[5:])

    def ask(self, domain: str, *descriptors: Any, hits: int = 0) -> Any:
        return self.send(real.rls_request(domain, *descriptors, hits=hits))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def headers(answer: Any) -> dict[str, str]:
    return {one.key: one.value for one in answer.response_headers_to_add}


def test_a_limit_is_told_with_its_unit(service: Service) -> None:
    answer = service.ask("mongo_cps", {"database": "users"})
    [status] = answer.statuses
    assert (answer.overall_code, status.limit_remaining) == (1, 499)
    assert (status.current_limit.requests_per_unit, status.current_limit.unit, status.current_limit.name) == (
        500,
        1,
        "",
    )
    assert status.duration_until_reset.seconds == 1
    assert headers(answer)["ratelimit-policy"] == '"mongo_cps.database";q=500;w=1'


def test_without_a_match_it_is_ok_without_a_limit(service: Service) -> None:
    answer = service.ask("mongo_cps", {"database": "default"}, {"database": "users", "more": "x"})
    assert answer.overall_code == 1
    assert [(one.code, one.HasField("current_limit")) for one in answer.statuses] == [(1, False), (1, False)]
    assert headers(answer) == {}


def test_an_unknown_domain_is_told_once(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    config_question._told.clear()
    with caplog.at_level(logging.WARNING, "ratekeeper"):
        for _ in range(2):
            assert service.ask("nowhere", {"a": "b"}).overall_code == 1
    assert len(caplog.records) == 1
    assert "'nowhere'" in caplog.records[0].message


def test_several_descriptors_are_charged_all_or_nothing(service: Service) -> None:
    both = [{"message_type": "marketing", "to_number": "1"}, {"to_number": "1"}]
    for _ in range(5):
        assert service.ask("messaging", *both).overall_code == 1
    for _ in range(3):
        refused = service.ask("messaging", *both)
        assert [status.code for status in refused.statuses] == [2, 1]
        assert [status.limit_remaining for status in refused.statuses] == [0, 95]
    assert headers(refused)["retry-after"] == "17280"
    assert json.loads(refused.raw_body)["violated-policies"] == ["messaging.message_type.to_number"]
    assert service.ask("messaging", {"to_number": "1"}).statuses[0].limit_remaining == 94
    assert service.ask("messaging", {"message_type": "marketing", "to_number": "2"}).overall_code == 1


def test_there_is_no_second_burst_at_the_boundary_of_a_window(service: Service) -> None:
    for _ in range(10):
        assert service.ask("edge_proxy_per_ip", {"remote_address": "1.1.1.1"}).overall_code == 1
    service.clock.advance(0.5)
    codes = [service.ask("edge_proxy_per_ip", {"remote_address": "1.1.1.1"}).overall_code for _ in range(10)]
    assert codes == [1] * 5 + [2] * 5


def test_a_limit_of_a_question_that_cannot_be_is_an_error_of_that_call_alone(service: Service) -> None:
    request = real.rls_request("internal", {"azure": "y"})
    limit = request.descriptors[0].limit
    limit.requests_per_unit, limit.unit = 2**32 - 1, 1
    answer = service.client.call(request.SerializeToString())
    assert (answer.status, "at most 1,000,000,000 per second" in answer.text) == (3, True)
    assert service.ask("internal", {"azure": "y"}).overall_code == 1


def test_zero_requests_are_a_ban_which_charges_nothing(service: Service) -> None:
    answer = service.ask("edge_proxy_per_ip", {"remote_address": "50.0.0.5"}, {"remote_address": "50.0.0.1"})
    assert (answer.overall_code, [status.code for status in answer.statuses]) == (2, [2, 1])
    assert "retry-after" not in headers(answer)
    assert answer.statuses[0].current_limit.requests_per_unit == 0
    assert service.ask("edge_proxy_per_ip", {"remote_address": "50.0.0.1"}).statuses[0].limit_remaining == 9


def test_unlimited_is_ok_and_leaves_all(service: Service) -> None:
    answer = service.ask("internal", {"ldap": "x"}, {"azure": "y"})
    assert [status.limit_remaining for status in answer.statuses] == [2**32 - 1, 99]


def test_shadow_mode_refuses_nothing(service: Service) -> None:
    for _ in range(3):
        answer = service.ask("example6", {"service": "auth", "user": "user-a"})
        assert (answer.overall_code, answer.statuses[0].limit_remaining) == (1, 0)
        assert answer.raw_body == b""
    codes = [service.ask("example6", {"service": "auth", "user": "user-b"}).overall_code for _ in range(3)]
    assert codes == [1, 1, 2]


def test_a_limit_of_the_request_itself_beside_one_in_shadow_of_the_same_name_refuses(service: Service) -> None:
    request = real.rls_request("example6", *[{"service": "auth", "user": "user-a"}] * 2)
    request.descriptors[0].hits_addend.value = 1000
    request.descriptors[1].limit.unit = 1
    for per_unit, code in ((0, 2), (1, 1), (1, 2)):
        request.descriptors[1].limit.requests_per_unit = per_unit
        answer = service.send(request)
        assert (answer.overall_code, [status.code for status in answer.statuses]) == (code, [1, code])
        assert headers(answer)["ratelimit-policy"].count(";q=") == 1
        assert bool(answer.raw_body) == (code == 2)


def test_a_limit_that_is_replaced_is_not_charged(service: Service) -> None:
    first, second = {"key_1": "value_1", "user": "bkthomps"}, {"key_2": "value_2", "user": "bkthomps"}
    answer = service.ask("example7", first, second)
    assert [one.HasField("current_limit") for one in answer.statuses] == [False, True]
    assert answer.statuses[1].limit_remaining == 9
    alone = service.ask("example7", first)
    assert (alone.statuses[0].limit_remaining, alone.statuses[0].current_limit.name) == (4, "specific_limit")


def test_values_of_a_wildcard_share_a_bucket_if_they_should(service: Service) -> None:
    codes = [service.ask("share", {"path": f"files/{name}"}).overall_code for name in ("a", "b", "*")]
    assert codes == [1, 1, 2]
    assert [service.ask("share", {"path": f"each/{name}"}).overall_code for name in ("a", "b", "*")] == [1, 1, 1]


def test_a_quota_is_told_in_metadata_and_refuses_nothing(service: Service) -> None:
    first, second = (service.ask("quota", {"service": "s"}) for _ in range(2))
    assert dict(first.dynamic_metadata.items())["quotaModeEnabled"] is True
    assert "quotaModeViolations" not in first.dynamic_metadata
    assert (second.overall_code, list(second.dynamic_metadata["quotaModeViolations"])) == (1, [0])
    assert list(second.dynamic_metadata["descriptors"][0]["entries"]) == ["service=s"]
    assert not service.ask("internal", {"azure": "y"}).HasField("dynamic_metadata")


def test_a_limit_of_the_request_wins(service: Service) -> None:
    request = real.rls_request("edge_proxy_per_ip", {"remote_address": "9.9.9.9"})
    request.descriptors[0].limit.requests_per_unit = 1
    request.descriptors[0].limit.unit = 3
    answers = [service.send(request) for _ in range(2)]
    assert [answer.overall_code for answer in answers] == [1, 2]
    assert headers(answers[1])["retry-after"] == "3600"
    request.descriptors[0].limit.unit = 0
    answer = service.client.call(request.SerializeToString())
    assert (answer.status, "unit 0" in answer.text) == (3, True)


def test_a_limit_of_another_unit_has_another_bucket_and_one_of_the_same_unit_has_not(service: Service) -> None:
    own = real.rls_request("edge_proxy_per_ip", {"remote_address": "9.9.9.9"})
    own.descriptors[0].limit.unit, own.descriptors[0].limit.requests_per_unit = 4, 2
    assert [service.send(own).overall_code for _ in range(3)] == [1, 1, 2]
    assert service.ask("edge_proxy_per_ip", {"remote_address": "9.9.9.9"}).statuses[0].limit_remaining == 9
    own.descriptors[0].limit.requests_per_unit = 200
    service.clock.advance(864)
    assert service.send(own).statuses[0].limit_remaining == 1


def test_hits_count_and_none_is_a_peek(service: Service) -> None:
    assert service.ask("internal", {"azure": "y"}, hits=60).statuses[0].limit_remaining == 40
    assert service.ask("internal", {"azure": "y"}, hits=60).overall_code == 2
    request = real.rls_request("internal", {"azure": "y"}, hits=60)
    request.descriptors[0].hits_addend.value = 0
    assert service.send(request).statuses[0].limit_remaining == 40
    assert service.send(request).overall_code == 1


def test_the_buckets_are_not_those_of_a_rule(tmp_path: Path) -> None:
    store = MemoryStore(1000, clock=ManualClock())
    core = Service(tmp_path, store).core
    core.replace(Policy.parse('rules = [{name = "mongo_cps", limit = "1/hour"}]'))
    core.envoy = None
    client = MemoryClient(core)
    assert client.call(real.rls_request("mongo_cps", {"database": "users"}).SerializeToString()).status == 0
    core.replace(load_envoy_config(tmp_path))
    answer = client.call(real.rls_request("mongo_cps", {"database": "users"}).SerializeToString())
    assert real.RateLimitResponse.FromString(answer.messages[5:]).statuses[0].limit_remaining == 499


@pytest.mark.skipif(core.fill_envoy_answer is None, reason="the C core is not in use")
def test_a_table_in_c_answers_and_counts_as_the_definition(tmp_path: Path) -> None:
    drawn = random.Random(1)
    clock = ManualClock(1000)
    (tmp_path / "odd.yaml").write_text(
        "domain: odd\ndescriptors:\n"
        "- {key: 'a \u00e9% \"name\"', rate_limit: {unit: year, requests_per_unit: 4294967295}}\n"
        "- {key: few, rate_limit: {name: few, unit: month, requests_per_unit: 7}}\n"
        "- {key: tried, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}\n"
    )
    both = [
        Service(tmp_path, MemoryStore(1000, clock=clock, implementation=implementation))
        for implementation in ("c", "python")
    ]
    entries = [
        ("mongo_cps", {"database": "users"}),
        ("messaging", {"to_number": "1"}),
        ("messaging", {"message_type": "marketing", "to_number": "1"}),
        ("edge_proxy_per_ip", {"remote_address": "192.0.2.1"}),
        ("edge_proxy_per_ip", {"remote_address": "50.0.0.5"}),
        ("share", {"path": "files/1"}),
        ("share", {"path": "files/2"}),
        ("odd", {'a \u00e9% "name"': "x"}),
        ("odd", {"few": "\u00e9"}),
        ("odd", {"tried": ""}),
        ("odd", {"unknown": "1"}),
    ]
    codes = set()
    for _ in range(600):
        clock.advance(drawn.choice([0, 0, 0, 0.05, 1, 40, 100_000]))
        domain, first = drawn.choice(entries)
        asked = [first, *drawn.choices([one for of, one in entries if of == domain], k=drawn.choice([0, 0, 0, 1]))]
        request = real.rls_request(domain, *asked, hits=drawn.choice([0, 1, 1, 3, 300, 10**6]))
        if drawn.random() < 0.2:
            request.descriptors[0].limit.requests_per_unit = drawn.choice([0, 1, 5, 2**32 - 1])
            request.descriptors[0].limit.unit = drawn.choice([2, 7, 6])
        if drawn.random() < 0.2:
            request.descriptors[0].hits_addend.value = drawn.choice([0, 1, 2])
        answers = [service.send(request) for service in both]
        assert answers[0] == answers[1]
        codes.add((len(asked), answers[0].overall_code))
    assert len(codes) == 4
    timed = histogram_cells("grpc")
    counted, expected = (
        [count for cell, count in enumerate(service.core.metrics.slot.cells) if cell not in timed] for service in both
    )
    assert counted == expected


def test_a_store_that_is_awaited_decides_and_its_outage_is_unavailable(tmp_path: Path) -> None:
    async def ask() -> None:
        store = AsyncMemoryStore(MemoryStore(1000, clock=ManualClock()))
        service = Service(tmp_path, store)
        for store.away, status in ((False, 0), (True, 14)):
            stream = service.client.begin(real.rls_request("internal", {"azure": "y"}).SerializeToString())
            service.client.exchange()
            await service.client.channel.running[-1]
            service.client.read()
            assert service.client.answers[stream].status == status

    asyncio.run(ask())
