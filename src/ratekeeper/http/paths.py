"""From a request target to a path, in all the readings of routers. Pure functions; they know no request."""

from __future__ import annotations

from functools import lru_cache
from posixpath import normpath
from re import compile as pattern
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote

from ratekeeper.errors import BadRequestError
from ratekeeper.policy.sources import PathSource, Readings

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_PATH = 8_192
"""The characters that a path may have. A longer path is a 414."""

MOST_READINGS = 100
MOST_READ = 65_536
"""The readings of a path, and the characters of all of them. More are a 400, as each costs time to match."""

USUAL_PATH = 256
"""The characters of a target that is worth a place in a cache: most requests are for few short paths."""

_PLAIN = pattern(r"(?:/[^/.%;#\\?][^/%;#\\?]*)+|/")
"""A path with one reading: without empty segments, dots at their beginning, or characters that routers read."""
_ORIGIN = pattern(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]*")
_BARE_ORIGIN = pattern(_ORIGIN.pattern + r"[?#][^/]*/")
"""An origin with a query that has a slash. HAProxy tells the host "a?" and the path "/x" of HTTP/2 so: "http://a?/x"."""
_HOST = pattern(r"[/\\]{2,}[^/\\]*")
"""The start of a host's name for Node's `URL` and for browsers: after any number of slashes of either kind."""
_PARAMETERS = pattern(r";[^/]*")
_ENCODED_SLASH = pattern(r"%2[fF]")
_MANY_SLASHES = pattern(r"//+")
_ASCII = bytes(range(128))


def read_path(raw: str | bytes, source: PathSource | None = None) -> str:
    """Return the path of a request target, as `Readings` if there are several. A key takes the first.

    The first has percent-encoding decoded once (UTF-8; invalid bytes become U+FFFD), then empty, `.` and `..` segments
    resolved, and `;parameters` and a trailing slash removed. The others are the readings of other routers. A query is
    not part of a path. Each begins with "/". Raises `BadRequestError` for a path that is too long or too ambiguous.

    >>> read_path("/y/../%61pi//x/?page=2")
    '/api/x'
    """
    plain = plain_path(raw) if len(raw) <= USUAL_PATH else plain_path.__wrapped__(raw)
    if plain is not None and len(plain) <= MOST_PATH:
        return source.spelled(plain) if source is not None and source.ignore_case else plain
    if isinstance(raw, bytes):
        raw = raw.decode("ascii") if raw.isascii() else quote_from_bytes(raw, _ASCII)
    if _BARE_ORIGIN.match(raw):
        raise BadRequestError("the target has an origin without a path: write a '/' after the host")
    raw = raw.partition("?")[0]
    if len(raw) > MOST_PATH:
        raise BadRequestError(f"the path is longer than {MOST_PATH} characters", 414)
    if not raw.startswith("/"):
        # A request line may have the origin too: "GET http://example.com/api/x" is a request for /api/x.
        raw = "/" + _ORIGIN.sub("", raw, count=1).removeprefix("/")
    readings = _few(_readings(raw), min(MOST_READINGS, MOST_READ // len(raw)))
    return Readings.of(map(source.spelled, readings) if source is not None else readings)


@lru_cache(maxsize=1024)
def plain_path(raw: str | bytes) -> str | None:
    """Return the path of a target if it has one reading and needs no decoding, else None.

    A target of more than `USUAL_PATH` characters should not come into the cache.
    """
    if isinstance(raw, bytes):
        if not raw.isascii():
            return None
        raw = raw.decode("ascii")
    path = raw.partition("?")[0]
    return path if _PLAIN.fullmatch(path) else None


def _few(readings: Iterator[str], most: int) -> list[str]:
    """Return the different readings. Raise `BadRequestError` if there are more than `most`."""
    found: dict[str, None] = {}
    for reading in readings:
        found[reading] = None
        if len(found) > most:
            raise BadRequestError("the path can be read in too many ways")
    return list(found)


def _readings(raw: str) -> Iterator[str]:
    """Yield the readings of a path by routers, the resolved one first."""
    texts = dict.fromkeys(text for target in _targets(raw) for text in _decoded(target))
    for text in texts:
        for reading in dict.fromkeys((_resolved(text), _MANY_SLASHES.sub("/", text), _resolved_as_url(text), text)):
            yield reading.rstrip("/") or "/"
            yield reading


def _targets(raw: str) -> Iterator[str]:
    """Yield the paths that servers may read in a request target."""
    # Some servers read "#" as the start of a fragment, others as a letter of the path.
    for target in (raw.partition("#")[0], raw) if "#" in raw else (raw,):
        yield target
        if target.startswith("//"):  # some servers read the start of a host's name
            yield "/" + target[2:].partition("/")[2]
        if host := _HOST.match(target):
            yield "/" + target[host.end() + 1 :]


def _decoded(target: str) -> Iterator[str]:
    """Yield the decoded readings: with and without parameters, encoded slashes as slashes or as letters."""
    decoded = unquote(target, errors="replace")
    texts = [_PARAMETERS.sub("", decoded), decoded]
    if _ENCODED_SLASH.search(target):
        kept = unquote(_ENCODED_SLASH.sub("%252F", target), errors="replace")
        texts += [unquote(_PARAMETERS.sub("", target), errors="replace"), kept, _PARAMETERS.sub("", kept)]
    for text in texts:
        if text.endswith("\n"):  # "$" in a regular expression, such as Starlette's, matches before it too
            yield text[:-1]
        yield text
        if "\\" in text:  # some routers read it as a slash, as browsers do
            yield text.replace("\\", "/")


def _resolved(path: str) -> str:
    """Return a decoded path with empty, `.` and `..` segments resolved. The root is the top."""
    resolved = normpath(f"/{path.lstrip('/')}")
    folder = resolved != "/" and path.endswith(("/", "/.", "/.."))
    return f"{resolved}/" if folder else resolved


def _resolved_as_url(path: str) -> str:
    """Return a path resolved as in RFC 3986: there `..` removes an empty segment too."""
    if "//" not in path or "/.." not in path:
        return path
    kept: list[str] = []
    for segment in path[1:].split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return _MANY_SLASHES.sub("/", "/" + "/".join(kept))
