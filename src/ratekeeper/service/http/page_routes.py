"""The routes of the page, and of the status that it shows. They are open to all that reach the port, but can be off.

The page's files are known when the service starts, and each one is a route. So no path is ever looked for on the disk.
"""

from __future__ import annotations

from functools import cache, partial, wraps
from hashlib import blake2b
from importlib import resources
from importlib.resources.abc import Traversable

from ratekeeper.http.responses import explained
from ratekeeper.policy.addresses import client_of
from ratekeeper.service.core import Core
from ratekeeper.service.http.answer import JSON_LINES, Answer, answer_of
from ratekeeper.service.http.exchange import GatewayExchange
from ratekeeper.service.http.route import Route, Show, to_read

TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
"""The files of the page that are served, by their ends."""

_OWN = b"referrer-policy: no-referrer\r\ncross-origin-resource-policy: same-origin\r\n"
_CAREFUL = b"x-content-type-options: nosniff\r\n" + _OWN
PAGE_LINES = (
    b"content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n" + _CAREFUL
)
"""The headers with which a browser runs nothing but the page's own files, and shows it in no other page."""

_OFF = explained(404, "the page is off, by --no-page")
_EVENTS = (
    b"content-type: text/event-stream\r\ncache-control: no-store\r\n"
    b"x-accel-buffering: no\r\n" + _CAREFUL  # a proxy should not collect it
)


def _of_page(show: Show) -> Route:
    """Return a route to read, unless the page is off."""
    shown = to_read(show)

    @wraps(show)
    def answer(core: Core, request: GatewayExchange) -> Answer:
        return shown(core, request) if core.operator.page else answer_of(_OFF)

    return Route(answer)


def status(core: Core, request: GatewayExchange) -> Answer:
    """Answer with the status of the whole service."""
    return Answer(200, JSON_LINES + _OWN, core.live.status())


def events(core: Core, request: GatewayExchange) -> Answer:
    """Answer with the history of the last minutes, and then a status each second, as server-sent events."""
    client = client_of(request.peer or "")  # the connection's: a header could name any
    if not core.live.has_room(client):
        return answer_of(explained(503, "too many pages are open: close one, or ask /v1/status", ("Retry-After", "5")))
    return Answer(200, _EVENTS, begin_stream=partial(core.live.stream, client))


def _file(file: Traversable) -> Route:
    """Return the route of a file, which is read once."""
    kind = TYPES[_end_of(file.name)]

    @cache
    def content() -> tuple[Answer, Answer, bytes]:
        body = file.read_bytes()
        tag = b'"%b"' % blake2b(body, digest_size=16).hexdigest().encode("ascii")
        lines = b"content-type: %b\r\ncache-control: no-cache\r\netag: %b\r\n%b" % (kind, tag, PAGE_LINES)
        return Answer(200, lines, body), Answer(304, lines), tag

    def show(core: Core, request: GatewayExchange) -> Answer:
        whole, unchanged, tag = content()
        known = [value for name, value in request.lines if name == b"if-none-match"]
        return unchanged if any(tag in value for value in known) else whole

    return _of_page(show)


def _end_of(name: str) -> str:
    return name[name.rfind(".") :]


def _files() -> dict[bytes, Route]:
    folder = resources.files("ratekeeper.service").joinpath("page")
    files = [file for file in folder.iterdir() if _end_of(file.name) in TYPES]
    return {b"/" if file.name == "page.html" else b"/page/" + file.name.encode("utf-8"): _file(file) for file in files}


FILES = _files()
"""The routes of the page and its files."""

ROUTES: dict[bytes, Route] = {
    b"/v1/status": _of_page(status),
    b"/v1/status/events": _of_page(events),
}
"""The routes that programs ask."""
