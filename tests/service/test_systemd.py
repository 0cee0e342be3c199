"""systemd hands over listening sockets, and an address to tell that the service is ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from needs import need
from servers import PATIENCE

pytestmark = pytest.mark.slow

HAND_OVER = """
import os, sys
given = [int(number) for number in os.environ.pop("GIVEN").split()]
for place, number in enumerate(given):
    os.dup2(number, 200 + place)
for place in range(len(given)):
    os.dup2(200 + place, 3 + place, inheritable=True)
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), str(len(given))
os.execv(sys.executable, [sys.executable, "-m", "ratekeeper.cli.main", "serve", *sys.argv[1:]])
"""
"""Hand sockets over as systemd does: from descriptor 3 on, to the process that serves."""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    need("Linux", sys.platform == "linux")
    file = tmp_path / "policy.toml"
    file.write_text("rules = [{name = 'all', limit = '5/hour'}]")
    return file


def started(policy: Path, sockets: dict[str, socket.socket], *options: str, told: str = "") -> subprocess.Popen[str]:
    numbers = [one.fileno() for one in sockets.values()]
    env = {"GIVEN": " ".join(map(str, numbers)), "LISTEN_FDNAMES": ":".join(sockets), "NOTIFY_SOCKET": told}
    command = [sys.executable, "-c", HAND_OVER, str(policy), *options]
    return subprocess.Popen(
        command, env={**os.environ, **env}, pass_fds=numbers, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_socket_that_is_handed_over_is_served_and_systemd_is_told(policy: Path, workers: str) -> None:
    telling = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = f"\0ratekeeper-test-{os.getpid()}-{workers}"
    with telling, socket.create_server(("127.0.0.1", 0)) as listening:
        telling.bind(name)
        telling.settimeout(PATIENCE)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        told = "@" + name[1:]
        service = started(policy, {"http": listening}, "--port", "systemd:http", "--workers", workers, told=told)
        try:
            assert telling.recv(100) == b"READY=1"
            assert httpx.get(f"{url}/check", timeout=PATIENCE).status_code == 200
            service.send_signal(signal.SIGTERM)
            assert telling.recv(100) == b"STOPPING=1"
            said, log = service.communicate(timeout=PATIENCE)
        finally:
            service.kill()
            service.communicate()
        assert url in said
        assert service.returncode == 0, log
        with socket.create_connection(listening.getsockname()):
            pass  # systemd's own socket still listens: the next start gets this connection


def test_a_unix_socket_that_is_handed_over_keeps_its_file(policy: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        service = started(policy, {"other": listening}, "--port", "systemd:other")
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
                assert client.get("http://localhost/healthz", timeout=PATIENCE).status_code == 200
        finally:
            service.send_signal(signal.SIGTERM)
            service.communicate(timeout=PATIENCE)
        assert path.exists()


def test_a_name_that_systemd_did_not_hand_over_is_an_error_with_those_that_it_did(policy: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        service = started(policy, {"grpc": first, "resp": second}, "--port", "systemd:http")
        _, log = service.communicate(timeout=PATIENCE)
    assert service.returncode == 2
    assert "systemd handed over 0 sockets named 'http', not one" in log
    assert "It handed over: grpc, resp" in log


def test_a_socket_that_no_option_takes_is_an_error(policy: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        service = started(policy, {"http": first, "grpc": second}, "--port", "systemd:http")
        _, log = service.communicate(timeout=PATIENCE)
    assert service.returncode == 2
    assert "no option takes systemd's socket 'grpc'" in log


def test_a_socket_that_does_not_listen_is_an_error(policy: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        service = started(policy, {"http": datagrams}, "--port", "systemd:http")
        _, log = service.communicate(timeout=PATIENCE)
    assert service.returncode == 2
    assert "systemd's socket 'http' does not listen: write ListenStream=" in log
