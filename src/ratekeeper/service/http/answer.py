"""Answer: an HTTP answer as the bytes that a connection sends. It knows no policy."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ratekeeper.http.header_lines import raw_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ratekeeper.http.responses import Response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE, KEEP = b"connection: close\r\n", b"connection: keep-alive\r\n"

JSON_LINES = b"content-type: application/json\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n"
"""The header lines of each answer in JSON that is not a problem's."""

_STARTS = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode("ascii")) for status in HTTPStatus}

_USUAL_ENDS = [b"content-length: %d\r\n\r\n" % size for size in range(1_024)]
"""The end of an answer's head, by the size of its body, if the connection goes on."""


BeginStream: TypeAlias = "Callable[[Callable[[bytes], None]], Callable[[], None]]"
"""Takes a function that sends bytes, which drops them if the client is slow; empty bytes are the end of the body.

Returns a function that ends it.
"""


class Answer(NamedTuple):
    """An HTTP answer. The connection adds the date, the length and whether it closes."""

    status: int
    lines: bytes = b""
    """The header lines, each with its end."""
    body: bytes = b""
    begin_stream: BeginStream | None = None
    """Begins the rest of the body, if it goes on. Such an answer has no length, and is its connection's last."""


def answer_of(response: Response, limits: bytes = b"") -> Answer:
    """Return a response as an answer, with the lines about limits before its own."""
    return Answer(response.status, limits + _encoded_once(tuple(response.headers)), response.body)


def plain(status: int, text: str, lines: bytes = b"") -> Answer:
    """Return an answer of one line of text."""
    return Answer(status, b"content-type: text/plain\r\n" + lines, f"{text}\n".encode("ascii"))


def encoded(lines: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return header lines as they are sent."""
    return b"".join([b": ".join(line) + b"\r\n" for line in lines])


@lru_cache(maxsize=256)
def _encoded_once(headers: tuple[tuple[str, str], ...]) -> bytes:
    return encoded(raw_lines(headers))


class Writer:
    """Writes answers. It makes their first lines anew in each second of the given clock, as they have the date."""

    def __init__(self) -> None:
        self._second = -1
        self._starts: dict[int, bytes] = {}

    def written(self, answer: Answer, now: float, connection: bytes, with_body: bool) -> bytes:
        """Return the bytes of an answer. `now` is the event loop's time, `connection` a header line, or nothing."""
        status, lines, body, stream = answer
        second = int(now)
        if second != self._second:
            self._second = second
            date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode("ascii")
            self._starts = {status: start + date for status, start in _STARTS.items()}
        size = len(body)
        if stream is not None or status == 304:
            end = connection + b"\r\n"
        elif connection or size >= len(_USUAL_ENDS):
            end = b"content-length: %d\r\n%b\r\n" % (size, connection)
        else:
            end = _USUAL_ENDS[size]
        return b"".join((self._starts[status], lines, end, body if with_body else b""))  # faster than a format
