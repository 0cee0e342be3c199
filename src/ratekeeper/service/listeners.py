"""The sockets that the service listens on: their addresses as people write them, and as URLs. Knows no protocol."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType

from ratekeeper.errors import RatekeeperError

_UNIX = "unix:"
_SYSTEMD = "systemd:"
_BACKLOG = 2048
_NONE: Mapping[str, Sequence[socket.socket]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on: a host and a port, or the path of a unix socket. Port 0 takes a free one.

    Or it is the name of a socket that systemd hands over.
    """

    host: str = "127.0.0.1"
    port: int = 0
    path: str | None = None
    handed: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "HOST:PORT", "[IPV6]:PORT", "PORT" (this machine), "unix:PATH" or "systemd:NAME". Raise ValueError."""
        if text.startswith(_UNIX) and len(text) > len(_UNIX):
            return cls(path=text.removeprefix(_UNIX))
        if text.startswith(_SYSTEMD) and len(text) > len(_SYSTEMD):
            return cls(handed=text.removeprefix(_SYSTEMD))
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not (port.isascii() and port.isdigit() and int(port) <= 65_535) or (":" in bare and bare == host):
            raise ValueError(f"an address is HOST:PORT, [IPV6]:PORT, PORT, unix:PATH or systemd:NAME, not {text!r}")
        return cls(bare, int(port)) if colon and bare else cls(port=int(port))

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach it. A socket that is handed over may be any."""
        if self.handed is not None or self.path is not None:
            return self.handed is None
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        if self.handed is not None:
            return f"{_SYSTEMD}{self.handed}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listener:
    """A listening socket for one kind of protocol. `address` is the one that it has got.

    `handed` are the sockets that systemd has handed over.
    """

    _inode: int | None = None
    """The file of a unix socket that was made here."""

    def __init__(self, kind: str, wanted: Address, handed: Mapping[str, Sequence[socket.socket]] = _NONE) -> None:
        self.kind = kind
        if wanted.handed is not None:
            self.socket = _handed(wanted.handed, handed)
        else:
            self.socket = _unix_socket(wanted.path) if wanted.path is not None else _tcp_socket(kind, wanted)
        self.socket.setblocking(False)
        name = self.socket.getsockname()
        self.address = Address(path=name) if isinstance(name, str) else Address(*name[:2])
        if wanted.path is not None:
            self._inode = os.stat(wanted.path).st_ino

    def close(self) -> None:
        """Close the socket, and remove the file of a unix socket, unless it is another one's by now."""
        self.socket.close()
        path = self.address.path
        if (
            self._inode is not None
            and path is not None
            and os.path.exists(path)
            and os.stat(path).st_ino == self._inode
        ):
            os.unlink(path)


def check_handed(handed: Collection[str], wanted: Iterable[Address]) -> None:
    """Raise `RatekeeperError` unless each socket that systemd has handed over has one protocol.

    Connections to one without a protocol would wait in it for ever.
    """
    taken = [address.handed for address in wanted if address.handed is not None]
    for name in sorted({*taken, *handed}):
        if taken.count(name) > 1:
            raise RatekeeperError(f"two options take systemd's socket {name!r}: each protocol needs its own")
        if name not in taken:
            raise RatekeeperError(
                f"no option takes systemd's socket {name!r}: write systemd:{name} after --port, --grpc or --resp, or "
                "take it out of the .socket unit"
            )


def _handed(name: str, handed: Mapping[str, Sequence[socket.socket]]) -> socket.socket:
    sockets = handed.get(name, ())
    if len(sockets) != 1:
        there = ", ".join(sorted(handed)) or "none at all"
        raise RatekeeperError(
            f"systemd handed over {len(sockets)} sockets named {name!r}, not one: write FileDescriptorName={name} in "
            f"one .socket unit. It handed over: {there}"
        )
    return sockets[0]


def _tcp_socket(kind: str, address: Address) -> socket.socket:
    try:
        family, *_ = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise RatekeeperError(f"cannot listen on {address}: {error.strerror or error}") from None
        another = address.port + 1 if address.port < 65_535 else 8080
        if kind != "http":
            how = f"--{kind} {address.host}:{another}"
        else:
            how = f"make run PORT={another}" if "MAKELEVEL" in os.environ else f"--port {another}"
        raise RatekeeperError(
            f"{address.host} port {address.port} is in use: choose another one, as with {how}"
        ) from None


def _unix_socket(path: str) -> socket.socket:
    """Listen on a path. A socket there that nobody listens on is what a killed service left: it is replaced."""
    if os.path.exists(path):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise RatekeeperError(f"{path} is there and is not a socket: choose another path")
        in_use = f"another program listens on {path}: choose another path, or stop it"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # the backlog of a program that hangs may be full
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:
                raise RatekeeperError(in_use) from None
            except OSError as error:  # it may be in use: not ours to ask, or of another kind
                raise RatekeeperError(f"cannot listen on {path}: {error.strerror}") from None
            else:
                raise RatekeeperError(in_use)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise RatekeeperError(f"cannot listen on {path}: {error.strerror or error}") from None
    return listening
