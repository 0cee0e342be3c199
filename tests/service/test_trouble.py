"""The service under all troubles at once: it answers honest requests, and frees everything of clients that are gone."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from servers import PATIENCE
from service_process import RawClient, Running, poll, running

pytestmark = pytest.mark.slow

POLICY = """
[[rules]]
name = "one by one"
match = {{ path = "/held" }}
key = ["client"]
algorithm = "leaky_bucket"
capacity = 100
leak_rate = "1/day"

[[rules]]
name = "each"
key = ["client"]
limit = "{}/minute"
"""
HELD = b"GET /check HTTP/1.1\r\nHost: x\r\nX-Forwarded-Uri: /held\r\nX-Forwarded-For: 10.1.%d.%d\r\n\r\n"
UPLOAD = b"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
MEGABYTE = 2**20


def ask_to_wait(service: Running, number: int) -> RawClient:
    """A client whose second request must wait: the first has taken the place in service."""
    client = RawClient(service.address)
    client.send(HELD % divmod(number, 250))
    assert client.answer().startswith(b"HTTP/1.1 200")
    client.send(HELD % divmod(number, 250))
    return client


class Troubles:
    """Attacks and accidents beside honest requests, until they are `done`."""

    def __init__(self, service: Running, policy: Path) -> None:
        self._service = service
        self._policy = policy
        self.done = threading.Event()

    def upload_slowly(self) -> None:
        slow = RawClient(self._service.address)
        slow.send(UPLOAD)
        while not self.done.wait(0.05):
            slow.send(b"x")

    def reload_each_second(self) -> None:
        number = 0
        while not self.done.wait(1):  # the claim's own rate
            number += 1
            self._policy.with_suffix(".new").write_text(POLICY.format(1_000_000 + number))
            self._policy.with_suffix(".new").replace(self._policy)
            self._service.signal(signal.SIGHUP)

    def hang_up(self) -> None:
        for number in range(1_000, 2_000):
            client = RawClient(self._service.address)
            client.send(2 * (HELD % divmod(number, 250)))
            client.close()


def answers_the_rest(service: Running, until: Future[None]) -> int:
    """How often an honest client was answered, until the hang-ups have ended."""
    answers = 0
    while not (until.done() and answers >= 100):
        with suppress(httpx.TransportError):  # it was asked of the worker that was killed
            assert service.check(path="/").status_code == 200
            answers += 1
    return answers


def test_all_troubles_at_once_keep_nobody_out_and_leave_nothing_behind(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(1_000_000))
    with running(policy, "--workers", "2", "--grace", "0") as service, ThreadPoolExecutor(3) as pool:
        # The service is announced by its first worker. The second one must be counted too.
        poll(lambda: "ratekeeper_processes 2.0" in httpx.get(f"{service.url}/metrics", timeout=PATIENCE).text)
        assert all(service.check(path="/").status_code == 200 for _ in range(20))
        memory, descriptors = service.memory(), service.descriptors()
        troubles = Troubles(service, policy)
        going_on = [pool.submit(troubles.upload_slowly), pool.submit(troubles.reload_each_second)]
        going_on.append(pool.submit(troubles.hang_up))
        held = [ask_to_wait(service, number) for number in range(100)]
        before = service.workers()
        os.kill(min(before), signal.SIGKILL)
        try:
            assert answers_the_rest(service, going_on[-1]) >= 100
        finally:
            troubles.done.set()
        for trouble in going_on:
            trouble.result()
        poll(lambda: len(service.workers()) == 2 and service.workers() != before)
        for client in held:
            client.close()
        poll(lambda: service.descriptors() <= descriptors + 4)
        assert service.memory() - memory < 60 * MEGABYTE
        assert "Traceback" not in service.log
