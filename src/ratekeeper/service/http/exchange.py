"""GatewayExchange: an HTTP request as it was parsed. It is the exchange that a gateway's question is charged by.

Knows no parser and no connection.
"""

from __future__ import annotations

from re import compile as pattern
from typing import TYPE_CHECKING

from ratekeeper.errors import BadRequestError
from ratekeeper.http.exchange import Exchange
from ratekeeper.http.header_lines import header_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ratekeeper.http.attributes import AttributeReader
    from ratekeeper.http.exchange import AnyRequestLimiter

TIMEOUT = "x-ratekeeper-timeout"
"""The header by which a gateway says for how many seconds it will wait for the answer."""

_SECONDS = pattern(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def path_of(target: bytes) -> bytes:
    """Return the path of a request's target, still percent-encoded.

    >>> path_of(b"/check?a=b")
    b'/check'
    """
    return target.partition(b"?")[0].partition(b"#")[0]


class GatewayExchange(Exchange):
    """A request, such as the sub-request in which Caddy's `forward_auth` asks about the client's request.

    Method and path of the client's request are from `X-Forwarded-Method` and `X-Forwarded-Uri`, or else the
    sub-request's own. Caddy and Traefik overwrite both; nginx must be told to. No other convention is read: a proxy
    hands on the headers of a convention that is not its own as the client sent them.
    """

    _read: dict[str, str | None] | None = None  # the headers that were read
    _reader: AttributeReader | None = None  # the one that has read the attributes in C
    _attributes: dict[str, str]

    def __init__(
        self,
        limiter: AnyRequestLimiter,
        peer: str | None,
        verb: bytes,
        target: bytes,
        lines: Sequence[tuple[bytes, bytes]],
        body: bytes = b"",
        connection: bytes = b"",
    ) -> None:
        self.limiter = limiter
        self.decisions = []
        self.verb = verb
        """The method of the request line."""
        self.target = target
        """The path and query of the request line."""
        self.body = body
        self.connection = connection
        """The `connection` line of the answer, or nothing."""
        self._peer = peer
        self._lines = lines

    def is_usual(self, reader: AttributeReader) -> bool:
        """Read the attributes in C. Return whether it could: then the gateway has sent all headers that it must."""
        found = None if reader.read_lines is None else reader.read_lines(self._lines, self._peer)
        if found is None:
            return False
        self._reader, self._attributes = reader, found
        return True

    def read(self, reader: AttributeReader) -> dict[str, str]:
        return self._attributes if self._reader is reader else reader.read(self)

    @property
    def native(self) -> GatewayExchange:
        return self

    @property
    def method(self) -> str:
        return self.header("x-forwarded-method") or self.verb.decode("ascii")

    @property
    def path(self) -> str | bytes:
        uri = self.header("x-forwarded-uri")  # raises if it is repeated
        if uri is None:
            return path_of(self.target)
        raw = next(value for name, value in self._lines if name.lower() == b"x-forwarded-uri")
        # A space beyond ASCII at its end is not in `uri`, and belongs to the path.
        return uri if raw.isascii() else raw.strip(b" \t")

    def header(self, name: str, /) -> str | None:
        read = self._read
        if read is None:
            read = self._read = {}
        if name not in read:
            read[name] = header_value(self._lines, name)
        return read[name]

    def time_left(self) -> float | None:
        """Return for how many seconds the gateway will wait; None if it does not say. A client can only shorten it."""
        said = self.header(TIMEOUT)
        if said is None:
            return None
        if not _SECONDS.fullmatch(said):
            raise BadRequestError(f"{TIMEOUT} must be a number of seconds, such as 0.5, not {said[:40]!r}")
        return float(said)

    @property
    def peer(self) -> str | None:
        return self._peer

    @property
    def lines(self) -> Sequence[tuple[bytes, bytes]]:
        return [(name.lower(), value) for name, value in self._lines]
