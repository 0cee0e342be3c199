"""Envoy's questions that are kept from call to call: for how long, and that each is answered as if it were new."""

from __future__ import annotations

import gc
import weakref

import rls_messages as real
from grpc_in_memory import MemoryClient

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.service.core import Core
from ratekeeper.service.envoy.model import EnvoyConfig, EnvoyLimit, Node, bucket

POLICY = """
[[rules]]
name = "each client"
key = ["client"]
limit = "5/minute"
"""


def ask(client: MemoryClient, address: str) -> int:
    """Return the tokens that are left for an address."""
    answer = client.call(real.rls_request("d", {"remote_address": address}).SerializeToString())
    left: int = real.RateLimitResponse.FromString(answer.messages[5:]).statuses[0].limit_remaining
    return left


def test_a_policy_that_was_replaced_is_forgotten_with_its_questions() -> None:
    clock = ManualClock()
    core, before = Core(Policy.parse(POLICY), MemoryStore(100, clock=clock)), []
    client = MemoryClient(core)
    for number in range(5):
        before.append(weakref.ref(core.policy))
        assert ask(client, f"192.0.2.{number}") == 4 + number
        core.replace(Policy.parse(POLICY.replace("5", str(6 + number))))
    clock.advance(60)
    assert ask(client, "192.0.2.0") == 9
    gc.collect()
    assert [policy() for policy in before] == [None] * 5


def test_a_question_is_answered_by_the_store_and_the_headers_of_its_own_service() -> None:
    limited = Node(EnvoyLimit("d.remote_address", bucket(5, 2), 5, 2))
    config = EnvoyConfig({"d": Node(bare={"remote_address": limited})}, "files")  # of both services
    policy = Policy.parse(POLICY)
    stores = [MemoryStore(100, clock=ManualClock()) for _ in range(2)]
    services = Core(policy, stores[0], envoy=config), Core(policy, stores[1], envoy=config, headers="x-epoch")
    clients = [MemoryClient(service) for service in services]
    for left in (4, 3):
        assert [ask(client, "192.0.2.0") for client in clients] == [left, left]
    request = real.rls_request("d", {"remote_address": "192.0.2.0"}).SerializeToString()
    answers = [real.RateLimitResponse.FromString(client.call(request).messages[5:]) for client in clients]
    assert [answer.response_headers_to_add[-1].key for answer in answers] == ["ratelimit", "x-ratelimit-reset"]
