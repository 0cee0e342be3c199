"""RequestParser: from a connection's bytes to its requests, by httptools. Each piece is counted before it is kept.

Knows no answer and no time. It tells whether a head or a body is under way, so that its wire can set a deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import httptools

from ratekeeper import core
from ratekeeper.http.responses import explained
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.http.answer import CLOSE, KEEP, Answer, answer_of, encoded, plain
from ratekeeper.service.http.route import MOST_BODY
from ratekeeper.service.http.routes import route_of

IDLE, HEAD, BODY = range(3)
"""The phases of a connection: nothing is under way, the head of a request, or its body."""

FAILED = plain(500, "the service failed: its log says why")

_BAD_REQUEST = plain(400, "this is not an HTTP/1.1 request")
_SHORTEST = len(b"GET / HTTP/1.1\r\n\r\n")
_LENGTH, _ENCODING = b"content-length", b"transfer-encoding"
_REST_OF_A_LINE = 64

_log = logging.getLogger("ratekeeper")

Lines: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Header lines, as they came."""

TakeRequest: TypeAlias = Callable[[bytes, bytes, Lines, bytes, bytes], object]
"""Takes a request: its method, target, header lines and body, and the `connection` line of its answer."""

MostBody: TypeAlias = Callable[[bytes, Lines], int]
"""Returns the bytes of the longest body that is kept for a request with this target and head."""


def _unread(_piece: bytes, _most_lines: int) -> None:
    """Leave a piece to httptools."""


_read_head: Callable[[bytes, int], Any | None] = core.read_head or _unread
"""Returns the head that a piece consists of, if it is usual; None if it is left to httptools."""


