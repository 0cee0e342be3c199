"""Random spellings of one request through real gateways: none gets past a bucket that is empty.

A test first empties the buckets by plain requests. Then it sends spellings, and reads what reaches the backend in all
the ways in which applications read it. A spelling that one of them reads as the plain request should have been refused.
"""

from __future__ import annotations

import posixpath
import random
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote

import pytest
from gateways import GATEWAYS, Site, limited_site
from servers import PATIENCE, Seen
from starlette.requests import cookie_parser

pytestmark = pytest.mark.slow

POLICY = """
exempt = [{ path = "/healthz" }, { path = "/static/*" }]

[attributes]
session = "cookie:session"
token = "bearer"

[[rules]]
name = "a path"
match = { path = "/login" }
limit = "2/day"

[[rules]]
name = "a folder"
match = { path = "/graphql/*" }
limit = "2/day"

[[rules]]
name = "methods"
match = { path = "/method", method = ["GET", "POST", "OTHER"] }
key = ["method"]
limit = "2/day"

[[rules]]
name = "cookies"
match = { path = "/cookie" }
key = ["session"]
limit = "2/day"

[[rules]]
name = "tokens"
match = { path = "/token" }
key = ["token"]
limit = "2/day"
"""
SPELLINGS = 250
"""Of each kind, through each gateway."""

Line = tuple[str, str]
Request = tuple[str, str, list[Line]]
"""A method, a target and header lines, just as they are sent."""


