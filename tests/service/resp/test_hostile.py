"""Hostile bytes and slow clients over real sockets: the service answers the rest, and its memory stays flat."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest
from resp_service import resp_port, resp_service
from resp_wires import request
from servers import PATIENCE
from service_process import poll

pytestmark = pytest.mark.slow

BOMBS = [
    b"*1000000000\r\n",
    b"*1\r\n$2000000000\r\n",
    b"*99\r\n$131000\r\n" + b"x" * 131_000 + b"\r\n$131000\r\n",
    b"*1\r\n" * 30_000,
    b"%100000000\r\n",
    b"x" * 140_000,
    request("COMMAND") * 5_000,
    request("RK.USAGE", "path", "/api/x", "api_key", "k") * 1_000,
]


def test_bombs_noise_and_clients_that_never_read_take_no_memory(tmp_path: Path) -> None:
    chance = random.Random(7)
    with resp_service(tmp_path) as service:
        address = ("127.0.0.1", resp_port(service))

        def open_sockets(count: int) -> list[socket.socket]:
            return [socket.create_connection(address, PATIENCE) for _ in range(count)]

        def attack() -> None:
            sockets = open_sockets(48)
            for number, one in enumerate(sockets):
                one.setblocking(False)
                noise = bytes(chance.choices(b"*$+:\r\n0123456789PING\x00\xff", k=2_000))
                one.send(BOMBS[number % len(BOMBS)] if number % 3 else noise)
            assert answers()
            for one in sockets:
                one.close()

        def answers() -> bool:
            with socket.create_connection(address, PATIENCE) as one:
                one.sendall(request("PING"))
                return one.recv(100) == b"+PONG\r\n"

        attack()
        poll(lambda: service.descriptors() < 60)
        before = service.memory()
        for _ in range(3):
            attack()
        poll(lambda: service.descriptors() < 60)
        assert service.memory() < before + 30_000_000
        assert answers()
        assert "mistake" not in service.log
        assert "Traceback" not in service.log
