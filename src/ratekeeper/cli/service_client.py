"""ServiceClient: asks a service that runs, by HTTP over TCP, TLS or a unix socket. Knows no command.

It uses no proxy and follows no redirect, so a token goes to the service alone. All that a service may send is bounded.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ratekeeper.errors import RatekeeperError, why_unread

TIMEOUT = 10.0
"""Seconds in which a service must answer, and send the next piece. It sends a status each second."""

_MOST_BYTES = 32 << 20
_SHOWN = 200
_TOKEN = re.compile(r"(?:[\w.@-]{1,64}[ \t]+)?([!-~]{16,512})[ \t]*")
_FORM = "http://HOST:PORT, https://HOST:PORT or unix:PATH"


class ServiceError(RatekeeperError):
    """A service cannot be asked, or does not do what it is asked. Its text says why, and what would be right."""


class NotReachable(ServiceError):
    """A service does not answer, or its answer ends too early. Another try may help."""


def read_token(file: str) -> str:
    """Return the token of an admin in a file: a line TOKEN, or NAME TOKEN. Raise `ServiceError` for another file."""
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"cannot read {file!r}: {why_unread(error)}") from None
    written = [line for line in lines if line.strip() and not line.startswith("#")]
    found = _TOKEN.fullmatch(written[0]) if len(written) == 1 else None
    if found is None:
        raise ServiceError(
            f"{file!r} must have one line TOKEN, or NAME TOKEN: one of those that the service has from --admin-tokens"
        )
    return found[1]


class _Place(NamedTuple):
    """Where a service is: a host and a port, or the path of a unix socket; and whether it speaks TLS."""

    host: str
    port: int
    path: str | None = None
    tls: bool = False

    @classmethod
    def of(cls, url: str) -> _Place:
        if url.startswith("unix:") and not url.startswith("unix://"):
            return cls("localhost", 0, url.removeprefix("unix:"))
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ServiceError(f"{url!r} is not {_FORM}: {error}") from None
        if parts.fragment:  # do not show it
            raise ServiceError(
                "a token in a command line is seen by all users of this machine: leave out the part behind #, write "
                "the token into a file, and add --token-file FILE"
            )
        if parts.scheme not in ("http", "https") or host is None:
            raise ServiceError(f"{url!r} is not the URL of a service: it must be {_FORM}")
        if parts.path not in ("", "/") or parts.query or parts.username is not None:
            raise ServiceError(f"the URL of a service has nothing but {_FORM}: use {parts.scheme}://{host}:PORT")
        tls = parts.scheme == "https"
        return cls(host, port or (443 if tls else 80), None, tls)

    def connection(self) -> http.client.HTTPConnection:
        if self.path is not None:
            return _UnixConnection(self.path)
        if self.tls:
            return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT)
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ServiceClient:
    """Asks one service. Raise `ServiceError` for a URL that cannot be a service's. `token` is that of an admin."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._place = _Place.of(url)
        self._headers = {"accept": "application/json", "user-agent": "ratekeeper"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        return self._asked("GET", path, None, {})

    def post(self, path: str, body: object) -> Any:
        """Return the JSON that the service answers to a new question or change."""
        own = {"content-type": "application/json", "idempotency-key": secrets.token_urlsafe(24)}
        return self._asked("POST", path, json.dumps(body).encode("ascii"), own)

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        """Yield each server-sent event, its name and its JSON. Raise `NotReachable` when the service ends them."""
        connection = self._place.connection()
        try:
            answer = self._answer(connection, "GET", path, None, {"accept": "text/event-stream"})
            if answer.status != 200:
                raise self._refusal(answer.status, answer.read(_MOST_BYTES))
            name, data = "message", ""
            while line := answer.readline(_MOST_BYTES):
                field, _, value = line.decode("utf-8").rstrip("\r\n").partition(":")
                if field == "event":
                    name = value.strip()
                elif field == "data":
                    data += value
                elif not field and data:
                    yield name, self._parsed(data.encode())
                    name, data = "message", ""
                if len(data) > _MOST_BYTES:
                    raise ServiceError(f"{self.url} sends an event without an end")
            raise NotReachable(f"{self.url} has ended the stream")
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            raise self._not_reachable(error) from None
        finally:
            connection.close()

    def _asked(self, verb: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        connection = self._place.connection()
        try:
            answer = self._answer(connection, verb, path, body, headers)
            content = answer.read(_MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._not_reachable(error) from None
        finally:
            connection.close()
        if answer.status != 200:
            raise self._refusal(answer.status, content)
        return self._parsed(content)

    def _answer(
        self, connection: http.client.HTTPConnection, verb: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        connection.request(verb, path, body, self._headers | headers)
        return connection.getresponse()

    def _not_reachable(self, error: Exception) -> NotReachable:
        if isinstance(error, ssl.SSLCertVerificationError):
            return NotReachable(
                f"{self.url} has a certificate that is not trusted here ({error.verify_message}): let SSL_CERT_FILE "
                "name the file of its authority"
            )
        if isinstance(error, TimeoutError):
            return NotReachable(f"{self.url} does not answer within {TIMEOUT:g} s")
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        if isinstance(error, OSError):
            return NotReachable(f"{self.url} cannot be reached ({why}): is the service there?")
        return NotReachable(f"{self.url} does not answer as a service does ({why}): is another program there?")

    def _refusal(self, status: int, content: bytes) -> ServiceError:
        """Return the error that an answer stands for. The service's own words may have anything in them."""
        try:
            detail = str(json.loads(content)["detail"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return ServiceError(f"{self.url} answers with status {status}: it is another program, or another version")
        shown = "".join(char if char.isprintable() else " " for char in detail[: 10 * _SHOWN])
        if status == 401:
            what = "does not know this token" if "authorization" in self._headers else "wants the token of an admin"
            return ServiceError(f"{self.url} {what}: --token-file FILE must have one from its --admin-tokens")
        return NotReachable(f"{self.url}: {shown}") if status == 503 else ServiceError(f"{self.url}: {shown}")

    def _parsed(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise ServiceError(f"{self.url} does not answer with JSON: is another program there?") from None