@pytest.fixture(scope="module", params=GATEWAYS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with limited_site(request.param, POLICY, tmp_path_factory.mktemp(request.param)) as site:
        yield site


class RawClient:
    """Sends requests as they stand: a client library would tidy them up."""

    def __init__(self, url: str) -> None:
        self._host = url.removeprefix("http://")
        host, port = self._host.split(":")
        self._address = host, int(port)
        self._socket: socket.socket | None = None

    def send(self, method: str, target: str, lines: list[Line]) -> int:
        """Return the status of the answer; 0 if the gateway hangs up without one."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=PATIENCE)
        head = "".join(f"{name}: {value}\r\n" for name, value in [("Host", self._host), *lines])
        self._socket.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        response = HTTPResponse(self._socket, method=method)
        try:
            response.begin()
            response.read()
        except (HTTPException, ConnectionError):
            self.close()
            return 0
        if response.will_close:
            self.close()
        return response.status

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def nothing_gets_past(
    site: Site, plain: list[Request], spelling: Callable[[random.Random], Request], labels: Callable[[Seen], set[str]]
) -> None:
    """Empty the buckets of the plain requests, send spellings of them, and look at the backend's requests.

    `labels` returns which of the plain requests a request is, in any reading of an application.
    """
    dice = random.Random(f"{site.gateway} {plain}")
    client = RawClient(site.url)
    site.backend.seen.clear()
    for request in plain:
        assert [client.send(*request) for _ in range(3)] == [200, 200, 429]
    assert all(labels(seen) for seen in site.backend.seen)
    site.backend.seen.clear()
    sent = [spelling(dice) for _ in range(SPELLINGS)]
    statuses = [client.send(*request) for request in sent]
    client.close()
    past = [(seen, labels(seen)) for seen in site.backend.seen if labels(seen)]
    assert not past
    refused = statuses.count(429)
    assert refused > SPELLINGS / 4, "most spellings are understood, and counted"
    assert not {status for status in statuses if status >= 500 and status != 501}, "no spelling is an error of ours"


def spelled_path(dice: random.Random) -> Request:
    segments = dice.choice((["login"], ["graphql", "q"], ["graphql", "..", "x"], ["healthz", "..", "login"]))
    target = ""
    for segment in [*segments]:
        target += dice.choice(("/", "/", "/", "/", "//", "/./", "/%2e/", "/x/../", "/x/%2E%2e/", "/static/../", "%2f"))
        for letter in segment:
            target += dice.choice((letter,) * 6 + (f"%{ord(letter):02x}", f"%{ord(letter):02X}"))
        target += dice.choice(("",) * 6 + (";x=1", ";", "%3bx"))
    target += dice.choice(
        ("",) * 6 + ("/", "//", "/.", "/x/..", "?a=/healthz", "?", "#", "#/../../healthz", "%23", "%3f")
    )
    return "GET", dice.choice(("",) * 6 + ("http://127.0.0.1", "HTTP://other.example:80")) + target, []


def paths_of(target: str) -> Iterator[str]:
    """Yield the readings of a path by applications: decoded, and decoded and resolved."""
    if "://" in target.partition("?")[0]:
        target = "/" + target.partition("://")[2].partition("/")[2]
    for part in (target, target.partition("#")[0]):
        decoded = unquote(part.partition("?")[0])
        yield decoded
        yield "/" + posixpath.normpath(decoded).lstrip("/")


def path_labels(seen: Seen) -> set[str]:
    paths = set(paths_of(seen.target))
    return {"login"} & {path.strip("/") for path in paths} | {"g" for path in paths if path.startswith("/graphql/")}


def spelled_method(dice: random.Random) -> Request:
    known = dice.choice(("GET", "POST", "HEAD"))
    invented = "".join(dice.choice("ABCXYZ-_abc!") for _ in range(dice.randint(1, 12)))
    lower = "".join(dice.choice((letter, letter.lower())) for letter in known)
    method = dice.choice((known, known, lower, invented, invented.lower()))
    return method, "/method", [("Content-Length", "0")] if method.upper() == "POST" else []


def method_labels(seen: Seen) -> set[str]:
    known = {"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"}
    return set() if seen.method.upper() in known else {"HEAD" if seen.method.upper() == "HEAD" else "counted"}


def spelled_cookie(dice: random.Random) -> Request:
    def spaces() -> str:
        return "".join(dice.choice(" \t") for _ in range(dice.choice((0, 0, 0, 1, 3))))

    def pair() -> str:
        value = "".join(dice.choice((letter, letter, f"\\{ord(letter):03o}", f"\\{letter}")) for letter in "k-alice")
        value = dice.choice(("k-alice", "k-alice", '"k-alice"', f'"{value}"'))
        return f"{spaces()}session{spaces()}={spaces()}{value}{spaces()}"

    others = [f"session{dice.randint(0, 9)}=x", "a=b", "=", "", "session", "Session=k-bob", "x=session=k", "path=/"]
    lines = []
    for _ in range(dice.choice((1, 1, 1, 2))):
        pairs = [pair() for _ in range(dice.choice((1, 1, 1, 2)))] + dice.sample(others, dice.randint(0, 3))
        if dice.random() < 0.1:
            pairs.append(f"session=k-{dice.randint(0, 10**9)}")
        dice.shuffle(pairs)
        lines.append((dice.choice(("Cookie", "cookie", "COOKIE")), dice.choice((";", ";", " ")).join(pairs)))
    return "GET", "/cookie", lines


def cookie_labels(seen: Seen) -> set[str]:
    lines = [value for name, value in seen.headers if name.lower() == "cookie"]
    readings = set()
    for header in {"; ".join(lines), *lines[:1], *lines[-1:]}:
        readings.add(cookie_parser(header).get("session"))
        try:
            morsel = SimpleCookie(header).get("session")
        except CookieError:
            continue
        readings.add(morsel.value if morsel else None)
    return {"k-alice"} & readings


def spelled_token(dice: random.Random) -> Request:
    scheme = "".join(dice.choice((letter.upper(), letter.lower())) for letter in "bearer")
    spaces = "".join(dice.choice(" \t") for _ in range(dice.randint(0, 4)))
    value = f"{spaces}{scheme} {spaces}k-alice{dice.choice(('', ' ', '   ', chr(9)))}"
    name = dice.choice(("Authorization", "authorization", "AUTHORIZATION"))
    more = [(name, "Bearer k-bob")] if dice.random() < 0.2 else [("X-Authorization", "Bearer k-bob")]
    lines = [(name, value), *more][:: dice.choice((1, -1))]
    return "GET", "/token", lines


def token_labels(seen: Seen) -> set[str]:
    values = [value for name, value in seen.headers if name.lower() == "authorization"]
    return {"k-alice"} & {value.strip().partition(" ")[2].strip() for value in [*values, ", ".join(values)]}


def test_no_spelling_of_a_path_leaves_a_rule_or_joins_an_exemption(site: Site) -> None:
    plain: list[Request] = [("GET", "/login", []), ("GET", "/graphql/q", [])]
    nothing_gets_past(site, plain, spelled_path, path_labels)


def test_no_method_buys_a_fresh_bucket(site: Site) -> None:
    plain: list[Request] = [("GET", "/method", []), ("POST", "/method", [("Content-Length", "0")])]
    plain += [("INVENTED", "/method", [])]
    nothing_gets_past(site, plain, spelled_method, method_labels)


def test_no_spelling_of_a_cookie_buys_a_fresh_bucket(site: Site) -> None:
    nothing_gets_past(site, [("GET", "/cookie", [("Cookie", "session=k-alice")])], spelled_cookie, cookie_labels)


def test_no_spelling_of_a_token_buys_a_fresh_bucket(site: Site) -> None:
    nothing_gets_past(site, [("GET", "/token", [("Authorization", "Bearer k-alice")])], spelled_token, token_labels)
