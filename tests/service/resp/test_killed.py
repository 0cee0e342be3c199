"""A worker is killed under load: the count of a shared table stays exact, and a connection loses at most one answer."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from resp_service import resp_port, resp_service
from resp_wires import request
from servers import PATIENCE
from service_process import poll

pytestmark = pytest.mark.slow

CAPACITY = 70_000
ASK = request("CL.THROTTLE", "k", CAPACITY - 1, 1, 2000)  # nothing refills meanwhile
LOOK = request("CL.THROTTLE", "k", CAPACITY - 1, 1, 2000, 0)


class Caller(threading.Thread):
    """Asks one after the other on one connection, and on a new one when it is lost."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self.stopped = False
        self.allowed = self.lost = self.connections = 0

    def run(self) -> None:
        while not self.stopped:
            with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as connection:
                self.connections += 1
                self._ask(connection)

    def _ask(self, connection: socket.socket) -> None:
        while not self.stopped:
            try:
                connection.sendall(ASK)
                answer = connection.recv(1000)
            except ConnectionError:
                answer = b""
            if not answer:
                self.lost += 1
                return
            assert answer.startswith(b"*5\r\n:0\r\n"), answer
            assert answer.count(b"\n") == 6
            self.allowed += 1


def _wait_for_answers(callers: list[Caller], count: int) -> None:
    poll(lambda: sum(caller.allowed for caller in callers) > count)


def test_after_a_worker_was_killed_the_count_is_exact(tmp_path: Path) -> None:
    with resp_service(tmp_path, "--workers", "2") as service:
        port = resp_port(service)
        callers = [Caller(port) for _ in range(8)]
        for caller in callers:
            caller.start()
        try:
            for kill in range(2):
                _wait_for_answers(callers, 500 * (kill + 1))
                service.kill(min(service.workers()))
            _wait_for_answers(callers, 1500)
        finally:
            for caller in callers:
                caller.stopped = True
        for caller in callers:
            caller.join(PATIENCE)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(LOOK)
            remaining = int(connection.recv(1000).split(b"\r\n:")[3])
        allowed, lost = sum(caller.allowed for caller in callers), sum(caller.lost for caller in callers)
        assert allowed <= CAPACITY - remaining <= allowed + lost
        assert all(caller.lost <= caller.connections for caller in callers)
        assert lost <= 2 * len(callers)
