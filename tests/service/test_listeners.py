"""The addresses that the service listens on: as people write them, and unix sockets whose files are there already."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from service_process import poll, running

from ratekeeper.errors import RatekeeperError
from ratekeeper.service.listeners import Address, Listener, check_handed

POLICY = '[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "2/day"\n'


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8081", Address("127.0.0.1", 8081)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:81", Address("::1", 81)),
        ("8081", Address("127.0.0.1", 8081)),
        (":8081", Address("127.0.0.1", 8081)),
        ("unix:/run/ratekeeper.sock", Address(path="/run/ratekeeper.sock")),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "unix:", "host", "::1", "::1:81", "host:65536", "host:-1", "host:٣", "host:", "8081 "]
)
def test_another_text_is_an_error_that_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"is HOST:PORT, \[IPV6\]:PORT, PORT, unix:PATH or systemd:NAME, not"):
        Address.parse(text)


def test_a_socket_that_a_killed_service_left_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    wanted = Address(path=str(path))
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    first = Listener("resp", wanted)
    with pytest.raises(RatekeeperError, match="another program listens on"):
        Listener("resp", wanted)
    first.close()
    assert not path.exists()
    path.write_text("a file of its owner")
    with pytest.raises(RatekeeperError, match="is not a socket"):
        Listener("resp", wanted)
    assert path.read_text() == "a file of its owner"


def test_a_socket_that_may_be_in_use_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(RatekeeperError, match="cannot listen on"):
            Listener("resp", Address(path=str(path)))
        assert path.exists()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))  # the backlog is full
        with pytest.raises(RatekeeperError, match="another program listens on"):
            Listener("resp", Address(path=str(path)))
        assert path.exists()


def test_the_socket_of_a_successor_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = Listener("resp", Address(path=str(path)))
    path.unlink()
    second = Listener("resp", Address(path=str(path)))
    first.close()
    assert path.exists()
    second.close()


def test_a_port_in_use_names_another_and_the_option(tmp_path: Path) -> None:
    first = Listener("resp", Address())
    with pytest.raises(RatekeeperError, match=rf"port {first.address.port} is in use.*--resp 127.0.0.1:\d+"):
        Listener("resp", first.address)
    first.close()
    with pytest.raises(RatekeeperError, match=r"cannot listen on 192\.0\.2\.1:80"):
        Listener("resp", Address("192.0.2.1", 80))
    with pytest.raises(RatekeeperError, match=r"cannot listen on .*nowhere"):
        Listener("resp", Address(path=str(tmp_path / "nowhere" / "socket")))


def test_a_socket_of_systemd_has_one_protocol() -> None:
    http, grpc = Address(handed="http"), Address(handed="grpc")
    check_handed({}, [Address()])
    check_handed({"http", "grpc"}, [http, grpc])
    with pytest.raises(RatekeeperError, match="no option takes systemd's socket 'grpc': write systemd:grpc"):
        check_handed({"http", "grpc"}, [http])
    with pytest.raises(RatekeeperError, match="two options take systemd's socket 'http'"):
        check_handed({"http"}, [http, http])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_service_answers_on_a_unix_socket_and_removes_it(tmp_path: Path, workers: str) -> None:
    policy, path = tmp_path / "policy.toml", tmp_path / "http.sock"
    policy.write_text(POLICY)
    with running(policy, "--port", f"unix:{path}", "--workers", workers) as service:
        assert f"at unix:{path}" in service.said
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
            headers = {"X-Forwarded-For": "10.0.0.1", "X-Forwarded-Uri": "/", "X-Forwarded-Method": "GET"}
            assert [client.get("/check", headers=headers).status_code for _ in range(3)] == [200, 200, 429]
            headers["X-Forwarded-For"] = "10.0.0.2"
            assert client.get("/check", headers=headers).status_code == 200
    poll(lambda: not path.exists())