class RefusedError(Exception):
    """The client sends bytes that are not a request, or exceeds a bound. `answer` tells it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class RequestParser:
    """Parses the requests of one connection. The methods whose names begin with `on_` are called by httptools."""

    def __init__(self, bounds: Bounds, take: TakeRequest, most_body: MostBody) -> None:
        self.phase = IDLE
        self.went_on = False
        """Whether anything was found since the owner has set this to False."""
        self.ended = False
        """Whether the request that was found is the last one."""
        # At most `pipelined` requests end in one piece: one of them may have begun before it.
        self.most_piece = _SHORTEST * max(1, bounds.pipelined - 1)
        """The bytes of the longest piece that may be fed."""
        self._take = take
        self._most_body = most_body
        self._bounds = bounds
        # A head within its bounds has at most so many bytes, with the rest of its last piece.
        self._most_kept = bounds.target_bytes + bounds.head_bytes + _REST_OF_A_LINE + self.most_piece
        self._kept = 0  # the bytes of which httptools may keep something
        self._target = b""
        self._lines: list[tuple[bytes, bytes]] = []  # of the head, and then of the trailers
        self._head: Lines = []
        self._body = bytearray()
        self._body_bound = MOST_BODY  # raised when a body is longer, if the route takes that
        self._body_size = 0  # of the body as it came, whether or not it is kept
        self._bodiless = False  # httptools leaves the body out, as the request asks for an upgrade
        self._parser: Any = httptools.HttpRequestParser(self)
        # The bytes of the longest piece within both bounds, whatever it is. Only `feed` refuses a longer one.
        self._most_usual = min(bounds.target_bytes, bounds.head_bytes)

    def read_usual_head(self, data: bytes) -> Any:
        """Return the head of the usual request that these bytes are; None if they are anything else.

        The C core reads it: a whole GET without a body, as nearly all questions of gateways are. httptools never sees
        it. That is not a second reading: a head is unusual if httptools might read it in another way, or refuse it.
        """
        if self.phase != IDLE or len(data) > self._most_usual:
            return None
        head = _read_head(data, self._bounds.head_lines)
        if head is not None:
            self.went_on = True
            self._kept = 0
        return head

    def feed(self, piece: bytes) -> None:
        """Parse a piece. Raise `RefusedError` if it is not accepted; then nothing more can be parsed."""
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self.ended:
                raise RefusedError(_answer_to(error)) from None
        else:
            self._kept += len(piece)
            if self._kept > self._most_kept or len(self._lines) > self._bounds.head_lines:
                raise RefusedError(_BAD_REQUEST if self.phase == IDLE else self._head_too_long())

    def expects_continue(self) -> bool:
        """Return whether the client waits for a 100 before it sends the body that is under way."""
        if self._body_size or self._parser.get_http_version() == "1.0":
            return False
        return any((name.lower(), value.lower()) == (b"expect", b"100-continue") for name, value in self._head)

    def close(self) -> None:
        """Let go of the parser, which holds this object."""
        self.ended, self._parser = True, None

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Go on as if the request had asked for no upgrade. Some programs ask for HTTP/2 with their first request."""
        before, self._parser = self._parser, httptools.HttpRequestParser(self)
        if self._bodiless:  # tell the new parser how long the body is
            if before.get_method() == b"CONNECT":  # it would ask for a tunnel again, and its body means nothing
                raise RefusedError(_BAD_REQUEST)
            self._bodiless = False
            target, head = self._target, self._head
            framing = encoded([line for line in head if line[0].lower() in (_LENGTH, _ENCODING)])
            connection = b"" if before.should_keep_alive() else CLOSE
            self.feed(b"%b / HTTP/1.1\r\n%b%b\r\n" % (before.get_method(), framing, connection))
            self._target, self._head = target, head
        if rest and not self.ended:
            self.feed(rest)

    def on_message_begin(self) -> None:
        self.phase = HEAD
        self.went_on = True
        self._kept = 0
        self._body_bound = MOST_BODY
        self._target = b""
        self._lines = []

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._bounds.target_bytes:
            detail = f"the path and query are longer than {self._bounds.target_bytes} bytes"
            raise RefusedError(plain(414, detail))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append((name, value))

    def on_headers_complete(self) -> None:
        head, bounds = self._lines, self._bounds
        if len(head) > bounds.head_lines or (
            self._kept + self.most_piece > bounds.head_bytes
            and sum([len(name) + len(value) + 4 for name, value in head]) > bounds.head_bytes
        ):
            raise RefusedError(self._head_too_long())
        if self._target[:1] != b"/":
            self._target = _origin_form(self._target)
        self.phase = BODY
        self._head, self._lines = head, []
        if self._parser.should_upgrade():
            lower = [(name.lower(), value) for name, value in head]
            self._bodiless = any(name == _ENCODING or (name == _LENGTH and int(value)) for name, value in lower)

    def on_body(self, piece: bytes) -> None:
        self.went_on = True
        self._kept = 0
        self._body_size += len(piece)
        if route_of(self._target).reads_body:
            if self._body_size > self._body_bound:
                self._body_bound = bound = self._most_body(self._target, self._head)
                if self._body_size > bound:
                    raise RefusedError(answer_of(explained(413, f"the body is longer than {bound} bytes")))
            self._body += piece

    def on_message_complete(self) -> None:
        if self._bodiless or self.ended:
            return
        self.phase = IDLE
        self.went_on = True
        self._kept = 0
        body, connection, parser = b"", b"", self._parser
        if self._body_size:
            body, self._body_size = bytes(self._body), 0
            self._body.clear()
        if not parser.should_keep_alive():
            self.ended, connection = True, CLOSE
        elif parser.get_http_version() == "1.0":
            connection = KEEP
        self._take(parser.get_method(), self._target, self._head, body, connection)

    def _head_too_long(self) -> Answer:
        bounds = self._bounds
        return plain(
            431, f"the headers are longer than {bounds.head_bytes} bytes or more than {bounds.head_lines} lines"
        )


def _answer_to(error: httptools.HttpParserError) -> Answer:
    """Return the answer to bytes that are not a request, or that exceed a bound."""
    cause = error.__context__
    if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(cause, RefusedError):
        _log.error("a connection failed", exc_info=cause)
        return FAILED
    return cause.answer if isinstance(cause, RefusedError) else _BAD_REQUEST


def _origin_form(target: bytes) -> bytes:
    """Return the path and query of a target in another form, such as an absolute one."""
    try:
        parts = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise RefusedError(_BAD_REQUEST) from None
    path: bytes = parts.path or b"/"
    return path if parts.query is None else b"%b?%b" % (path, parts.query)
