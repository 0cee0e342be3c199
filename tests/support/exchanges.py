"""A request as values, for tests that read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ratekeeper.http.exchange import Exchange
from ratekeeper.http.limiter import RequestLimiter

LIMITLESS = RequestLimiter()


class Asked(Exchange):
    """A request of values. Names of header lines may be in upper case."""

    def __init__(
        self, method: str, path: str | bytes, lines: Iterable[tuple[bytes, bytes]] = (), peer: str | None = "192.0.2.1"
    ) -> None:
        super().__init__(LIMITLESS)
        self._method, self._path, self._peer = method, path, peer
        self._lines = [(name.lower(), value) for name, value in lines]

    @property
    def native(self) -> Any:
        return self

    @property
    def method(self) -> str:
        return self._method

    @property
    def path(self) -> str | bytes:
        return self._path

    @property
    def peer(self) -> str | None:
        return self._peer

    @property
    def lines(self) -> Sequence[tuple[bytes, bytes]]:
        return self._lines
