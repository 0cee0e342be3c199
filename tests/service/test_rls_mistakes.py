"""A mistake of the service in one call of gRPC: the other calls of the connection go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import rls_messages as real
from async_memory import AsyncMemoryStore
from grpc_in_memory import CHECK, MemoryClient

from ratekeeper import MemoryStore, Policy, SharedMemoryStore
from ratekeeper.service.core import Core

POLICY = 'rules = [{name = "each client", key = ["client"], limit = "5/minute"}]'
ONE = real.rls_request("d", {"remote_address": "192.0.2.1"}).SerializeToString()
TWO = real.rls_request("d", {"remote_address": "192.0.2.1"}, {"remote_address": "192.0.2.2"}).SerializeToString()


class _Broken(AsyncMemoryStore):
    """A store that fails, in a way that no store should, for questions of two charges."""

    async def decide(self, charges: Any, *, commit: bool = True) -> Any:
        if len(charges) == 2:
            raise RuntimeError("a mistake")
        return await super().decide(charges, commit=commit)


def test_a_mistake_ends_its_call_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        client = MemoryClient(Core(Policy.parse(POLICY), _Broken(MemoryStore(100))))
        failed, fine = client.begin(TWO), client.begin(ONE)
        client.exchange()
        await asyncio.gather(*client.channel.running)
        client.read()
        assert (client.answers[failed].status, client.answers[fine].status) == (13, 0)
        assert not client.channel.closed

    asyncio.run(story())
    assert [str(one.exc_info[1]) for one in caplog.records if one.exc_info] == ["a mistake"]


def test_so_does_one_that_comes_at_once(tmp_path: Path) -> None:
    store = SharedMemoryStore(tmp_path / "table", max_keys=100)
    client = MemoryClient(Core(Policy.parse(POLICY), store))
    assert client.call(ONE).status == 0
    store.close()
    answer = client.call(ONE)
    assert (answer.status, answer.text) == (13, "the service failed: its log says why")
    health = real.HealthCheckRequest(service="unknown").SerializeToString()
    assert client.call(health, CHECK).status == 5
    assert not client.channel.closed
